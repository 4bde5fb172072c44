-- addition: what a grant and a refund have in common: credits are added, up to the largest balance.

local BALANCE_MAX = 9e15

-- Whether an amount still fits; both are exact, and so is their sum.
local function fits(account, amount)
  return account.balance + amount <= BALANCE_MAX
end

-- Books the amount, journals and remembers it; the result for the caller.
local function add(kind, account_key, amount, item)
  local account = post(account_key, amount)
  journalled(table.concat({
    kind, item.transaction_id, account.sequence_text, text(amount), account.balance_text,
    item.fingerprint, item.ttl_ms, item.audited, item.tail,
  }, '\0'))
  local result = text(amount) .. '\0' .. account.balance_text
  remember(
    item.record_key, item.fingerprint, item.transaction_id, item.ttl_ms, item.now_ms, result
  )
  return 'ok\0' .. result
end
