-- refusal: a reply, not an error; and, where the caller wants it, an item of its own in the journal.

local AUDIT_ALL = '2'

-- subject is what the audit says of the request: an amount, a tier.
local function refusal(verb, subject, terms, tail, code, one, two, three)
  local details = (one or '') .. '\0' .. (two or '') .. '\0' .. (three or '')
  if terms.audited == AUDIT_ALL then
    journalled(
      'refused\0' .. verb .. '\0' .. code .. '\0' .. details .. '\0' .. subject .. '\0' .. tail
    )
  end
  return code .. '\0' .. details
end
