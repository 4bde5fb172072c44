-- account: a user's balance and membership, read once a call; later items see what earlier ones did.
--
--   b  balance, micro-credits          t  tier, absent for none
--   r  reserved, absent for none       x  membership expiry in ms, absent for none
--   s  sequence of the last transaction
--   l  journal entry of the last change

local accounts, changed = {}, {}

-- The account, or nil where Redis does not know it: cold, never "zero".
local function account_of(key)
  local account = accounts[key]
  if account then
    return account
  end
  local found = redis.call('HMGET', key, 'b', 'r', 's', 't', 'x')
  if not found[1] then
    return nil
  end
  account = {
    balance = integer(found[1]),
    reserved = found[2] and integer(found[2]) or 0,
    sequence = integer(found[3]),
    tier = found[4] or '',
    expires = found[5] and integer(found[5]),
    balance_text = false,
    sequence_text = false,
  }
  accounts[key] = account
  return account
end

-- The next state of an account; written by `commit`, after the journal.
local function post(key, delta)
  local account = accounts[key]
  account.balance = account.balance + delta
  account.sequence = account.sequence + 1
  account.balance_text, account.sequence_text = text(account.balance), text(account.sequence)
  changed[key] = account
  return account
end

local function has_expired(account, now_ms)
  return account.expires and now_ms > account.expires
end
