"""From journal entries to rows of the ledger. Pure: what a batch will write, and whether it chains.

One transaction item becomes a row of `transactions`, its success in `audit_logs`, the record of its
key, and a step of its user's balance. What is done to a hold becomes a step of that hold and of what
its user has reserved; a capture is both. A refused item becomes a row of `audit_logs` only. Names
inside metadata are the reference's.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, cast

from credits_fast.amounts import json_number
from credits_fast.json_text import JsonText, json_object, merged, quoted, quoted_text
from credits_fast.protocol.entries import (
    NOTHING_YET,
    Entry,
    EntryId,
    HoldFacts,
    HoldItem,
    Item,
    MalformedEntryError,
    RefusedItem,
    TransactionItem,
)
from credits_fast.protocol.refusals import UNPRICED, code_and_message, unpriced_facts
from credits_fast.protocol.wire import from_ms, iso
from credits_fast.transactions.intent_ids import intent_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

__all__ = [
    "COLUMNS",
    "ID_OF_RECORD",
    "AccountStep",
    "AuditRow",
    "Batch",
    "ChainBrokenError",
    "DeadLetterRow",
    "HeldStep",
    "HoldRow",
    "HoldStep",
    "IdempotencyRow",
    "LateDuplicate",
    "TransactionRow",
    "batch_of",
    "readable_metadata",
]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SETTLES: Final = {"captured": "commit", "released": "aborted"}
"""Which state of an intent is settled by a hold in this state."""

_DEPTH_MAX: Final = 200
"""Objects and lists inside one another; a caller may pass far fewer."""
_PLACES_MAX: Final = 16_383
"""Decimal places of a number in PostgreSQL's JSONB."""
_NUL_ESCAPE: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


class ChainBrokenError(Exception):
    """Sequence or balance does not follow from what came before; nothing of the batch is written."""


class TransactionRow(NamedTuple):
    """A row of `transactions`; amounts in micro-credits."""

    id: str
    user_id: str
    sequence: int
    kind: str
    action: str
    amount: int
    balance_before: int
    balance_after: int
    metadata: str
    idempotency_key: str | None
    related_id: str | None
    entry_epoch: int
    entry_sequence: int
    entry_item: int
    created_at: datetime


class AuditRow(NamedTuple):
    """A row of `audit_logs`."""

    user_id: str
    action: str
    status: str
    metadata: str
    error_code: str | None
    error_message: str | None
    transaction_id: str | None
    created_at: datetime


IdempotencyRow: TypeAlias = tuple[str, str, str, str, str, datetime, datetime]
ID_OF_RECORD: Final = 3
"""Where the transaction's id stands in it."""
"""A row of `idempotency_records`, in the order of `COLUMNS`. A plain tuple, because it stays until its
batch is whole: Python's collector of garbage never looks at one of plain values twice."""


class HoldRow(NamedTuple):
    """A row of `holds`; amounts in micro-credits."""

    id: str
    user_id: str
    action: str
    state: str
    amount: int
    reserved: int
    captured: int
    tier: str | None
    audited: bool
    metadata: str
    idempotency_key: str | None
    created_at: datetime
    expires_at: datetime
    finished_at: datetime | None


class DeadLetterRow(NamedTuple):
    """A row of `dead_letters`."""

    entry_id: str
    entry_item: int
    user_id: str
    transaction_id: str | None
    raw: bytes
    error: str
    created_at: datetime


COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "transactions": (*TransactionRow._fields, "partition"),
    "audit_logs": AuditRow._fields,
    "idempotency_records": (
        *("user_id", "key", "fingerprint", "transaction_id", "result"),
        *("created_at", "expires_at"),
    ),
    "holds": (*HoldRow._fields, "partition"),
    "dead_letters": (*DeadLetterRow._fields, "partition"),
}
"""The columns a batch writes of each table, in the order in which its rows are encoded."""


@dataclass(slots=True)
class AccountStep:
    """From where to where a batch moves an account; amounts in micro-credits.

    Attributes:
        first_sequence: The sequence of the user's first transaction in the batch.
        balance_before: The balance before it.
        sequence: The sequence of the last one.
        balance: The balance after it.
        updated_at: When that was.
        tier: The new tier where it changed, None where it did not.
        expires_at: The new expiry, where the tier changed.
    """

    first_sequence: int
    balance_before: int
    sequence: int
    balance: int
    updated_at: datetime
    tier: str | None = None
    expires_at: datetime | None = None


