-- integer: whole numbers as text. Lua's numbers are doubles: exact up to 2^53, and written by
-- `..` or tostring with 14 digits only, so every number that leaves a script goes through `text`, or
-- through its `format` where every item of a large call needs it.
-- What a pattern has shown to be digits becomes a number by `+ 0`, for less than half of what
-- `tonumber` costs, which reads it twice.

local LIMIT = 9e15
local call, format, match = redis.call, string.format, string.match
local tonumber, unpack = tonumber, unpack

-- The number; anything else is our own mistake and ends the script before its first write.
local function integer(digits)
  local number = match(digits, '^-?%d+$') and digits + 0
  if number and number >= -LIMIT and number <= LIMIT then
    return number
  end
  error('MALFORMED not a whole number within the limits: ' .. string.sub(digits, 1, 32))
end

local function text(number)
  return format('%d', number)
end
