"""Opening partitions: a partition serves only where its journal was compared with the ledger.

A server that was restarted, promoted, wiped or restored has another identity than the one in the
partition's gate, and the scripts refuse (`FENCED`). Whoever meets that refusal compares: the ledger
names the last entry it has recorded, with a digest of it; where the journal still holds that very
entry, nothing the ledger knows was lost, and the partition is opened for the new identity. Anybody may
do this at any time: it reads, and one script opens or does nothing.

What a worker has in hand by then was read from the history before, and may not be in this one. So
whoever opens a partition takes it from its worker first, then compares: what is recorded cannot move in
between, and what was in hand is thrown away and read again.

Where the entry is gone or another one stands in its place, history was lost. The partition stays
closed until the worker has repaired it (`sync/repair.py`); nothing is guessed.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from sqlalchemy import case, insert, select, update
from sqlalchemy.exc import IntegrityError

from credits_fast.errors import (
    IncompatibleFormatError,
    PartitionFencedError,
    SchemaMismatchError,
)
from credits_fast.ledger.database import reading, writing
from credits_fast.protocol.entries import NOTHING_YET, stamp
from credits_fast.protocol.keys import FORMAT
from credits_fast.sync.tables import sync_partitions
from credits_fast.version import __version__

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from credits_fast.protocol.keys import PartitionKeys, Partitions
    from credits_fast.servers.lane import Lane
    from credits_fast.servers.routing import Router

__all__ = ["Admission", "Position"]

_log = logging.getLogger(__name__)

_COMPARISONS_MAX: Final = 5
_IDLE_MS: Final = 10_000
"""Milliseconds after which the database ends the taking of a partition whose program stands still."""
_LOST: Final = (
    "the journal no longer holds entry {last_id}, up to which the ledger is recorded; "
    "Redis has lost history, and the partition stays closed until a worker has repaired it"
)


@dataclass(frozen=True, slots=True)
class Position:
    """How far a partition is recorded.

    Attributes:
        epoch: The epoch of its journal, 0 where it was never opened.
        last_id: The last entry in the ledger.
        last_stamp: The digest of that entry.
    """

    epoch: int
    last_id: str
    last_stamp: str


class Admission:
    """Opens the partitions of one namespace, and keeps their number.

    Args:
        partitions: The partitions as configured.
        database: The ledger.
        router: Which lane leads to a partition.
    """

    def __init__(
        self,
        partitions: Partitions,
        database: AsyncEngine,
        router: Router,
    ) -> None:
        self._partitions = partitions
        self._database = database
        self._router = router
        self._locks = [asyncio.Lock() for _ in range(len(partitions))]

    async def open_all(self) -> None:
        """Open what can be opened; what has lost history stays closed and is logged.

        What is on a node of a cluster that is away is opened when somebody needs it.

        Raises:
            SchemaMismatchError: The ledger belongs to another namespace or number of partitions.
            IncompatibleFormatError: Another version wrote it in another format.
            RedisUnavailableError: The server cannot be reached.
            DatabaseUnavailableError: The database cannot be reached.
        """
        await self._register()
        for partitions in (await self._router.reached(self._partitions)).values():
            for partition in partitions:
                try:
                    await self.open(partition)
                except PartitionFencedError as error:
                    _log.error("%s", error)  # no traceback: this is a state, not a bug

    async def open(self, partition: PartitionKeys) -> None:
        """Open one partition for the server at the other end, if nothing of it was lost.

        Raises:
            PartitionFencedError: History was lost.
            IncompatibleFormatError: Another version wrote it in another format.
            SchemaMismatchError: Redis holds another number of partitions.
        """
        async with self._locks[partition.number]:
            position = await self.position(partition)
            for _ in range(_COMPARISONS_MAX):
                if await self._router.follow(
                    partition, partial(self._open_by, partition=partition, position=position)
                ):
                    return
                before, position = position, await self.position(partition)
                if before == position:
                    break
            raise PartitionFencedError(partition.number, _LOST.format(last_id=position.last_id))

    async def position(self, partition: PartitionKeys) -> Position:
        """How far the ledger has recorded a partition."""
        async with reading(self._database) as connection:
            return await _position(connection, partition)

    async def _open_by(self, lane: Lane, partition: PartitionKeys, position: Position) -> bool:
        """Whether the partition is open now: False where the journal does not hold the position.

        It is compared and opened on one lane: what one server holds says nothing about another. The
        comparison before the partition is taken spares the worker that repairs it.
        """
        gate = await lane.execute(b"GET", partition.gate)
        if gate is not None and gate.startswith(b"%b %b " % (FORMAT.encode(), lane.run.encode())):
            return True
        if not await _holds(lane, partition, position):
            return False
        is_known = await lane.execute(b"EXISTS", partition.meta)
        taken = await self._take(partition)
        if not await _holds(lane, partition, taken):
            return False
        reply = await lane.run_script(
            "open",
            (partition.gate, partition.meta, partition.journal),
            (
                b"%d" % taken.epoch,
                b"%d" % len(self._partitions),
                __version__.encode(),
                b"1" if taken.last_id == NOTHING_YET and not is_known else b"0",
            ),
        )
        return self._opened(partition, reply)

    def _opened(self, partition: PartitionKeys, reply: bytes) -> bool:
        status, *found = reply.decode(errors="replace").split("\0")
        if status in {"opened", "created"}:
            _log.info("partition %d %s", partition.number, status)
            return True
        if status == "incompatible":
            what = f"partition {partition.number} in Redis"
            raise IncompatibleFormatError(
                what, found=found[0], expected=FORMAT, written_by=found[1]
            )
        if status == "partitions":
            raise SchemaMismatchError(
                f"Redis holds {found[0]} partitions of namespace {self._partitions.namespace!r}, "
                f"the configuration has {len(self._partitions)}; their number cannot change",
            )
        return False

    async def _take(self, partition: PartitionKeys) -> Position:
        """How far the partition is recorded, with nobody about to record more of it.

        A commit that began before is waited for, a later one finds that the partition was taken from
        its worker. The ledger learns of a new partition here, before Redis does, so that no trace of it
        there means a loss.
        """
        columns = sync_partitions.c
        async with writing(self._database, idle_ms=_IDLE_MS) as connection:
            await connection.execute(
                update(sync_partitions)
                .where(columns.partition == partition.number)
                .values(
                    fence=columns.fence + 1,
                    epoch=case((columns.epoch == 0, 1), else_=columns.epoch),
                ),
            )
            return await _position(connection, partition)

    async def _register(self) -> None:
        """The rows of all partitions in the ledger, checked against the configuration."""
        try:
            async with writing(self._database) as connection:
                known = {*await connection.scalars(select(sync_partitions.c.partition))}
                if not known:
                    await connection.execute(insert(sync_partitions), self._rows())
        except IntegrityError:
            _log.debug("another program registered the partitions at the same moment")
        columns = sync_partitions.c
        query = select(columns.namespace, columns.partitions, columns.format).distinct()
        async with reading(self._database) as connection:
            found = {
                (row.namespace, row.partitions, row.format)
                for row in await connection.execute(query)
            }
        for namespace, number, written in found:
            self._check(namespace, number, written)

    def _rows(self) -> list[dict[str, object]]:
        return [
            {
                "partition": number,
                "namespace": self._partitions.namespace,
                "partitions": len(self._partitions),
                "format": FORMAT,
            }
            for number in range(len(self._partitions))
        ]

    def _check(self, namespace: str, number: int, written: str) -> None:
        if written != FORMAT:
            what = "the ledger's position"
            raise IncompatibleFormatError(what, found=written, expected=FORMAT, written_by="")
        if (namespace, number) != (self._partitions.namespace, len(self._partitions)):
            raise SchemaMismatchError(
                f"the ledger belongs to namespace {namespace!r} with {number} partitions, the "
                f"configuration says {self._partitions.namespace!r} with {len(self._partitions)}; "
                "give each namespace a database of its own, and never change the number",
            )


async def _position(connection: AsyncConnection, partition: PartitionKeys) -> Position:
    columns = sync_partitions.c
    query = select(columns.epoch, columns.last_id, columns.last_stamp)
    found = await connection.execute(query.where(columns.partition == partition.number))
    return Position(*found.one())


async def _holds(lane: Lane, partition: PartitionKeys, position: Position) -> bool:
    """Whether the journal holds the very entry up to which the ledger is recorded, if any is."""
    if position.last_id == NOTHING_YET:
        return True
    last = position.last_id.encode()
    entries = await lane.execute(b"XRANGE", partition.journal, last, last)
    return bool(entries) and stamp(position.last_id, entries[0][1]) == position.last_stamp
