-- batch: a call decides any number of items of one partition. KEYS and ARGV are read item after
-- item, from left to right; every item gets a reply of its own, and one refusal refuses only itself.
--
-- An item names its terms by their place in ARGV, behind the items: what many items of a call have in
-- common (price, time to live, audit) is sent, and turned into Lua values, once.

local key_at, argument_at, terms_of = 3, 3, {}

local function next_keys(count)
  key_at = key_at + count
  return unpack(KEYS, key_at - count, key_at - 1)
end

-- Transaction id, tail and terms of the next item; `own` is where the verb's own terms begin.
local function next_item()
  argument_at = argument_at + 3
  local place = ARGV[argument_at - 1]
  local terms = terms_of[place]
  if not terms then
    local at = integer(place)
    terms = { fingerprint = ARGV[at], ttl_ms = ARGV[at + 1], audited = ARGV[at + 2], own = at + 3 }
    terms_of[place] = terms
  end
  return ARGV[argument_at - 3], ARGV[argument_at - 2], terms
end

local function own_terms(terms, count)
  return unpack(ARGV, terms.own, terms.own + count - 1)
end

-- What is remembered of the items' operations, all of it in one command: the second key of each item.
local function recall(items, keys_per_item)
  local keys = {}
  for item = 1, items do
    keys[item] = KEYS[4 + keys_per_item * (item - 1)]
  end
  local found = redis.call('MGET', unpack(keys))
  for item, key in ipairs(keys) do
    remembered[key] = found[item]
  end
end

-- The replies of `decide` for all items, after everything they decided has been written.
local function batch(call, keys_per_item, decide)
  local epoch, closed = gate(call.meta)
  local items, replies = (#KEYS - 2) / keys_per_item, {}
  if not closed then
    recall(items, keys_per_item)
  end
  for item = 1, items do
    replies[item] = closed or decide()
  end
  if not closed then
    commit(call, epoch)
  end
  return replies
end
