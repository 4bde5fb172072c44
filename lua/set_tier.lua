-- set_tier: change, or renew, the membership of accounts of one partition, each item at most once.
--
-- KEYS[1]   meta
-- KEYS[2]   journal
-- KEYS[3…]  account, record                                    for each item
--
-- ARGV[1]   now_us     microseconds, '' for the server's own time
-- ARGV[2]   grace_ms   how much longer than its ttl a record stays in memory
-- ARGV[3…]  transaction_id, tail, terms    for each item
--           fingerprint, ttl_ms, audited, verb, target, subject, judged_by, policy, expiry, options    at the place terms names
--           then tier, verdict, cap                 for each of the options
--
-- verb is the operation for the audit log, target the new tier ('' keeps the stored one), subject
-- what a refusal's audit says of the request. judged_by is 'effective' (an expired tier counts as
-- none) or 'stored'. The option of the judged tier holds, else the last one: verdict '' lets the
-- change through, anything else is the reason to refuse it; cap is in micro-credits. policy is
-- set_to_cap, keep or raise_to_cap. expiry is 'keep', 'clear' or milliseconds.
--
-- refuses, in this order:
--   idempotency_key_conflict   transaction_id
--   cold
--   undefined_tier
--   invalid_tier_change        tier, reason
--
-- replies, one per item:
--   ok         old_tier, new_tier, balance_before, balance_after, expires
--   replayed   transaction_id, old_tier, new_tier, balance_before, balance_after, expires
--   a refusal  code and three details

--- @include "integer"
--- @include "clock"
--- @include "gate"
--- @include "account"
--- @include "replay"
--- @include "journal"
--- @include "refusal"
--- @include "batch"

local meta, journal = KEYS[1], KEYS[2]
local now_us, now_ms = clock(ARGV[1])
local grace_ms = ARGV[2]

-- The verdict and the cap of the option that holds for a tier.
local function verdict_on(tier, at, options)
  local last = at + 3 * (options - 1)
  while at < last and ARGV[at] ~= tier do
    at = at + 3
  end
  return ARGV[at + 1], integer(ARGV[at + 2])
end

local function balance_under(policy, balance, cap)
  if policy == 'keep' or (policy == 'raise_to_cap' and balance > cap) then
    return balance
  end
  return cap
end

local function set_membership(account, tier, expiry)
  account.member, account.tier = true, tier
  if expiry == 'clear' then
    account.expires = nil
  elseif expiry ~= 'keep' then
    account.expires = integer(expiry)
  end
end

local function set_tier()
  local account_key, record_key = next_keys(2)
  local transaction_id, tail, terms = next_item()
  local fingerprint, ttl_ms, audited = terms.fingerprint, terms.ttl_ms, terms.audited
  local verb, target, subject, judged_by, policy, expiry, options = own_terms(terms, 7)
  local account = account_of(account_key)
  local expired = account and has_expired(account, now_ms)
  local judged = account and not (expired and judged_by == 'effective') and account.tier or ''
  local verdict, cap = verdict_on(judged, terms.own + 7, integer(options))

  local function refuse(...)
    return refusal(verb, audited, subject, tail, ...)
  end

  local replay, used_by = replay_of(record_key, fingerprint, now_ms)
  if used_by then
    return refuse('idempotency_key_conflict', used_by)
  end
  if replay then
    return replay
  end
  if not account then
    return 'cold'
  end
  if verdict == 'undefined_tier' then
    return refuse('undefined_tier')
  end
  if verdict == '' and expiry == 'keep' and expired and judged_by == 'effective' then
    verdict = 'expired'
  end
  if verdict ~= '' then
    return refuse('invalid_tier_change', judged, verdict)
  end

  local old_tier, before = account.tier, account.balance
  post(account_key, balance_under(policy, before, cap) - before)
  set_membership(account, target ~= '' and target or old_tier, expiry)
  local expires = account.expires and text(account.expires) or ''
  journalled(table.concat({
    'tier', transaction_id, account.sequence_text, text(account.balance - before),
    account.balance_text, fingerprint, ttl_ms, audited, verb, old_tier, account.tier, expires,
    expiry, tail,
  }, '\0'))
  local result = table.concat(
    { old_tier, account.tier, text(before), text(account.balance), expires },
    '\0'
  )
  remember(record_key, fingerprint, transaction_id, ttl_ms, now_ms, result)
  return 'ok\0' .. result
end

local call = { meta = meta, journal = journal, now_us = now_us, grace_ms = grace_ms }
return batch(call, 2, set_tier)
