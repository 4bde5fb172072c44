"""Who carries which partition: leases in the ledger, by the database's clock.

A lease is for liveness only: it makes two workers unlikely to carry the same partition. Safety is the
fence: every claim raises it, and every commit compares it, so that a worker that slept through the
end of its lease writes nothing. Alive workers share the partitions evenly.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import delete, func, insert, or_, select, text, update
from sqlalchemy.exc import ProgrammingError

from credits_fast.errors import DatabaseUnavailableError
from credits_fast.ledger.database import database_now_ms, reading, writing
from credits_fast.sync.tables import sync_partitions, sync_workers

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

__all__ = ["Claim", "Leases"]

_log = logging.getLogger(__name__)

_REASON_MAX: Final = 2_000
_RECOVERING: Final = "a recovery was begun and has to be ended: run it again; before: "
"""What the reason begins with while a partition is recovered. No worker claims it then, however long that
takes: it would go on from what the ledger has, whomever the operator trusts."""
_END_STANDING: Final = text(
    """
    SELECT pg_terminate_backend(session.pid)
      FROM pg_stat_activity AS session
     WHERE session.pid <> pg_backend_pid()
       AND session.state = 'active'
       AND session.wait_event_type = 'Client'
       AND session.query_start < clock_timestamp() - make_interval(secs => :lease_s)
       AND EXISTS (
               SELECT 1 FROM pg_locks AS held
                WHERE held.pid = session.pid AND held.granted
                  AND held.relation = to_regclass('sync_partitions')
                  AND held.mode = 'RowExclusiveLock'
           )
       AND EXISTS (
               SELECT 1 FROM sync_partitions
                WHERE owner IS NOT NULL AND lease_until_ms < :now_ms
           )
    """,
)
"""Ends the sessions that have a position locked and wait for the rows of a COPY from a program that stands
still. For the server they are not idle but at work, and no time limit of its own reaches them there."""


@dataclass(slots=True)
class Claim:
    """A partition that is ours, and how far it is recorded.

    Attributes:
        partition: The partition.
        fence: What every commit of ours compares.
        last_id: The last recorded entry.
        last_stamp: Its digest.
    """

    partition: int
    fence: int
    last_id: str
    last_stamp: str


class Leases:
    """The leases of one worker.

    Args:
        database: The ledger.
        worker: The worker's id, its own for each start.
        lease_ms: How long a lease lasts without being renewed.
    """

    def __init__(self, database: AsyncEngine, worker: str, lease_ms: int) -> None:
        self._database = database
        self._worker = worker
        self._lease_ms = lease_ms
        self._is_known = False

    async def balance(self, held: Iterable[int]) -> tuple[set[int], list[Claim]]:
        """Which partitions are still ours, and which have become ours.

        Renews what is held, gives up what is more than a fair share, claims what is free.

        Raises:
            DatabaseUnavailableError: The database cannot be reached.
        """
        columns = sync_partitions.c
        self._is_known = True
        async with writing(self._database, idle_ms=self._lease_ms) as connection:
            await self._beat(connection)
            share = await self._share(connection)
            kept = sorted(held)[:share]
            surplus = set(held) - set(kept)
            if surplus:
                await self._release(connection, surplus)
            ours = columns.owner == self._worker
            await connection.execute(
                update(sync_partitions)
                .where(ours, columns.partition.in_(kept))
                .values(lease_until_ms=database_now_ms() + self._lease_ms),
            )
            query = select(columns.partition).where(ours, columns.partition.in_(kept))
            still = {*await connection.scalars(query)}
            claims = await self._claim(connection, share - len(still), still)
        if len(claims) < share - len(still):
            await self._end_standing()
        if claims:
            numbers = ", ".join(str(claim.partition) for claim in claims)
            _log.info("worker %s carries partitions %s from now on", self._worker, numbers)
        return still, claims

    async def release(self, held: Iterable[int]) -> None:
        """Give up everything, so that another worker need not wait for the leases to end.

        Raises:
            DatabaseUnavailableError: The database cannot be reached.
        """
        if not self._is_known:  # nothing was ever claimed, so there is nothing to give up
            return
        async with writing(self._database, idle_ms=self._lease_ms) as connection:
            await self._release(connection, held)
            await connection.execute(delete(sync_workers).where(sync_workers.c.id == self._worker))

    async def take(self, partition: int) -> Claim | None:
        """A partition that is set aside, taken from whoever has it; None where it is not set aside.

        No worker claims it until it is set aside no more.

        Raises:
            DatabaseUnavailableError: The database cannot be reached.
        """
        columns = sync_partitions.c
        self._is_known = True
        async with writing(self._database, idle_ms=self._lease_ms) as connection:
            query = select(columns.fence, columns.last_id, columns.last_stamp, columns.set_aside)
            is_it = (columns.partition == partition, columns.set_aside.is_not(None))
            row = (await connection.execute(query.where(*is_it).with_for_update())).first()
            if row is None:
                return None
            claim = Claim(partition, 1 + row.fence, row.last_id, row.last_stamp)
            reason = row.set_aside.removeprefix(_RECOVERING)
            await connection.execute(
                update(sync_partitions)
                .where(columns.partition == partition)
                .values(
                    owner=self._worker,
                    fence=claim.fence,
                    lease_until_ms=database_now_ms() + self._lease_ms,
                    set_aside=(_RECOVERING + reason)[:_REASON_MAX],
                ),
            )
        return claim

    async def set_aside(self, partition: int, fence: int, reason: str | None) -> bool:
        """Tell everybody why a partition of ours is not carried; until it is claimed anew.

        Nothing is told where this is False: the partition was taken from us meanwhile.

        Args:
            partition: The partition.
            fence: That of our claim.
            reason: Why, None where it can be carried again.

        Raises:
            DatabaseUnavailableError: The database cannot be reached.
        """
        columns = sync_partitions.c
        async with writing(self._database) as connection:
            told = await connection.execute(
                update(sync_partitions)
                .where(columns.partition == partition, columns.fence == fence)
                .values(set_aside=None if reason is None else reason[:_REASON_MAX]),
            )
        return told.rowcount > 0

    async def owners(self) -> dict[int, str | None]:
        """Who holds which partition, for people."""
        columns = sync_partitions.c
        query = select(columns.partition, columns.owner)
        async with reading(self._database) as connection:
            return {row.partition: row.owner for row in await connection.execute(query)}

    async def _beat(self, connection: AsyncConnection) -> None:
        alive_until = database_now_ms() + self._lease_ms
        columns = sync_workers.c
        beaten = await connection.execute(
            update(sync_workers)
            .where(columns.id == self._worker)
            .values(alive_until_ms=alive_until),
        )
        if not beaten.rowcount:
            values = {"id": self._worker, "alive_until_ms": alive_until}
            await connection.execute(insert(sync_workers).values(values))
            await connection.execute(
                delete(sync_workers).where(columns.alive_until_ms < database_now_ms())
            )

    async def _share(self, connection: AsyncConnection) -> int:
        """Partitions a worker may hold: their number over the workers alive, rounded up."""
        alive = select(func.count()).where(sync_workers.c.alive_until_ms >= database_now_ms())
        workers = int((await connection.scalar(alive)) or 1)
        number = int(
            await connection.scalar(select(func.count()).select_from(sync_partitions)) or 0
        )
        return -(-number // workers)

    async def _claim(
        self, connection: AsyncConnection, count: int, still: Collection[int]
    ) -> list[Claim]:
        """Claim what is free; what is ours by name but not in hand, after a lost reply, is so too."""
        if count <= 0:
            return []
        columns = sync_partitions.c
        free = or_(
            columns.owner.is_(None),
            columns.owner == self._worker,
            columns.lease_until_ms < database_now_ms(),
        )
        is_recovered = func.coalesce(columns.set_aside, "").startswith(_RECOVERING)
        query = (
            select(columns.partition, columns.fence, columns.last_id, columns.last_stamp)
            .where(free, ~is_recovered, columns.partition.not_in(still))
            .order_by(columns.partition)
            .limit(count)
            .with_for_update(skip_locked=True)
        )
        claims = [
            Claim(row.partition, row.fence + 1, row.last_id, row.last_stamp)
            for row in await connection.execute(query)
        ]
        for claim in claims:
            await connection.execute(
                update(sync_partitions)
                .where(columns.partition == claim.partition)
                .values(
                    owner=self._worker,
                    fence=claim.fence,
                    lease_until_ms=database_now_ms() + self._lease_ms,
                    set_aside=None,
                ),
            )
        return claims

    async def _end_standing(self) -> None:
        """End the commit of a worker that stands still in it, so that its partitions can be claimed.

        It is done where leases have ended and yet could not be claimed. Where the database forbids it, the
        partitions stay locked until that worker goes on, or its connection is found to be dead.
        """
        if self._database.dialect.name != "postgresql":
            return
        try:
            async with writing(self._database, idle_ms=self._lease_ms) as connection:
                now_ms = await connection.scalar(select(database_now_ms()))
                limits = {"lease_s": self._lease_ms / 1_000, "now_ms": now_ms}
                ended = (await connection.execute(_END_STANDING, limits)).all()
        except (ProgrammingError, DatabaseUnavailableError) as error:
            _log.warning("a worker that stands still in a commit could not be ended: %s", error)
            return
        if ended:
            _log.warning("ended %d commits of workers that stand still", len(ended))

    async def _release(self, connection: AsyncConnection, partitions: Iterable[int]) -> None:
        columns = sync_partitions.c
        await connection.execute(
            update(sync_partitions)
            .where(columns.owner == self._worker, columns.partition.in_([*partitions]))
            .values(owner=None, lease_until_ms=0),
        )
