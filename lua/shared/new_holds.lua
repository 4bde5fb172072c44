-- new_holds: those that a batch makes; nobody has known their fields before, so nothing has to be read.

local KEYS_OF_HOLDS = last_read -- behind it are the keys of the holds, one a partition

local made = {} -- by partition: fields and holds in turn

local function make(field, hold)
  local words = made[current] or {}
  local size = #words
  made[current] = words
  words[size + 1], words[size + 2] = field, hold
end

local function write_new_holds(section)
  local words = made[section.partition]
  return words and denial(redis.pcall('HSET', KEYS[KEYS_OF_HOLDS + section.partition], unpack(words)))
end

local function take_back_new_holds(section)
  for at = 1, #(made[section.partition] or {}), 2 do
    redis.pcall('HDEL', KEYS[KEYS_OF_HOLDS + section.partition], made[section.partition][at])
  end
end
