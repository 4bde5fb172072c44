"""How far the ledger is behind the journal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from credits_fast.database import reading
from credits_fast.entries import EntryId
from credits_fast.lane import pack
from credits_fast.sync.tables import sync_partitions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.ext.asyncio import AsyncEngine

    from credits_fast.keys import Partitions
    from credits_fast.lane import Lane

__all__ = ["behind", "journal_ends"]


async def journal_ends(lane: Lane, partitions: Partitions) -> dict[int, EntryId]:
    """The last entry of every partition that has one, as of now.

    Raises:
        RedisUnavailableError: The server cannot be reached.
    """
    requests = (
        pack((b"XREVRANGE", partitions[number].journal, b"+", b"-", b"COUNT", b"1"))
        for number in range(len(partitions))
    )
    replies = await lane.execute_all(*requests)
    return {
        number: EntryId.parse(entries[0][0].decode())
        for number, entries in enumerate(replies)
        if entries
    }


async def behind(database: AsyncEngine, ends: Mapping[int, EntryId]) -> set[int]:
    """The partitions whose ledger has not reached these entries.

    Raises:
        DatabaseUnavailableError: The database cannot be reached.
    """
    columns = sync_partitions.c
    async with reading(database) as connection:
        rows = (await connection.execute(select(columns.partition, columns.last_id))).all()
    return {
        row.partition
        for row in rows
        if row.partition in ends and EntryId.parse(row.last_id) < ends[row.partition]
    }
