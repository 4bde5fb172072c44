"""What of the journal could not be read, looked at again: listed, and put where it belongs.

Metadata that no database takes was kept as it came while the amount was booked. It can be put back once
a later version reads it, or as text, with what is no text made visible. It then stands in the transaction
or the new hold and in the audit log, and the letter is gone, in one commit.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Text, cast, delete, select, update

from credits_fast.json_text import JsonText, json_object, merged
from credits_fast.ledger.database import reading, writing
from credits_fast.sync.rows import readable_metadata
from credits_fast.sync.tables import audit_logs, dead_letters, holds, transactions

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Row, Table
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

__all__ = ["DeadLetter", "Replayed", "letters", "replay"]

_PLACELESS: Final = (
    "its row of the audit log is not to be told from others; the letter stays what is known of it"
)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What could not be read.

    Attributes:
        id: Its number.
        partition: Whose journal it was in.
        entry_id: In which entry.
        entry_item: The how manieth item, from 0.
        user_id: Whose metadata it is.
        transaction_id: Which transaction's; None for a refusal's or a hold's.
        raw: The bytes as they came.
        error: Why they could not be read.
        created_at: When the decision was made.
    """

    id: int
    partition: int
    entry_id: str
    entry_item: int
    user_id: str
    transaction_id: str | None
    raw: bytes
    error: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of a letter.

    Attributes:
        id: Its number.
        transaction_id: The transaction that has the metadata now, None where it is the audit log alone.
        problem: Why it stays, "" where it is put back.
    """

    id: int
    transaction_id: str | None
    problem: str = ""


async def letters(
    database: AsyncEngine, *, limit: int, ids: Collection[int] | None = None
) -> list[DeadLetter]:
    """Letters, the oldest first.

    Args:
        database: The ledger.
        limit: How many at most.
        ids: Only these, None for all.

    Raises:
        DatabaseUnavailableError: The database cannot be reached.
    """
    query = select(dead_letters).order_by(dead_letters.c.id).limit(limit)
    if ids is not None:
        query = query.where(dead_letters.c.id.in_(ids))
    async with reading(database) as connection:
        return [DeadLetter(*row) for row in await connection.execute(query)]


async def replay(
    database: AsyncEngine, found: Sequence[DeadLetter], *, as_text: bool = False
) -> list[Replayed]:
    """What became of each letter; every one is a commit of its own.

    Args:
        database: The ledger.
        found: The letters.
        as_text: Whether what still cannot be read is put back as text, in a member `unreadable`, with
            what is no text made visible.

    Raises:
        DatabaseUnavailableError: The database cannot be reached; what was put back before stays so.
    """
    return [await _replay(database, letter, as_text=as_text) for letter in found]


async def _replay(database: AsyncEngine, letter: DeadLetter, *, as_text: bool) -> Replayed:
    try:
        given = readable_metadata(letter.raw)
    except (ValueError, RecursionError) as error:
        if not as_text:
            return Replayed(letter.id, letter.transaction_id, f"it still cannot be read: {error}")
        given = json_object({"unreadable": _visible(letter.raw)})
    async with writing(database) as connection:
        if letter.transaction_id is None:
            place = await _place(connection, letter)
            if place is None:
                return Replayed(letter.id, None, _PLACELESS)
            await _merge(connection, audit_logs, audit_logs.c.id == place.id, given)
            if (place.action, place.status) == ("reserve", "success"):
                hold_id = place.metadata["holdId"]
                await _merge(connection, holds, holds.c.id == hold_id, given)
        else:
            name = letter.transaction_id
            await _merge(connection, transactions, transactions.c.id == name, given)
            await _merge(connection, audit_logs, audit_logs.c.transaction_id == name, given)
        await connection.execute(delete(dead_letters).where(dead_letters.c.id == letter.id))
    return Replayed(letter.id, letter.transaction_id)


async def _place(connection: AsyncConnection, letter: DeadLetter) -> Row[Any] | None:
    """The row of a refusal or a hold: the user's only one of that moment without a transaction."""
    columns = audit_logs.c
    query = select(columns.id, columns.action, columns.status, columns.metadata).where(
        columns.user_id == letter.user_id,
        columns.created_at == letter.created_at,
        columns.transaction_id.is_(None),
    )
    rows: list[Any] = [*await connection.execute(query)]
    return rows[0] if len(rows) == 1 else None


async def _merge(
    connection: AsyncConnection, table: Table, place: ColumnElement[bool], given: str
) -> None:
    """The caller's members into the metadata of a row; what the library wrote there wins."""
    written: Any = await connection.scalar(select(cast(table.c["metadata"], Text)).where(place))
    if written is not None:
        text = merged(given, JsonText(written))
        await connection.execute(update(table).where(place).values(metadata=text))


def _visible(raw: bytes) -> str:
    """The bytes as text that every database takes."""
    text = raw.decode(errors="backslashreplace")
    return text.replace("\0", "\\x00").encode(errors="backslashreplace").decode()
