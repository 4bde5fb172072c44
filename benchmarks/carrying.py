"""The worker at work: how fast it drains a backlog, and whether it keeps up while charges are made.

It is the program applications run, in a process of its own. Draining is timed from the moment it owns
the partitions until the ledger's positions have reached the ends of the journals: starting Python and
connecting is not counted, everything else is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

from sqlalchemy import func, select

from credits_fast.benchmarks.loops import closed_loop
from credits_fast.benchmarks.readings import Carried, Cpu
from credits_fast.lag import LagGauge
from credits_fast.ledger.database import reading
from credits_fast.ledger.recording import behind, journal_ends
from credits_fast.sync.tables import sync_partitions

if TYPE_CHECKING:
    from credits_fast.benchmarks.product import Product
    from credits_fast.benchmarks.stage import Stage
    from credits_fast.benchmarks.workload import Request
    from credits_fast.servers.processes import ServerProcess

__all__ = ["carry", "drain"]

_LOOK_S: Final = 0.005
_GAUGE_S: Final = 0.05
_ENDS_WITHIN_S: Final = 600
"""Seconds until everything must be recorded; a worker that stands still is an error."""


async def drain(stage: Stage, worker: ServerProcess) -> float:
    """Seconds in which a worker that has just been started records what is in the journals now.

    Raises:
        TimeoutError: It does not.
        RuntimeError: It ended.
    """
    await _until(worker, lambda: _owns(stage))
    begun = time.perf_counter()
    await _until(worker, lambda: _is_recorded(stage))
    return time.perf_counter() - begun


async def carry(
    stage: Stage,
    worker: ServerProcess,
    product: Product,
    requests: Sequence[Request],
    callers: int,
) -> Carried:
    """Make charges while a worker records them; it has nothing else to record.

    Raises:
        TimeoutError: The worker does not come to an end with them.
        RuntimeError: It ended.
    """
    gauge = LagGauge(stage.engine, stage.database, pause_s=_GAUGE_S)
    before = await _cpu(stage, worker)
    begun = time.monotonic()
    async with gauge.measuring():
        answered = await closed_loop(product.ask, requests, callers)
        drained_from = time.monotonic()
        await _until(worker, lambda: _is_recorded(stage))
    ended = time.monotonic()
    after = await _cpu(stage, worker)
    product.books.note(answered.outcomes)
    number = len(answered.outcomes)
    return Carried(
        number,
        number / (ended - begun),
        ended - drained_from,
        [(sample.at - begun, sample.ms) for sample in gauge.samples],
        _between(before, after)._replace(client=answered.cpu_s),
    )


async def _until(worker: ServerProcess, is_so: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(_ENDS_WITHIN_S):
        while not await is_so():
            if not worker.is_running:
                raise RuntimeError(f"the worker has ended; its log:\n{worker.log_tail()}")
            await asyncio.sleep(_LOOK_S)


async def _owns(stage: Stage) -> bool:
    """Whether the worker owns every partition; the one before has released them."""
    columns = sync_partitions.c
    async with reading(stage.database) as connection:
        row = (await connection.execute(select(func.count(), func.count(columns.owner)))).one()
    return row[0] == row[1] > 0


async def _is_recorded(stage: Stage) -> bool:
    ends = await journal_ends(stage.engine.router, stage.engine.partitions)
    return not await behind(stage.database, ends)


async def _cpu(stage: Stage, worker: ServerProcess) -> Cpu:
    redis = await stage.redis_cpu_s()
    return Cpu(time.process_time(), redis, stage.worker_cpu_s(worker), stage.sql_cpu_s())


def _between(before: Cpu, after: Cpu) -> Cpu:
    parts = zip(before, after, strict=True)
    return Cpu(*(None if one is None or two is None else two - one for one, two in parts))  # type: ignore[arg-type]  # the client's is never None
