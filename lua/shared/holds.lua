-- holds: those of a batch. Later items of a call see what earlier ones did; the hashes are written at
-- the end, for the items that were journalled. Written as the first of what can be taken back.

local OF_HOLD = 2 * (partitions + count) -- behind it are the keys of the users' holds, one an item

local states = {} -- by key, NUL, id: a hold as text, false where there is none, as found or changed
local changes = {} -- item, key, id, text or false, and the same before; one after another, in order
local OF_CHANGE = 5
local written = 1 - OF_CHANGE -- where the last one stands that is written

local function set_hold(key, id, state)
  if state then
    return redis.pcall('HSET', key, id, state)
  end
  return redis.pcall('HDEL', key, id)
end

-- An open hold as text; false for one that is finished, or was never there; or nil and why it cannot be
-- read, which stops its own item only.
local function hold_text_at(item, id)
  local key = KEYS[OF_HOLD + item]
  local place = key .. '\0' .. id
  local found = states[place]
  if found == nil then
    local outcome = redis.pcall('HGET', key, id)
    local problem = denial(outcome)
    if problem then
      return nil, problem
    end
    found = outcome
    states[place] = found
  end
  return found
end

-- The same, read; nothing for none; or nil and why it cannot be read.
local function hold_at(item, id)
  local found, problem = hold_text_at(item, id)
  return found and hold_of(found) or nil, problem
end

-- The next state of a hold: as text, or false where it is finished. One that nobody has looked at is new.
local function keep(item, id, state)
  local key, size = KEYS[OF_HOLD + item], #changes
  local place = key .. '\0' .. id
  changes[size + 1], changes[size + 2], changes[size + 3] = item, key, id
  changes[size + 4], changes[size + 5] = state, states[place] or false
  states[place] = state
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
