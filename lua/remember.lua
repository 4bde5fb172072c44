-- remember: put records of finished operations that the ledger has back into Redis.
--
-- KEYS[1]   gate
-- KEYS[2…]  record                                             for each item
--
-- ARGV[1…]  record, ttl_ms                                     for each item
--
-- replies, one per item:
--   remembered
--   present      the record was there already

--- @include "integer"
--- @include "gate"

local gate = KEYS[1]

local epoch, closed = pass(call('GET', gate))
local replies = {}
for item = 1, #KEYS - 1 do
  local at = 2 * item - 1
  local set = closed or call('SET', KEYS[item + 1], ARGV[at], 'PX', ARGV[at + 1], 'NX')
  replies[item] = closed or (set and 'remembered' or 'present')
end
return replies
