-- capture: charge what a hold has kept, or a part of it, or more, each item at most once.
--
-- KEYS      journal, gate                 for each partition
--           account, record, holds        for each item
--
-- ARGV[1]   now_us       microseconds, '' for the server's own time
-- ARGV[2]   partitions   how many
-- ARGV[3]   journal_max  entries a journal may have before charges, reservations and grants are refused, '' for any number
-- ARGV[4…]  items        how many, for each partition
--           transaction_id, tail, terms    for each item
--           fingerprint, ttl_ms, life_ms, audited, hold_id, final, above, options    at the place terms names
--           then tier, cost, raw_cost, formula                for each of the options
--
-- Options are as in `charge`, and the tier is the one the hold was made for; a cost of '*' is what is
-- still held. With final = '1' what is not charged is released and the hold is finished, else it stays
-- open with what is left. above says what becomes of a price above what is held: 'debt' charges all of
-- it, below zero where it must; 'cap' charges what is held; 'refuse' nothing.
--
-- refuses, in this order:
--   idempotency_key_conflict   transaction_id
--   cold
--   unknown_hold
--   hold_expired               hold_id
--   membership_required        required tier, tier of the hold
--   unpriced                   code, facts
--   capture_exceeds_hold       hold_id, price, reserved
--   balance_limit              balance, cost
--
-- replies, one per item:
--   ok         cost, balance_after, price, left, whether it is finished
--   replayed   transaction_id, cost, balance_after, price, left, whether it is finished
--   a refusal  code and three details
--   failed     why: the journal takes no entry, or the record cannot be read

local KEYS_OF_ITEM = 3
local DEBT_MAX = 9e15

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

local function option_at(at)
  local cost = ARGV[at]
  local amount = match(cost, '^%d') and integer(cost)
  return { cost = cost, amount = amount, raw_cost = ARGV[at + 1], formula = ARGV[at + 2] }
end

local function capture(item)
  local account_key, account, record_key, record, transaction_id, tail, terms = item_at(item)
  local hold_id, final, above = own_terms(terms, 3)
  local balance, sequence, reserved, expires, tier = account_of(account_key, account, epoch)

  local replay, used_by = replay_of(record_key, record, terms.fingerprint, now_ms)
  if used_by then
    return refusal('capture', '', terms, tail, 'idempotency_key_conflict', used_by)
  end
  if replay then
    return replay
  end
  if not balance then
    return 'cold'
  end
  local hold = hold_at(item, hold_id)
  if not hold then
    return 'unknown_hold'
  end
  local held, total, lapses = hold.reserved, held_of(reserved)
  if total < held then
    return 'failed\0MALFORMED the account has less reserved than one of its holds'
  end
  if now_ms > hold.expires then
    return refusal('capture', '', terms, tail, 'hold_expired', hold_id)
  end
  local option = option_of(terms, hold.tier, terms.own_at + 3, option_at)
  if option.cost == '-' then
    return refusal('capture', '', terms, tail, 'membership_required', option.raw_cost, hold.tier)
  end
  if option.cost == '!' then
    return refusal('capture', '', terms, tail, 'unpriced', option.raw_cost, option.formula)
  end
  local price = option.amount or held
  if price > held and above == 'refuse' then
    return refusal('capture', '', terms, tail, 'capture_exceeds_hold', hold_id, text(price), text(held))
  end
  local cost = above == 'cap' and math.min(price, held) or price
  if balance - cost < -DEBT_MAX then
    return refusal('capture', '', terms, tail, 'balance_limit', text(balance), text(cost))
  end

  local taken = final == '1' and held or math.min(cost, held)
  local left, after, number = held - taken, text(balance - cost), text(sequence + 1)
  hold.reserved, hold.captured = left, hold.captured + cost
  local state = final == '1' and 'captured' or 'reserved'
  local result = table.concat({ text(cost), after, text(price), text(left), final }, '\0')
  journalled(table.concat({
    'capture', transaction_id, number, text(-cost), after, terms.fingerprint, terms.ttl_ms,
    terms.audited, hold_fields(hold_id, state, hold, -taken, total - taken), text(price),
    option.raw_cost, option.formula, tail,
  }, '\0'))
  post(
    account_key, account_text(after, number, reserved_text(total - taken, lapses), expires, tier),
    record_key, table.concat({ terms.fingerprint, transaction_id, terms.ends, result }, '\0'),
    terms.life_ms
  )
  keep(item, hold_id, final ~= '1' and hold_text(hold), final == '1' and -1 or 0)
  return 'ok\0' .. result
end

return batch(capture, HOLDS)
