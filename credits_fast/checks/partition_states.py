"""How every partition is doing: in Redis, in the ledger, and in the hands of its worker.

open      charges go on
fenced    the scripts refuse: the server at the other end was not compared with the ledger yet, or
has lost what the ledger knows
unopened  nothing was ever charged in it
away      its server cannot be asked now
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from sqlalchemy import select

from credits_fast.errors import CreditsError
from credits_fast.ledger.database import database_now_ms, reading
from credits_fast.ledger.recording import lags_ms
from credits_fast.protocol.entries import EntryId
from credits_fast.protocol.wire import run_of
from credits_fast.resp import pack
from credits_fast.sync.tables import sync_partitions

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from credits_fast.protocol.keys import PartitionKeys, Partitions
    from credits_fast.servers.lane import Lane, Reply
    from credits_fast.servers.routing import Router

__all__ = ["Openness", "PartitionState", "partition_states"]

Openness: TypeAlias = Literal["open", "fenced", "unopened", "away"]

_LOOKS: Final = 4
"""Requests a partition."""


@dataclass(frozen=True, slots=True)
class PartitionState:
    """A partition at this moment.

    Attributes:
        number: The partition.
        slot: Its slot in a cluster.
        node: Where its server is, "" where it cannot be reached.
        state: Whether charges go on; see the module.
        partitions: How many partitions there are, as Redis has it; None where it does not know this one.
        epoch: The epoch of its journal in Redis, None where it has none.
        journal_length: Entries in its journal, None where that cannot be asked.
        last: The last entry of its journal, None where it has none.
        synced: The last entry the ledger has recorded, None where the ledger does not know the
            partition.
        lag_ms: Milliseconds since the oldest decision that is not recorded, 0 where nothing waits, None
            where that cannot be told.
        owner: The worker that owns it, None for none.
        lease_left_ms: Milliseconds until its lease ends, by the database's clock; negative where it has
            ended, None without an owner.
        set_aside: Why its worker cannot carry it, "" where it can.
        problem: Why Redis cannot be asked, "" where it can.
    """

    number: int
    slot: int
    node: str
    state: Openness
    partitions: int | None
    epoch: int | None
    journal_length: int | None
    last: EntryId | None
    synced: EntryId | None
    lag_ms: int | None
    owner: str | None
    lease_left_ms: int | None
    set_aside: str
    problem: str

    @property
    def is_owned(self) -> bool:
        """Whether a worker has it whose lease has not ended."""
        return self.lease_left_ms is not None and self.lease_left_ms > 0


async def partition_states(
    router: Router, database: AsyncEngine, partitions: Partitions
) -> list[PartitionState]:
    """Every partition at this moment, by number; the ledger is asked first.

    A server that cannot be reached is told in its partitions' states.

    Raises:
        DatabaseUnavailableError: The database cannot be reached.

    Example:
        >>> [state.lag_ms for state in await partition_states(router, database, partitions)]
        [0, 0, 12, 0]
    """
    rows = await _rows(database)
    recorded = {
        number: EntryId.parse(row.last_id)
        for number, row in rows.items()
        if number < len(partitions)
    }
    lags = await lags_ms(router, recorded, partitions)
    lanes = await _lanes(router, partitions)
    looks = await router.outcomes(
        [(partition, look) for partition in partitions for look in _looks(partition)]
    )
    return [
        _state(
            partition,
            lanes.get(partition.number),
            looks[_LOOKS * partition.number : _LOOKS * (partition.number + 1)],
            rows.get(partition.number),
            lags.get(partition.number),
        )
        for partition in partitions
    ]


async def _rows(database: AsyncEngine) -> Mapping[int, Any]:
    columns = sync_partitions.c
    query = select(
        columns.partition,
        columns.epoch,
        columns.last_id,
        columns.owner,
        columns.set_aside,
        (columns.lease_until_ms - database_now_ms()).label("lease_left_ms"),
    )
    async with reading(database) as connection:
        return {row.partition: row for row in await connection.execute(query)}


async def _lanes(router: Router, partitions: Partitions) -> dict[int, Lane]:
    try:
        reached = await router.reached(partitions)
    except CreditsError:
        return {}  # why is told for each partition by what comes of asking about it
    return {partition.number: lane for lane, served in reached.items() for partition in served}


def _looks(partition: PartitionKeys) -> tuple[bytes, ...]:
    journal = partition.journal
    return (
        pack((b"GET", partition.gate)),
        pack((b"HMGET", partition.meta, b"epoch", b"partitions")),
        pack((b"XREVRANGE", journal, b"+", b"-", b"COUNT", b"1")),
        pack((b"XLEN", journal)),
    )


def _state(
    partition: PartitionKeys,
    lane: Lane | None,
    looks: list[Reply],
    row: Any,
    lag: object,
) -> PartitionState:
    gate, meta, ends, length = looks
    problem = next((str(one) for one in (gate, meta, ends) if isinstance(one, CreditsError)), "")
    epoch, number = (None, None) if problem else meta
    last = None if problem or not ends else EntryId.parse(ends[0][0].decode())
    return PartitionState(
        number=partition.number,
        slot=partition.slot,
        node="" if lane is None else lane.address,
        state="away" if problem else _openness(gate, lane, row),
        partitions=None if number is None else int(number),
        epoch=None if epoch is None else int(epoch),
        journal_length=length if isinstance(length, int) else None,
        last=last,
        synced=None if row is None else EntryId.parse(row.last_id),
        lag_ms=lag if isinstance(lag, int) else None,
        owner=None if row is None else row.owner,
        lease_left_ms=None if row is None or row.owner is None else row.lease_left_ms,
        set_aside="" if row is None else row.set_aside or "",
        problem=problem,
    )


def _openness(gate: bytes | None, lane: Lane | None, row: Any) -> Openness:
    if gate is None:
        return "unopened" if row is None or row.epoch == 0 else "fenced"
    is_this_process = lane is not None and run_of(gate) == lane.run
    return "open" if is_this_process else "fenced"
