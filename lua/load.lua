-- load: bring cold accounts from the ledger into Redis. The first one wins.
--
-- KEYS[1]   gate
-- KEYS[2]   meta
-- KEYS[3]   holds
-- KEYS[4…]  account                                                  for each item
--
-- ARGV[1]   generation   of the partition, read before the ledger was
-- ARGV[2…]  user, balance, reserved, sequence, tier, expires, open   for each item
--
-- open are the user's open holds: id and text in turn, separated by NUL.
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

local ARGUMENTS_OF_ITEM = 7
local WORDS_MAX = 1000 -- of a command
local gate, meta, holds = KEYS[1], KEYS[2], KEYS[3]
local generation = ARGV[1]

-- The moment up to which none of the holds has expired, how many they are, and they as they are written.
local function read_holds(user, open)
  local lapses, words = nil, {}
  for id, hold in string.gmatch(open, '(%Z+)%z(%Z+)') do
    local expires, size = hold_of(hold).expires, #words
    lapses = math.min(lapses or expires, expires)
    words[size + 1], words[size + 2] = hold_field(user, id), hold
  end
  return lapses, #words / 2, words
end

local function write(key, account, words)
  for at = 1, #words, WORDS_MAX do
    call('HSET', holds, unpack(words, at, math.min(at + WORDS_MAX - 1, #words)))
  end
  call('SET', key, account)
  return 'loaded'
end

local function load(epoch, key, user, balance, reserved, sequence, tier, expires, open)
  local lapses, number, words = read_holds(user, open)
  balance, sequence = text(integer(balance)), text(integer(sequence))
  reserved = reserved_text(text(integer(reserved)), lapses, number)
  expires = expires == '' and '' or text(integer(expires))
  local account = epoch .. '-0' .. account_text(balance, sequence, reserved, expires, tier)
  local found = call('MGET', key)[1] -- nil, and no error, for what is not text
  if found and account_of(found, epoch) then
    return 'present'
  end
  local is_earlier = found and match(found, '^%d+%-%d+ ')
    and tonumber(match(found, '^%d+')) < tonumber(epoch)
  if is_earlier or (not found and call('EXISTS', key) == 0) then
    return write(key, account, words)
  end
  return 'malformed'
end

local epoch, closed = pass(call('GET', gate))
if not closed and (call('HGET', meta, 'generation') or '0') ~= generation then
  closed = 'stale'
end
local replies = {}
for item = 1, #KEYS - 3 do
  local at = ARGUMENTS_OF_ITEM * (item - 1) + 2
  replies[item] = closed
    or load(epoch, KEYS[item + 3], unpack(ARGV, at, at + ARGUMENTS_OF_ITEM - 1))
end
return replies