@dataclass(slots=True)
class HeldStep:
    """From where to where a batch moves what a user has reserved, in micro-credits.

    Attributes:
        before: What all holds of the user kept before the first item about one.
        after: What they keep after the last.
    """

    before: int
    after: int


@dataclass(slots=True)
class HoldStep:
    """From where to where a batch moves a hold; amounts in micro-credits.

    Attributes:
        before: What it kept and what was captured of it before the batch, None where the batch makes it.
        row: The row afterwards. Where the batch does not make it, only state, amounts and times of it
            are known.
    """

    before: tuple[int, int] | None
    row: HoldRow


class LateDuplicate(NamedTuple):
    """A transaction under a key that stands for another one.

    Attributes:
        transaction_id: The transaction.
        user_id: Whose it is.
        key: The key.
        first_id: What the key stands for.
        partition: The user's partition.
    """

    transaction_id: str
    user_id: str
    key: str
    first_id: str
    partition: int


@dataclass(slots=True)
class Batch:
    """What some consecutive entries of one partition write.

    Attributes:
        partition: The partition.
        follows: The entry after which they stand, and its digest.
        fence: The claim under which they were read; they are written under no other.
        last: The last of them, None before the first was added.
        entries: How many there are.
        items: How many decisions they hold.
        bytes: How long their fields are.
        transactions: Rows that are not encoded yet.
        audit: Rows that are not encoded yet.
        records: The record of each user's key.
        accounts: The step of each user.
        held: The step of what each user has reserved.
        holds: The step of each hold.
        late: Transactions under a key that an earlier one of the batch has used.
        dead_letters: What could not be read.
        refusals: How many refusals of each code there are.
        settled: The intents that are settled by it, each with the state it must have been in.
        encoded: By table, the rows as the ledger's database takes them, in pieces.
    """

    partition: int
    follows: tuple[str, str] = (NOTHING_YET, "")
    fence: int = 0
    last: Entry | None = None
    entries: int = 0
    items: int = 0
    bytes: int = 0
    transactions: list[TransactionRow] = field(default_factory=list[TransactionRow])
    audit: list[AuditRow] = field(default_factory=list[AuditRow])
    records: dict[tuple[str, str], IdempotencyRow] = field(
        default_factory=dict[tuple[str, str], IdempotencyRow],
    )
    accounts: dict[str, AccountStep] = field(default_factory=dict[str, AccountStep])
    held: dict[str, HeldStep] = field(default_factory=dict[str, HeldStep])
    holds: dict[str, HoldStep] = field(default_factory=dict[str, HoldStep])
    late: list[LateDuplicate] = field(default_factory=list[LateDuplicate])
    dead_letters: list[DeadLetterRow] = field(default_factory=list[DeadLetterRow])
    refusals: dict[str, int] = field(default_factory=dict[str, int])
    settled: dict[str, str] = field(default_factory=dict[str, str])
    encoded: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])

    @property
    def new_holds(self) -> list[HoldRow]:
        """The holds that the batch makes, as they are at its end."""
        return [step.row for step in self.holds.values() if step.before is None]

    @property
    def ends(self) -> tuple[str, str]:
        """The last of the entries and its digest: what the next batch follows."""
        return self.follows if self.last is None else (str(self.last.id), self.last.stamp)

    def add(self, entry: Entry) -> None:
        """Add the rows of the next entry.

        Raises:
            ChainBrokenError: A user's sequence or balance does not chain with what came before.
            MalformedEntryError: It holds what the scripts of this version cannot have written.
        """
        try:
            _add_entry(self, entry)
        except (KeyError, ValueError) as error:
            raise MalformedEntryError(f"entry {entry.id} cannot be read: {error!r}") from error
        self.last = entry
        self.entries += 1
        self.items += len(entry.items)
        self.bytes += sum(map(len, entry.fields))


def batch_of(partition: int, entries: Iterable[Entry]) -> Batch:
    """The rows of consecutive entries of a partition.

    Raises:
        ChainBrokenError: A user's sequence or balance does not chain within them.
        MalformedEntryError: An entry holds what the scripts of this version cannot have written.
    """
    batch = Batch(partition)
    for entry in entries:
        batch.add(entry)
    return batch


