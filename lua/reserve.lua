-- reserve: keep credits of accounts for a charge to come, each item at most once.
--
-- KEYS      journal, gate, holds          for each partition
--           account, record               for each item
--
-- ARGV[1]   now_us       microseconds, '' for the server's own time
-- ARGV[2]   partitions   how many
-- ARGV[3]   journal_max  entries a journal may have before charges, reservations and grants are refused, '' for any number
-- ARGV[4…]  items        how many, for each partition
--           transaction_id, tail, terms    for each item
--           fingerprint, ttl_ms, life_ms, audited, hold_ms, open_max, options    at the place terms names
--           then tier, cost, raw_cost, formula                for each of the options
--
-- The transaction id becomes the hold's. It expires hold_ms from now; a user has at most open_max of
-- them. With open_max = '0' it is made in any case, whatever the user has: for a charge that stands.
-- Options are as in `charge`. The balance stays as it is, so the journal item has no sequence.
--
-- refuses, in this order:
--   back_pressure              journal_max; a repeated operation is answered all the same
--   idempotency_key_conflict   transaction_id
--   cold
--   membership_required        required tier, stored tier, whether it has expired
--   unpriced                   code, facts
--   overdue
--   insufficient_credits       required, available, reserved ('' for nothing)
--   hold_limit                 how many are open
--
-- replies, one per item:
--   ok         amount, expires, balance, reserved
--   replayed   transaction_id, amount, expires, balance, reserved
--   a refusal  code and three details
--   failed     why: the journal takes no entry or the holds no hold, or the record cannot be read

local KEYS_OF_PARTITION = 3
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
--- @include "hold"
--- @include "new_holds"

local hold_ms_before, lapses, ends -- of the option before: holds last for the same time as a rule

-- An option as texts that only have to be joined: what all items that choose it have in common.
local function option_at(at, terms, judged)
  local cost, raw_cost, formula = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  if cost == '-' or cost == '!' then
    return { cost = cost, raw_cost = raw_cost, formula = formula }
  end
  local hold_ms, open_max = own_terms(terms, 2)
  if hold_ms ~= hold_ms_before then
    hold_ms_before, lapses = hold_ms, now_ms + integer(hold_ms)
    ends = text(lapses)
  end
  return {
    cost = cost,
    amount = integer(cost),
    lapses = lapses,
    open_max = integer(open_max),
    common = '\0' .. terms.fingerprint .. '\0' .. terms.ttl_ms .. '\0' .. terms.audited .. '\0',
    held = '\0reserved\0' .. cost .. '\0' .. cost .. '\0000\0' .. ends .. '\0' .. cost .. '\0',
    priced = '\0' .. judged .. '\0' .. raw_cost .. '\0' .. formula .. '\0',
    hold = cost .. ' ' .. cost .. ' 0 ' .. ends .. ' ' .. terms.audited .. ' ' .. judged,
    kept = cost .. '/' .. ends .. '/1', -- where it is the only one
    told = cost .. '\0' .. ends .. '\0',
  }
end

local function reserve(item)
  local account_key, account, record_key, record, transaction_id, tail, terms = item_at(item)
  local balance, sequence, reserved, expires, tier, balance_text =
    account_of(account, epoch)
  local expired = balance and expires ~= '' and has_expired(expires, now_ms)
  local judged = balance and not expired and tier or ''
  local option = terms.options[judged] or option_of(terms, judged, terms.own_at + 2, option_at)
  local cost = option.cost

  local replay, used_by
  if record then
    replay, used_by = replay_of(record, terms.fingerprint, now_ms)
  end
  if not replay and is_full then
    return 'back_pressure\0' .. ARGV[3]
  end
  if used_by then
    return refusal('reserve', '', terms, tail, 'idempotency_key_conflict', used_by)
  end
  if replay then
    return replay
  end
  if not balance then
    return 'cold'
  end
  if cost == '-' then
    return refusal('reserve', '', terms, tail, 'membership_required', option.raw_cost, tier, expired and '1')
  end
  if cost == '!' then
    return refusal('reserve', '', terms, tail, 'unpriced', option.raw_cost, option.formula)
  end
  local held, lapses, open = held_of(reserved)
  local is_bound = option.open_max > 0
  local is_last = is_bound and open >= option.open_max
  local is_short = is_bound and balance - held < option.amount
  if (is_last or is_short) and is_overdue(reserved, now_ms) then
    return 'overdue'
  end
  if is_short then
    local told, available = told_held(reserved), text(balance - held)
    return refusal('reserve', '', terms, tail, 'insufficient_credits', cost, available, told)
  end
  if is_last then
    return refusal('reserve', '', terms, tail, 'hold_limit', text(option.open_max))
  end

  local total, kept = cost, option.kept
  if reserved ~= '0' then
    total = text(held + option.amount)
    kept = reserved_text(total, math.min(lapses or option.lapses, option.lapses), open + 1)
  end
  post(
    'reserve\0' .. transaction_id .. '\0' .. balance_text .. option.common .. transaction_id
      .. option.held .. total .. option.priced .. tail,
    account_key, account_text(balance_text, sequence, kept, expires, tier), record_key,
    terms.fingerprint .. '\0' .. transaction_id .. '\0' .. terms.ends .. '\0' .. option.told
      .. balance_text .. '\0' .. total,
    terms.life_ms
  )
  make(match(tail, '^%Z*%z') .. transaction_id, option.hold) -- the tail begins with the user, and NUL
  return 'ok\0' .. option.told .. balance_text .. '\0' .. total
end

return batch(reserve, { write = write_new_holds, take_back = take_back_new_holds })
