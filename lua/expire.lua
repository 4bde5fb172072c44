-- expire: finish the holds of users whose time is over; what they still kept is available again.
--
-- KEYS[1]   journal
-- KEYS[2]   gate
-- KEYS[3…]  account, holds                                     for each item
--
-- ARGV[1]   now_us   microseconds, '' for the server's own time
-- ARGV[2]   most     how many holds may be finished, of all items together
-- ARGV[3…]  tail                                               for each item
--
-- A user is named once a call. Nobody asks for an expiry, so there is no key to remember: to run it twice is to run it once. What an
-- account says of when its holds expire is right again afterwards.
--
-- refuses, in this order:
--   cold
--
-- replies, one per item:
--   expired   how many
--   a refusal
--   failed    why: the journal takes no entry, or the account does not fit its holds

--- @include "integer"
--- @include "clock"
--- @include "gate"
--- @include "account"
--- @include "replay"
--- @include "journal"
--- @include "hold"

local journal, gate = KEYS[1], KEYS[2]
local now_us, now_ms = clock(ARGV[1])
local most = tonumber(ARGV[2])

local states, finished = {}, {}

-- The holds that have expired, as many as may be finished, and what they keep; and the moment up to
-- which none of the others has.
local function expired_of(key)
  local over, held, lapses = {}, 0, nil
  local found = call('HGETALL', key)
  for at = 1, #found, 2 do
    local hold = hold_of(found[at + 1])
    if now_ms > hold.expires and most > 0 then
      most = most - 1
      over[#over + 1] = { id = found[at], hold = hold, text = found[at + 1] }
      held = held + hold.reserved
    else
      lapses = lapses and math.min(lapses, hold.expires) or hold.expires
    end
  end
  return over, held, lapses
end

local function expire(epoch, account_key, holds_key, tail)
  local balance, sequence, reserved, expires, tier =
    account_of(account_key, call('GET', account_key), epoch)
  if not balance then
    return 'cold'
  end
  local total = held_of(reserved)
  local over, sum, lapses = expired_of(holds_key)
  if total < sum then
    return 'failed\0MALFORMED the account has less reserved than its holds'
  end
  for _, one in ipairs(over) do
    local held = one.hold.reserved
    total, one.hold.reserved = total - held, 0
    journalled(table.concat({
      'expire', one.id, text(balance), '-', '0', one.hold.audited,
      hold_fields(one.id, 'expired', one.hold, -held, total), tail,
    }, '\0'))
    finished[#finished + 1] = { key = holds_key, id = one.id, text = one.text }
  end
  local kept = reserved_text(text(total), lapses)
  if #over > 0 or kept ~= reserved then
    states[account_key] = account_text(text(balance), text(sequence), kept, expires, tier)
  end
  return 'expired\0' .. #over
end

local epoch, closed = pass(call('GET', gate))
local replies = {}
for item = 1, (#KEYS - 2) / 2 do
  replies[item] = closed or expire(epoch, KEYS[2 * item + 1], KEYS[2 * item + 2], ARGV[item + 2])
end

-- The holds that have expired are gone; how many of them, and why one was denied.
local function drop_holds()
  for at, one in ipairs(finished) do
    local problem = denial(redis.pcall('HDEL', one.key, one.id))
    if problem then
      return at - 1, problem
    end
  end
  return #finished
end

-- The holds that were dropped are there again.
local function take_back_holds(dropped)
  for at = 1, dropped do
    redis.pcall('HSET', finished[at].key, finished[at].id, finished[at].text)
  end
end

local function take_back_entry(entry)
  redis.pcall('XDEL', journal, entry)
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

local entry, problem
if #items > 0 then
  entry, problem = append(journal, epoch, now_us, 1, #items)
end
if not problem then
  local dropped
  dropped, problem = drop_holds()
  problem = problem or write_states(entry)
  if problem then
    take_back_holds(dropped)
  end
  if problem and entry then
    take_back_entry(entry)
  end
end
if problem then
  for item = 1, #replies do
    replies[item] = 'failed\0' .. problem
  end
end
return replies
