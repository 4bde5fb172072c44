-- The charge of somebody who writes one script and calls it once for each request.
--
-- KEYS[1] account   KEYS[2] record of the idempotency key   KEYS[3] transactions
-- ARGV[1] cost   ARGV[2] ttl_ms   ARGV[3] transaction_id   ARGV[4] user   ARGV[5] action   ARGV[6] key
--
-- It does what a charge must: check, deduct, remember the key with its expiry, note the transaction.
-- It does not fence a restarted server, scope keys, compare parameters, or know membership.

local known = redis.call('GET', KEYS[2])
if known then
  return known
end
local cost = tonumber(ARGV[1])
local balance = tonumber(redis.call('HGET', KEYS[1], 'balance') or '0')
if balance < cost then
  return redis.error_reply('INSUFFICIENT')
end
local after = redis.call('HINCRBY', KEYS[1], 'balance', -cost)
redis.call(
  'XADD', KEYS[3], '*', 'id', ARGV[3], 'user', ARGV[4], 'action', ARGV[5], 'amount', ARGV[1],
  'balance_after', after, 'key', ARGV[6]
)
redis.call('SET', KEYS[2], ARGV[3] .. ':' .. after, 'PX', ARGV[2])
return after