def _add_entry(batch: Batch, entry: Entry) -> None:
    moment = _EPOCH + timedelta(microseconds=entry.time_us)
    expiries: dict[int, datetime] = {}
    for item in entry.items:
        given = _given(batch, entry, item, moment)
        if isinstance(item, RefusedItem):
            failure = _failure(item, given, moment)
            code = failure.error_code or ""
            batch.refusals[code] = batch.refusals.get(code, 0) + 1
            batch.audit.append(failure)
            continue
        if isinstance(item, HoldItem):
            facts = _hold_facts(item)
            _hold_step(batch, item, item.hold, moment, given)
        else:
            facts = _facts(item)
            _step(batch, item, moment)
            if item.hold is not None:
                _hold_step(batch, item, item.hold, moment, given)
            batch.transactions.append(_transaction(entry.id, item, given, facts, moment))
        _settle(batch, item)
        if item.audited:
            batch.audit.append(_success(item, given, facts, moment))
        if item.key:
            if item.ttl_ms not in expiries:
                expiries[item.ttl_ms] = moment + timedelta(milliseconds=item.ttl_ms)
            _remember(batch, item, facts, moment, expiries[item.ttl_ms])


def _settle(batch: Batch, item: TransactionItem | HoldItem) -> None:
    """Note the intent that this item settles, where it belongs to one."""
    if item.hold is not None:
        intent, settles = intent_of(item.hold.hold_id), _SETTLES.get(item.hold.state)
    else:
        intent, settles = intent_of(item.transaction_id), "commit"
    if intent is not None and settles is not None:
        batch.settled[intent] = settles


def _transaction(
    entry_id: EntryId, item: TransactionItem, given: _Given, facts: str, moment: datetime
) -> TransactionRow:
    return TransactionRow(
        item.transaction_id,
        item.user_id,
        item.sequence,
        item.kind,
        item.action,
        item.delta,
        item.balance_after - item.delta,
        item.balance_after,
        _ledger_metadata(item, given, facts),
        item.key or None,
        _related(item),
        entry_id[0],
        entry_id[1],
        item.index,
        moment,
    )


def _related(item: TransactionItem) -> str | None:
    """The charge a refund gives back, or the hold that is captured."""
    if item.hold is not None:
        return item.hold.hold_id
    return (item.extra or None) if item.kind == "refund" else None


def _success(
    item: TransactionItem | HoldItem, given: _Given, facts: str, moment: datetime
) -> AuditRow:
    if isinstance(item, HoldItem):
        metadata = given.under(f'"operation":{quoted_text(item.action)},{facts}', _HOLD_AUDIT_NAMES)
        return AuditRow(item.user_id, item.verb, "success", metadata, None, None, None, moment)
    return AuditRow(
        item.user_id,
        item.tier.verb if item.tier else "capture" if item.hold else item.kind,
        "success",
        _audit_metadata(item, given, facts),
        None,
        None,
        item.transaction_id,
        moment,
    )


def _step(batch: Batch, item: TransactionItem, moment: datetime) -> None:
    before = item.balance_after - item.delta
    step = batch.accounts.get(item.user_id)
    if step is None:
        step = AccountStep(item.sequence, before, item.sequence, item.balance_after, moment)
        batch.accounts[item.user_id] = step
    else:
        if (item.sequence, before) != (step.sequence + 1, step.balance):
            raise ChainBrokenError(
                f"user {item.user_id!r}: transaction {item.transaction_id} has sequence "
                f"{item.sequence} and {before} micro-credits before it, after sequence "
                f"{step.sequence} and {step.balance}",
            )
        step.sequence, step.balance, step.updated_at = item.sequence, item.balance_after, moment
    if item.tier is not None:
        expires_ms = item.tier.expires_ms
        step.tier = item.tier.new_tier
        step.expires_at = None if expires_ms is None else from_ms(expires_ms)


