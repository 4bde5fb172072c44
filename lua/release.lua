-- release: give up holds; what they still keep is available again. Each item at most once.
--
-- KEYS      journal, gate, holds          for each partition
--           account, record               for each item
--
-- ARGV[1]   now_us       microseconds, '' for the server's own time
-- ARGV[2]   partitions   how many
-- ARGV[3]   journal_max  entries a journal may have before charges, reservations and grants are refused, '' for any number
-- ARGV[4…]  items        how many, for each partition
--           transaction_id, tail, terms, field      for each item
--           fingerprint, ttl_ms, life_ms, audited    at the place terms names
--
-- refuses, in this order:
--   idempotency_key_conflict   transaction_id
--   cold
--   unknown_hold
--   hold_expired               hold_id
--
-- replies, one per item:
--   ok         amount, balance, reserved
--   replayed   transaction_id, amount, balance, reserved
--   a refusal  code and three details
--   failed     why: the journal takes no entry, or the record or the holds cannot be read

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

local function release(item)
  local account_key, account, record_key, record, transaction_id, tail, terms, field =
    item_at(item)
  local balance, sequence, reserved, expires, tier, balance_text =
    account_of(account, epoch)

  local replay, used_by = replay_of(record, terms.fingerprint, now_ms)
  if used_by then
    return refusal('release', '', terms, tail, 'idempotency_key_conflict', used_by)
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
  local held = hold.reserved
  if total < held or open < 1 then
    return 'failed\0MALFORMED the account has less reserved than one of its holds'
  end
  if now_ms > hold.expires then
    return refusal('release', '', terms, tail, 'hold_expired', hold_id)
  end

  hold.reserved = 0
  local result = table.concat({ text(held), balance_text, text(total - held) }, '\0')
  local kept = reserved_text(text(total - held), lapses, open - 1)
  post(
    table.concat({
      'release', transaction_id, balance_text, terms.fingerprint, terms.ttl_ms, terms.audited,
      hold_fields(hold_id, 'released', hold, -held, total - held), tail,
    }, '\0'),
    account_key, account_text(balance_text, sequence, kept, expires, tier), record_key,
    table.concat({ terms.fingerprint, transaction_id, terms.ends, result }, '\0'), terms.life_ms
  )
  keep(field, false)
  return 'ok\0' .. result
end

return batch(release, OPEN_HOLDS)
