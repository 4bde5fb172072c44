-- load_charge: bring what the ledger knows of charges into Redis, so that their refunds can be bounded.
--
-- KEYS[1]   gate
-- KEYS[2…]  refunded                                           for each item
--
-- ARGV[1…]  charged, refunded, ttl_ms                          for each item
--
-- replies, one per item:
--   loaded
--   present   it was there already

--- @include "integer"
--- @include "gate"

local gate = KEYS[1]

local function load_charge(epoch, key, charged, refunded, ttl_ms)
  if call('HGET', key, 'epoch') == epoch then
    return 'present'
  end
  charged, refunded = text(integer(charged)), text(integer(refunded))
  call('HSET', key, 'epoch', epoch, 'charged', charged, 'refunded', refunded)
  call('PEXPIRE', key, text(integer(ttl_ms)))
  return 'loaded'
end

local epoch, closed = pass(call('GET', gate))
local replies = {}
for item = 1, #KEYS - 1 do
  local at = 3 * item - 2
  replies[item] = closed or load_charge(epoch, KEYS[item + 1], unpack(ARGV, at, at + 2))
end
return replies
