-- replay: what is remembered of an operation: fingerprint, transaction id, expiry in ms and result,
-- separated by NUL. An item may repeat an earlier item of its own call.

local records = {} -- by key: what this call has added

-- Nothing, as for an operation that has no record; or the reply with the first result; or nil and the id
-- of the transaction that used the key for something else.
local function replay_of(record, fingerprint, now_ms)
  if not record then
    return nil
  end
  local first, transaction_id, expires, result = match(record, '^(%Z*)%z(%Z*)%z(%d+)%z(.*)$')
  if not first then
    return 'failed\0MALFORMED what is remembered of the operation cannot be read'
  end
  if now_ms > expires + 0 then
    return nil
  end
  if first ~= fingerprint then
    return nil, transaction_id
  end
  return 'replayed\0' .. transaction_id .. '\0' .. result
end
