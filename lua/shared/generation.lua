-- generation: says which state of a partition's accounts a load from the ledger was begun in.
--
-- It must never come back: not after a wipe, nor on another server after a failover, or a load that
-- was overtaken would find the number it has read and bring an old balance. So it is the server's
-- time in microseconds, and above the one before it.

local function new_generation(before)
  local time = call('TIME')
  local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
  return text(math.max(now, integer(before or '0') + 1))
end
