"""Users in bulk: inserted into the ledger by one statement, loaded into Redis by the product's script."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import text

from credits_fast.amounts import MICROS_PER_CREDIT
from credits_fast.benchmarks.workload import OPENING, user_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from credits_fast.protocol.keys import PartitionKeys, Partitions
    from credits_fast.servers.lane import Lane

__all__ = ["insert_users", "load_users"]

_AT_ONCE: Final = 500
_FRESH: Final = (b"%d" % (OPENING * MICROS_PER_CREDIT), b"0", b"0", b"", b"", b"")
"""Balance, reserved, sequence, tier, expiry and open holds of a user who was never charged."""


async def insert_users(database: AsyncEngine, first: int, last: int, table: str = "users") -> None:
    """Insert the users with these numbers into a table, each with the first credits."""
    statement = text(
        f"INSERT INTO {table} (id, credits)"  # a table of our own
        " SELECT 'user-' || number, CAST(:opening AS numeric)"
        " FROM generate_series(CAST(:first AS integer), CAST(:last AS integer)) AS number"
    )
    async with database.begin() as connection:
        await connection.execute(statement, {"opening": OPENING, "first": first, "last": last})


async def load_users(lane: Lane, partitions: Partitions, numbers: Iterable[int]) -> None:
    """Load users who were never charged, as the first charge of each would.

    Raises:
        RuntimeError: The script did not load one of them.
    """
    waiting: dict[int, list[bytes]] = {}
    for number in numbers:
        user = user_name(number).encode()
        partition = partitions.of(user)
        users = waiting.setdefault(partition.number, [])
        users.append(user)
        if len(users) == _AT_ONCE:
            await _load(lane, partition, waiting.pop(partition.number))
    for number, users in waiting.items():
        await _load(lane, partitions[number], users)


async def _load(lane: Lane, partition: PartitionKeys, users: list[bytes]) -> None:
    generation = await lane.execute(b"HGET", partition.meta, b"generation") or b"0"
    keys = (partition.gate, partition.meta, partition.holds, *map(partition.account, users))
    arguments = [part for user in users for part in (user, *_FRESH)]
    replies = await lane.run_script("load", keys, (generation, *arguments))
    wrong = {*replies} - {b"loaded", b"present"}
    if wrong:
        raise RuntimeError(f"users cannot be loaded: {wrong!r}")
