-- refund: give credits back to accounts of one partition, each item at most once.
--
-- KEYS[1]   meta
-- KEYS[2]   journal
-- KEYS[3…]  account, record, refunded                          for each item
--
-- ARGV[1]   now_us     microseconds, '' for the server's own time
-- ARGV[2]   grace_ms   how much longer than its ttl a record stays in memory
-- ARGV[3…]  transaction_id, tail, terms    for each item
--           fingerprint, ttl_ms, audited, amount, related, bounded    at the place terms names
--
-- A refund may name the charge it gives back (related, '' for none). Then refunded holds what was
-- charged and what has been given back of it, and with bounded = '1' the sum may not pass the charge.
--
-- refuses, in this order:
--   idempotency_key_conflict   transaction_id
--   cold
--   cold_charge
--   refund_exceeds_charge      charged, refunded
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

local charges = {}

-- What was charged and what has been given back; later items see what earlier ones gave back.
local function charge_of(key)
  if not charges[key] then
    local found = redis.call('HMGET', key, 'charged', 'refunded')
    if not found[1] then
      return nil
    end
    charges[key] = { charged = integer(found[1]), refunded = integer(found[2]) }
  end
  return charges[key]
end

local function refund()
  local account_key, record_key, refunded_key = next_keys(3)
  local transaction_id, tail, terms = next_item()
  local fingerprint, ttl_ms, audited = terms.fingerprint, terms.ttl_ms, terms.audited
  local amount, related, bounded = own_terms(terms, 3)

  local function refuse(...)
    return refusal('refund', audited, amount, tail, ...)
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
  local charge = related ~= '' and charge_of(refunded_key)
  if related ~= '' and not charge then
    return 'cold_charge'
  end
  if bounded == '1' and charge.refunded + integer(amount) > charge.charged then
    return refuse('refund_exceeds_charge', text(charge.charged), text(charge.refunded))
  end
  if not fits(account, integer(amount)) then
    return refuse('balance_limit', text(account.balance), amount)
  end

  if charge then
    charge.refunded = charge.refunded + integer(amount)
    charge.given = true
  end
  return add('refund', account_key, integer(amount), {
    record_key = record_key, transaction_id = transaction_id, fingerprint = fingerprint,
    ttl_ms = ttl_ms, audited = audited, tail = tail, now_ms = now_ms,
  })
end

local call = { meta = meta, journal = journal, now_us = now_us, grace_ms = grace_ms }
local replies = batch(call, 3, refund)
for key, charge in pairs(charges) do
  if charge.given then
    redis.call('HSET', key, 'refunded', text(charge.refunded))
  end
end
return replies
