-- charge: take credits from accounts, each item at most once.
--
-- KEYS      journal, gate                 for each partition
--           account, record               for each item
--
-- ARGV[1]   now_us       microseconds, '' for the server's own time
-- ARGV[2]   partitions   how many
-- ARGV[3]   journal_max  entries a journal may have before charges, reservations and grants are refused, '' for any number
-- ARGV[4…]  items        how many, for each partition
--           transaction_id, tail, terms    for each item
--           fingerprint, ttl_ms, life_ms, audited, options    at the place terms names
--           then tier, cost, raw_cost, formula                for each of the options
--
-- The option of the account's tier holds, else the last one. Its cost is in micro-credits; '-' says
-- that the tier may not act, with the required one in raw_cost; '!' that there is no price, with the
-- error's code and facts in raw_cost and formula.
--
-- refuses, in this order:
--   back_pressure              journal_max; a repeated operation is answered all the same
--   idempotency_key_conflict   transaction_id
--   cold
--   membership_required        required tier, stored tier, whether it has expired
--   unpriced                   code, facts
--   overdue
--   insufficient_credits       required, available, reserved ('' for nothing)
--
-- replies, one per item:
--   ok         cost, balance_after
--   replayed   transaction_id, cost, balance_after
--   a refusal  code and three details
--   failed     why: the journal takes no entry, or the record cannot be read

local KEYS_OF_PARTITION = 2
local KEYS_OF_ITEM = 2
local ARGUMENTS_OF_ITEM = 3

--- @include "integer"
--- @include "clock"
--- @include "gate"
--- @include "account"
--- @include "replay"
--- @include "journal"
--- @include "refusal"
--- @include "batch"
--- @include "options"

-- An option as texts that only have to be joined: what all items that choose it have in common.
local function option_at(at, terms)
  local cost, raw_cost, formula = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  if cost == '-' or cost == '!' then
    return { cost = cost, raw_cost = raw_cost, formula = formula }
  end
  return {
    cost = cost,
    amount = integer(cost),
    delta = '\0' .. (cost == '0' and '0' or '-' .. cost) .. '\0',
    priced = '\0' .. terms.fingerprint .. '\0' .. terms.ttl_ms .. '\0' .. terms.audited
      .. '\0' .. raw_cost .. '\0' .. formula .. '\0',
    remembered = '\0' .. terms.ends .. '\0' .. cost .. '\0',
    ok = 'ok\0' .. cost .. '\0',
  }
end

local function charge(item)
  local account_key, account, record_key, record, transaction_id, tail, terms = item_at(item)
  local balance, sequence, reserved, expires, tier = account_of(account, epoch)
  local expired = balance and expires ~= '' and has_expired(expires, now_ms)
  local judged = balance and not expired and tier or ''
  local option = terms.options[judged] or option_of(terms, judged, terms.own_at, option_at)
  local cost = option.cost

  local replay, used_by
  if record then
    replay, used_by = replay_of(record, terms.fingerprint, now_ms)
  end
  if not replay and is_full then
    return 'back_pressure\0' .. ARGV[3]
  end
  if used_by then
    return refusal('charge', '', terms, tail, 'idempotency_key_conflict', used_by)
  end
  if replay then
    return replay
  end
  if not balance then
    return 'cold'
  end
  if cost == '-' then
    return refusal('charge', '', terms, tail, 'membership_required', option.raw_cost, tier, expired and '1')
  end
  if cost == '!' then
    return refusal('charge', '', terms, tail, 'unpriced', option.raw_cost, option.formula)
  end
  local available = balance - (reserved == '0' and 0 or held_of(reserved))
  if available < option.amount and is_overdue(reserved, now_ms) then
    return 'overdue'
  end
  if available < option.amount then
    local held = told_held(reserved)
    return refusal('charge', '', terms, tail, 'insufficient_credits', cost, text(available), held)
  end

  local after, number = format('%d', balance - option.amount), format('%d', sequence + 1)
  post(
    'charge\0' .. transaction_id .. '\0' .. number .. option.delta .. after .. option.priced .. tail,
    account_key, account_text(after, number, reserved, expires, tier), record_key,
    terms.fingerprint .. '\0' .. transaction_id .. option.remembered .. after, terms.life_ms
  )
  return option.ok .. after
end

return batch(charge)
