-- open: admit a partition on this server, after its journal has been compared with the ledger.
--
-- KEYS[1]  gate
-- KEYS[2]  meta
-- KEYS[3]  journal
--
-- ARGV[1]  epoch        the epoch of the ledger's position
-- ARGV[2]  partitions   how many there are; fixed when the first one was created
-- ARGV[3]  library      the version that opens it
-- ARGV[4]  create       '1' where nothing was ever recorded of the partition, and it was not there either:
--                       what a wipe takes away in between is not created anew
--
-- refuses, in this order:
--   incompatible   format, library
--   missing        meta is gone although the ledger knows the partition
--   partitions     how many there are
--   epoch          the epoch of meta
--
-- replies:
--   opened
--   created

--- @include "integer"
--- @include "gate"
--- @include "generation"

local gate, meta, journal = KEYS[1], KEYS[2], KEYS[3]
local epoch, partitions, library, create = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local found = call('HMGET', meta, 'format', 'library', 'partitions', 'epoch')
if found[1] and found[1] ~= FORMAT then
  return 'incompatible\0' .. found[1] .. '\0' .. (found[2] or '')
end
if not found[1] and (create ~= '1' or call('EXISTS', journal) == 1) then
  return 'missing'
end
if found[1] and found[3] ~= partitions then
  return 'partitions\0' .. found[3]
end
if found[1] and found[4] ~= epoch then
  return 'epoch\0' .. found[4]
end

if not found[1] then
  call(
    'HSET', meta, 'format', FORMAT, 'epoch', epoch, 'partitions', partitions,
    'generation', new_generation(), 'synced', '0-0'
  )
end
call('HSET', meta, 'library', library)
call('SET', gate, FORMAT .. ' ' .. RUN .. ' ' .. epoch .. ' ' .. library)
return found[1] and 'opened' or 'created'
