"""Holds whose time is over and that nobody asks for: the ledger knows them, the script finishes them.

The ledger may be behind, and its reader's clock may differ from the server's: then the script finds
nothing to do, or they are found the next time. What it finishes is journalled like any decision, so the
ledger learns of it by the same way as of all others.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, TypeAlias

from credits_fast.calls.accounts import Accounts
from credits_fast.calls.expiry import expire_holds
from credits_fast.errors import (
    CreditsError,
    PartitionFencedError,
    RedisUnavailableError,
    UnavailableError,
)
from credits_fast.ledger.records import Records

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncEngine

    from credits_fast.protocol.keys import PartitionKeys, Partitions
    from credits_fast.servers.routing import Router

__all__ = ["Overdue"]

_HoldsOf: TypeAlias = dict[bytes, list[bytes]]
"""Ids of holds by their users."""

_log = logging.getLogger(__name__)

HOLDS_MAX: Final = 500
"""Holds that are looked at at once."""


class Overdue:
    """Finishes holds whose time is over.

    Args:
        partitions: The partitions as configured.
        router: Which lane leads to a partition.
        database: The ledger.
    """

    def __init__(self, partitions: Partitions, router: Router, database: AsyncEngine) -> None:
        self._partitions = partitions
        self._router = router
        self._records = Records(database)
        self._accounts = Accounts(self._records, router)
        self._told: set[bytes] = set()  # of whom it was said that their holds cannot be finished

    async def finish(self, numbers: Collection[int], now: datetime, now_us: bytes) -> int:
        """How many holds were finished, in these partitions; a bounded number is looked at.

        A partition that is closed or whose server is away has its turn another time.

        Args:
            numbers: The partitions.
            now: By which moment a hold of the ledger is over.
            now_us: Microseconds since 1970, b"" for the server's own time.

        Raises:
            DatabaseUnavailableError: The database cannot be reached.
        """
        overdue = await self._records.overdue_holds(numbers, now, most=HOLDS_MAX)
        finished = 0
        for number, holds_of in overdue.items():
            named = {
                user.encode(): [hold_id.encode() for hold_id in ids]
                for user, ids in holds_of.items()
            }
            try:
                finished += await self._expire(self._partitions[number], named, now_us)
            except (PartitionFencedError, RedisUnavailableError) as error:
                _log.debug("holds of partition %d are finished another time: %s", number, error)
        return finished

    async def _expire(self, partition: PartitionKeys, holds_of: _HoldsOf, now_us: bytes) -> int:
        done = await self._expire_known(partition, holds_of, now_us)
        cold = {user: holds_of[user] for user, number in done.items() if number is None}
        loaded = {user: ids for user, ids in cold.items() if await self._load(partition, user)}
        if loaded:
            done |= await self._expire_known(partition, loaded, now_us)
        return sum(number or 0 for number in done.values())

    async def _load(self, partition: PartitionKeys, user: bytes) -> bool:
        """Whether Redis knows the account now; one that cannot be loaded keeps nobody else waiting."""
        try:
            await self._accounts.load(partition, user)
        except UnavailableError:
            raise
        except CreditsError as error:
            self._tell(user, error)
            return False
        return True

    async def _expire_known(
        self, partition: PartitionKeys, holds_of: _HoldsOf, now_us: bytes
    ) -> dict[bytes, int | None]:
        """As `expire_holds`; an account that does not fit its holds keeps nobody else waiting."""
        try:
            numbers = await expire_holds(self._router, partition, holds_of, now_us)
        except UnavailableError:
            raise
        except CreditsError as error:
            if len(holds_of) == 1:
                (user,) = holds_of
                self._tell(user, error)
                return {user: 0}
        else:
            known = dict(zip(holds_of, numbers, strict=True))
            self._told -= {user for user, number in known.items() if number is not None}
            return known
        done: dict[bytes, int | None] = {}
        for user, ids in holds_of.items():
            done |= await self._expire_known(partition, {user: ids}, now_us)
        return done

    def _tell(self, user: bytes, error: CreditsError) -> None:
        """Say it once: they are looked at again every second, until somebody has mended the account."""
        level = logging.DEBUG if user in self._told else logging.ERROR
        self._told.add(user)
        _log.log(level, "holds of user %r cannot be finished: %s", user.decode(), error)
