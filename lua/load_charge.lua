-- load_charge: bring what the ledger knows of charges into Redis, so that their refunds can be bounded.
--
-- KEYS[1]   gate
-- KEYS[2…]  refunded                                           for each item
--
-- ARGV[1…]  user, charged, refunded, ttl_ms                    for each item
--
-- What a version loaded that did not note the user yet gets it, and is otherwise left as it is.
--
-- replies, one per item:
--   loaded
--   present   it was there already

--- @include "integer"
--- @include "gate"

local gate = KEYS[1]

local function load_charge(epoch, key, user, charged, refunded, ttl_ms)
  local known = call('HMGET', key, 'epoch', 'user')
  if known[1] == epoch then
    call('HSET', key, 'user', known[2] or user)
    return 'present'
  end
  charged, refunded = text(integer(charged)), text(integer(refunded))
  call('HSET', key, 'epoch', epoch, 'user', user, 'charged', charged, 'refunded', refunded)
  call('PEXPIRE', key, text(integer(ttl_ms)))
  return 'loaded'
end

local epoch, closed = pass(call('GET', gate))
local replies = {}
for item = 1, #KEYS - 1 do
  local at = 4 * item - 3
  replies[item] = closed or load_charge(epoch, KEYS[item + 1], unpack(ARGV, at, at + 3))
end
return replies
