-- capture: charge what a hold has kept, or a part of it, or more, each item at most once.
--
-- KEYS      journal, gate, holds          for each partition
--           account, record               for each item
--
-- ARGV[1]   now_us       microseconds, '' for the server's own time
-- ARGV[2]   partitions   how many
-- ARGV[3]   journal_max  entries a journal may have before charges, reservations and grants are refused, '' for any number
-- ARGV[4…]  items        how many, for each partition
--           transaction_id, tail, terms, field      for each item
--           fingerprint, ttl_ms, life_ms, audited, final, above, options    at the place terms names
--           then tier, cost, raw_cost, formula                for each of the options
--
-- Options are as in `charge`, and the tier is the one the hold was made for; a cost of '*' is what is
-- still held. With final = '1' what is not charged is released and the hold is finished, else it stays
-- open with what is left. above says what becomes of a price above what is held: 'debt' charges all of
-- it, below zero where it must; 'cap' charges what is held; 'refuse' nothing.
--
-- A capture that finishes its hold needs no record against being repeated (life_ms = '0', and no key of
-- one): the second finds no hold. Journal and ledger know what the first was told.
--
-- refuses, in this order:
--   idempotency_key_conflict   transaction_id
--   cold
--   unknown_hold
--   hold_expired               hold_id
--   membership_required        required tier, tier of the hold
--   unpriced                   code, facts
--   capture_exceeds_hold       hold_id, price, reserved
--   balance_limit              balance, cost; or captured of the hold, cost, 'captured'
--
-- replies, one per item:
--   ok         cost, balance_after, price, left, whether it is finished
--   replayed   transaction_id, cost, balance_after, price, left, whether it is finished
--   a refusal  code and three details
--   failed     why: the journal takes no entry, or the record or the holds cannot be read

local KEYS_OF_PARTITION = 3
local KEYS_OF_ITEM = 2
local ARGUMENTS_OF_ITEM = 4
local SUM_MAX = 9e15

--- @include "integer"
--- @include "clock"
--- @include "gate"
--- @include "account"
--- @include "replay"
--- @include "journal"
--- @include "refusal"
--- @include "batch"
--- @include "options"
--- @include "hold"
--- @include "holds"

-- An option as texts that only have to be joined: what all items that choose it have in common.
local function option_at(at, terms)
  local cost, raw_cost, formula = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  if cost == '-' or cost == '!' then
    return { cost = cost, raw_cost = raw_cost, formula = formula }
  end
  local final, above = own_terms(terms, 2)
  return {
    cost = cost,
    amount = cost ~= '*' and integer(cost),
    raw_cost = raw_cost,
    formula = formula,
    is_final = final == '1',
    above = above,
    common = '\0' .. terms.fingerprint .. '\0' .. terms.ttl_ms .. '\0' .. terms.audited .. '\0',
  }
end

local function minus(amount)
  return amount == '0' and '\0' or '\0-'
end

local settled -- what became of the hold before: those of one call have often been made in one as well

-- What becomes of a hold, and of what its account has reserved, but for the balance and the ids. Else nil
-- and the reply: a refusal, or why it has failed.
local function settlement_of(hold, reserved, terms, tail, hold_id)
  if settled and settled.hold == hold and settled.reserved == reserved and settled.terms == terms then
    return settled
  end
  local amount, held_text, captured, ends, audited, judged = hold_parts(hold)
  if not amount then
    return nil, 'failed\0' .. NO_HOLD
  end
  local held, total, lapses, open = held_text + 0, held_of(reserved)
  if total < held or open < 1 then
    return nil, 'failed\0MALFORMED the account has less reserved than one of its holds'
  end
  if now_ms > ends + 0 then
    return nil, refusal('capture', '', terms, tail, 'hold_expired', hold_id)
  end
  local option = terms.options[judged] or option_of(terms, judged, terms.own_at + 2, option_at)
  if option.cost == '-' then
    return nil, refusal('capture', '', terms, tail, 'membership_required', option.raw_cost, judged)
  end
  if option.cost == '!' then
    return nil, refusal('capture', '', terms, tail, 'unpriced', option.raw_cost, option.formula)
  end
  local price, price_text = option.amount or held, option.amount and option.cost or held_text
  if price > held and option.above == 'refuse' then
    return nil, refusal('capture', '', terms, tail, 'capture_exceeds_hold', hold_id, price_text, held_text)
  end
  local cost, cost_text = price, price_text
  if price > held and option.above == 'cap' then
    cost, cost_text = held, held_text
  end
  if captured ~= '0' and captured + cost > SUM_MAX then
    return nil, refusal('capture', '', terms, tail, 'balance_limit', captured, cost_text, 'captured')
  end

  captured = captured == '0' and cost_text or text(captured + cost)
  local state, taken, taken_text, left, ended = '\0captured\0', held, held_text, '0', '\0001'
  local hold_after = false
  if not option.is_final then
    taken = math.min(cost, held)
    state, taken_text, left, ended = '\0reserved\0', text(taken), text(held - taken), '\0000'
    hold_after = table.concat({ amount, left, captured, ends, audited, judged }, ' ')
    open = open + 1
  end
  local kept = total == taken and '0' or text(total - taken)
  settled = {
    hold = hold, reserved = reserved, terms = terms,
    cost = cost,
    cost_text = cost_text,
    minus = minus(cost_text),
    common = option.common,
    became = state .. amount .. '\0' .. left .. '\0' .. captured .. '\0' .. ends .. minus(taken_text)
      .. taken_text .. '\0' .. kept .. '\0' .. price_text .. '\0' .. option.raw_cost .. '\0'
      .. option.formula .. '\0',
    reserved_after = reserved_text(kept, lapses, open - 1),
    hold_after = hold_after,
    told = '\0' .. price_text .. '\0' .. left .. ended,
  }
  return settled
end

local function capture(item)
  local account_key, account, record_key, record, transaction_id, tail, terms, field =
    item_at(item)
  local balance, sequence, reserved, expires, tier, balance_text = account_of(account, epoch)

  local replay, used_by
  if record then
    replay, used_by = replay_of(record, terms.fingerprint, now_ms)
  end
  if used_by then
    return refusal('capture', '', terms, tail, 'idempotency_key_conflict', used_by)
  end
  if replay then
    return replay
  end
  if not balance then
    return 'cold'
  end
  if unread then
    return 'failed\0' .. unread
  end
  local hold = hold_at(item, field)
  if not hold then
    return 'unknown_hold'
  end
  local hold_id = hold_id_of(field)
  local settlement, reply = settlement_of(hold, reserved, terms, tail, hold_id)
  if not settlement then
    return reply
  end
  if balance - settlement.cost < -SUM_MAX then
    return refusal('capture', '', terms, tail, 'balance_limit', balance_text, settlement.cost_text)
  end

  local after, number = format('%d', balance - settlement.cost), format('%d', sequence + 1)
  post(
    'capture\0' .. transaction_id .. '\0' .. number .. settlement.minus .. settlement.cost_text .. '\0'
      .. after .. settlement.common .. hold_id .. settlement.became .. tail,
    account_key, account_text(after, number, settlement.reserved_after, expires, tier), record_key,
    record_key and terms.fingerprint .. '\0' .. transaction_id .. '\0' .. terms.ends .. '\0'
      .. settlement.cost_text .. '\0' .. after .. settlement.told,
    terms.life_ms
  )
  keep(field, settlement.hold_after)
  return 'ok\0' .. settlement.cost_text .. '\0' .. after .. settlement.told
end

return batch(capture, OPEN_HOLDS)
