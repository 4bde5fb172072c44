"""Scenarios that break the worker: killed at any moment, or asleep for longer than its lease."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

from credits_fast.chaos.proxy import Weather
from credits_fast.chaos.scenario import Scenario

if TYPE_CHECKING:
    from credits_fast.chaos.arena import Arena

__all__ = ["WORKER_KILL", "ZOMBIE_WORKER"]

_BEGIN: Final = b"BEGIN"
_REJECTED: Final = "was taken from this worker"


async def _worker_kill(arena: Arena) -> None:
    """The worker is killed after some of its rows, at a random moment of its step, and started anew."""
    (worker,) = arena.stage.workers
    async with arena.load.asking():
        for _ in range(arena.size.rounds):
            await _carried(arena, arena.chance.randint(1, arena.size.calls))
            await arena.turns(500)
            arena.faults["SIGKILL of the worker"] += 1
            await worker.kill()
            worker.restart()
        await _carried(arena, 1)


async def _carried(arena: Arena, decisions: int) -> None:
    """Wait until the positions have moved by so many entries and a few, and calls have gone on."""
    before = await _recorded_entries(arena)
    entries = max(1, decisions // 10)

    async def have_moved() -> bool:
        return await _recorded_entries(arena) >= before + entries

    await arena.until(have_moved, "the worker records")


async def _recorded_entries(arena: Arena) -> int:
    return sum(sample.last[1] for sample in await arena.watch.look())


async def _zombie_worker(arena: Arena) -> None:
    """A worker stands still, or its commit does, until another has its work; then it goes on."""
    async with arena.load.asking():
        for number in range(arena.size.rounds):
            for stands_still in (_asleep, _held):
                await arena.until(partial(_all_carried, arena), "both workers carry")
                before = {sample.partition: sample.fence for sample in await arena.watch.look()}
                await arena.turns(200)
                with stands_still(arena, number):
                    await arena.until(partial(_taken_over, arena, before), "another takes over")
                await arena.calls()
    refused = sum(worker.said(_REJECTED) for worker in arena.stage.workers)
    arena.observations["commits of a zombie refused"] += refused
    arena.expect("a commit of a zombie was refused", is_met=refused > 0)


@contextmanager
def _asleep(arena: Arena, number: int) -> Generator[None, None, None]:
    """One of the workers stands still, wherever it is."""
    worker = arena.stage.workers[number % 2]
    arena.faults["SIGSTOP of a worker"] += 1
    worker.pause()
    try:
        yield
    finally:
        worker.wake()


@contextmanager
def _held(arena: Arena, _number: int) -> Generator[None, None, None]:
    """The next commit of either worker is held on its way, before it begins in the database."""
    hop = arena.stage.hops.worker_sql
    hop.requests = Weather(holds=_BEGIN)
    try:
        yield
    finally:
        hop.clear()


async def _taken_over(arena: Arena, before: dict[int, int]) -> bool:
    """Whether a partition has been claimed since."""
    return any(one.fence > before[one.partition] for one in await arena.watch.look())


async def _all_carried(arena: Arena) -> bool:
    """Whether every partition has an owner, and there are two of them."""
    owners = [sample.owner for sample in await arena.watch.look()]
    return None not in owners and len({*owners}) == len(arena.stage.workers)


WORKER_KILL: Final = Scenario(
    name="worker-kill",
    promise="A worker that is killed at any moment loses no entry and writes none twice.",
    play=_worker_kill,
    is_in_smoke=True,
    config={"sync": {"batch_max": 40, "lease_ms": 200, "retain_ms": 0, "poll_ms": 2}},
)
ZOMBIE_WORKER: Final = Scenario(
    name="zombie-worker",
    promise="A worker that slept longer than its lease and wakes writes nothing of what another has taken.",
    play=_zombie_worker,
    workers=2,
    config={"sync": {"lease_ms": 500}},
)
