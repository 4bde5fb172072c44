-- batch: a call decides any number of items, of one or of several partitions of its server. The items
-- of a partition stand together and become one journal entry. Every item gets a reply of its own: one
-- refusal refuses only itself; a partition that is closed, or whose journal takes no entry, stops
-- only its own items.
--
-- An item names its terms by their place in ARGV, behind the items: what many items of a call have in
-- common (price, time to live, audit) is sent, and turned into Lua values, once. One whose terms have a
-- life of 0 is not remembered, and brings no key of a record.

local KEYS, ARGV = KEYS, ARGV
local now_us, now_ms = clock(ARGV[1])
local partitions = tonumber(ARGV[2])
local journal_max = tonumber(ARGV[3])
local count = 0
for partition = 1, partitions do
  count = count + ARGV[3 + partition]
end
local remembered = #KEYS - KEYS_OF_PARTITION * partitions - (KEYS_OF_ITEM - 1) * count
local last_read = 2 * partitions + count + remembered -- behind it are the verb's own keys
local found = call('MGET', unpack(KEYS, partitions + 1, last_read))

local terms_at = {}
local ttl_before, ends_before -- of the terms before: they live for the same time as a rule
-- Of the partition whose items are being decided; current is its place among those of the call.
local current
local epoch
local is_full -- whether its journal has as many entries as it may have

local function terms_of(place)
  local terms = terms_at[place]
  if not terms then
    local at = tonumber(place)
    if ARGV[at + 1] ~= ttl_before then
      ttl_before, ends_before = ARGV[at + 1], text(now_ms + integer(ARGV[at + 1]))
    end
    terms = {
      fingerprint = ARGV[at], ttl_ms = ARGV[at + 1], life_ms = ARGV[at + 2], audited = ARGV[at + 3],
      own_at = at + 4, ends = ends_before, options = {},
      is_remembered = ARGV[at + 2] ~= '0',
    }
    terms_at[place] = terms
  end
  return terms
end

-- The verb's own terms.
local function own_terms(terms, size)
  return unpack(ARGV, terms.own_at, terms.own_at + size - 1)
end

-- By item: where its record stands among what was found; nil where every item has one.
local record_places
if remembered < count then
  local place = partitions + count
  record_places = {}
  for item = 1, remembered > 0 and count or 0 do
    if terms_of(ARGV[partitions + ARGUMENTS_OF_ITEM * (item - 1) + 6]).is_remembered then
      place = place + 1
      record_places[item] = place
    end
  end
end

-- The keys of account and record, each with what is there by now, nothing for a record that is not to be;
-- transaction id, tail, terms; and the item's own argument where the verb has one.
local function item_at(item)
  local account, record = partitions + item, partitions + count + item
  if record_places then
    record = record_places[item]
  end
  local account_key, record_key = KEYS[partitions + account], record and KEYS[partitions + record]
  local at = partitions + ARGUMENTS_OF_ITEM * (item - 1) + 4
  local place = ARGV[at + 2]
  return account_key, accounts[account_key] or found[account],
    record_key, record_key and (records[record_key] or found[record]),
    ARGV[at], ARGV[at + 1], terms_at[place] or terms_of(place), ARGV[at + 3]
end

local function fail(section, replies, problem)
  for item = section.first, section.last do
    replies[item] = 'failed\0' .. problem
  end
end

-- The accounts of all items as they were found, by their keys.
local function accounts_before()
  local before = {}
  for item = 1, count do
    before[KEYS[2 * partitions + item]] = found[partitions + item]
  end
  return before
end

-- Write the entry of a partition, and the verb's own keys; why that was denied.
local function begin(section, own)
  local problem
  section.entry, problem =
    append(section.journal, section.epoch, now_us, section.items_from, section.items_to)
  if problem or not own then
    return problem
  end
  problem = own.write(section)
  if problem then
    own.take_back(section)
    take_back_entry(section)
  end
  return problem
end

-- Write what was decided; a partition whose journal or whose own keys of the verb take nothing has failed,
-- and nothing else. A write that is denied after that fails all of them.
local function commit(sections, replies, own)
  local written = {}
  for _, section in ipairs(sections) do
    local problem = begin(section, own)
    if problem then
      fail(section, replies, problem)
    else
      written[#written + 1] = section
    end
  end
  local problem = write_accounts(written) or write_records(written)
  if not problem then
    return
  end
  take_back(written, accounts_before())
  for _, section in ipairs(written) do
    if own then
      own.take_back(section)
    end
    fail(section, replies, problem)
  end
end

-- The replies of `decide` to all items, after what it decided was written. own looks at the verb's own
-- keys, writes them, and takes them back.
local function batch(decide, own)
  local look = own and own.look
  local replies, sections, last = {}, {}, 0
  for partition = 1, partitions do
    local closed
    epoch, closed = pass(found[partition])
    current, is_full = partition, false
    if journal_max and not closed then
      local outcome = redis.pcall('XLEN', KEYS[partition]) -- an error where it takes no entry anyway
      is_full = type(outcome) == 'number' and outcome >= journal_max
    end
    local first, items_from, posted_from = last + 1, items_last + 1, posted_last + 1
    last = last + tonumber(ARGV[3 + partition])
    if look and not closed then
      look(partition, first, last)
    end
    for item = first, last do
      replies[item] = closed or decide(item)
    end
    if items_last >= items_from then
      sections[#sections + 1] = {
        partition = partition, journal = KEYS[partition], epoch = epoch, entry = false,
        first = first, last = last,
        items_from = items_from, items_to = items_last, posted_from = posted_from, posted_to = posted_last,
      }
    end
  end
  commit(sections, replies, own)
  return replies
end
