"""The whole run, in order: weigh, record, contest round by round, grow, catch up, prove.

Recording comes first, while the ledger and the tables of the COPY floor are equally empty. In a round
of contests every contestant is measured, redis-py and the product in turns; nobody else works
meanwhile. What the contests charged is recorded afterwards, and the proof closes the run.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from credits_fast.benchmarks.arrivals import arrivals, number_within
from credits_fast.benchmarks.atomic import CONNECTIONS, Atomic
from credits_fast.benchmarks.bare import Bare
from credits_fast.benchmarks.carrying import carry, drain
from credits_fast.benchmarks.ceiling import Ceiling
from credits_fast.benchmarks.copy_floor import CopyFloor
from credits_fast.benchmarks.loops import Answered, closed_loop, open_loop
from credits_fast.benchmarks.naive import Naive
from credits_fast.benchmarks.product import Product
from credits_fast.benchmarks.proof import Proof, prove
from credits_fast.benchmarks.readings import (
    ATOMIC,
    BESIDE_HOLD,
    CEILING,
    COPY,
    HOLD,
    NAIVE,
    OPEN_LOOP,
    PRODUCT,
    Contest,
    Reading,
    Readings,
)
from credits_fast.benchmarks.stage import Stage, open_stage
from credits_fast.benchmarks.users import insert_users, load_users
from credits_fast.benchmarks.weighing import weigh
from credits_fast.benchmarks.workload import WORKLOADS, draw, draw_trace
from credits_fast.servers.lane import Endpoint, Lane

if TYPE_CHECKING:
    from credits_fast.benchmarks.plan import Plan
    from credits_fast.benchmarks.workload import Request, Workload
    from credits_fast.settings import Settings
    from credits_fast.types import CaptureResult, ChargeResult

__all__ = ["Outcome", "Step", "run"]

_UNIFORM: Final = WORKLOADS["uniform"]
_HOT: Final = WORKLOADS["one hot user"]
_TRACE: Final = "trace"
_CEILINGS: Final = (1, 64)
_WARM_UP: Final = 500
_TURNS: Final = 2
"""How often a round has redis-py and the product in turn: what the host does meanwhile meets both."""
_HELD_IN_A_TURN: Final = 3_000
"""Holds in a turn at most: many for each caller, yet over before the host is another."""


class Step(NamedTuple):
    """How far a run is.

    Attributes:
        done: Measurements made.
        total: Measurements there are.
        title: What is measured next.
    """

    done: int
    total: int
    title: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything a run gave.

    Attributes:
        plan: How much was measured.
        readings: What was found.
        proof: Whether the sums agree.
        facts: What the servers say of themselves.
        seconds: How long it took.
        notes: What could not be measured, and why.
    """

    plan: Plan
    readings: Readings
    proof: Proof
    facts: dict[str, Any]
    seconds: float
    notes: list[str]


async def run(
    plan: Plan,
    servers: Settings,
    watch: Callable[[Step], None],
    trace: Sequence[tuple[int, int]] = (),
) -> Outcome:
    """Measure everything of a plan.

    Args:
        plan: How much.
        servers: The servers' URLs; those of our own where none is named.
        watch: Is told how far it is, between measurements, never during one.
        trace: Tokens read and written of real requests, to be charged by a formula.

    Raises:
        CreditsError: A server cannot be used.
        RuntimeError: A contestant did not do its work.
        TimeoutError: A measurement did not end.
    """
    begun = time.monotonic()
    async with open_stage(servers) as stage, _opened(stage, plan, watch, trace) as running:
        await running.weigh()
        await running.record()
        await running.contest()
        await running.grow()
        await running.catch_up()
        proof = await running.prove()
    seconds = time.monotonic() - begun
    return Outcome(plan, running.readings, proof, stage.facts, seconds, running.notes)


