-- refuse: journal refusals the caller decided itself, such as an unknown user. Audit only.
--
-- KEYS[1]   meta
-- KEYS[2]   journal
--
-- ARGV[1]   now_us     microseconds, '' for the server's own time
-- ARGV[2…]  verb, subject, tail, code, one, two, three    for each item
--
-- replies:
--   ok   the number of items

--- @include "integer"
--- @include "clock"
--- @include "gate"
--- @include "account"
--- @include "replay"
--- @include "journal"
--- @include "refusal"

local meta, journal = KEYS[1], KEYS[2]
local now_us = clock(ARGV[1])

local epoch, closed = gate(meta)
if closed then
  return closed
end
for at = 2, #ARGV, 7 do
  local verb, subject, tail, code, one, two, three = unpack(ARGV, at, at + 6)
  refusal(verb, AUDIT_ALL, subject, tail, code, one, two, three)
end
commit({ journal = journal, now_us = now_us, grace_ms = '0' }, epoch)
return 'ok\0' .. text((#ARGV - 1) / 7)
