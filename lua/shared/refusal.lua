-- refusal: a reply, not an error; and, where the caller wants it, an item of its own in the journal.

local AUDIT_ALL = '2'

local function refusal(verb, audited, subject, tail, code, one, two, three)
  local details = table.concat({ one or '', two or '', three or '' }, '\0')
  if audited == AUDIT_ALL then
    journalled(table.concat({ 'refused', verb, code, details, subject, tail }, '\0'))
  end
  return code .. '\0' .. details
end
