-- gate: is a partition open on this server?
--
--   format run epoch library      separated by a blank
--
-- RUN is the identity of the server process the text was compiled for. A restarted or promoted
-- server has another identity and an empty script cache, so this text is not even there: it has to
-- be compiled anew, and then no longer finds itself in the gate until the partition was admitted.

local FORMAT = '@FORMAT@'
local RUN = '@RUN@'

-- The epoch of an open partition; or nil and the refusal that every item of the partition gets.
local function pass(gate)
  if not gate then
    return nil, 'unopened'
  end
  local format_there, run, epoch, library = string.match(gate, '^(%S+) (%S+) (%d+) (.*)$')
  if format_there ~= FORMAT then
    return nil, 'incompatible\0' .. (format_there or gate) .. '\0' .. (library or '')
  end
  if run ~= RUN then
    return nil, 'fenced'
  end
  return epoch
end
