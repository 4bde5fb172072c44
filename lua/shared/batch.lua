-- batch: a call decides any number of items of one partition. KEYS and ARGV are read item after
-- item, from left to right; every item gets a reply of its own, and one refusal refuses only itself.

local key_at, argument_at = 3, 3

local function next_keys(count)
  key_at = key_at + count
  return unpack(KEYS, key_at - count, key_at - 1)
end

local function next_arguments(count)
  argument_at = argument_at + count
  return unpack(ARGV, argument_at - count, argument_at - 1)
end

-- The replies of `decide` for all items, after everything they decided has been written.
local function batch(call, keys_per_item, decide)
  local epoch, closed = gate(call.meta)
  local replies = {}
  for item = 1, (#KEYS - 2) / keys_per_item do
    replies[item] = closed or decide()
  end
  if not closed then
    commit(call, epoch)
  end
  return replies
end
