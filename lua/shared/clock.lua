-- clock: the server's time, in microseconds and as text; asked once, so that a call has one moment.
-- A caller that brings its own time (tests do) is believed.

-- The moment in microseconds as text, and in whole milliseconds.
local function clock(now_us)
  if now_us == '' then
    local time = redis.call('TIME')
    now_us = time[1] .. format('%06d', time[2])
  end
  return now_us, math.floor(integer(now_us) / 1000)
end