def _hold_step(
    batch: Batch,
    item: TransactionItem | HoldItem,
    hold: HoldFacts,
    moment: datetime,
    given: _Given,
) -> None:
    """Move a hold, and what its user has reserved.

    Raises:
        ChainBrokenError: One of them is not where what came before has left it.
    """
    kept = hold.reserved - hold.change
    captured = hold.captured + (item.delta if isinstance(item, TransactionItem) else 0)
    step, held = batch.holds.get(hold.hold_id), batch.held.get(item.user_id)
    is_new = isinstance(item, HoldItem) and item.verb == "reserve"
    there = None if step is None else (step.row.reserved, step.row.captured, step.row.state)
    follows = step is None if is_new else there in {None, (kept, captured, "reserved")}
    if not follows or (held is not None and held.after != hold.total - hold.change):
        raise ChainBrokenError(
            f"user {item.user_id!r}: hold {hold.hold_id} is {hold.state} after it kept {kept} "
            f"micro-credits of {hold.total - hold.change}, and not {there} of "
            f"{held.after if held else 'any'}",
        )
    if held is None:
        batch.held[item.user_id] = HeldStep(hold.total - hold.change, hold.total)
    else:
        held.after = hold.total
    before = step.before if step is not None else None if is_new else (kept, captured)
    row = _new_hold(item, given, moment) if step is None else step.row
    batch.holds[hold.hold_id] = HoldStep(before, _moved(row, hold, moment))


def _new_hold(item: TransactionItem | HoldItem, given: _Given, moment: datetime) -> HoldRow:
    """The row of a hold as the item that makes it has it; of any other hold most is not needed."""
    return HoldRow(
        id=item.hold.hold_id if item.hold else "",
        user_id=item.user_id,
        action=item.action,
        state="reserved",
        amount=0,
        reserved=0,
        captured=0,
        tier=(item.tier or None) if isinstance(item, HoldItem) else None,
        audited=item.audited,
        metadata=_priced_metadata(item, given, item.hold.amount if item.hold else 0),
        idempotency_key=item.key or None,
        created_at=moment,
        expires_at=moment,
        finished_at=None,
    )


def _moved(row: HoldRow, hold: HoldFacts, moment: datetime) -> HoldRow:
    return row._replace(
        state=hold.state,
        amount=hold.amount,
        reserved=hold.reserved,
        captured=hold.captured,
        expires_at=from_ms(hold.expires_ms),
        finished_at=None if hold.state == "reserved" else moment,
    )


def _remember(
    batch: Batch,
    item: TransactionItem | HoldItem,
    facts: str,
    moment: datetime,
    expires_at: datetime,
) -> None:
    """The record of a key; within a batch the first one stands, unless it had expired."""
    place = (item.user_id, item.key)
    earlier = batch.records.get(place)
    name = item.operation_id if isinstance(item, HoldItem) else item.transaction_id
    if earlier is not None and earlier[-1] >= moment:
        if isinstance(item, TransactionItem):
            first_id = earlier[ID_OF_RECORD]
            batch.late.append(
                LateDuplicate(name, item.user_id, item.key, first_id, batch.partition)
            )
        return
    batch.records[place] = (
        item.user_id,
        item.key,
        item.fingerprint,
        name,
        f'{{"success":true,"transactionId":{quoted_text(name)},{facts}{_told(item)}}}',
        moment,
        expires_at,
    )


# --- metadata ------------------------------------------------------------------------------------
#
# Written as text, member by member: every decision has three documents of a fixed shape, and an
# encoder would cost more than all the rest of its way.


class _Given(NamedTuple):
    """The caller's metadata as it came, and the names of its members."""

    text: str
    names: Collection[str]

    def under(self, facts: str, names: frozenset[str]) -> str:
        """An object of the caller's members with our facts over them, which have these names."""
        if not self.names:
            return f"{{{facts}}}"
        if names.isdisjoint(self.names):
            return f"{{{self.text.strip()[1:-1]},{facts}}}"
        return merged(self.text, JsonText(f"{{{facts}}}"))


_NOTHING_GIVEN: Final = _Given("", ())
_BALANCES: Final = frozenset({"balanceBefore", "balanceAfter"})
_TIERS: Final = frozenset({"oldTier", "newTier", "oldCredits", "newCredits", "creditsDelta"})
_EXPIRY: Final = frozenset({"clearExpiration", "membershipExpiresAt"})
_NAMES: Final[dict[str, frozenset[str]]] = {
    "charge": _BALANCES | {"cost", "holdId", "price"},
    "grant": _BALANCES | {"amount"},
    "refund": _BALANCES | {"amount"},
    "tier": _TIERS | _EXPIRY,
}
_HOLD_AUDIT_NAMES: Final = frozenset(
    {"operation", "holdId", "amount", "reserved", "expiresAt", "balance"}
)
_DYNAMIC: Final = frozenset({"dynamicCost"})
_AUDIT_NAMES: Final = {
    kind: names | {"operation", "transactionId"} for kind, names in _NAMES.items()
}


