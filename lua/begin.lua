-- begin: begin a new epoch of a partition whose history was lost, and open it.
--
-- KEYS[1]  gate
-- KEYS[2]  meta
-- KEYS[3]  journal
-- KEYS[4]  holds
--
-- ARGV[1]  epoch        the new one
-- ARGV[2]  first        the entry the new journal begins with; the ledger's position
-- ARGV[3]  moment       its time, microseconds
-- ARGV[4]  partitions   how many there are
-- ARGV[5]  library      the version that begins it
--
-- Before it, the ledger got what the old journal had and it lacked. By the new epoch, accounts and sums of
-- refunds in Redis are as good as absent, whatever they are, and are loaded from the ledger. Open holds are
-- loaded with their accounts, so all that are there go.
--
-- Whoever begins has closed the gate. Where it is there again, the partition was opened meanwhile, by a repair
-- that stood still before this very script and went on: what was decided since is in the journal only.
--
-- refuses, in this order:
--   epoch      the epoch of meta, which is not before the new one
--   unclosed   the gate is there
--
-- replies:
--   begun

--- @include "integer"
--- @include "gate"
--- @include "generation"

local gate, meta, journal, holds = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local epoch, first, moment = ARGV[1], ARGV[2], ARGV[3]
local partitions, library = ARGV[4], ARGV[5]

local found = call('HMGET', meta, 'epoch', 'generation')
if found[1] and integer(found[1]) >= integer(epoch) then
  return 'epoch\0' .. found[1]
end
if call('EXISTS', gate) == 1 then
  return 'unclosed'
end

local generation = new_generation(found[2])
call('UNLINK', journal, holds)
call('XADD', journal, first, 'v', FORMAT, 't', moment, 'i', '')
call(
  'HSET', meta, 'format', FORMAT, 'epoch', epoch, 'partitions', partitions, 'library', library,
  'generation', generation, 'synced', first
)
call('SET', gate, FORMAT .. ' ' .. RUN .. ' ' .. epoch .. ' ' .. library)
return 'begun'
