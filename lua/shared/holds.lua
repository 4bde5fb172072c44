-- holds: those of a batch. Later items of a call see what earlier ones did; the hashes are written at
-- the end, for the items that were journalled. Written as the first of what can be taken back.

local changed = {} -- by key and id: a hold as text, false where there is none, as found or changed
local changes = {} -- item, key, id, text or false, and the same before; one after another, in order
local OF_CHANGE = 5
local written = 1 - OF_CHANGE -- where the last one stands that is written
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

-- An open hold as text; false for one that is finished, or was never there; or nil and why it cannot be
-- read, which stops its own item only.
local function hold_text_at(item, id)
  local key = holds_key_at(item)
  changed[key] = changed[key] or {}
  local found = changed[key][id]
  if found == nil then
    local outcome = redis.pcall('HGET', key, id)
    local problem = denial(outcome)
    if problem then
      return nil, problem
    end
    found = outcome
    changed[key][id] = found
  end
  return found
end

-- The same, read; nothing for none; or nil and why it cannot be read.
local function hold_at(item, id)
  local found, problem = hold_text_at(item, id)
  return found and hold_of(found) or nil, problem
end

-- How many holds of the user are open; or nil and why they cannot be counted.
local function open_holds(item)
  local key = holds_key_at(item)
  local outcome = redis.pcall('HLEN', key)
  local problem = denial(outcome)
  return not problem and outcome + (opened[key] or 0) or nil, problem
end

-- The next state of a hold: as text, or false where it is finished; and how many there are more by it.
-- One that nobody has looked at is new.
local function keep(item, id, state, more)
  local key = holds_key_at(item)
  local looked_at = changed[key]
  local size = #changes
  changes[size + 1], changes[size + 2], changes[size + 3] = item, key, id
  changes[size + 4], changes[size + 5] = state, looked_at and looked_at[id] or false
  if looked_at then
    looked_at[id] = state
  end
  opened[key] = (opened[key] or 0) + more
end

-- Write the holds of the items that were journalled; why one was denied.
local function write_holds(replies)
  for at = 1, #changes, OF_CHANGE do
    if string.sub(replies[changes[at]], 1, 2) == 'ok' then
      local problem = denial(set_hold(changes[at + 1], changes[at + 2], changes[at + 3]))
      if problem then
        return problem
      end
      written = at
    end
  end
end

-- The holds as they were before.
local function take_back_holds()
  for at = written, 1, -OF_CHANGE do
    set_hold(changes[at + 1], changes[at + 2], changes[at + 4])
  end
end

local HOLDS = { write = write_holds, take_back = take_back_holds }
