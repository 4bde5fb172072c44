"""Scenarios in which the ledger loses history: an older backup takes its place."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

from credits_fast.chaos.checker import Window
from credits_fast.chaos.scenario import Scenario
from credits_fast.chaos.stage import Ledgers
from credits_fast.protocol.entries import EntryId
from credits_fast.sync.recovery import Recovery, set_aside

if TYPE_CHECKING:
    from credits_fast.chaos.arena import Arena
    from credits_fast.servers.lane import Reply

__all__ = ["PG_RESTORE_BEYOND", "PG_RESTORE_OLD"]

_END_CONNECTIONS: Final = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'"
)


async def _restore_old(arena: Arena) -> None:
    """The ledger is set back to a copy of a while ago, while charges go on; the journal holds the rest."""
    for _ in range(max(1, arena.size.rounds // 2)):
        async with arena.load.asking():
            await arena.calls()
            await _back_up(arena)
            await arena.calls()
            await arena.recorded()
            rows = await _recorded_entries(arena)
            async with arena.outage("the ledger set back to an older backup"):
                await _restore(arena)
                arena.expect(
                    "the ledger was set back", is_met=await _recorded_entries(arena) < rows
                )
            await arena.calls()
            await arena.recorded()


async def _restore_beyond(arena: Arena) -> None:
    """The same with a copy that no journal reaches any more; an operator says that Redis is right."""
    arena.may_remember = True
    for _ in range(max(1, arena.size.rounds // 2)):
        async with arena.load.asking():
            await arena.calls()
            from_ns = time.monotonic_ns()
            await arena.recorded()
            await _back_up(arena)
            there = {sample.partition: sample.last for sample in await arena.watch.look()}
            await arena.calls()
            await arena.until(partial(_is_beyond, arena, there), "journals are trimmed")
            async with arena.outage("the ledger set back to a backup older than the journals"):
                await _restore(arena)
                await arena.until(lambda: _all_set_aside(arena), "every partition is set aside")
                arena.may_lose.append(Window(from_ns, await _retained_from_ns(arena)))
                await arena.calls()
                await _trust_redis(arena)
                arena.may_move.append(Window(from_ns, time.monotonic_ns()))
            await arena.calls()
            await arena.recorded()


async def _back_up(arena: Arena) -> None:
    """A copy of the ledger, as it is now."""
    name, ledgers = _name(arena), Ledgers(arena.stage.postgresql)
    async with _nobody_connected(arena, ledgers, name):
        await ledgers.administer(f"CREATE DATABASE {_backup(name)} TEMPLATE {name}")


async def _restore(arena: Arena) -> None:
    """The copy takes the ledger's place."""
    name, ledgers = _name(arena), Ledgers(arena.stage.postgresql)
    async with _nobody_connected(arena, ledgers, name):
        await ledgers.administer(f"DROP DATABASE {name}")
        await ledgers.administer(f"ALTER DATABASE {_backup(name)} RENAME TO {name}")


async def _first_entries(arena: Arena) -> dict[int, Reply]:
    """The first entry that each journal still has, of those that have one."""
    found: dict[int, Reply] = {}
    for partition in arena.stage.engine.partitions:
        entries = await arena.stage.valkey.ask("XRANGE", partition.journal, "-", "+", "COUNT", 1)
        if entries:
            found[partition.number] = entries[0]
    return found


async def _is_beyond(arena: Arena, there: dict[int, tuple[int, int]]) -> bool:
    """Whether no journal has the entry any more that its partition was recorded up to."""
    first = await _first_entries(arena)
    ids = {number: EntryId.parse(entry[0].decode()) for number, entry in first.items()}
    return all(number in ids and ids[number] > last for number, last in there.items())


async def _all_set_aside(arena: Arena) -> bool:
    return len(await set_aside(arena.stage.database)) == len(arena.stage.engine.partitions)


async def _retained_from_ns(arena: Arena) -> int:
    """From when on every journal has everything, by the monotonic clock."""
    first = await _first_entries(arena)
    moments_us = [int(fields[fields.index(b"t") + 1]) for _, fields in first.values()]
    return time.monotonic_ns() - (time.time_ns() - max(moments_us) * 1_000)


async def _trust_redis(arena: Arena) -> None:
    """What `credits-fast recover --trust redis` does."""
    stage = arena.stage
    work = Recovery(stage.engine.partitions, stage.engine.router, stage.database)
    for number in await set_aside(stage.database):
        done = await work.recover(number, "redis")
        arena.observations["users settled"] += done.settled
        arena.observations["transactions adopted"] += done.adopted


def _name(arena: Arena) -> str:
    return str(arena.stage.database.url.database)


def _backup(name: str) -> str:
    return f"{name}_backup"


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
PG_RESTORE_BEYOND: Final = Scenario(
    name="pg-restore-beyond",
    promise=(
        "A ledger that is set back further than the journals reach is written to by nobody until an "
        "operator says what is right; trusting Redis, every balance stands, and of single transactions "
        "those are lost that neither side has."
    ),
    play=_restore_beyond,
)
