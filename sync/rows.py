"""From journal entries to rows of the ledger. Pure: what a batch will write, and whether it chains.

One transaction item becomes a row of `transactions`, its success in `audit_logs`, the record of its
key, and a step of its user's balance. A refused item becomes a row of `audit_logs` only. Names inside
metadata are the reference's.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from credits_fast.amounts import json_number
from credits_fast.entries import Entry, MalformedEntryError, RefusedItem, TransactionItem
from credits_fast.json_text import JsonText, json_object, merged, quoted
from credits_fast.refusals import UNPRICED, code_and_message, unpriced_facts
from credits_fast.wire import from_ms, iso

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "AccountStep",
    "AuditRow",
    "Batch",
    "ChainBrokenError",
    "DeadLetterRow",
    "IdempotencyRow",
    "TransactionRow",
    "batch_of",
]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
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


class IdempotencyRow(NamedTuple):
    """A row of `idempotency_records`."""

    user_id: str
    key: str
    fingerprint: str
    transaction_id: str
    result: str
    created_at: datetime
    expires_at: datetime


class DeadLetterRow(NamedTuple):
    """A row of `dead_letters`."""

    entry_id: str
    entry_item: int
    user_id: str
    transaction_id: str | None
    raw: bytes
    error: str
    created_at: datetime


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
class Batch:
    """What some entries of one partition write.

    Attributes:
        partition: The partition.
        last_id: The last of the entries.
        last_stamp: Its digest.
        last_fields: The entry itself, for the comparison before the journal is trimmed.
        entries: How many there are.
        items: How many decisions they hold.
    """

    partition: int
    last_id: str
    last_stamp: str
    last_fields: tuple[bytes, ...]
    entries: int
    items: int
    transactions: list[TransactionRow] = field(default_factory=list[TransactionRow])
    audit: list[AuditRow] = field(default_factory=list[AuditRow])
    records: dict[tuple[str, str], IdempotencyRow] = field(
        default_factory=dict[tuple[str, str], IdempotencyRow],
    )
    accounts: dict[str, AccountStep] = field(default_factory=dict[str, AccountStep])
    dead_letters: list[DeadLetterRow] = field(default_factory=list[DeadLetterRow])


def batch_of(partition: int, entries: Iterable[Entry]) -> Batch:
    """The rows of consecutive entries of a partition, at least one.

    Raises:
        ChainBrokenError: A user's sequence or balance does not chain within them.
        MalformedEntryError: An entry holds what the scripts of this version cannot have written.
    """
    entries = tuple(entries)
    last = entries[-1]
    items = sum(len(entry.items) for entry in entries)
    batch = Batch(partition, str(last.id), last.stamp, last.fields, len(entries), items)
    for entry in entries:
        try:
            _add_entry(batch, entry)
        except (KeyError, ValueError) as error:
            raise MalformedEntryError(f"entry {entry.id} cannot be read: {error!r}") from error
    return batch


def _add_entry(batch: Batch, entry: Entry) -> None:
    moment = _EPOCH + timedelta(microseconds=entry.time_us)
    for item in entry.items:
        metadata = _readable(batch, entry, item, moment)
        if isinstance(item, RefusedItem):
            batch.audit.append(_failure(item, metadata, moment))
        else:
            _add_transaction(batch, entry, item, metadata, moment)


def _add_transaction(
    batch: Batch,
    entry: Entry,
    item: TransactionItem,
    metadata: str,
    moment: datetime,
) -> None:
    _step(batch, item, moment)
    batch.transactions.append(
        TransactionRow(
            id=item.transaction_id,
            user_id=item.user_id,
            sequence=item.sequence,
            kind=item.kind,
            action=item.action,
            amount=item.delta,
            balance_before=item.balance_after - item.delta,
            balance_after=item.balance_after,
            metadata=_ledger_metadata(item, metadata),
            idempotency_key=item.key or None,
            related_id=(item.extra or None) if item.kind == "refund" else None,
            entry_epoch=entry.id.epoch,
            entry_sequence=entry.id.sequence,
            entry_item=item.index,
            created_at=moment,
        ),
    )
    facts = _facts(item)
    if item.audited:
        verb = item.tier.verb if item.tier else item.kind
        audit = merged(metadata, json_object(_audit_facts(item, facts)))
        batch.audit.append(
            AuditRow(item.user_id, verb, "success", audit, None, None, item.transaction_id, moment),
        )
    if item.key:
        _remember(batch, item, facts, moment)


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


def _remember(
    batch: Batch,
    item: TransactionItem,
    facts: Mapping[str, Any],
    moment: datetime,
) -> None:
    """The record of a key; within a batch the first one stands, unless it had expired."""
    place = (item.user_id, item.key)
    earlier = batch.records.get(place)
    if earlier is not None and earlier.expires_at >= moment:
        return
    batch.records[place] = IdempotencyRow(
        user_id=item.user_id,
        key=item.key,
        fingerprint=item.fingerprint,
        transaction_id=item.transaction_id,
        result=json_object({"success": True, "transactionId": item.transaction_id, **facts}),
        created_at=moment,
        expires_at=moment + timedelta(milliseconds=item.ttl_ms),
    )


# --- metadata ------------------------------------------------------------------------------------


def _facts(item: TransactionItem) -> dict[str, Any]:
    """The numbers of a transaction, under the reference's names."""
    before, after = _number(item.balance_after - item.delta), _number(item.balance_after)
    if item.tier is not None:
        return {
            "oldTier": item.tier.old_tier or None,
            "newTier": item.tier.new_tier,
            "oldCredits": before,
            "newCredits": after,
            "creditsDelta": _number(item.delta),
        }
    amount = (
        {"cost": _number(-item.delta)} if item.kind == "charge" else {"amount": _number(item.delta)}
    )
    return {**amount, "balanceBefore": before, "balanceAfter": after}


