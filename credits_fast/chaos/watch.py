"""Positions over time: how far every partition is recorded, and by whom, asked again and again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import select

from credits_fast.chaos.evidence import PositionSample
from credits_fast.errors import UnavailableError
from credits_fast.ledger.database import reading
from credits_fast.protocol.entries import EntryId
from credits_fast.sync.tables import sync_partitions

if TYPE_CHECKING:
    from sqlalchemy import Executable, Row
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["Watch"]

_PAUSE_S: Final = 0.05
_SAMPLES_MAX: Final = 500_000


class Watch:
    """Keeps the positions of what goes on inside `watching`.

    Attributes:
        samples: What was seen, in the order of looking.
    """

    def __init__(self, database: AsyncEngine) -> None:
        self.samples: list[PositionSample] = []
        self._database = database
        self._one_at_a_time = (
            asyncio.Lock()
        )  # else an older look might be written down after a newer

    @asynccontextmanager
    async def watching(self) -> AsyncGenerator[None, None]:
        """Look until the work inside is done, and once more then."""
        task = asyncio.create_task(self._repeat())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        with suppress(UnavailableError):
            await self.look()

    @asynccontextmanager
    async def looking_away(self) -> AsyncGenerator[None, None]:
        """Nobody looks while the work inside sets the ledger back, and what was seen before is forgotten.

        An older ledger is at older positions: that is the fault, not what comes of it.
        """
        async with self._one_at_a_time:
            yield
            self.samples.clear()

    async def look(self) -> list[PositionSample]:
        """The positions of all partitions now.

        Raises:
            DatabaseUnavailableError: The database cannot be reached.
        """
        columns = sync_partitions.c
        query = select(
            columns.partition, columns.epoch, columns.last_id, columns.fence, columns.owner
        ).order_by(columns.partition)
        async with self._one_at_a_time:
            return self._kept(await self._read(query))

    async def _read(self, query: Executable) -> Sequence[Row[Any]]:
        async with reading(self._database) as connection:
            found: Sequence[Row[Any]] = (await connection.execute(query)).all()
        return found

    def _kept(self, rows: Sequence[Row[Any]]) -> list[PositionSample]:
        seen = [
            PositionSample(row.partition, row.epoch, _pair(row.last_id), row.fence, row.owner)
            for row in rows
        ]
        if len(self.samples) < _SAMPLES_MAX:
            self.samples += seen
        return seen

    async def _repeat(self) -> None:
        while True:
            with suppress(UnavailableError):
                await self.look()
            await asyncio.sleep(_PAUSE_S)


def _pair(last_id: str) -> tuple[int, int]:
    epoch, sequence = EntryId.parse(last_id)
    return epoch, sequence
