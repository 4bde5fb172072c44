"""Scenarios that break the database: killed, away, its answers lost, deadlocks and conflicting commits."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from credits_fast.chaos.history import Outcome
from credits_fast.chaos.proxy import Weather
from credits_fast.chaos.scenario import Scenario
from credits_fast.chaos.wishes import CREDIT, Mix
from credits_fast.errors import UnavailableError
from credits_fast.ledger.database import writing

if TYPE_CHECKING:
    from credits_fast.chaos.arena import Arena
    from credits_fast.chaos.history import Attempt
    from credits_fast.chaos.stage import WorkerProcess

__all__ = [
    "COMMIT_AMBIGUOUS",
    "CONFLICTING_COMMITS",
    "PG_DOWN",
    "PG_DOWN_UNTIL_FULL",
    "PG_IMMEDIATE_STOP",
]

_COMMIT: Final = b"COMMIT"
_TOUCH: Final = text("UPDATE users SET updated_at = now() WHERE id = :id")
_DEADLOCK, _CONFLICT = "deadlock detected", "could not serialize access"
_BACK_PRESSURE: Final = "BACK_PRESSURE"
_CAP: Final = 200
"""Entries a journal may have."""
_MEDDLERS: Final = 8
_TOUCHED: Final = 3
_APART_S: Final = 0.01
"""Seconds between two updates of a commit at most, so that others come between them."""


async def _immediate_stop(arena: Arena) -> None:
    """The database ends as in a crash while the worker writes, and recovers from its log."""
    server = arena.stage.postgresql
    async with arena.load.asking():
        for _ in range(max(1, arena.size.rounds // 2)):  # a recovery takes seconds
            await arena.calls()
            await arena.turns(200)
            async with arena.outage("immediate stop of the database"):
                await asyncio.to_thread(server.stop, signal.SIGQUIT)
                await server.start()
            await arena.acknowledgements(10)
            await arena.recorded()


async def _commit_ambiguous(arena: Arena) -> None:
    """The answers to the worker's commits are eaten with the connection: some are in, nobody knows."""
    hop = arena.stage.hops.worker_sql
    async with arena.load.asking():
        for _ in range(arena.size.rounds):
            hop.replies = Weather(eats=0.3, after=_COMMIT)
            await arena.calls()
            hop.clear()
            await arena.calls(arena.size.calls // 5)
    arena.expect("answers to commits were eaten", is_met=hop.faults["replies eaten"] > 0)


async def _down(arena: Arena) -> None:
    """The database is away for a while; charges go on, the journal grows and is drained afterwards."""
    server, served = arena.stage.postgresql, 0
    async with arena.load.asking():
        await arena.calls()
        for _ in range(max(1, arena.size.rounds // 2)):
            async with arena.outage("the database is away"):
                await asyncio.to_thread(server.stop, signal.SIGINT)
                before = arena.load.acknowledged
                await arena.calls(arena.size.calls * 2)
                served += arena.load.acknowledged - before
                await server.start()
            await arena.acknowledgements(10)
            await arena.recorded()
    arena.observations["acknowledged without a database"] += served
    arena.expect("charges went on without the database", is_met=served > 0)


async def _down_until_full(arena: Arena) -> None:
    """The database is away until every journal is as long as it may be; then it is back."""
    stage = arena.stage
    async with arena.load.asking():
        await arena.calls()
        for _ in range(max(1, arena.size.rounds // 2)):
            async with arena.outage("the database is away until the journals are full"):
                await asyncio.to_thread(stage.postgresql.stop, signal.SIGINT)
                await arena.until(partial(_all_full, arena), "every journal is full")
                full, full_ns = len(arena.load.history), time.monotonic_ns()
                await arena.calls(arena.size.calls // 2)
                since = [one for one in arena.load.history[full:] if one.invoked_ns > full_ns]
                lengths = await _journal_lengths(arena)
                await stage.postgresql.start()
            _expect_full(arena, since, lengths)
            await arena.acknowledgements(10)
            await arena.recorded()


def _expect_full(arena: Arena, since: Sequence[Attempt], lengths: Sequence[int]) -> None:
    refused = sum(one.code == _BACK_PRESSURE for one in since)
    beyond = sum(one.outcome is Outcome.ACKNOWLEDGED and not one.replayed for one in since)
    arena.observations["charges refused by a full journal"] += refused
    arena.expect("a full journal refuses charges", is_met=refused > 0)
    arena.expect(f"a full journal takes no charge: {beyond}", is_met=beyond == 0)
    arena.expect(
        f"no journal is longer than {_CAP} entries, and none shorter: {lengths}",
        is_met={*lengths} == {_CAP},
    )


async def _all_full(arena: Arena) -> bool:
    return min(await _journal_lengths(arena)) >= _CAP


async def _journal_lengths(arena: Arena) -> list[int]:
    stage = arena.stage
    return [await stage.valkey.ask("XLEN", one.journal) for one in stage.engine.partitions]


async def _conflicting_commits(arena: Arena) -> None:
    """Somebody else updates the same users in the opposite order; then commits must be serializable too."""
    (worker,) = arena.stage.workers
    async with arena.load.asking(), _meddlers(arena):
        await _until_met(arena, worker, _DEADLOCK)
        await _be_serializable(arena)
        await worker.kill()
        worker.restart()
        await _until_met(arena, worker, _CONFLICT)
    for fault in (_DEADLOCK, _CONFLICT):
        arena.faults[f"the worker met: {fault}"] += worker.said(fault)


async def _until_met(arena: Arena, worker: WorkerProcess, fault: str) -> None:
    """Have callers ask until the worker has met this, and for as long as the size says."""
    for _ in range(max(1, arena.size.rounds // 2)):
        await arena.calls()

    async def has_met() -> bool:
        return worker.said(fault) > 0

    await arena.until(has_met, f"the worker meets: {fault}")


async def _be_serializable(arena: Arena) -> None:
    """From now on every new connection of this database makes serializable commits."""
    name = arena.stage.database.url.database
    async with writing(arena.stage.database) as connection:
        setting = "default_transaction_isolation TO 'serializable'"
        await connection.execute(text(f"ALTER DATABASE {name} SET {setting}"))


@asynccontextmanager
async def _meddlers(arena: Arena) -> AsyncGenerator[None, None]:
    """Others at work while the work inside is done."""
    tasks = [asyncio.create_task(_meddle(arena)) for _ in range(_MEDDLERS)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _meddle(arena: Arena) -> None:
    """Update a few users in one commit, the later ones first, again and again."""
    users = sorted(arena.wishes.openings)
    while True:
        some = sorted(arena.chance.sample(users, _TOUCHED), reverse=True)
        with suppress(UnavailableError, DBAPIError):
            async with writing(arena.stage.database) as connection:
                for user in some:
                    await connection.execute(_TOUCH, {"id": user})
                    await asyncio.sleep(arena.chance.uniform(0, _APART_S))


PG_IMMEDIATE_STOP: Final = Scenario(
    name="pg-immediate-stop",
    promise="A database that crashes while it records loses nothing and gets nothing twice.",
    play=_immediate_stop,
)
COMMIT_AMBIGUOUS: Final = Scenario(
    name="pg-commit-ambiguous",
    promise="A commit whose answer is lost is neither repeated nor left out.",
    play=_commit_ambiguous,
    is_in_smoke=True,
)
PG_DOWN: Final = Scenario(
    name="pg-down",
    promise="A database that is away costs nothing but lag: charges go on, and all is recorded afterwards.",
    play=_down,
)
PG_DOWN_UNTIL_FULL: Final = Scenario(
    name="pg-down-until-full",
    promise=(
        "A database that is away until the journals are full has charges refused exactly from there, and "
        "everything is recorded afterwards."
    ),
    play=_down_until_full,
    config={"back_pressure": {"journal_max": _CAP}, "sync": {"retain_ms": 0, "retain_max": 1}},
    # What gives credits back, or charges what was held before, goes beyond.
    mix=Mix(charges=1.0, keyed=1.0, opening_micros=1_000 * CREDIT),
)
CONFLICTING_COMMITS: Final = Scenario(
    name="conflicting-commits",
    promise="Deadlocks and conflicts with commits of others are repeated whole, and nothing is lost.",
    play=_conflicting_commits,
    mix=Mix(users=12),
)
