"""Every open hold in Redis beside the ledger's, and beside the account that counts it, under load.

The accounts are read before and after the holds: of whom they are the same, nothing was under way in
between, for whatever changes a hold changes the account's last entry.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import select

from credits_fast.calls.open_holds import open_holds
from credits_fast.checks.agreement import Difference, single_holds_apart
from credits_fast.checks.held import held_accounts
from credits_fast.errors import ScriptFailedError
from credits_fast.ledger.database import reading
from credits_fast.ledger.recording import positions
from credits_fast.sync.tables import holds, micros_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sqlalchemy.ext.asyncio import AsyncEngine

    from credits_fast.protocol.keys import PartitionKeys, Partitions
    from credits_fast.servers.routing import Router

__all__ = ["ComparedHolds", "HoldComparison"]


class ComparedHolds(NamedTuple):
    """What came of a partition.

    Attributes:
        compared: How many open holds of Redis were looked at.
        differing: Users, and what does not agree.
        problem: Why its holds cannot be read, "" where they can.
    """

    compared: int
    differing: dict[str, Difference]
    problem: str = ""


class HoldComparison:
    """Compares open holds, one partition after the other.

    Args:
        router: The way to Redis.
        database: The ledger.
        partitions: The partitions as configured.
    """

    def __init__(self, router: Router, database: AsyncEngine, partitions: Partitions) -> None:
        self._router = router
        self._database = database
        self._partitions = partitions

    async def compare(self, partition: PartitionKeys, holders: Collection[str]) -> ComparedHolds:
        """What does not agree in a partition.

        Args:
            partition: The partition.
            holders: Users of it whose accounts say that they have open holds.

        Raises:
            DatabaseUnavailableError: The database cannot be reached.
            RedisUnavailableError: A server cannot be reached.
        """
        try:
            named = (await self._there(partition)).keys() | (await self._recorded(partition)).keys()
            names = sorted(named | {*holders})
            before = await held_accounts(self._router, self._partitions, names)
            there = await self._there(partition)
        except ScriptFailedError as error:
            return ComparedHolds(0, {}, str(error))
        position = (await positions(self._database)).get(partition.number)
        recorded = await self._recorded(partition)
        after = await held_accounts(self._router, self._partitions, names)
        differing: dict[str, Difference] = {}
        for user, first, last in zip(names, before, after, strict=True):
            found = single_holds_apart(
                first, there.get(user, {}), recorded.get(user, {}), position, last
            )
            if found is not None:
                differing[user] = found
        return ComparedHolds(sum(map(len, there.values())), differing)

    async def _there(self, partition: PartitionKeys) -> Mapping[str, Mapping[str, int]]:
        """What each open hold in Redis keeps, by its user and id."""
        found = await open_holds(partial(self._router.execute, partition), partition)
        return {
            user: {one.hold_id: one.reserved for one in of_user.values()}
            for user, of_user in found.items()
        }

    async def _recorded(self, partition: PartitionKeys) -> Mapping[str, Mapping[str, int]]:
        """The same of the ledger's."""
        columns = holds.c
        query = select(columns.user_id, columns.id, micros_of(columns.reserved)).where(
            columns.state == "reserved", columns.partition == partition.number
        )
        found: dict[str, dict[str, int]] = defaultdict(dict)
        async with reading(self._database) as connection:
            for user, hold_id, amount in await connection.execute(query):
                found[user][hold_id] = int(amount)
        return found
