-- clock: the server's time, in microseconds as text and in whole milliseconds; asked once, so that a
-- call has one moment. A caller that brings its own time (tests do) is believed.

local function clock(now_us)
  if now_us == '' then
    local time = call('TIME')
    now_us = time[1] .. string.sub('00000' .. time[2], -6)
  end
  return now_us, tonumber(string.sub(now_us, 1, -4))
end
