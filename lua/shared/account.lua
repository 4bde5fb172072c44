-- account: a user's balance and membership as one text, so that one command reads the accounts of
-- all items and one writes them. Later items of a call see what earlier ones did.
--
--   entry balance reserved sequence expires tier      separated by a blank
--
-- entry is the journal entry of the last change, the first of its epoch where the account was loaded;
-- expires is in milliseconds, negative before 1970; without a membership expires and tier are empty.
-- Where holds are open, reserved has two numbers more, each behind a `/`: a moment in milliseconds, up
-- to which none of them has expired, and how many they are.
--
-- An account of an earlier epoch is of a history that was lost: as good as absent.

local accounts = {} -- by key: what this call has changed; the entry is put before it at the end

-- balance as a number, sequence, reserved, expires, tier and balance again as text; nothing for an account
-- that Redis does not know in this epoch: cold, never "zero".
local function account_of(account, epoch)
  if not account then
    return nil
  end
  local entry_epoch, balance, reserved, sequence, expires, tier =
    match(account, '^(%d*)%S* (%-?%d+) ([%d/]+) (%d+) (%-?%d*) (.*)$')
  if entry_epoch ~= epoch and entry_epoch ~= '' then
    return nil
  end
  return balance + 0, sequence, reserved, expires, tier, balance
end

-- The same as text, without its entry.
local function account_text(balance, sequence, reserved, expires, tier)
  return ' ' .. balance .. ' ' .. reserved .. ' ' .. sequence .. ' ' .. expires .. ' ' .. tier
end

local function has_expired(expires, now_ms)
  return expires ~= '' and now_ms > expires + 0
end

-- What is held, as a number; the moment up to which no hold has expired, nil where none is open; and how
-- many are.
local function held_of(reserved)
  if reserved == '0' then
    return 0, nil, 0
  end
  local amount, lapses, open = match(reserved, '^(%d+)/?(%d*)/?(%d*)$')
  if open == '' then
    return amount + 0, nil, 0
  end
  return amount + 0, lapses + 0, open + 0
end

-- What is held, given as text, with the other two.
local function reserved_text(amount, lapses, open)
  if open == 0 then
    return amount
  end
  return amount .. '/' .. text(lapses) .. '/' .. text(open)
end

-- Whether a hold may have expired whose credits still count as reserved.
local function is_overdue(reserved, now_ms)
  local _, lapses = held_of(reserved)
  return lapses and now_ms > lapses
end

-- What is held as a refusal tells it: nothing where nothing is.
local function told_held(reserved)
  local amount = held_of(reserved)
  return amount > 0 and text(amount) or nil
end
