-- journal: what was decided, gathered item by item and written at the end, in one order.
--
-- Scripts do not roll back. So nothing is written before the last item is decided; then the journal
-- entries, one a partition (the only write that can be denied for want of memory); then the accounts;
-- then the records of finished operations. What a call does in a partition is journalled whole or not
-- at all.

local items, posted = {}, {}

-- An item of the partition's entry: its kind and its fields, separated by NUL.
local function journalled(item)
  items[#items + 1] = item
end

-- The next state of an account, and what is remembered of the operation that led to it.
local function post(account_key, account, record_key, record, life_ms)
  accounts[account_key], records[record_key] = account, record
  local size = #posted
  posted[size + 1], posted[size + 2] = account_key, record_key
  posted[size + 3], posted[size + 4] = record, life_ms
end

-- The id of a new entry with the items at these places; or the error of a journal that takes none.
local function append(journal, epoch, now_us, from, to)
  local items_text = table.concat(items, '\0', from, to)
  local entry = redis.pcall('XADD', journal, epoch .. '-*', 'v', FORMAT, 't', now_us, 'i', items_text)
  if type(entry) == 'table' then
    return nil, tostring(entry.err)
  end
  return entry
end

-- The last state of every account that changed, in one command.
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
  if #states > 0 then
    call('MSET', unpack(states))
  end
end

local function write_records(sections)
  for _, section in ipairs(sections) do
    for at = section.posted_from, section.posted_to, 4 do
      call('SET', posted[at + 1], posted[at + 2], 'PX', posted[at + 3])
    end
  end
end
