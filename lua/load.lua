-- load: bring cold accounts from the ledger into Redis. The first one wins.
--
-- KEYS[1]   gate
-- KEYS[2]   meta
-- KEYS[3…]  account                                            for each item
--
-- ARGV[1]   generation   of the partition, read before the ledger was
-- ARGV[2…]  balance, reserved, sequence, tier, expires         for each item
--
-- An account of an earlier epoch, a history that was lost, is overwritten.
--
-- An eviction after the ledger was read would make what was read old; it raises the generation.
--
-- refuses, in this order:
--   stale
--
-- replies, one per item:
--   loaded
--   present     the account was there already
--   malformed   something else was there

--- @include "integer"
--- @include "gate"
--- @include "account"

local gate, meta = KEYS[1], KEYS[2]
local generation = ARGV[1]

local function load(epoch, key, balance, reserved, sequence, tier, expires)
  balance, reserved, sequence = text(integer(balance)), text(integer(reserved)), text(integer(sequence))
  expires = expires == '' and '' or text(integer(expires))
  local account = epoch .. '-0' .. account_text(balance, sequence, reserved, expires, tier)
  local found = call('MGET', key)[1] -- nil, and no error, for what is not text
  if found and account_of(key, found, epoch) then
    return 'present'
  end
  if found and match(found, '^%d+%-%d+ ') and tonumber(match(found, '^%d+')) < tonumber(epoch) then
    call('SET', key, account)
    return 'loaded'
  end
  return call('SET', key, account, 'NX') and 'loaded' or 'malformed'
end

local epoch, closed = pass(call('GET', gate))
if not closed and (call('HGET', meta, 'generation') or '0') ~= generation then
  closed = 'stale'
end
local replies = {}
for item = 1, #KEYS - 2 do
  local at = 5 * item - 3
  replies[item] = closed or load(epoch, KEYS[item + 2], unpack(ARGV, at, at + 4))
end
return replies
