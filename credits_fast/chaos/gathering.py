"""Reading what is left: the ledger's rows, what both stores say of every user, where the journals begin."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from credits_fast.amounts import MICROS_PER_CREDIT
from credits_fast.chaos.evidence import Evidence, Held, JournalEnd, PositionSample, Row
from credits_fast.checks.balance_sheet import compare_redis
from credits_fast.errors import CreditsError
from credits_fast.ledger.database import reading
from credits_fast.ledger.recording import positions
from credits_fast.protocol.entries import NOTHING_YET, EntryId
from credits_fast.resp import pack
from credits_fast.sync.tables import micros_of, reversals, transactions, users

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from credits_fast.engine import CreditsEngine

__all__ = ["gathered", "nothing_to_reverse"]


async def gathered(
    engine: CreditsEngine,
    database: AsyncEngine,
    openings: Mapping[str, int],
    samples: Sequence[PositionSample],
    recorded_ms: float | None,
) -> Evidence:
    """What is left, when nothing is under way.

    Users of a partition that is closed are missing from what Redis says.

    Args:
        engine: What is asked of Redis.
        database: The ledger.
        openings: What each user had before the run, in micro-credits.
        samples: Positions over time.
        recorded_ms: Milliseconds until everything was recorded, None for never.

    Raises:
        UnavailableError: A server cannot be reached.
    """
    comparison = await compare_redis(database, engine.router, engine.partitions)
    return Evidence(
        openings=openings,
        rows=await _rows(database),
        ledger=await _ledger(database),
        redis=await _redis(engine, openings),
        redis_known=comparison.compared,
        differing=comparison.differing,
        samples=samples,
        journals=await _journals(engine, database),
        recorded_ms=recorded_ms,
    )


async def nothing_to_reverse(database: AsyncEngine) -> bool:
    """Whether everything that has to be undone is.

    Raises:
        DatabaseUnavailableError: The database cannot be reached.
    """
    query = select(reversals.c.transaction_id).where(reversals.c.settled_at.is_(None)).limit(1)
    async with reading(database) as connection:
        return await connection.scalar(query) is None


async def _rows(database: AsyncEngine) -> list[Row]:
    columns = transactions.c
    query = select(
        columns.id,
        columns.user_id,
        columns.sequence,
        columns.kind,
        micros_of(columns.amount),
        micros_of(columns.balance_before),
        micros_of(columns.balance_after),
        columns.idempotency_key,
        columns.metadata,
    )
    async with reading(database) as connection:
        found = (await connection.execute(query)).all()
    return [Row._make((*one[:-1], *_told(one[-1]))) for one in found]


def _told(metadata: Any) -> tuple[int | None, str | None, bool]:
    """The number of the operation, what it undoes, and whether it settles what a recovery found."""
    number = metadata.get("operation")
    told = number if isinstance(number, int) else None
    return told, metadata.get("reverses"), "recoveredGap" in metadata


async def _ledger(database: AsyncEngine) -> dict[str, Held]:
    query = select(users.c.id, micros_of(users.c.credits), users.c.sequence)
    async with reading(database) as connection:
        return {id_: Held(*held) for id_, *held in await connection.execute(query)}


async def _redis(engine: CreditsEngine, names: Mapping[str, int]) -> dict[str, Held]:
    """What the engine says of each user; all at once, and past those it cannot say anything of."""

    async def held(name: str) -> Held | None:
        try:
            user = await engine.get_user(name)
        except CreditsError:
            return None
        return Held(int(user.credits * MICROS_PER_CREDIT), user.sequence)

    found = await asyncio.gather(*map(held, names))
    return {name: one for name, one in zip(names, found, strict=True) if one is not None}


async def _journals(engine: CreditsEngine, database: AsyncEngine) -> list[JournalEnd]:
    recorded = await positions(database)
    replies = await engine.router.replies(
        [
            (one, pack((b"XRANGE", one.journal, b"-", b"+", b"COUNT", b"1")))
            for one in engine.partitions
        ]
    )
    return [
        JournalEnd(
            partition.number,
            _pair(entries[0][0].decode()) if entries else None,
            None if str(last) == NOTHING_YET else _pair(str(last)),
        )
        for partition, entries in zip(engine.partitions, replies, strict=True)
        if (last := recorded.get(partition.number)) is not None
    ]


def _pair(id_: str) -> tuple[int, int]:
    epoch, sequence = EntryId.parse(id_)
    return epoch, sequence
