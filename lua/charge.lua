-- charge: take credits from accounts of one partition, each item at most once.
--
-- KEYS[1]   meta
-- KEYS[2]   journal
-- KEYS[3…]  account, record                                    for each item
--
-- ARGV[1]   now_us     microseconds, '' for the server's own time
-- ARGV[2]   grace_ms   how much longer than its ttl a record stays in memory
-- ARGV[3…]  transaction_id, tail, terms    for each item
--           fingerprint, ttl_ms, audited, options    at the place terms names
--           then tier, cost, raw_cost, formula       for each of the options
--
-- The option of the account's tier holds, else the last one. Its cost is in micro-credits; '-' says
-- that the tier may not act, with the required one in raw_cost; '!' that there is no price, with the
-- error's code and facts in raw_cost and formula.
--
-- refuses, in this order:
--   idempotency_key_conflict   transaction_id
--   cold
--   membership_required        required tier, stored tier, whether it has expired
--   unpriced                   code, facts
--   insufficient_credits       required, available
--
-- replies, one per item:
--   ok         cost, balance_after
--   replayed   transaction_id, cost, balance_after
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

local chosen = {} -- options by their terms and tier, which most items of a call have in common

-- The option that holds for a tier.
local function option_of(terms, tier)
  local by_tier = chosen[terms]
  if not by_tier then
    by_tier = {}
    chosen[terms] = by_tier
  end
  if by_tier[tier] then
    return by_tier[tier]
  end
  local options = own_terms(terms, 1)
  local at = terms.own + 1
  local last = at + 4 * (integer(options) - 1)
  while at < last and ARGV[at] ~= tier do
    at = at + 4
  end
  local option = { cost = ARGV[at + 1], raw_cost = ARGV[at + 2], formula = ARGV[at + 3] }
  if option.cost ~= '-' and option.cost ~= '!' then
    option.amount = integer(option.cost)
    option.delta = text(0 - option.amount)
  end
  by_tier[tier] = option
  return option
end

local function charge()
  local account_key, record_key = next_keys(2)
  local transaction_id, tail, terms = next_item()
  local fingerprint, ttl_ms, audited = terms.fingerprint, terms.ttl_ms, terms.audited
  local account = account_of(account_key)
  local expired = account and has_expired(account, now_ms)
  local option = option_of(terms, account and not expired and account.tier or '')
  local cost, raw_cost, formula = option.cost, option.raw_cost, option.formula

  local function refuse(...)
    return refusal('charge', audited, '', tail, ...)
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
  if cost == '-' then
    return refuse('membership_required', raw_cost, account.tier, expired and '1' or '')
  end
  if cost == '!' then
    return refuse('unpriced', raw_cost, formula)
  end
  local available = account.balance - account.reserved
  if available < option.amount then
    return refuse('insufficient_credits', cost, text(available))
  end

  post(account_key, 0 - option.amount)
  journalled(
    'charge\0' .. transaction_id .. '\0' .. account.sequence_text .. '\0' .. option.delta
      .. '\0' .. account.balance_text .. '\0' .. fingerprint .. '\0' .. ttl_ms .. '\0' .. audited
      .. '\0' .. raw_cost .. '\0' .. formula .. '\0' .. tail
  )
  local result = cost .. '\0' .. account.balance_text
  remember(record_key, fingerprint, transaction_id, ttl_ms, now_ms, result)
  return 'ok\0' .. result
end

local call = { meta = meta, journal = journal, now_us = now_us, grace_ms = grace_ms }
return batch(call, 2, charge)
