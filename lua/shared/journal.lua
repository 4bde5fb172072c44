-- journal: what was decided, gathered item by item and written at the end, in one order.
--
-- Scripts do not roll back. So nothing is written before the last item is decided; then, a partition, the
-- journal entry (the only write that can be denied for want of memory) and the verb's own keys; then the
-- accounts; then the records of finished operations. Where one of these is denied, by a permission that
-- went away, what was written before it is taken back. What a call does in a partition is done whole or
-- not at all.

local HAS_MSETEX = '@MSETEX@' == 'yes' -- Redis 8.4, Valkey 9.1

local items, posted = {}, {}
local items_last, posted_last = 0, 0 -- counted here, because Lua looks for the end of a list

-- An item of the partition's entry: its kind and its fields, separated by NUL.
local function journalled(item)
  items_last = items_last + 1
  items[items_last] = item
end

-- An item of the partition's entry, the next state of the account, and what is remembered of the operation
-- that led to it, if anything is.
local function post(item, account_key, account, record_key, record, life_ms)
  items_last = items_last + 1
  items[items_last] = item
  accounts[account_key] = account
  local last = posted_last
  posted[last + 1], posted[last + 2], posted[last + 3], posted[last + 4] =
    account_key, record_key or false, record or false, life_ms
  posted_last = last + 4
  if record_key then
    records[record_key] = record
  end
end

-- Why a command was denied, nil where it was not.
local function denial(outcome)
  return type(outcome) == 'table' and outcome.err and tostring(outcome.err) or nil
end

-- The id of a new entry with the items at these places; or the error of a journal that takes none.
local function append(journal, epoch, now_us, from, to)
  local items_text = table.concat(items, '\0', from, to)
  local entry = redis.pcall('XADD', journal, epoch .. '-*', 'v', FORMAT, 't', now_us, 'i', items_text)
  local problem = denial(entry)
  return not problem and entry, problem
end

-- The last state of every account that changed, in one command; why it was denied.
local function write_accounts(sections)
  local states = {}
  for _, section in ipairs(sections) do
    for at = section.posted_from, section.posted_to, 4 do
      local key = posted[at]
      local account = accounts[key]
      if account then
        local size = #states
        states[size + 1], states[size + 2] = key, section.entry .. account
        accounts[key] = nil
      end
    end
  end
  return #states > 0 and denial(redis.pcall('MSET', unpack(states))) or nil
end

-- Those of a life by one command; why it was denied.
local function write_records_together(sections)
  local words_of = {}
  for _, section in ipairs(sections) do
    for at = section.posted_from, section.posted_to, 4 do
      local key, life_ms = posted[at + 1], posted[at + 3]
      if key then
        local words = words_of[life_ms] or {}
        words_of[life_ms] = words
        local size = #words
        words[size + 1], words[size + 2] = key, posted[at + 2]
      end
    end
  end
  for life_ms, words in pairs(words_of) do
    local size = #words
    words[size + 1], words[size + 2] = 'PX', life_ms
    local problem = denial(redis.pcall('MSETEX', size / 2, unpack(words)))
    if problem then
      return problem
    end
  end
end

-- Why one was denied. Where they cannot be written together they are written one by one.
local function write_records(sections)
  if HAS_MSETEX and posted_last > 4 and not write_records_together(sections) then
    return nil
  end
  for _, section in ipairs(sections) do
    for at = section.posted_from, section.posted_to, 4 do
      local key, record, life_ms = posted[at + 1], posted[at + 2], posted[at + 3]
      local problem = key and denial(redis.pcall('SET', key, record, 'PX', life_ms))
      if problem then
        return problem
      end
    end
  end
end

local function take_back_entry(section)
  redis.pcall('XDEL', section.journal, section.entry)
end

-- Take back entries, records and accounts, by the commands that have just been allowed; before has the
-- accounts as they were, by their keys.
local function take_back(sections, before)
  for _, section in ipairs(sections) do
    take_back_entry(section)
    for at = section.posted_from, section.posted_to, 4 do
      if posted[at + 1] then
        redis.pcall('UNLINK', posted[at + 1])
      end
      redis.pcall('MSET', posted[at], before[posted[at]])
    end
  end
end
