"""Rows as PostgreSQL's COPY takes them: lines of text, one function a table. Pure.

Columns are separated by tabs, lines end with a line feed, and what is absent has a word of its own; where
a text has a character that means something here, it is escaped. An amount is its micro-credits with an
exponent of ten, which NUMERIC reads by itself; JSON is the text it is. Text costs the client less than the
binary format, whose NUMERIC and JSONB have to be taken apart first.

The rows of an entry share their moment, one object; its text is made once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from credits_fast.sync.rows import Batch

__all__ = ["ENCODERS"]

_ESCAPES: Final = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_NULL: Final = "\\N"
_NEVER: Final = datetime(1, 1, 1, tzinfo=UTC)


def _transactions(batch: Batch) -> bytes:
    lines: list[str] = []
    last, when = _NEVER, ""
    end = f"{batch.partition}\n"
    for row in batch.transactions:
        name, user, sequence, kind, action, amount, before, after, given, key, related = row[:11]
        epoch, number, item, moment = row[11:]
        if moment is not last:
            last, when = moment, moment.isoformat()
        if not _is_plain(f"{name}{user}{action}{given}{key}{related}"):
            name, user, action, given = map(_escaped, (name, user, action, given))
            key, related = key and _escaped(key), related and _escaped(related)
        lines.append(
            f"{name}\t{user}\t{sequence}\t{kind}\t{action}\t{amount}e-6\t{before}e-6\t{after}e-6"
            f"\t{given}\t{key or _NULL}\t{related or _NULL}\t{epoch}\t{number}\t{item}\t{when}\t{end}",
        )
    return "".join(lines).encode()


def _audit_logs(batch: Batch) -> bytes:
    lines: list[str] = []
    last, when = _NEVER, ""
    for row in batch.audit:
        user, action, status, given, code, message, transaction, moment = row
        if moment is not last:
            last, when = moment, moment.isoformat()
        if not _is_plain(f"{user}{action}{given}{code}{message}{transaction}"):
            user, action, given = map(_escaped, (user, action, given))
            code, message = code and _escaped(code), message and _escaped(message)
            transaction = transaction and _escaped(transaction)
        lines.append(
            f"{user}\t{action}\t{status}\t{given}\t{_NULL if code is None else code}"
            f"\t{_NULL if message is None else message}"
            f"\t{_NULL if transaction is None else transaction}\t{when}\n",
        )
    return "".join(lines).encode()


def _idempotency_records(batch: Batch) -> bytes:
    lines: list[str] = []
    last, when, last_end, ends = _NEVER, "", _NEVER, ""
    for row in batch.records.values():
        user, key, fingerprint, transaction, result, moment, expires_at = row
        if moment is not last:
            last, when = moment, moment.isoformat()
        if expires_at is not last_end:
            last_end, ends = expires_at, expires_at.isoformat()
        if not _is_plain(f"{user}{key}{fingerprint}{transaction}{result}"):
            user, key, fingerprint, transaction, result = map(_escaped, row[:5])
        lines.append(f"{user}\t{key}\t{fingerprint}\t{transaction}\t{result}\t{when}\t{ends}\n")
    return "".join(lines).encode()


def _holds(batch: Batch) -> bytes:
    lines: list[str] = []
    for row in batch.new_holds:
        name, user, action, tier, given, key = map(
            _escaped,
            (
                row.id,
                row.user_id,
                row.action,
                row.tier or "",
                row.metadata,
                row.idempotency_key or "",
            ),
        )
        ended = _NULL if row.finished_at is None else row.finished_at.isoformat()
        lines.append(
            f"{name}\t{user}\t{action}\t{row.state}\t{row.amount}e-6\t{row.reserved}e-6"
            f"\t{row.captured}e-6\t{tier or _NULL}\t{row.audited}\t{given}\t{key or _NULL}"
            f"\t{row.created_at.isoformat()}\t{row.expires_at.isoformat()}\t{ended}"
            f"\t{batch.partition}\n",
        )
    return "".join(lines).encode()


def _dead_letters(batch: Batch) -> bytes:
    lines = (
        f"{row.entry_id}\t{row.entry_item}\t{_escaped(row.user_id)}"
        f"\t{_NULL if row.transaction_id is None else _escaped(row.transaction_id)}"
        f"\t\\\\x{row.raw.hex()}\t{_escaped(row.error)}\t{row.created_at.isoformat()}"
        f"\t{batch.partition}\n"
        for row in batch.dead_letters
    )
    return "".join(lines).encode()


ENCODERS: Final[Mapping[str, Callable[[Batch], bytes]]] = {
    "transactions": _transactions,
    "audit_logs": _audit_logs,
    "idempotency_records": _idempotency_records,
    "holds": _holds,
    "dead_letters": _dead_letters,
}
"""The lines of a batch for each table; the columns are in the order of `COLUMNS`."""


def _is_plain(text: str) -> bool:
    """Whether it can stand in a line as it is; what cannot be printed is looked at more closely."""
    return text.isprintable() and "\\" not in text


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES)
