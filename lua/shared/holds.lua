-- holds: those of a batch. Later items of a call see what earlier ones did; the hashes are written at
-- the end, for the items that were journalled. Written as the first of what can be taken back.

local changed = {} -- by key and id: a hold as text, false where there is none, as found or changed
local changes = {} -- item, key, id, text or false, and the same before; in order
local written = 0 -- how many of them are
local opened = {} -- by key: how many more this call has opened than finished

-- The key of the user's holds: the item's own one.
local function holds_key_at(item)
  return KEYS[2 * partitions + 2 * count + item]
end

local function set_hold(key, id, state)
  if state then
    return redis.pcall('HSET', key, id, state)
  end
  return redis.pcall('HDEL', key, id)
end

-- An open hold; nothing for one that is finished, or was never there.
local function hold_at(item, id)
  local key = holds_key_at(item)
  changed[key] = changed[key] or {}
  local found = changed[key][id]
  if found == nil then
    found = call('HGET', key, id)
    changed[key][id] = found
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
  local before = changed[key][id]
  changed[key][id] = state
  opened[key] = (opened[key] or 0) + more
  changes[#changes + 1] = { item = item, key = key, id = id, state = state, before = before }
end

-- Write the holds of the items that were journalled; why one was denied.
local function write_holds(replies)
  for at, change in ipairs(changes) do
    if match(replies[change.item], '^ok') then
      local problem = denial(set_hold(change.key, change.id, change.state))
      if problem then
        return problem
      end
      written = at
    end
  end
end

-- The holds as they were before.
local function take_back_holds()
  for at = written, 1, -1 do
    set_hold(changes[at].key, changes[at].id, changes[at].before)
  end
end

local HOLDS = { write = write_holds, take_back = take_back_holds }
