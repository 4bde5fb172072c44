-- options: the price of an action for every tier, of which one holds.
--
--   tier cost raw_cost formula      for each, behind their number
--
-- The option of the tier holds, else the last one. Its cost is in micro-credits, or a sign that the
-- verb knows. What `option_at` makes of one is kept with the terms, for all items that choose it.

local function option_of(terms, tier, place, option_at)
  local at = place + 1
  local last = at + 4 * (tonumber(ARGV[place]) - 1)
  while at < last and ARGV[at] ~= tier do
    at = at + 4
  end
  local option = option_at(at + 1, terms, tier)
  terms.options[tier] = option
  return option
end
