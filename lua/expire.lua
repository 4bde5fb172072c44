-- expire: finish the holds of users whose time is over; what they still kept is available again.
--
-- KEYS[1]   journal
-- KEYS[2]   gate
-- KEYS[3]   holds
-- KEYS[4…]  account                                            for each item
--
-- ARGV[1]   now_us   microseconds, '' for the server's own time
-- ARGV[2]   most     how many holds may be finished, of all items together
-- ARGV[3…]  tail, ids                                          for each item
--
-- ids, separated by NUL, are the user's open holds as the caller knows them; '' has all those of the
-- partition looked through. A user is named once a call. Nobody asks for an expiry, so there is no key to
-- remember: to run it twice is to run it once. Where all open holds of an account have been seen, what it
-- says of how many they are and of when they expire is right again afterwards.
--
-- refuses, in this order:
--   cold
--
-- replies, one per item:
--   expired   how many
--   a refusal
--   failed    why: the journal takes no entry, or the holds cannot be read or do not fit the account

--- @include "integer"
--- @include "clock"
--- @include "gate"
--- @include "account"
--- @include "replay"
--- @include "journal"
--- @include "hold"

local SCANNED = 1000 -- fields a step
local journal, gate, holds = KEYS[1], KEYS[2], KEYS[3]
local now_us, now_ms = clock(ARGV[1])
local most = tonumber(ARGV[2])

local states, finished = {}, {}

-- The open ones of these holds of a user: fields, ids and texts; or nil and why they cannot be read.
local function named_holds(user, ids)
  local fields, names, found = {}, {}, {}
  for id in string.gmatch(ids, '%Z+') do
    names[#names + 1], fields[#fields + 1] = id, hold_field(user, id)
  end
  local outcome = redis.pcall('HMGET', holds, unpack(fields))
  if denial(outcome) then
    return nil, denial(outcome)
  end
  for at, text in ipairs(outcome) do
    if text then
      found[#found + 1] = { field = fields[at], id = names[at], text = text }
    end
  end
  return found
end

-- All open holds of a user, each once: the scan of a hash that grew or shrank lately shows some again.
local function all_holds(user)
  local pattern = string.gsub(hold_field(user, ''), '[*?%[\\]', '\\%0') .. '*'
  local cursor, found, seen = '0', {}, {}
  repeat
    local outcome = redis.pcall('HSCAN', holds, cursor, 'MATCH', pattern, 'COUNT', SCANNED)
    if denial(outcome) then
      return nil, denial(outcome)
    end
    local page
    cursor, page = unpack(outcome)
    for at = 1, #page, 2 do
      local field = page[at]
      if not seen[field] then
        seen[field] = true
        found[#found + 1] = { field = field, id = match(field, '%z(.*)$'), text = page[at + 1] }
      end
    end
  until cursor == '0'
  return found
end

-- The holds that have expired, as many as may be finished, and what they keep; and the moment up to
-- which none of the others has. Nothing where one of them is none.
local function expired_of(open)
  local over, held, lapses = {}, 0, nil
  for _, one in ipairs(open) do
    one.hold = hold_of(one.text)
    if not one.hold then
      return nil
    end
    if now_ms > one.hold.expires and most > 0 then
      most = most - 1
      over[#over + 1] = one
      held = held + one.hold.reserved
    else
      lapses = math.min(lapses or one.hold.expires, one.hold.expires)
    end
  end
  return over, held, lapses
end

local function expire(epoch, account_key, account, tail, ids)
  local balance, sequence, reserved, expires, tier = account_of(account, epoch)
  if not balance then
    return 'cold'
  end
  local user, total, lapses, count = user_of(tail), held_of(reserved)
  local open, problem = (ids == '' and all_holds or named_holds)(user, ids)
  if problem then
    return 'failed\0' .. problem
  end
  local over, sum, next_lapses = expired_of(open)
  if not over then
    return 'failed\0' .. NO_HOLD
  end
  if total < sum or (ids ~= '' and count < #open) then
    return 'failed\0MALFORMED the account has less reserved than its holds'
  end
  for _, one in ipairs(over) do
    local held = one.hold.reserved
    total, one.hold.reserved = total - held, 0
    journalled(table.concat({
      'expire', one.id, text(balance), '-', '0', one.hold.audited,
      hold_fields(one.id, 'expired', one.hold, -held, total), tail,
    }, '\0'))
    finished[#finished + 1] = one
  end
  if ids == '' or count == #open then
    count, lapses = #open, next_lapses
  end
  local kept = reserved_text(text(total), lapses, count - #over)
  if #over > 0 or kept ~= reserved then
    states[account_key] = account_text(text(balance), sequence, kept, expires, tier)
  end
  return 'expired\0' .. #over
end

local epoch, closed = pass(call('GET', gate))
local found = call('MGET', unpack(KEYS, 4)) -- nothing, and no error, for what is not text
local replies = {}
for item = 1, #KEYS - 3 do
  replies[item] = closed
    or expire(epoch, KEYS[item + 3], found[item], ARGV[2 * item + 1], ARGV[2 * item + 2])
end

-- The holds that have expired are gone; why that was denied.
local function drop_holds()
  local fields = {}
  for at, one in ipairs(finished) do
    fields[at] = one.field
  end
  return #fields > 0 and denial(redis.pcall('HDEL', holds, unpack(fields))) or nil
end

-- The holds that were dropped are there again.
local function take_back_holds()
  local words = {}
  for at, one in ipairs(finished) do
    words[2 * at - 1], words[2 * at] = one.field, one.text
  end
  if #words > 0 then
    redis.pcall('HSET', holds, unpack(words))
  end
end

-- The accounts, in one command; why it was denied.
local function write_states(entry)
  local words = {}
  for key, account in pairs(states) do
    local size = #words
    words[size + 1], words[size + 2] = key, (entry or match(call('GET', key), '^%S+')) .. account
  end
  return #words > 0 and denial(redis.pcall('MSET', unpack(words))) or nil
end

local section = { journal = journal }
local problem
if #items > 0 then
  section.entry, problem = append(journal, epoch, now_us, 1, #items)
end
if not problem then
  problem = drop_holds() or write_states(section.entry)
  if problem then
    take_back_holds()
  end
  if problem and section.entry then
    take_back_entry(section)
  end
end
if problem then
  for item = 1, #replies do
    replies[item] = 'failed\0' .. problem
  end
end
return replies