def _audit_facts(item: TransactionItem, facts: Mapping[str, Any]) -> dict[str, Any]:
    if item.tier is not None:
        return {**facts, **_expiry_facts(item), "transactionId": item.transaction_id}
    return {"operation": item.action, **facts, "transactionId": item.transaction_id}


def _ledger_metadata(item: TransactionItem, metadata: str) -> str:
    if item.tier is not None:
        return merged(metadata, json_object({**_facts(item), **_expiry_facts(item)}))
    if item.formula:
        dynamic = json_object(
            {
                "formula": item.formula,
                "variables": JsonText(item.extra or "{}"),
                "rawCost": JsonText(item.raw_cost),
                "finalCost": _number(-item.delta),
            },
        )
        return merged(metadata, json_object({"dynamicCost": dynamic}))
    return metadata or "{}"


def _expiry_facts(item: TransactionItem) -> dict[str, Any]:
    """What was asked of the expiry: an upgrade or renewal names it, a downgrade may clear it."""
    tier = item.tier
    if tier is None or (tier.verb != "downgradeTier" and tier.expiry == "keep"):
        return {}
    if tier.verb == "downgradeTier":
        return {"clearExpiration": item.extra == "1"}
    moment = None if tier.expires_ms is None else iso(from_ms(tier.expires_ms))
    return {"membershipExpiresAt": moment}


def _failure(item: RefusedItem, metadata: str, moment: datetime) -> AuditRow:
    code, message = code_and_message(item.refusal)
    facts = json_object(_failure_facts(item, message))
    return AuditRow(
        user_id=item.refusal.user_id,
        action=item.verb,
        status="failed",
        metadata=merged(metadata, facts),
        error_code=code,
        error_message=message,
        transaction_id=None,
        created_at=moment,
    )


def _failure_facts(item: RefusedItem, message: str) -> dict[str, Any]:
    refusal = item.refusal
    facts: dict[str, Any] = {"error": message}
    match item.verb:
        case "charge":
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
        case "validateAccess":
            facts["targetAction"] = item.action
        case _:
            pass
    return facts


def _number(micros: int) -> JsonText:
    return JsonText(json_number(micros))


# --- what cannot be read -------------------------------------------------------------------------


def _readable(
    batch: Batch,
    entry: Entry,
    item: TransactionItem | RefusedItem,
    moment: datetime,
) -> str:
    """The metadata as text; one that no database takes is set aside, and the amount booked."""
    if not item.metadata:
        return ""
    try:
        return _json_object_text(item.metadata)
    except (ValueError, RecursionError) as error:
        batch.dead_letters.append(
            DeadLetterRow(
                entry_id=str(entry.id),
                entry_item=item.index,
                user_id=item.refusal.user_id if isinstance(item, RefusedItem) else item.user_id,
                transaction_id=None if isinstance(item, RefusedItem) else item.transaction_id,
                raw=item.metadata,
                error=f"metadata cannot be read: {error}"[:500],
                created_at=moment,
            ),
        )
        return ""


def _json_object_text(raw: bytes) -> str:
    """The text, where it is a JSON object that every database takes.

    Raises:
        ValueError: It is not: no UTF-8, no JSON, no object, NUL, a lone surrogate, NaN or infinity.
    """
    text = raw.decode()
    value = json.loads(text, parse_constant=_no_constant)
    if not isinstance(value, dict):
        raise ValueError("it is not an object")  # noqa: TRY004  # a ValueError like the others
    if _NUL_ESCAPE.search(text) or "\0" in text:
        raise ValueError("it contains NUL")
    if "\\u" in text or "e" in text or "E" in text:
        quoted(value).encode()
    return text


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
