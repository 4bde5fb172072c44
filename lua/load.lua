-- load: bring cold accounts from the ledger into Redis. The first one wins.
--
-- KEYS[1]   gate
-- KEYS[2]   meta
-- KEYS[3…]  account, holds                                     for each item
--
-- ARGV[1]   generation   of the partition, read before the ledger was
-- ARGV[2…]  balance, reserved, sequence, tier, expires, holds  for each item
--
-- holds are the user's open ones: id and text in turn, separated by NUL.
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
--- @include "hold"

local gate, meta = KEYS[1], KEYS[2]
local generation = ARGV[1]

-- The moment up to which none of the holds has expired.
local function lapses_of(holds)
  local lapses
  for _, hold in string.gmatch(holds, '(%Z+)%z(%Z+)') do
    lapses = math.min(lapses or hold_of(hold).expires, hold_of(hold).expires)
  end
  return lapses
end

-- The open holds, and nothing else that stood there.
local function load_holds(key, holds)
  call('UNLINK', key)
  for id, hold in string.gmatch(holds, '(%Z+)%z(%Z+)') do
    call('HSET', key, id, hold)
  end
  return 'loaded'
end

local function load(epoch, key, holds_key, balance, reserved, sequence, tier, expires, holds)
  balance, sequence = text(integer(balance)), text(integer(sequence))
  reserved = reserved_text(text(integer(reserved)), lapses_of(holds))
  expires = expires == '' and '' or text(integer(expires))
  local account = epoch .. '-0' .. account_text(balance, sequence, reserved, expires, tier)
  local found = call('MGET', key)[1] -- nil, and no error, for what is not text
  if found and account_of(key, found, epoch) then
    return 'present'
  end
  if found and match(found, '^%d+%-%d+ ') and tonumber(match(found, '^%d+')) < tonumber(epoch) then
    call('SET', key, account)
    return load_holds(holds_key, holds)
  end
  return call('SET', key, account, 'NX') and load_holds(holds_key, holds) or 'malformed'
end

local epoch, closed = pass(call('GET', gate))
if not closed and (call('HGET', meta, 'generation') or '0') ~= generation then
  closed = 'stale'
end
local replies = {}
for item = 1, (#KEYS - 2) / 2 do
  local at = 6 * item - 4
  replies[item] = closed
    or load(epoch, KEYS[2 * item + 1], KEYS[2 * item + 2], unpack(ARGV, at, at + 5))
end
return replies
