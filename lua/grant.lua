-- grant: add credits to accounts of one partition, each item at most once.
--
-- KEYS[1]   meta
-- KEYS[2]   journal
-- KEYS[3…]  account, record                                    for each item
--
-- ARGV[1]   now_us     microseconds, '' for the server's own time
-- ARGV[2]   grace_ms   how much longer than its ttl a record stays in memory
-- ARGV[3…]  transaction_id, tail, terms    for each item
--           fingerprint, ttl_ms, audited, amount    at the place terms names
--
-- refuses, in this order:
--   idempotency_key_conflict   transaction_id
--   cold
--   balance_limit              balance, amount
--
-- replies, one per item:
--   ok         amount, balance_after
--   replayed   transaction_id, amount, balance_after
--   a refusal  code and three details

--- @include "integer"
--- @include "clock"
--- @include "gate"
--- @include "account"
--- @include "replay"
--- @include "journal"
--- @include "refusal"
--- @include "addition"
--- @include "batch"

local meta, journal = KEYS[1], KEYS[2]
local now_us, now_ms = clock(ARGV[1])
local grace_ms = ARGV[2]

local function grant()
  local account_key, record_key = next_keys(2)
  local transaction_id, tail, terms = next_item()
  local fingerprint, ttl_ms, audited = terms.fingerprint, terms.ttl_ms, terms.audited
  local amount = own_terms(terms, 1)

  local function refuse(...)
    return refusal('grant', audited, amount, tail, ...)
  end

  local replay, used_by = replay_of(record_key, fingerprint, now_ms)
  if used_by then
    return refuse('idempotency_key_conflict', used_by)
  end
  if replay then
    return replay
  end
  local account = account_of(account_key)
  if not account then
    return 'cold'
  end
  if not fits(account, integer(amount)) then
    return refuse('balance_limit', text(account.balance), amount)
  end

  return add('grant', account_key, integer(amount), {
    record_key = record_key, transaction_id = transaction_id, fingerprint = fingerprint,
    ttl_ms = ttl_ms, audited = audited, tail = tail, now_ms = now_ms,
  })
end

local call = { meta = meta, journal = journal, now_us = now_us, grace_ms = grace_ms }
return batch(call, 2, grant)
