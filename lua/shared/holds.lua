-- holds: those of a batch. Later items of a call see what earlier ones did; the hashes are written at
-- the end, for the items that were journalled.

local changed = {} -- by key and id: a hold as text, false where it is finished
local changes = {} -- item, key, id, text or false; in order
local opened = {} -- by key: how many more this call has opened than finished

-- The key of the user's holds: the item's own one.
local function holds_key_at(item)
  return KEYS[2 * partitions + 2 * count + item]
end

-- An open hold; nothing for one that is finished, or was never there.
local function hold_at(item, id)
  local key = holds_key_at(item)
  local found = changed[key] and changed[key][id]
  if found == nil then
    found = call('HGET', key, id)
  end
  return found and hold_of(found) or nil
end

-- How many holds of the user are open.
local function open_holds(item)
  local key = holds_key_at(item)
  return call('HLEN', key) + (opened[key] or 0)
end

-- The next state of a hold: as text, or false where it is finished; and how many there are more by it.
local function keep(item, id, state, more)
  local key = holds_key_at(item)
  changed[key] = changed[key] or {}
  changed[key][id] = state
  opened[key] = (opened[key] or 0) + more
  changes[#changes + 1] = { item = item, key = key, id = id, state = state }
end

-- Write the holds of the items that were journalled; the replies, as they are.
local function write_holds(replies)
  for _, change in ipairs(changes) do
    if match(replies[change.item], '^ok') then
      if change.state then
        call('HSET', change.key, change.id, change.state)
      else
        call('HDEL', change.key, change.id)
      end
    end
  end
  return replies
end
