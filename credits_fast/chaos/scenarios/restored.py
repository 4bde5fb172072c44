"""A scenario in which the ledger loses history: an older backup takes its place."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from credits_fast.chaos.scenario import Scenario
from credits_fast.chaos.stage import Ledgers

if TYPE_CHECKING:
    from credits_fast.chaos.arena import Arena

__all__ = ["PG_RESTORE_OLD"]

_END_CONNECTIONS: Final = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'"
)


async def _restore_old(arena: Arena) -> None:
    """The ledger is set back to a copy of a while ago, while charges go on; the journal holds the rest."""
    name, backup = _name(arena), f"{_name(arena)}_backup"
    ledgers = Ledgers(arena.stage.postgresql)
    for _ in range(max(1, arena.size.rounds // 2)):
        async with arena.load.asking():
            await arena.calls()
            async with _nobody_connected(arena, ledgers, name):
                await ledgers.administer(f"CREATE DATABASE {backup} TEMPLATE {name}")
            await arena.calls()
            await arena.recorded()
            rows = await _recorded_entries(arena)
            async with arena.outage("the ledger set back to an older backup"):
                async with _nobody_connected(arena, ledgers, name):
                    await ledgers.administer(f"DROP DATABASE {name}")
                    await ledgers.administer(f"ALTER DATABASE {backup} RENAME TO {name}")
                arena.expect(
                    "the ledger was set back", is_met=await _recorded_entries(arena) < rows
                )
            await arena.calls()
            await arena.recorded()


def _name(arena: Arena) -> str:
    return str(arena.stage.database.url.database)


async def _recorded_entries(arena: Arena) -> int:
    return sum(sample.last[1] for sample in await arena.watch.look())


@asynccontextmanager
async def _nobody_connected(
    arena: Arena, ledgers: Ledgers, name: str
) -> AsyncGenerator[None, None]:
    """The database without a connection, as it has to be to be copied or put aside."""
    hops = (arena.stage.hops.engine_sql, arena.stage.hops.worker_sql)
    async with arena.watch.looking_away():
        for hop in hops:
            hop.is_refusing = True
            hop.reset()
        await arena.stage.database.dispose()
        await ledgers.administer(_END_CONNECTIONS.format(name))
        yield
        for hop in hops:
            hop.clear()


PG_RESTORE_OLD: Final = Scenario(
    name="pg-restore-old",
    promise=(
        "A ledger that is set back to a backup the journal still reaches gets everything again by "
        "itself, and nothing twice."
    ),
    play=_restore_old,
    config={"sync": {"retain_ms": 600_000}},
)
