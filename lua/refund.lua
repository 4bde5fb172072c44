-- refund: give credits back to accounts, each item at most once.
--
-- KEYS      journal, gate                 for each partition
--           account, record, refunded     for each item
--
-- ARGV[1]   now_us       microseconds, '' for the server's own time
-- ARGV[2]   partitions   how many
-- ARGV[3]   journal_max  entries a journal may have before charges, reservations and grants are refused, '' for any number
-- ARGV[4…]  items        how many, for each partition
--           transaction_id, tail, terms    for each item
--           fingerprint, ttl_ms, life_ms, audited, amount, related, bounded    at the place terms names
--
-- A refund may name the charge it gives back (related, '' for none). Then refunded holds what was
-- charged and what has been given back of it, and with bounded = '1' the sum may not pass the charge. The
-- charge of another user is as good as none.
--
-- refuses, in this order:
--   idempotency_key_conflict   transaction_id
--   cold
--   cold_charge
--   refund_exceeds_charge      charged, refunded
--   balance_limit              balance, amount; or refunded of the charge, amount, 'refunded'
--
-- replies, one per item:
--   ok         amount, balance_after
--   replayed   transaction_id, amount, balance_after
--   a refusal  code and three details
--   failed     why: the journal takes no entry, or the record or the charge cannot be read

local KEYS_OF_PARTITION = 2
local KEYS_OF_ITEM = 3
local ARGUMENTS_OF_ITEM = 3

--- @include "integer"
--- @include "clock"
--- @include "gate"
--- @include "account"
--- @include "replay"
--- @include "journal"
--- @include "refusal"
--- @include "batch"
--- @include "addition"

local charges = {}

-- What was charged and what has been given back, as known in this epoch; later items see what earlier ones
-- gave back. Nothing for a charge that is not known; or nil and why it cannot be read.
local function charge_of(key, user)
  if not charges[key] then
    local outcome = redis.pcall('HMGET', key, 'epoch', 'user', 'charged', 'refunded')
    if denial(outcome) then
      return nil, denial(outcome)
    end
    if outcome[1] ~= epoch or outcome[2] ~= user then
      return nil
    end
    charges[key] = {
      user = user, charged = integer(outcome[3]), refunded = integer(outcome[4]),
      partition = current, is_given = false,
    }
  end
  return charges[key].user == user and charges[key] or nil
end

local function refund(item)
  local account_key, account, record_key, record, _, tail, terms = item_at(item)
  local refunded_key = KEYS[last_read + item]
  local balance = account_of(account, epoch)
  local amount, related, bounded = own_terms(terms, 3)

  local replay, used_by = replay_of(record, terms.fingerprint, now_ms)
  if used_by then
    return refusal('refund', amount, terms, tail, 'idempotency_key_conflict', used_by)
  end
  if replay then
    return replay
  end
  if not balance then
    return 'cold'
  end
  local charge, problem
  if related ~= '' then
    charge, problem = charge_of(refunded_key, match(tail, '^%Z*'))
  end
  if problem then
    return 'failed\0' .. problem
  end
  if related ~= '' and not charge then
    return 'cold_charge'
  end
  if bounded == '1' and charge.refunded + integer(amount) > charge.charged then
    local charged, refunded = text(charge.charged), text(charge.refunded)
    return refusal('refund', amount, terms, tail, 'refund_exceeds_charge', charged, refunded)
  end
  if not fits(balance, integer(amount)) then
    return refusal('refund', amount, terms, tail, 'balance_limit', text(balance), amount)
  end
  if charge and not fits(charge.refunded, integer(amount)) then
    return refusal('refund', amount, terms, tail, 'balance_limit', text(charge.refunded), amount, 'refunded')
  end

  if charge then
    charge.refunded, charge.is_given = charge.refunded + integer(amount), true
  end
  return add('refund', item, integer(amount))
end

-- What is known of a charge is loaded anew where it could not be brought up to date.
local function write_charges(section)
  for key, charge in pairs(charges) do
    if charge.is_given and charge.partition == section.partition then
      local problem = denial(redis.pcall('HSET', key, 'refunded', text(charge.refunded)))
      if problem then
        return problem
      end
    end
  end
end

local function take_back_charges(section)
  for key, charge in pairs(charges) do
    if charge.partition == section.partition then
      redis.pcall('UNLINK', key)
    end
  end
end

return batch(refund, { write = write_charges, take_back = take_back_charges })
