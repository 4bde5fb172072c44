-- holds: those of a batch. Those that its items name, by their fields as the items' own argument, are
-- read by one command a partition. Later items of a call see what earlier ones did; what became of them is
-- written behind the journal entry.

local OF_HOLDS = last_read -- behind it are the keys of the holds, one a partition

local states = {} -- by field: a hold as text, false where it is finished; only what has changed
local looked = {} -- by partition: the fields its items name, and what was found there
-- Of the partition whose items are being decided.
local open_holds -- as found, one an item, false for none
local before_first -- the item before its first
local unread -- why the holds cannot be read

-- Read the holds that the items of a partition are about; where that is denied, it stops its own items
-- only.
local function look(partition, first, last)
  local fields, place = {}, partitions + 7 + ARGUMENTS_OF_ITEM * (first - 1)
  for at = 1, last - first + 1 do
    fields[at], place = ARGV[place], place + ARGUMENTS_OF_ITEM
  end
  local outcome = redis.pcall('HMGET', KEYS[OF_HOLDS + partition], unpack(fields))
  open_holds, before_first, unread = outcome, first - 1, denial(outcome)
  looked[partition] = { fields = fields, found = outcome }
end

-- The hold that an item is about, as text; false where it is finished, or was never there.
local function hold_at(item, field)
  local state = states[field]
  if state == nil then
    return open_holds[item - before_first]
  end
  return state
end

-- The next state of a hold: as text, or false where it is finished.
local function keep(field, state)
  states[field] = state
end

-- Have the holds of a partition as they became, or as they were before; why that was denied.
local function set_holds(partition, is_taken_back)
  local key, seen = KEYS[OF_HOLDS + partition], looked[partition]
  local words, dropped = {}, {}
  for at = 1, #seen.fields do
    local field = seen.fields[at]
    local state = states[field]
    if state ~= nil and is_taken_back then
      state = seen.found[at]
    end
    if state then
      local size = #words
      words[size + 1], words[size + 2] = field, state
    elseif state == false then
      dropped[#dropped + 1] = field
    end
  end
  return #words > 0 and denial(redis.pcall('HSET', key, unpack(words)))
    or #dropped > 0 and denial(redis.pcall('HDEL', key, unpack(dropped)))
    or nil
end

local function write_holds(section)
  return set_holds(section.partition, false)
end

local function take_back_holds(section)
  set_holds(section.partition, true)
end

local OPEN_HOLDS = { look = look, write = write_holds, take_back = take_back_holds }
