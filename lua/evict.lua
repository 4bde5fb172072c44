-- evict: drop accounts, each only if the ledger has its last change.
--
-- KEYS[1]   gate
-- KEYS[2]   meta
-- KEYS[3…]  account   for each item
--
-- An account with open holds is not idle: it stays until they are captured, released or have expired. What
-- was dropped is loaded from the ledger when it is next needed. A load that read the ledger before
-- is refused by the generation. An account of an earlier epoch, a history that was lost, is dropped in
-- any case.
--
-- replies, one per item:
--   evicted
--   absent       it is gone already
--   unrecorded   the ledger does not have its last change yet
--   held         it has open holds
--   malformed    something else is there

--- @include "integer"
--- @include "gate"
--- @include "generation"

local gate, meta = KEYS[1], KEYS[2]

local epoch, closed = pass(call('GET', gate))
local known = not closed and call('HMGET', meta, 'generation', 'synced')
local synced_epoch, synced_sequence = match(known and known[2] or '0-0', '^(%d+)%-(%d+)$')
synced_epoch, synced_sequence = tonumber(synced_epoch), tonumber(synced_sequence)

local function is_recorded(entry_epoch, entry_sequence)
  if entry_epoch ~= synced_epoch then
    return entry_epoch < synced_epoch
  end
  return entry_sequence <= synced_sequence
end

local function evict(account)
  local found = call('MGET', account)[1] -- nil, and no error, for what is not text
  if not found then
    return call('EXISTS', account) == 1 and 'malformed' or 'absent'
  end
  local entry_epoch, entry_sequence, reserved = match(found, '^(%d+)%-(%d+) %S+ (%S+) ')
  if not entry_epoch then
    return 'malformed'
  end
  entry_epoch, entry_sequence = tonumber(entry_epoch), tonumber(entry_sequence)
  if entry_epoch >= tonumber(epoch) and not is_recorded(entry_epoch, entry_sequence) then
    return 'unrecorded'
  end
  if entry_epoch >= tonumber(epoch) and string.find(reserved, '/') then
    return 'held'
  end
  call('UNLINK', account)
  return 'evicted'
end

local replies, has_evicted = {}, false
for item = 1, #KEYS - 2 do
  replies[item] = closed or evict(KEYS[item + 2])
  has_evicted = has_evicted or replies[item] == 'evicted'
end
if has_evicted then
  call('HSET', meta, 'generation', new_generation(known[1]))
end
return replies
