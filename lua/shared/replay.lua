-- replay: what is remembered of an operation: fingerprint, transaction id, expiry in ms and result,
-- separated by NUL. An item may repeat an earlier item of its own batch.

local remembered = {} -- by key; `batch` fills it with what Redis has, `remember` adds to it

-- Nothing; or the reply with the first result; or nil and the id of the transaction that used the
-- key for something else.
local function replay_of(key, fingerprint, now_ms)
  local record = remembered[key]
  if not record then
    return nil
  end
  local first, transaction_id, expires, result = string.match(record, '^(%Z*)%z(%Z*)%z(%d+)%z(.*)$')
  if now_ms > integer(expires) then
    return nil
  end
  if first ~= fingerprint then
    return nil, transaction_id
  end
  return 'replayed\0' .. transaction_id .. '\0' .. result
end
