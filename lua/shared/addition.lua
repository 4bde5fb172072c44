-- addition: what a grant and a refund have in common: credits are added, up to the largest balance.

local BALANCE_MAX = 9e15

-- Whether an amount still fits; both are exact, and so is their sum.
local function fits(balance, amount)
  return balance + amount <= BALANCE_MAX
end

-- Books the amount of an item: journalled, posted, remembered; the reply.
local function add(kind, item, amount)
  local account_key, account, record_key, _, transaction_id, tail, terms = item_at(item)
  local balance, sequence, reserved, expires, tier = account_of(account, epoch)
  local after, number = text(balance + amount), text(sequence + 1)
  local result = text(amount) .. '\0' .. after
  post(
    table.concat({
      kind, transaction_id, number, text(amount), after, terms.fingerprint, terms.ttl_ms,
      terms.audited, tail,
    }, '\0'),
    account_key, account_text(after, number, reserved, expires, tier), record_key,
    table.concat({ terms.fingerprint, transaction_id, terms.ends, result }, '\0'), terms.life_ms
  )
  return 'ok\0' .. result
end
