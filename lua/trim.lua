-- trim: note how far the ledger is, and drop what it has had for long enough.
--
-- KEYS[1]  gate
-- KEYS[2]  meta
-- KEYS[3]  journal
--
-- ARGV[1]   synced   the last entry in the ledger; it stays, for the next batch to compare
-- ARGV[2]   keep     the first entry to keep, not after synced
-- ARGV[3…]  field, value   what the ledger's side read at synced, in order
--
-- An entry that is not what the ledger recorded means that history was lost and ids were given out
-- anew; then nothing may be dropped, for the ledger has never seen what stands here now.
--
-- refuses, in this order:
--   forked
--
-- replies:
--   ok   how many entries were dropped

--- @include "integer"
--- @include "gate"

local gate, meta, journal = KEYS[1], KEYS[2], KEYS[3]
local synced, keep = ARGV[1], ARGV[2]

local epoch, closed = pass(call('GET', gate))
if closed then
  return closed
end
local entry = call('XRANGE', journal, synced, synced)[1]
if not entry or #entry[2] ~= #ARGV - 2 then
  return 'forked'
end
for at, value in ipairs(entry[2]) do
  if value ~= ARGV[at + 2] then
    return 'forked'
  end
end

local dropped = call('XTRIM', journal, 'MINID', '=', keep)
call('HSET', meta, 'synced', synced)
return 'ok\0' .. text(dropped)
