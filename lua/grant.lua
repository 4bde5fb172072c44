-- grant: add credits to accounts, each item at most once.
--
-- KEYS      journal, gate                 for each partition
--           account, record               for each item
--
-- ARGV[1]   now_us       microseconds, '' for the server's own time
-- ARGV[2]   partitions   how many
-- ARGV[3]   journal_max  entries a journal may have before charges, reservations and grants are refused, '' for any number
-- ARGV[4…]  items        how many, for each partition
--           transaction_id, tail, terms    for each item
--           fingerprint, ttl_ms, life_ms, audited, amount    at the place terms names
--
-- refuses, in this order:
--   back_pressure              journal_max; a repeated operation is answered all the same
--   idempotency_key_conflict   transaction_id
--   cold
--   balance_limit              balance, amount
--
-- replies, one per item:
--   ok         amount, balance_after
--   replayed   transaction_id, amount, balance_after
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
--- @include "addition"

local function grant(item)
  local account_key, account, record_key, record, _, tail, terms = item_at(item)
  local balance = account_of(account, epoch)
  local amount = own_terms(terms, 1)

  local replay, used_by = replay_of(record, terms.fingerprint, now_ms)
  if not replay and is_full then
    return 'back_pressure\0' .. ARGV[3]
  end
  if used_by then
    return refusal('grant', amount, terms, tail, 'idempotency_key_conflict', used_by)
  end
  if replay then
    return replay
  end
  if not balance then
    return 'cold'
  end
  if not fits(balance, integer(amount)) then
    return refusal('grant', amount, terms, tail, 'balance_limit', text(balance), amount)
  end

  return add('grant', item, integer(amount))
end

return batch(grant)
