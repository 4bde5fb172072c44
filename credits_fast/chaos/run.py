"""A run: scenario after scenario, each on a stage of its own, judged when everything has come to rest."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from redis.exceptions import RedisError

from credits_fast.chaos.arena import Arena, Expectation, Size, StuckError
from credits_fast.chaos.checker import Terms, Verdict, judge
from credits_fast.chaos.gathering import gathered, nothing_to_reverse
from credits_fast.chaos.load import Load
from credits_fast.chaos.stage import WORKER, Ledgers, Stage, open_ledgers, open_stage
from credits_fast.chaos.watch import Watch
from credits_fast.chaos.wishes import Wishes
from credits_fast.errors import CreditsError, UnavailableError

if TYPE_CHECKING:
    from credits_fast.chaos.history import Attempt
    from credits_fast.chaos.scenario import Scenario

__all__ = ["Played", "Step", "play", "run"]

_log = logging.getLogger(__name__)

_PLAY_S: Final = 300.0
"""Seconds a scenario may play, before what is left is judged."""
_START_S: Final = 30.0


class Step(NamedTuple):
    """How far a run is.

    Attributes:
        done: Scenarios that were played.
        total: Scenarios there are in this round.
        title: The one that is played now.
        seed: From which seed.
    """

    done: int
    total: int
    title: str
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """A scenario that was played.

    Attributes:
        scenario: Which.
        seed: From which seed.
        faults: How often each fault happened.
        observations: What else was counted on the way, by name.
        verdict: What the checker found.
        expectations: What the scenario expected besides.
        surprises: Errors the library does not document, by their name.
        servers: Name and version of both servers.
        seconds: How long it took.
    """

    scenario: Scenario
    seed: int
    servers: Mapping[str, str]
    faults: Counter[str]
    observations: Counter[str]
    verdict: Verdict
    expectations: Sequence[Expectation]
    seconds: float
    surprises: Counter[str] = field(default_factory=Counter[str])

    @property
    def problems(self) -> list[str]:
        """What was promised and is not so; nothing where all is."""
        examined = self.verdict.examined
        return [
            *(f"{name}: {examined[name].shown}" for name in self.verdict.broken),
            *(f"expected: {one.what}" for one in self.expectations if not one.is_met),
            *(f"{times} times {what}" for what, times in self.surprises.items()),
        ]

    @property
    def is_kept(self) -> bool:
        """Whether the promise was kept."""
        return not self.problems


async def run(
    scenarios: Sequence[Scenario],
    size: Size,
    seed: int,
    *,
    minutes: float = 0.0,
    watch: Callable[[Step], None] = lambda _step: None,
    record: Callable[[Played, Sequence[Attempt]], None] = lambda _played, _history: None,
) -> list[Played]:
    """Play scenarios, and again from the next seed while there is time.

    Args:
        scenarios: What is played, in this order; at least once.
        size: How much of each.
        seed: For every choice.
        minutes: No round begins after so many.
        watch: Told before every scenario.
        record: Given every scenario that was played, and every attempt of it: they are not kept.

    Raises:
        ConfigurationError: A server is not installed.
        UnavailableError: A server does not start, or cannot be reached to be judged.
    """
    played: list[Played] = []
    deadline = time.monotonic() + minutes * 60
    async with open_ledgers() as ledgers:
        while True:
            for number, scenario in enumerate(scenarios):
                watch(Step(number, len(scenarios), scenario.name, seed))
                one, history = await play(scenario, size, seed, ledgers)
                record(one, history)
                played.append(one)
            watch(Step(len(scenarios), len(scenarios), "done", seed))
            if time.monotonic() >= deadline:
                return played
            seed += 1


async def play(
    scenario: Scenario,
    size: Size,
    seed: int,
    ledgers: Ledgers,
    *,
    worker: Sequence[str] = WORKER,
) -> tuple[Played, Sequence[Attempt]]:
    """Play one scenario, and judge it; and every attempt of it.

    Args:
        scenario: What is played.
        size: How much of it.
        seed: For every choice.
        ledgers: Where its database is made.
        worker: What a worker process runs.

    Raises:
        ConfigurationError: A server is not installed.
        UnavailableError: A server does not start, or cannot be reached to be judged.
    """
    began, word = time.monotonic(), f"{seed}/{scenario.name}"
    async with open_stage(
        ledgers,
        f"chaos_{time.monotonic_ns()}",
        seed=word,
        is_clustered=scenario.is_clustered,
        valkey_options=scenario.valkey_options,
        persistent=scenario.persistent,
        config=scenario.config,
        engines=scenario.engines,
        program=worker,
    ) as stage:
        arena = _arena(scenario, size, word, stage)
        await stage.create_users(arena.wishes.openings)
        async with arena.watch.watching(), stage.supervised(arena.observations):
            await _start_workers(arena, scenario.workers)
            await _played(arena, scenario)
            recorded_ms = await _at_rest(arena, scenario)
        evidence = await gathered(
            stage.engine,
            stage.database,
            arena.wishes.openings,
            arena.watch.samples,
            recorded_ms,
        )
        terms = Terms(
            may_lose=arena.may_lose,
            may_move=arena.may_move,
            may_forget=arena.may_forget,
            may_remember=arena.may_remember,
            outages=arena.outages,
            limit_ms=scenario.limit_s * 1_000,
        )
        faults = arena.faults + stage.hops.faults
        arena.expect("something was broken", is_met=faults.total() > 0)
        arena.expect("calls were acknowledged", is_met=arena.load.acknowledged > 0)
        played = Played(
            scenario=scenario,
            seed=seed,
            servers=await stage.versions(),
            faults=faults,
            observations=arena.observations,
            verdict=judge(arena.load.history, evidence, terms),
            expectations=arena.expectations,
            surprises=arena.load.surprises,
            seconds=time.monotonic() - began,
        )
        return played, arena.load.history


def _arena(scenario: Scenario, size: Size, word: str, stage: Stage) -> Arena:
    wishes = Wishes(word, scenario.mix)
    return Arena(
        stage=stage,
        load=Load(stage.engines, wishes, scenario.manners, word),
        wishes=wishes,
        watch=Watch(stage.database),
        chance=random.Random(f"{word}/scenario"),
        size=size,
    )


async def _start_workers(arena: Arena, number: int) -> None:
    """Start workers, and wait until they have everything between them."""
    for _ in range(number):
        await arena.stage.start_worker()

    async def have_all() -> bool:
        return all(sample.owner is not None for sample in await arena.watch.look())

    await arena.until(have_all, "the workers carry every partition")


async def _played(arena: Arena, scenario: Scenario) -> None:
    """Play; what it waits for in vain is an expectation that is not met."""
    try:
        async with asyncio.timeout(_PLAY_S):
            await scenario.play(arena)
    except* (StuckError, CreditsError, RedisError) as stopped:
        for problem in _leaves(stopped):
            arena.expect(f"it goes on to its end: {problem}", is_met=False)
    except* TimeoutError:
        arena.expect(f"it ends within {_PLAY_S:.0f} s", is_met=False)


def _leaves(group: BaseExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


async def _at_rest(arena: Arena, scenario: Scenario) -> float | None:
    """End the faults, settle what can be, and wait; milliseconds until all was recorded."""
    arena.stage.hops.clear()
    began = time.monotonic()
    await arena.load.settle()
    try:
        await arena.stage.engine.wait_recorded(timeout_ms=int(scenario.limit_s * 1_000))
        await arena.until(lambda: nothing_to_reverse(arena.stage.database), "keys take effect once")
    except (UnavailableError, StuckError) as error:
        _log.warning("%s: %s", scenario.name, error)
        return None
    return (time.monotonic() - began) * 1_000
