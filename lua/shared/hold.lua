-- hold: credits of an account that are kept for a charge to come. The open holds of a partition stand in
-- one hash, each under its user, NUL and its id, so that one command reads those of a call and one
-- writes them. A hold is a text:
--
--   amount reserved captured expires audited tier      separated by a blank
--
-- amount is what was reserved in all, reserved what is still held, captured what was charged; expires
-- is in milliseconds. audited is as the reservation had it, for nobody asks for an expiry. tier is the
-- one whose price was reserved, '' for none; a capture is priced for it, whatever has become of it.
--
-- Holds belong to accounts: `load` writes both, an account that has any is not evicted, and `begin`,
-- after which no account is known, leaves none. A finished hold is not there; the ledger knows what
-- became of it.

local find, sub = string.find, string.sub

local NO_HOLD = 'MALFORMED what is kept as a hold is none'

local function hold_field(user, id)
  return user .. '\0' .. id
end

-- The user as the tail of an item names it.
local function user_of(tail)
  return match(tail, '^%Z*')
end

local function hold_id_of(field)
  return sub(field, find(field, '\0', 1, true) + 1)
end

-- amount, reserved, captured, expires, audited, tier; all as text, nothing for what is no hold.
local function hold_parts(found)
  return match(found, '^(%d+) (%d+) (%d+) (%d+) (%d) (.*)$')
end

-- The same as numbers; nothing for what is no hold.
local function hold_of(found)
  local amount, reserved, captured, expires, audited, tier = hold_parts(found)
  return amount and {
    amount = amount + 0, reserved = reserved + 0, captured = captured + 0,
    expires = expires + 0, audited = audited, tier = tier,
  }
end

local function hold_text(hold)
  return text(hold.amount) .. ' ' .. text(hold.reserved) .. ' ' .. text(hold.captured) .. ' '
    .. text(hold.expires) .. ' ' .. hold.audited .. ' ' .. hold.tier
end

-- The hold as a journal item tells it: as it is afterwards, by how much what it holds has changed, and
-- what the account holds in all.
local function hold_fields(id, state, hold, change, total)
  return table.concat({
    id, state, text(hold.amount), text(hold.reserved), text(hold.captured), text(hold.expires),
    text(change), text(total),
  }, '\0')
end
