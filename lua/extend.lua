-- extend: give open holds more time, more credits, or both. Each item at most once.
--
-- KEYS      journal, gate, holds          for each partition
--           account, record               for each item
--
-- ARGV[1]   now_us       microseconds, '' for the server's own time
-- ARGV[2]   partitions   how many
-- ARGV[3]   journal_max  entries a journal may have before charges, reservations and grants are refused, '' for any number
-- ARGV[4…]  items        how many, for each partition
--           transaction_id, tail, terms, field      for each item
--           fingerprint, ttl_ms, life_ms, audited, amount, hold_ms    at the place terms names
--
-- The hold keeps amount more, '0' for as much as before, and ends hold_ms from now, '' for when it did;
-- never earlier than it did. The balance stays as it is, so the journal item has no sequence. What is
-- told as reserved where credits are wanting is what the user's other holds keep.
--
-- refuses, in this order:
--   back_pressure              journal_max; a repeated operation, and one that asks only for time, is answered all the same
--   idempotency_key_conflict   transaction_id
--   cold
--   unknown_hold
--   hold_expired               hold_id
--   overdue
--   insufficient_credits       required, available, reserved ('' for nothing)
--   balance_limit              reserved of the hold in all, amount, 'reserved'
--
-- replies, one per item:
--   ok         amount, kept, expires, balance, reserved
--   replayed   transaction_id, amount, kept, expires, balance, reserved
--   a refusal  code and three details
--   failed     why: the journal takes no entry, or the record or the holds cannot be read

local SUM_MAX = 9e15
local KEYS_OF_PARTITION = 3
local KEYS_OF_ITEM = 2
local ARGUMENTS_OF_ITEM = 4

--- @include "integer"
--- @include "clock"
--- @include "gate"
--- @include "account"
--- @include "replay"
--- @include "journal"
--- @include "refusal"
--- @include "batch"
--- @include "hold"
--- @include "holds"

local function extend(item)
  local account_key, account, record_key, record, transaction_id, tail, terms, field =
    item_at(item)
  local amount, hold_ms = own_terms(terms, 2)
  local balance, sequence, reserved, expires, tier, balance_text =
    account_of(account, epoch)
  local more = integer(amount)

  local replay, used_by = replay_of(record, terms.fingerprint, now_ms)
  if not replay and more > 0 and is_full then
    return 'back_pressure\0' .. ARGV[3]
  end
  if used_by then
    return refusal('extend', amount, terms, tail, 'idempotency_key_conflict', used_by)
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
  local found = hold_at(item, field)
  if not found then
    return 'unknown_hold'
  end
  local hold_id = hold_id_of(field)
  local hold, total, lapses, open = hold_of(found), held_of(reserved)
  if not hold then
    return 'failed\0' .. NO_HOLD
  end
  local others = total - hold.reserved
  if others < 0 or open < 1 then
    return 'failed\0MALFORMED the account has less reserved than one of its holds'
  end
  if now_ms > hold.expires then
    return refusal('extend', amount, terms, tail, 'hold_expired', hold_id)
  end
  local available = balance - total
  if more > 0 and available < more then
    if is_overdue(reserved, now_ms) then
      return 'overdue'
    end
    local told = others > 0 and text(others) or nil
    return refusal('extend', amount, terms, tail, 'insufficient_credits', amount, text(available), told)
  end
  if hold.amount + more > SUM_MAX then
    return refusal('extend', amount, terms, tail, 'balance_limit', text(hold.amount), amount, 'reserved')
  end

  local ends = hold_ms == '' and hold.expires or math.max(hold.expires, now_ms + integer(hold_ms))
  hold.amount, hold.reserved, hold.expires = hold.amount + more, hold.reserved + more, ends
  total = total + more
  local kept = reserved_text(text(total), math.min(lapses, ends), open)
  local result = table.concat(
    { amount, text(hold.reserved), text(ends), balance_text, text(total) }, '\0'
  )
  post(
    table.concat({
      'extend', transaction_id, balance_text, terms.fingerprint, terms.ttl_ms, terms.audited,
      hold_fields(hold_id, 'reserved', hold, more, total), tail,
    }, '\0'),
    account_key, account_text(balance_text, sequence, kept, expires, tier), record_key,
    table.concat({ terms.fingerprint, transaction_id, terms.ends, result }, '\0'), terms.life_ms
  )
  keep(field, hold_text(hold))
  return 'ok\0' .. result
end

return batch(extend, OPEN_HOLDS)
