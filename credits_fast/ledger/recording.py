"""How far the ledger is behind the journal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import select

from credits_fast.errors import CreditsError, IncompatibleFormatError
from credits_fast.ledger.database import reading
from credits_fast.protocol.entries import NOTHING_YET, EntryId, MalformedEntryError, decode
from credits_fast.resp import pack
from credits_fast.sync.tables import sync_partitions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from credits_fast.protocol.keys import PartitionKeys, Partitions
    from credits_fast.servers.lane import Reply
    from credits_fast.servers.routing import Router

__all__ = ["behind", "journal_ends", "lag_ms", "lags_ms", "positions"]

_ASK_TIME: Final = pack((b"TIME",))


async def journal_ends(
    router: Router, partitions: Partitions | Sequence[PartitionKeys]
) -> dict[int, EntryId]:
    """The last entry of each of these partitions that has one, as of now.

    Raises:
        RedisUnavailableError: A server cannot be reached.
    """
    replies = await router.replies(
        [
            (partition, pack((b"XREVRANGE", partition.journal, b"+", b"-", b"COUNT", b"1")))
            for partition in partitions
        ]
    )
    return {
        partition.number: EntryId.parse(entries[0][0].decode())
        for partition, entries in zip(partitions, replies, strict=True)
        if entries
    }


async def positions(database: AsyncEngine) -> dict[int, EntryId]:
    """The last entry of every partition that the ledger has recorded.

    Raises:
        DatabaseUnavailableError: The database cannot be reached.
    """
    columns = sync_partitions.c
    async with reading(database) as connection:
        rows = (await connection.execute(select(columns.partition, columns.last_id))).all()
    return {row.partition: EntryId.parse(row.last_id) for row in rows}


async def behind(database: AsyncEngine, ends: Mapping[int, EntryId]) -> set[int]:
    """The partitions whose ledger has not reached these entries.

    Raises:
        DatabaseUnavailableError: The database cannot be reached.
    """
    recorded = await positions(database)
    return {number for number, last in recorded.items() if number in ends and last < ends[number]}


async def lag_ms(router: Router, database: AsyncEngine, partitions: Partitions) -> int:
    """Milliseconds since the oldest decision that is not in the ledger; 0 where nothing waits.

    The ledger is asked first, so what is recorded in between still counts as waiting. A decision's
    age is told by the clock of its own server.

    Raises:
        DatabaseUnavailableError: The database cannot be reached.
        RedisUnavailableError: A server cannot be reached.
    """
    lags = await lags_ms(router, await positions(database), partitions)
    for lag in lags.values():
        if isinstance(lag, CreditsError):
            raise lag
    return max((lag for lag in lags.values() if isinstance(lag, int)), default=0)


async def lags_ms(
    router: Router, recorded: Mapping[int, EntryId], partitions: Partitions
) -> dict[int, int | CreditsError | None]:
    """Milliseconds since the oldest decision of each partition that is not in the ledger.

    0 where nothing waits; the error where a partition's server cannot be asked, None where the decision
    cannot be read.

    Args:
        router: The way to Redis.
        recorded: The ledger's `positions`, asked for before.
        partitions: The partitions as configured.
    """
    requests: list[tuple[PartitionKeys, bytes]] = []
    for number, last in recorded.items():
        partition = partitions[number]
        requests += [(partition, _look_after(partition.journal, last)), (partition, _ASK_TIME)]
    outcomes = await router.outcomes(requests)
    pairs = zip(outcomes[::2], outcomes[1::2], strict=True)
    return {number: _age_ms(*pair) for number, pair in zip(recorded, pairs, strict=True)}


def _age_ms(entries: Reply, now: Reply) -> int | CreditsError | None:
    """The age of the first of some entries, 0 where there is none, None where it cannot be read."""
    for outcome in (entries, now):
        if isinstance(outcome, CreditsError):
            return outcome
    if not entries:
        return 0
    seconds, microseconds = now
    now_us = int(seconds) * 1_000_000 + int(microseconds)
    try:
        return max(0, now_us - decode(*entries[0]).time_us) // 1_000
    except (IncompatibleFormatError, MalformedEntryError):
        return None  # whoever carries it sets the partition aside, and says why


def _look_after(journal: bytes, last: EntryId) -> bytes:
    """A request for the first entry after one."""
    start = b"-" if str(last) == NOTHING_YET else b"(" + str(last).encode()
    return pack((b"XRANGE", journal, start, b"+", b"COUNT", b"1"))
