"""How long it takes until what was acknowledged stands in the ledger, measured from outside.

Every few milliseconds the ends of all journals are noted, with the time of asking; a note is answered
when the ledger's positions have reached every one of them. What is measured is therefore the slowest
partition, and never less than what a caller would have waited for its row.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from credits_fast.ledger.recording import journal_ends, positions

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from credits_fast.engine import CreditsEngine
    from credits_fast.protocol.entries import EntryId

__all__ = ["LagGauge", "LagSample"]

_PAUSE_S: Final = 0.02


class LagSample(NamedTuple):
    """One measurement.

    Attributes:
        at: When the ends of the journals were asked for, by the monotonic clock, in seconds.
        ms: How long it took until the ledger had them, in milliseconds.
    """

    at: float
    ms: float


class _Note(NamedTuple):
    at: float
    ends: Mapping[int, EntryId]


class LagGauge:
    """Measures the lag of what goes on inside `measuring`.

    Attributes:
        samples: What was measured.

    Args:
        engine: The engine whose charges are recorded.
        database: The ledger.
        pause_s: Seconds between two looks.
    """

    def __init__(
        self, engine: CreditsEngine, database: AsyncEngine, *, pause_s: float = _PAUSE_S
    ) -> None:
        self.samples: list[LagSample] = []
        self._engine = engine
        self._database = database
        self._pause_s = pause_s
        self._open: deque[_Note] = deque()

    @property
    def samples_ms(self) -> list[float]:
        """What was measured, in milliseconds."""
        return [sample.ms for sample in self.samples]

    @property
    def now_ms(self) -> float:
        """How long the oldest note has been waiting; the last sample where none waits."""
        if self._open:
            return (time.monotonic() - self._open[0].at) * 1_000
        return self.samples[-1].ms if self.samples else 0.0

    @asynccontextmanager
    async def measuring(self) -> AsyncGenerator[None, None]:
        """Measure beside the work inside, which ends when everything is recorded."""
        task = asyncio.create_task(self._measure())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._settle()

    async def _measure(self) -> None:
        while True:
            await self._note()
            await self._settle()
            await asyncio.sleep(self._pause_s)

    async def _note(self) -> None:
        at = time.monotonic()
        ends = await journal_ends(self._engine.router, self._engine.partitions)
        self._open.append(_Note(at, ends))

    async def _settle(self) -> None:
        recorded = await positions(self._database)
        now = time.monotonic()
        while self._open and _is_reached(self._open[0].ends, recorded):
            at = self._open.popleft().at
            self.samples.append(LagSample(at, (now - at) * 1_000))


def _is_reached(ends: Mapping[int, EntryId], recorded: Mapping[int, EntryId]) -> bool:
    return all(recorded[number] >= last for number, last in ends.items())