@dataclass(slots=True)
class _Contestants:
    """All who are measured; redis-py comes last, with its many connections."""

    product: Product
    atomic: Atomic
    floor: CopyFloor
    bare: Bare
    ceiling: Ceiling
    lane: Lane
    naive: dict[int, Naive]
    stack: AsyncExitStack

    async def open_naive(self, stage: Stage, plan: Plan) -> None:
        """Connect redis-py: a server gives every new connection buffers, which would be weighed too."""
        for callers in (1, *plan.callers):
            naive = Naive(stage.redis_url, stage.config.namespace, callers)
            self.stack.push_async_callback(naive.close)
            await naive.open(plan.users)
            self.naive[callers] = naive


@asynccontextmanager
async def _opened(
    stage: Stage, plan: Plan, watch: Callable[[Step], None], trace: Sequence[tuple[int, int]]
) -> AsyncGenerator[_Run, None]:
    """The run, with its contestants."""
    async with AsyncExitStack() as stack:
        lane = await Lane.open(Endpoint.from_url(stage.redis_url))
        stack.push_async_callback(lane.close)
        await insert_users(stage.database, 1, plan.users)
        await load_users(lane, stage.engine.partitions, range(1, plan.users + 1))
        atomic, floor = Atomic(stage.database), CopyFloor(stage.database)
        for baseline in (atomic, floor):
            stack.push_async_callback(baseline.close)
            await baseline.open(plan.users)
        bare = await Bare.connect(stage.config, stage.redis_url)
        stack.push_async_callback(bare.close)
        await bare.open(plan.users)
        ceiling = Ceiling(bare, stage.redis_url, stage.folder)
        contestants = _Contestants(
            Product(stage.engine), atomic, floor, bare, ceiling, lane, {}, stack
        )
        yield _Run(stage, plan, watch, trace[: plan.trace_max], contestants)