def _facts(item: TransactionItem) -> str:
    """The numbers of a transaction, as members under the reference's names."""
    before, after = json_number(item.balance_after - item.delta), json_number(item.balance_after)
    if item.tier is not None:
        old = quoted_text(item.tier.old_tier) if item.tier.old_tier else "null"
        return (
            f'"oldTier":{old},"newTier":{quoted_text(item.tier.new_tier)},"oldCredits":{before}'
            f',"newCredits":{after},"creditsDelta":{json_number(item.delta)}'
        )
    if item.hold is not None:
        price = json_number(item.hold.price)
        hold = f'"holdId":{quoted_text(item.hold.hold_id)},"price":{price}'
        amount = f'"cost":{json_number(-item.delta)},{hold}'
    elif item.kind == "charge":
        amount = f'"cost":{json_number(-item.delta)}'
    else:
        amount = f'"amount":{json_number(item.delta)}'
    return f'{amount},"balanceBefore":{before},"balanceAfter":{after}'


def _hold_facts(item: HoldItem) -> str:
    """The numbers of a hold that was made, extended or given up; reserved is what all holds keep."""
    hold = item.hold
    amount = hold.amount if item.verb == "reserve" else abs(hold.change)
    return (
        f'"holdId":{quoted_text(hold.hold_id)},"amount":{json_number(amount)}'
        f',"expiresAt":{quoted_text(iso(from_ms(hold.expires_ms)))}'
        f',"balance":{json_number(item.balance)},"reserved":{json_number(hold.total)}'
    )


def _told(item: TransactionItem | HoldItem) -> str:
    """What the script told its caller about a hold, exactly: a repeated call is told it again."""
    hold = item.hold
    if hold is None:
        return ""
    told: tuple[int, ...]
    if isinstance(item, TransactionItem):
        final = int(hold.state == "captured")
        told = (-item.delta, item.balance_after, hold.price, hold.reserved, final)
    elif item.verb == "reserve":
        told = (hold.amount, hold.expires_ms, item.balance, hold.total)
    elif item.verb == "extend":
        told = (hold.change, hold.reserved, hold.expires_ms, item.balance, hold.total)
    else:
        told = (-hold.change, item.balance, hold.total)
    return f',"told":"{" ".join(map(str, told))}"'


def _audit_metadata(item: TransactionItem, given: _Given, facts: str) -> str:
    transaction = f'"transactionId":{quoted_text(item.transaction_id)}'
    if item.tier is not None:
        facts = f"{facts}{_expiry_fact(item)},{transaction}"
    else:
        facts = f'"operation":{quoted_text(item.action)},{facts},{transaction}'
    return given.under(facts, _AUDIT_NAMES[item.kind])


def _ledger_metadata(item: TransactionItem, given: _Given, facts: str) -> str:
    if item.tier is not None:
        return given.under(facts + _expiry_fact(item), _NAMES[item.kind])
    return _priced_metadata(item, given, -item.delta)


def _priced_metadata(item: TransactionItem | HoldItem, given: _Given, cost: int) -> str:
    """The caller's members, and how the price came about where a formula gave it."""
    if item.formula:
        dynamic = (
            f'{{"formula":{quoted_text(item.formula)},"variables":{item.extra or "{}"}'
            f',"rawCost":{item.raw_cost},"finalCost":{json_number(cost)}}}'
        )
        return given.under(f'"dynamicCost":{dynamic}', _DYNAMIC)
    return given.text or "{}"


def _expiry_fact(item: TransactionItem) -> str:
    """What was asked of the expiry: an upgrade or renewal names it, a downgrade may clear it."""
    tier = item.tier
    if tier is None or (tier.verb != "downgradeTier" and tier.expiry == "keep"):
        return ""
    if tier.verb == "downgradeTier":
        return f',"clearExpiration":{"true" if item.extra == "1" else "false"}'
    if tier.expires_ms is None:
        return ',"membershipExpiresAt":null'
    return f',"membershipExpiresAt":{quoted_text(iso(from_ms(tier.expires_ms)))}'


