-- refuse: journal refusals the caller decided itself, such as an unknown user. Audit only.
--
-- KEYS[1]   journal
-- KEYS[2]   gate
--
-- ARGV[1]   now_us     microseconds, '' for the server's own time
-- ARGV[2…]  verb, subject, tail, code, one, two, three    for each item
--
-- replies:
--   ok       the number of items
--   failed   why the journal takes no entry

--- @include "integer"
--- @include "clock"
--- @include "gate"
--- @include "account"
--- @include "replay"
--- @include "journal"
--- @include "refusal"

local journal, gate = KEYS[1], KEYS[2]
local now_us = clock(ARGV[1])

local epoch, closed = pass(call('GET', gate))
if closed then
  return closed
end
local terms = { audited = AUDIT_ALL }
for at = 2, #ARGV, 7 do
  local verb, subject, tail, code, one, two, three = unpack(ARGV, at, at + 6)
  refusal(verb, subject, terms, tail, code, one, two, three)
end
local _, problem = append(journal, epoch, now_us, 1, #items)
return problem and 'failed\0' .. problem or 'ok\0' .. text(#items)