class _Run:
    """A run under way."""

    def __init__(
        self,
        stage: Stage,
        plan: Plan,
        watch: Callable[[Step], None],
        trace: Sequence[tuple[int, int]],
        contestants: _Contestants,
    ) -> None:
        self.readings = Readings()
        self.notes: list[str] = []
        self._stage = stage
        self._plan = plan
        self._watch = watch
        self._trace = trace
        self._contestants = contestants
        self._users = plan.users
        self._charged_by_naive = 0
        self._charged_by_atomic = 0
        self._total = plan.sections(has_trace=bool(trace))
        self._steps = count()
        self._tags = count()

    async def weigh(self) -> None:
        """Memory in Redis."""
        plan = self._plan
        for number in range(plan.rounds):
            self._tell("memory")
            first = plan.users + 1 + number * plan.weighed
            found = await weigh(
                self._contestants.bare,
                self._stage.redis_url,
                range(first, first + plan.weighed),
                self._tag(),
            )
            self.readings.weights.append(found)

    async def record(self) -> None:
        """A worker drains a backlog, then keeps up with charges; then COPY of the rows it wrote."""
        plan, product = self._plan, self._contestants.product
        for _ in range(plan.rounds):
            self._tell("a backlog is drained")
            requests = self._draw(_UNIFORM, plan.backlog)
            answered = await closed_loop(product.ask, requests, plan.mix_callers)
            product.books.note(answered.outcomes)
            async with self._stage.worker() as worker:
                seconds = await drain(self._stage, worker)
                self.readings.sync_per_s.append(plan.backlog / seconds)
                self._tell("charged and recorded at once")
                requests = self._draw(_UNIFORM, plan.recorded)
                found = await carry(self._stage, worker, product, requests, plan.mix_callers)
                self.readings.carried.append(found)
            self._tell(COPY)
            number, seconds = await self._contestants.floor.copy_new()
            self.readings.copy_per_s.append(number / seconds)

    async def contest(self) -> None:
        """Every contestant, round by round."""
        plan = self._plan
        await self._contestants.open_naive(self._stage, plan)
        await self._warm_up()
        for _ in range(plan.rounds):
            await self._beside_redis_py(1, plan.lone_calls, plan.lone_calls)
            for callers in plan.callers:
                await self._beside_redis_py(callers, plan.baseline_charges, plan.charges)
                if callers == plan.mix_callers:
                    await self._hold(plan.held, callers)
            for items in _CEILINGS:
                await self._ceiling(items)
            await self._atomic(_UNIFORM, plan.atomic_charges)
            await self._atomic(_HOT, plan.hot_charges)
            for name in plan.mixes:
                await self._charge(WORKLOADS[name])
            await self._open_loop()
            if self._trace:
                await self._charge_trace()

    async def grow(self) -> None:
        """Few users beside ever more of them."""
        plan, product = self._plan, self._contestants.product
        partitions = self._stage.engine.partitions
        for population in plan.populations:
            first, self._users = self._users + 1, population
            await insert_users(self._stage.database, first, population)
            await load_users(self._contestants.lane, partitions, range(first, population + 1))
            for _ in range(plan.rounds):
                rates: list[float] = []
                for users in (plan.users, population):
                    self._tell(f"{users:,} of {population:,} users")
                    requests = self._draw(_UNIFORM, plan.growth_charges, users)
                    answered = await closed_loop(product.ask, requests, plan.mix_callers)
                    product.books.note(answered.outcomes)
                    rates.append(Reading.of(answered).per_s)
                self.readings.growth[population].append((rates[0], rates[1]))

    async def catch_up(self) -> None:
        """Have everything recorded that the contests have charged."""
        self._tell("the rest is recorded", counts=False)
        async with self._stage.worker() as worker:
            await drain(self._stage, worker)

    async def prove(self) -> Proof:
        """Compare all sums."""
        self._tell("proof", counts=False)
        plan, others = self._plan, self._contestants
        weighed = plan.rounds * plan.weighed
        baselines = {
            NAIVE: await others.naive[1].missing(plan.users, self._charged_by_naive),
            ATOMIC: await others.atomic.missing(plan.users, self._charged_by_atomic),
            CEILING: await others.bare.missing(
                plan.users + weighed, others.ceiling.charged + weighed
            ),
        }
        return await prove(self._stage, others.product.books, self._users, baselines)

    # --- one measurement each -------------------------------------------------------------------

    async def _warm_up(self) -> None:
        """Code paths, caches and connections, as they are in a program that has run for a while."""
        others = self._contestants
        for callers, naive in others.naive.items():
            await closed_loop(naive.ask, self._draw(_UNIFORM, _WARM_UP), callers)
            self._charged_by_naive += _WARM_UP
        answered = await closed_loop(others.product.ask, self._draw(_UNIFORM, _WARM_UP), 64)
        others.product.books.note(answered.outcomes)
        held = await closed_loop(others.product.hold, self._draw(_UNIFORM, _WARM_UP), 64)
        others.product.books.note_captures(held.outcomes)
        await closed_loop(others.atomic.ask, self._draw(_UNIFORM, _WARM_UP), CONNECTIONS)
        self._charged_by_atomic += _WARM_UP

    async def _beside_redis_py(self, callers: int, theirs: int, ours: int) -> None:
        self._tell(f"{PRODUCT} beside {NAIVE}, {callers:,} callers")
        naive, product = self._contestants.naive[callers], self._contestants.product
        asked: Answered[object] = Answered()
        charged: Answered[ChargeResult] = Answered()
        for _ in range(_TURNS):
            asked += await closed_loop(naive.ask, self._draw(_UNIFORM, theirs), callers)
            charged += await closed_loop(product.ask, self._draw(_UNIFORM, ours), callers)
        self._charged_by_naive += _TURNS * theirs
        product.books.note(charged.outcomes)
        contests = self.readings.contests
        contests[Contest(NAIVE, _UNIFORM.name, callers)].append(Reading.of(asked))
        contests[Contest(PRODUCT, _UNIFORM.name, callers)].append(Reading.of(charged))

    async def _charge(self, workload: Workload) -> None:
        callers = self._plan.mix_callers
        self._tell(f"{PRODUCT}, {workload.name}, {callers:,} callers")
        product, requests = self._contestants.product, self._draw(workload, self._plan.charges)
        answered = await closed_loop(product.ask, requests, callers)
        product.books.note(answered.outcomes, is_keyed=workload.is_keyed)
        contest = Contest(PRODUCT, workload.name, callers)
        self.readings.contests[contest].append(Reading.of(answered))

    async def _hold(self, number: int, callers: int) -> None:
        """Holds in turns with charges, two for each."""
        self._tell(f"{HOLD}, {callers:,} callers")
        product = self._contestants.product
        held: Answered[CaptureResult] = Answered()
        charged: Answered[ChargeResult] = Answered()
        for done in range(0, number, _HELD_IN_A_TURN):
            turn = min(_HELD_IN_A_TURN, number - done)
            requests = self._draw(_UNIFORM, 2 * turn)
            charged += await closed_loop(product.ask, requests, callers)
            held += await closed_loop(product.hold, self._draw(_UNIFORM, turn), callers)
        product.books.note(charged.outcomes)
        product.books.note_captures(held.outcomes)
        contests = self.readings.contests
        contests[Contest(BESIDE_HOLD, _UNIFORM.name, callers)].append(Reading.of(charged))
        contests[Contest(HOLD, _UNIFORM.name, callers)].append(Reading.of(held))

    async def _charge_trace(self) -> None:
        self._tell("the trace")
        product, callers = self._contestants.product, self._plan.mix_callers
        requests = draw_trace(self._trace, self._tag(), users=self._plan.users)
        answered = await closed_loop(product.ask, requests, callers)
        product.books.note(answered.outcomes)
        self.readings.contests[Contest(PRODUCT, _TRACE, callers)].append(Reading.of(answered))

    async def _ceiling(self, items: int) -> None:
        contest = Contest(CEILING, _UNIFORM.name, items)
        self._tell(f"{contest.who}, {items} a call")
        ceiling = self._contestants.ceiling
        if not ceiling.is_possible:
            self._note("the server's ceiling is not measured through TLS")
            return
        requests = self._draw(_UNIFORM, self._plan.ceiling_items)
        self.readings.contests[contest].append(await ceiling.measure(requests, items))

    async def _atomic(self, workload: Workload, number: int) -> None:
        contest = Contest(ATOMIC, workload.name, CONNECTIONS)
        self._tell(f"{contest.who}, {workload.name}")
        requests = self._draw(workload, number)
        answered = await closed_loop(self._contestants.atomic.ask, requests, CONNECTIONS)
        for outcome in answered.outcomes:
            if outcome is None:
                raise RuntimeError("the atomic statement did not charge a user who has credits")
        self.readings.contests[contest].append(Reading.of(answered))
        self._charged_by_atomic += number

    async def _open_loop(self) -> None:
        """At half of the best rate of this very round."""
        plan, product = self._plan, self._contestants.product
        found = self.readings.contests
        contests = [Contest(PRODUCT, _UNIFORM.name, callers) for callers in (1, *plan.callers)]
        rate = max(found[contest][-1].per_s for contest in contests) / 2
        number = number_within(rate, plan.open_loop_s, most=plan.open_loop_max)
        self._tell(f"open loop, {rate:,.0f} calls a second")
        requests = self._draw(_UNIFORM, number)
        answered = await open_loop(product.ask, requests, arrivals(rate, number))
        product.books.note(answered.outcomes)
        found[Contest(PRODUCT, OPEN_LOOP, 0)].append(Reading.of(answered))

    def _draw(self, workload: Workload, number: int, users: int | None = None) -> list[Request]:
        return draw(workload, self._tag(), users=users or self._plan.users, number=number)

    def _tag(self) -> str:
        return f"{self._plan.name}-{next(self._tags)}"

    def _tell(self, title: str, *, counts: bool = True) -> None:
        done = next(self._steps) if counts else self._total
        self._watch(Step(min(done, self._total), self._total, title))

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
