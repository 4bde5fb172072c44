-- gate: is this partition open on this server?
--
-- RUN is the identity of the server process the text was compiled for. A restarted or promoted
-- server has another identity and an empty script cache, so this text is not even there: it has to
-- be compiled anew, and then no longer finds itself in meta until the partition was admitted.

local FORMAT = '@FORMAT@'
local RUN = '@RUN@'

-- The epoch of an open partition; or nil and the refusal that every item of the call gets.
local function gate(meta)
  local state = redis.call('HMGET', meta, 'format', 'run', 'epoch')
  local format_there = state[1]
  if not format_there then
    return nil, 'unopened'
  end
  if format_there ~= FORMAT then
    local library = redis.call('HGET', meta, 'library')
    return nil, 'incompatible\0' .. format_there .. '\0' .. (library or '')
  end
  if state[2] ~= RUN then
    return nil, 'fenced'
  end
  return state[3]
end
