-- load: bring cold accounts from the ledger into Redis. The first one wins; nobody overwrites.
--
-- KEYS[1]   meta
-- KEYS[2…]  account                                            for each item
--
-- ARGV[1]   generation   of the partition, read before the ledger was
-- ARGV[2…]  balance, reserved, sequence, tier, expires         for each item
--
-- An eviction after the ledger was read would make what was read old; it raises the generation.
--
-- refuses, in this order:
--   stale
--
-- replies, one per item:
--   loaded
--   present   the account was there already

--- @include "integer"
--- @include "gate"

local meta = KEYS[1]
local generation = ARGV[1]

local function load(key, balance, reserved, sequence, tier, expires)
  if redis.call('EXISTS', key) == 1 then
    return 'present'
  end
  local fields = { 'b', text(integer(balance)), 's', text(integer(sequence)) }
  if reserved ~= '0' then
    fields[#fields + 1], fields[#fields + 2] = 'r', text(integer(reserved))
  end
  if tier ~= '' then
    fields[#fields + 1], fields[#fields + 2] = 't', tier
  end
  if expires ~= '' then
    fields[#fields + 1], fields[#fields + 2] = 'x', text(integer(expires))
  end
  redis.call('HSET', key, unpack(fields))
  return 'loaded'
end

local epoch, closed = gate(meta)
if not closed and (redis.call('HGET', meta, 'generation') or '0') ~= generation then
  closed = 'stale'
end
local replies = {}
for item = 1, #KEYS - 1 do
  local at = 5 * item - 3
  replies[item] = closed or load(KEYS[item + 1], unpack(ARGV, at, at + 4))
end
return replies
