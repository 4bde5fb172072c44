"""Intents that nobody has settled: the program that wrote them has died, or Redis was away.

What is committed is done, what never will be is given back, and what is still open has its turn another
time. What is done is journalled like any decision, and marked when the worker records it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from credits_fast.calls.accounts import Accounts
from credits_fast.calls.admission import Admission
from credits_fast.calls.carrying import Carrier
from credits_fast.calls.commits import Commits
from credits_fast.calls.courier import Courier
from credits_fast.calls.dispatch import Dispatcher
from credits_fast.calls.levels import Levels
from credits_fast.calls.operations import Operations
from credits_fast.config import CreditsConfig
from credits_fast.ledger.records import Records
from credits_fast.servers.pressure import Pressure
from credits_fast.servers.routing import router_to
from credits_fast.transactions.intents import Intents
from credits_fast.transactions.settling import Settling

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncEngine

    from credits_fast.config import SyncConfig
    from credits_fast.protocol.keys import Partitions
    from credits_fast.servers.endpoints import AnyEndpoint

__all__ = ["Undecided"]

INTENTS_MAX: Final = 20
"""Intents that are looked at in a row; each may wait a moment for a transaction that is open."""


class Undecided:
    """Settles intents that nobody has settled, on a way of its own to Redis.

    Args:
        endpoint: The Redis server, or the cluster.
        partitions: The partitions as configured.
        database: The ledger.
        config: How long an application has to settle its intents itself.
    """

    def __init__(
        self,
        endpoint: AnyEndpoint,
        partitions: Partitions,
        database: AsyncEngine,
        config: SyncConfig,
    ) -> None:
        self._grace = timedelta(milliseconds=config.intent_grace_ms)
        # What an intent does is priced already, so no prices are needed.
        whole = CreditsConfig.parse({"costs": {}, "membership": {"tiers": {}}})
        router = router_to(endpoint, is_patient=False)
        records = Records(database)
        self._dispatcher = Dispatcher(router)
        self._accounts = Accounts(records, router)
        self._intents = Intents(database)
        pressure = Pressure(whole.back_pressure, router, partitions)
        self._courier = Courier(
            self._dispatcher,
            Admission(partitions, database, router),
            self._accounts,
            whole.retry,
        )
        self._settling = Settling(
            whole,
            intents=self._intents,
            operations=Operations(whole, partitions),
            carrier=Carrier(
                whole,
                courier=self._courier,
                levels=Levels(
                    whole.acknowledge,
                    self._dispatcher,
                    endpoint,
                    partitions,
                    clock=None,
                    pressure=pressure,
                ),
                commits=Commits(database, records),
                records=records,
                router=router,
            ),
            records=records,
            router=router,
        )
        self._is_possible = database.dialect.name == "postgresql"
        self._is_open = False
        self._after = ""

    @property
    def stood_in(self) -> int:
        """How many charges were made without their hold, which Redis had lost."""
        return self._settling.stood_in

    async def settle(self, numbers: Collection[int], now: datetime) -> int:
        """How many intents of these partitions were looked at: a bounded number.

        Args:
            numbers: The partitions.
            now: The time.

        Raises:
            DatabaseUnavailableError: The database cannot be reached.
        """
        if not self._is_possible:
            return 0
        page = await self._intents.unsettled(
            numbers, now - self._grace, self._after, most=INTENTS_MAX
        )
        if page.found and not self._is_open:
            self._dispatcher.open()
            self._is_open = True
        for intent in page.found:
            await self._settling.sweep(intent)
        self._after = page.last_id
        return len(page.found)

    async def close(self) -> None:
        """End the connections."""
        await self._accounts.close()
        await self._courier.close()
        await self._dispatcher.close()
