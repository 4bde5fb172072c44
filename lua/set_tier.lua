-- set_tier: change, or renew, the membership of accounts, each item at most once.
--
-- KEYS      journal, gate                 for each partition
--           account, record               for each item
--
-- ARGV[1]   now_us       microseconds, '' for the server's own time
-- ARGV[2]   partitions   how many
-- ARGV[3]   journal_max  entries a journal may have before charges, reservations and grants are refused, '' for any number
-- ARGV[4…]  items        how many, for each partition
--           transaction_id, tail, terms    for each item
--           fingerprint, ttl_ms, life_ms, audited, verb, target, subject, judged_by, policy, expiry, options    at the place terms names
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

-- When the membership ends after the change, '' for never.
local function expires_after(expiry, expires)
  if expiry == 'keep' then
    return expires
  end
  return expiry == 'clear' and '' or text(integer(expiry))
end

local function set_tier(item)
  local account_key, account, record_key, record, transaction_id, tail, terms = item_at(item)
  local verb, target, subject, judged_by, policy, expiry, options = own_terms(terms, 7)
  local before, sequence, reserved, expires, tier = account_of(account, epoch)
  local expired = before and has_expired(expires, now_ms)
  local judged = before and not (expired and judged_by == 'effective') and tier or ''
  local verdict, cap = verdict_on(judged, terms.own_at + 7, tonumber(options))

  local replay, used_by = replay_of(record, terms.fingerprint, now_ms)
  if used_by then
    return refusal(verb, subject, terms, tail, 'idempotency_key_conflict', used_by)
  end
  if replay then
    return replay
  end
  if not before then
    return 'cold'
  end
  if verdict == 'undefined_tier' then
    return refusal(verb, subject, terms, tail, 'undefined_tier')
  end
  if verdict == '' and expiry == 'keep' and expired and judged_by == 'effective' then
    verdict = 'expired'
  end
  if verdict ~= '' then
    return refusal(verb, subject, terms, tail, 'invalid_tier_change', judged, verdict)
  end

  local balance = balance_under(policy, before, cap)
  local after, number = text(balance), text(sequence + 1)
  local new_tier = target ~= '' and target or tier
  local ends = expires_after(expiry, expires)
  local result = table.concat({ tier, new_tier, text(before), after, ends }, '\0')
  post(
    table.concat({
      'tier', transaction_id, number, text(balance - before), after, terms.fingerprint, terms.ttl_ms,
      terms.audited, verb, tier, new_tier, ends, expiry, tail,
    }, '\0'),
    account_key, account_text(after, number, reserved, ends, new_tier), record_key,
    table.concat({ terms.fingerprint, transaction_id, terms.ends, result }, '\0'), terms.life_ms
  )
  return 'ok\0' .. result
end

return batch(set_tier)
