-- journal: one entry a call, with every item of it; and the order of all writes of a call.
--
-- Scripts do not roll back. So nothing is written before the last item is decided; then the journal
-- first (the only write that can be denied for want of memory), the balances next, the records of
-- finished operations last. A call is in the journal whole or not at all.

local items, records = {}, {}

-- An item of the entry: its kind and its fields. Items are numbered from 0.
local function journalled(...)
  items[#items + 1] = #items / 2
  items[#items + 1] = table.concat({ ... }, '\0')
end

local function remember(key, fingerprint, transaction_id, ttl_ms, now_ms, result)
  local record = table.concat(
    { fingerprint, transaction_id, text(now_ms + integer(ttl_ms)), result },
    '\0'
  )
  remembered[key] = record
  records[#records + 1] = { key, record, integer(ttl_ms) }
end

local function write_account(key, account, entry)
  redis.call('HSET', key, 'b', text(account.balance), 's', text(account.sequence), 'l', entry)
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
  for _, record in ipairs(records) do
    redis.call('SET', record[1], record[2], 'PX', text(record[3] + grace_ms))
  end
end
