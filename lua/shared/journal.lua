-- journal: one entry a call, with every item of it; and the order of all writes of a call.
--
-- Scripts do not roll back. So nothing is written before the last item is decided; then the journal
-- first (the only write that can be denied for want of memory), the balances next, the records of
-- finished operations last. A call is in the journal whole or not at all.

local items, records, expiries = {}, {}, {}

-- An item of the entry: its kind and its fields, separated by NUL. Items are numbered from 0.
local function journalled(item)
  local size = #items
  items[size + 1] = size / 2
  items[size + 2] = item
end

-- The end of an operation that is remembered for so long, as text; worked out once a call.
local function expiry(ttl_ms, now_ms)
  local ends = expiries[ttl_ms]
  if not ends then
    ends = text(now_ms + integer(ttl_ms))
    expiries[ttl_ms] = ends
  end
  return ends
end

local function remember(key, fingerprint, transaction_id, ttl_ms, now_ms, result)
  local ends = expiry(ttl_ms, now_ms)
  local record = fingerprint .. '\0' .. transaction_id .. '\0' .. ends .. '\0' .. result
  remembered[key] = record
  local size = #records
  records[size + 1], records[size + 2], records[size + 3] = key, record, ttl_ms
end

local function write_account(key, account, entry)
  redis.call('HSET', key, 'b', account.balance_text, 's', account.sequence_text, 'l', entry)
  if account.member then
    redis.call('HSET', key, 't', account.tier)
    if account.expires then
      redis.call('HSET', key, 'x', text(account.expires))
    else
      redis.call('HDEL', key, 'x')
    end
  end
end

local function commit(call, epoch)
  if #items == 0 then
    return
  end
  local grace_ms = integer(call.grace_ms)
  local entry = redis.call(
    'XADD', call.journal, epoch .. '-*', 'v', FORMAT, 't', call.now_us, unpack(items)
  )
  for key, account in pairs(changed) do
    write_account(key, account, entry)
  end
  local lives = {}
  for at = 1, #records, 3 do
    local ttl_ms = records[at + 2]
    local life = lives[ttl_ms]
    if not life then
      life = text(integer(ttl_ms) + grace_ms)
      lives[ttl_ms] = life
    end
    redis.call('SET', records[at], records[at + 1], 'PX', life)
  end
end
