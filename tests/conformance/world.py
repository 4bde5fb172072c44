"""Where a case happens: an engine with its ledger and worker, and a clock that stands still.

Ordinary cases run on fakeredis and SQLite in memory. Where it matters that things happen at the same
time, or which commands a server sees, a case runs on the real Valkey; where an SQL transaction of the
application takes part, on a real PostgreSQL too.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final

from credits_fast import CreditsConfig
from credits_fast.ledger.database import connect
from credits_fast.servers.lane import Endpoint, Lane
from credits_fast.sync.worker import SyncWorker
from credits_fast.testing import Clock, CreditsKit, kit_on, open_kit
from tests.conformance.cases import Case, Object, decoded
from tests.servers import Servers

__all__ = ["SURVIVES", "World", "config_values", "open_world"]

SURVIVES: Final = "audit_survives_rollback"
"""The flag of a case whose steps run inside an SQL transaction that is rolled back."""

_PARTITIONS: Final = 2
_ACTION: Final = "generate-post"
_ACTION_PRICE: Final = 10


@dataclass
class World:
    """A case's surroundings.

    Attributes:
        case: The case.
        config: Its configuration.
        clock: The time of everything.
        kit: The engine and what is around it.
    """

    case: Case
    config: CreditsConfig
    servers: Servers
    clock: Clock
    kit: CreditsKit
    stack: AsyncExitStack

    async def reset(self) -> None:
        """Begin anew, with nothing in it."""
        await self.stack.aclose()
        self.kit = await self.stack.enter_async_context(_kit(self))

    async def restart_worker(self) -> None:
        """End the worker and start another one, as after a repair."""
        await self.kit.worker.close()
        engine = self.kit.engine
        worker = SyncWorker(
            engine.endpoint,
            self.kit.database,
            engine.partitions,
            engine.config.sync,
            clock=self.clock,
        )
        self.stack.push_async_callback(worker.close)
        self.kit = replace(self.kit, worker=worker)


@asynccontextmanager
async def open_world(
    case: Case, config: CreditsConfig, servers: Servers
) -> AsyncGenerator[World, None]:
    """The surroundings of a case, with nothing in them yet."""
    async with AsyncExitStack() as stack:
        # The kit is opened next; there is no world without one afterwards.
        world = World(case, config, servers, Clock(case.now), None, stack)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        world.kit = await stack.enter_async_context(_kit(world))
        yield world


def config_values(case: Case) -> Object:
    """The case's configuration; few partitions open faster, and they are no part of the reference."""
    given: Object = decoded(case.given)
    values = given.get("config")
    if not isinstance(values, dict):
        values = _default_config(case)
    return {"partitions": _PARTITIONS, **values}


def _default_config(case: Case) -> Object:
    """For cases about the store: a configuration that knows the tiers they mention."""
    mentioned = [user.get("membershipTier") for user in case.given.get("users", ())]
    for step in case.steps:
        args: Object = step.get("args") or {}
        mentioned.append(args.get("membershipTier"))
    tiers = {tier: level for level, tier in enumerate(dict.fromkeys(mentioned)) if tier}
    return {
        "costs": {_ACTION: {"default": _ACTION_PRICE}},
        "membership": {"tiers": tiers, "creditsCaps": dict.fromkeys(tiers, 0)},
    }


def _needs_valkey(case: Case) -> bool:
    return (
        case.group == "transaction-passthrough"
        or "record_calls" in case.given
        or _needs_postgresql(case)
        or any("concurrent" in step for step in case.when)
    )


def _needs_postgresql(case: Case) -> bool:
    if "faults" in case.given:
        return False  # they are written for SQLite
    return "storage" in case.given or SURVIVES in case.expected


@asynccontextmanager
async def _kit(world: World) -> AsyncGenerator[CreditsKit, None]:
    if not _needs_valkey(world.case):
        async with open_kit(world.config, clock=world.clock) as kit:
            yield kit
        return
    endpoint = Endpoint.from_url(world.servers.redis_url)
    lane = await Lane.open(endpoint)
    await lane.execute(b"FLUSHALL")
    await lane.close()
    async with AsyncExitStack() as stack:
        url = "sqlite://"
        if _needs_postgresql(world.case):
            emptied = await world.servers.empty_database("asyncpg")
            url = emptied.render_as_string(hide_password=False)
        database = connect(url)
        stack.push_async_callback(database.dispose)
        yield await stack.enter_async_context(kit_on(world.config, endpoint, database, world.clock))
