-- clock: the server's time, in microseconds and as text; asked once, so that a call has one moment.
-- A caller that brings its own time (tests do) is believed.

local function clock(now_us)
  if now_us ~= '' then
    return now_us
  end
  local time = redis.call('TIME')
  return time[1] .. string.format('%06d', time[2])
end
