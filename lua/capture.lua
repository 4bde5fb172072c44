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
    ended = '\0' .. final,
    is_final = final == '1',
    above = above,
    common = '\0' .. terms.fingerprint .. '\0' .. terms.ttl_ms .. '\0' .. terms.audited .. '\0',
    state = final == '1' and '\0captured\0' or '\0reserved\0',
    priced = '\0' .. raw_cost .. '\0' .. formula .. '\0',
    remembered = '\0' .. terms.ends .. '\0',
  }
end

-- An account as one that has open holds is read, by half of what it costs otherwise: balance and sequence as
-- numbers, expires and tier; then as text what is held, the moment up to which none has expired, and how
-- many are open. Nothing where none is, or where Redis does not know the account.
local function holding_account_of(key, found, epoch)
  local entry_epoch, balance, held, lapses, open, sequence, expires, tier = match(
    accounts[key] or found or '',
    '^(%d*)%S* (%-?%d+) (%d+)/(%d+)/([1-9]%d*) (%d+) (%-?%d*) (.*)$'
  )
  if entry_epoch == epoch or entry_epoch == '' then
    return balance + 0, sequence + 0, expires, tier, held, lapses, open
  end
end

local function minus(amount)
  return amount == '0' and '\0' or '\0-'
end

local ends_at, ended -- of the hold before: those of one call have often been made in one as well

local function has_ended(ends)
  if ends ~= ends_at then
    ends_at, ended = ends, now_ms > ends + 0
  end
  return ended
end

local function capture(item)
  local account_key, account, record_key, record, transaction_id, tail, terms, field =
    item_at(item)
  local balance, sequence, expires, tier, total_text, lapses, open =
    holding_account_of(account_key, account, epoch)

  local replay, used_by = replay_of(record_key, record, terms.fingerprint, now_ms)
  if used_by then
    return refusal('capture', '', terms, tail, 'idempotency_key_conflict', used_by)
  end
  if replay then
    return replay
  end
  if not balance and not account_of(account_key, account, epoch) then
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
  local amount, held_text, captured, ends, audited, judged, held = hold_parts(hold)
  if not amount then
    return 'failed\0' .. NO_HOLD
  end
  local total = total_text == held_text and held or (total_text or 0) + 0
  if not balance or total < held then
    return 'failed\0MALFORMED the account has less reserved than one of its holds'
  end
  if has_ended(ends) then
    return refusal('capture', '', terms, tail, 'hold_expired', hold_id)
  end
  local option = option_of(terms, judged, terms.own_at + 2, option_at)
  if option.cost == '-' then
    return refusal('capture', '', terms, tail, 'membership_required', option.raw_cost, judged)
  end
  if option.cost == '!' then
    return refusal('capture', '', terms, tail, 'unpriced', option.raw_cost, option.formula)
  end
  local price, price_text = option.amount or held, option.amount and option.cost or held_text
  if price > held and option.above == 'refuse' then
    return refusal('capture', '', terms, tail, 'capture_exceeds_hold', hold_id, price_text, held_text)
  end
  local cost, cost_text = price, price_text
  if price > held and option.above == 'cap' then
    cost, cost_text = held, held_text
  end
  if balance - cost < -SUM_MAX then
    return refusal('capture', '', terms, tail, 'balance_limit', text(balance), cost_text)
  end
  if captured ~= '0' and captured + cost > SUM_MAX then
    return refusal('capture', '', terms, tail, 'balance_limit', captured, cost_text, 'captured')
  end

  local taken, taken_text, left = held, held_text, '0'
  if not option.is_final then
    taken = math.min(cost, held)
    taken_text, left = text(taken), text(held - taken)
  end
  captured = captured == '0' and cost_text or text(captured + cost)
  local after, number = text(balance - cost), text(sequence + 1)
  local kept = total == taken and '0' or text(total - taken)
  local reserved_after = reserved_text(kept, lapses, option.is_final and open - 1 or open + 0)
  local ok = 'ok\0' .. cost_text .. '\0' .. after .. '\0' .. price_text .. '\0' .. left .. option.ended
  journalled(
    'capture\0' .. transaction_id .. '\0' .. number .. minus(cost_text) .. cost_text .. '\0' .. after
      .. option.common .. hold_id .. option.state .. amount .. '\0' .. left .. '\0' .. captured
      .. '\0' .. ends .. minus(taken_text) .. taken_text .. '\0' .. kept .. '\0' .. price_text
      .. option.priced .. tail
  )
  post(
    account_key, account_text(after, number, reserved_after, expires, tier), record_key,
    record_key and terms.fingerprint .. '\0' .. transaction_id .. option.remembered .. string.sub(ok, 4),
    terms.life_ms
  )
  if option.is_final then
    keep(field, false)
  else
    keep(field, table.concat({ amount, left, captured, ends, audited, judged }, ' '))
  end
  return ok
end

return batch(capture, OPEN_HOLDS)