def _failure(item: RefusedItem, given: _Given, moment: datetime) -> AuditRow:
    code, message = code_and_message(item.refusal)
    facts = json_object(_failure_facts(item, message))
    return AuditRow(
        user_id=item.refusal.user_id,
        action=item.verb,
        status="failed",
        metadata=merged(given.text, facts),
        error_code=code,
        error_message=message,
        transaction_id=None,
        created_at=moment,
    )


def _failure_facts(item: RefusedItem, message: str) -> dict[str, Any]:
    refusal = item.refusal
    facts: dict[str, Any] = {"error": message}
    match item.verb:
        case "charge" | "reserve" | "capture":
            facts["operation"] = item.action
            if refusal.code == UNPRICED:
                facts |= unpriced_facts(refusal)
                facts |= {"variables": JsonText(item.extra or "{}")} if "formula" in facts else {}
        case "grant" | "refund":
            facts |= {"operation": item.action, "amount": _number(int(refusal.subject))}
        case "upgradeTier":
            facts["targetTier"] = refusal.subject or None
        case "downgradeTier":
            facts |= {"targetTier": refusal.subject or None, "clearExpiration": item.extra == "1"}
        case "release":
            facts["operation"] = item.action
        case "extend":
            facts["operation"] = item.action
            facts |= {"amount": _number(int(refusal.subject))} if refusal.subject else {}
        case "validateAccess":
            facts["targetAction"] = item.action
        case _:
            pass
    return facts


def _number(micros: int) -> JsonText:
    return JsonText(json_number(micros))


# --- what cannot be read -------------------------------------------------------------------------


def _given(batch: Batch, entry: Entry, item: Item, moment: datetime) -> _Given:
    """The metadata; one that no database takes is set aside, and the amount booked."""
    if not item.metadata:
        return _NOTHING_GIVEN
    try:
        return _json_object(item.metadata)
    except (ValueError, RecursionError) as error:
        batch.dead_letters.append(
            DeadLetterRow(
                entry_id=str(entry.id),
                entry_item=item.index,
                user_id=item.refusal.user_id if isinstance(item, RefusedItem) else item.user_id,
                transaction_id=item.transaction_id if isinstance(item, TransactionItem) else None,
                raw=item.metadata,
                error=f"metadata cannot be read: {error}"[:500],
                created_at=moment,
            ),
        )
        return _NOTHING_GIVEN


def readable_metadata(raw: bytes) -> str:
    """A caller's metadata as text.

    Raises:
        ValueError: It is no object that every database takes.
        RecursionError: It is too deep.
    """
    return _json_object(raw).text


def _json_object(raw: bytes) -> _Given:
    """The object, where it is one that every database takes.

    Raises:
        ValueError: It is not: no UTF-8, no JSON, no object, too deep, NUL, a lone surrogate, NaN,
            infinity, a number with too many places.
    """
    text = raw.decode()
    value, end = _DECODER.raw_decode(text) if text.startswith("{") else (None, 0)
    if end != len(text):  # blanks around it, or what is no object: the slower way tells
        value = _DECODER.decode(text)
    if not isinstance(value, dict):
        raise ValueError("it is not an object")  # noqa: TRY004  # a ValueError like the others
    members = cast("dict[str, Any]", value)
    if text.count("[") + text.count("{") > _DEPTH_MAX and _depth(members) > _DEPTH_MAX:
        raise ValueError(f"it is deeper than {_DEPTH_MAX}")  # than its next reader may bear
    if "\0" in text or "\\u" in text:
        if _NUL_ESCAPE.search(text) or "\0" in text:
            raise ValueError("it contains NUL")
        quoted(members).encode()  # a lone surrogate is no UTF-8
    return _Given(text, members.keys())


def _depth(value: Any) -> int:
    """How many objects and lists stand inside one another, the given one included."""
    depth = 0
    level: list[Any] = [value]
    while level:
        inside: list[Any] = []
        for one in level:
            inside += one.values() if type(one) is dict else one
        level = [one for one in inside if type(one) in {dict, list}]
        depth += 1
    return depth


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise ValueError(f"{number:.40} is beyond every number")
    if ("-" in number[1:] or len(number) > _PLACES_MAX) and _places(number) > _PLACES_MAX:
        raise ValueError(f"{number:.40} has more decimal places than a database takes")
    return value


def _places(number: str) -> int:
    """How many decimal places a JSON number has."""
    digits, _, exponent = number.lower().partition("e")
    return len(digits.partition(".")[2]) - int(exponent or 0)


_DECODER: Final = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)
