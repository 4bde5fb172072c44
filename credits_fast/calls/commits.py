"""Callers that wait until the ledger has their transaction or hold: one watcher for all of them.

The watcher asks for the positions of all partitions, at a bounded rate and only while somebody waits.
Where a position has moved, it looks for the transactions that are awaited there, all in one query: once
when a caller comes, and once a commit after that. A position alone would not do, for after lost history
it moves past what was lost.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from credits_fast.errors import DatabaseUnavailableError
from credits_fast.ledger.recording import positions

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from credits_fast.ledger.records import Records
    from credits_fast.protocol.entries import EntryId

__all__ = ["Commits"]

_log = logging.getLogger(__name__)

_PAUSE_S: Final = 0.005
_PAUSE_MAX_S: Final = 0.05
_IDS_MAX: Final = 500
"""Transactions of one query."""


@dataclass(slots=True, eq=False)
class _Awaited:
    partition: int
    transaction_id: str
    found: asyncio.Future[None]
    looked_at: EntryId | None = None


class Commits:
    """Tells callers when their transactions are in the ledger.

    Args:
        database: The ledger.
        records: The same, for the transactions in it.
    """

    def __init__(self, database: AsyncEngine, records: Records) -> None:
        self._database = database
        self._records = records
        self._awaited: set[_Awaited] = set()
        self._watching: asyncio.Task[None] | None = None

    async def wait(self, partition: int, transaction_id: str, timeout_ms: int) -> bool:
        """True as soon as the ledger has the transaction, False where it has not within the time.

        Args:
            partition: The number of its partition.
            transaction_id: The transaction.
            timeout_ms: Milliseconds to wait at most.
        """
        found = asyncio.get_running_loop().create_future()
        awaited = _Awaited(partition, transaction_id, found)
        self._awaited.add(awaited)
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch(), name="credits-fast commits")
            self._watching.add_done_callback(self._ended)
        try:
            async with asyncio.timeout(timeout_ms / 1_000):
                await found
        except TimeoutError:
            return False
        finally:
            self._awaited.discard(awaited)
        return True

    async def close(self) -> None:
        """End the watcher; who still waits learns nothing more."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait((self._watching,))

    async def _watch(self) -> None:
        """Look until nobody waits."""
        pause = _PAUSE_S
        while self._awaited:
            try:
                has_moved = await self._look()
            except DatabaseUnavailableError as error:
                _log.debug("commits cannot be looked for now: %s", error)
                has_moved = False
            pause = _PAUSE_S if has_moved else min(2 * pause, _PAUSE_MAX_S)
            await asyncio.sleep(pause)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._watching = None
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("the watcher of commits failed; the next caller starts it again: %r", error)

    async def _look(self) -> bool:
        """Whether there was anything to look for.

        The positions are asked for first: what is committed in between moves them once more.
        """
        reached = await positions(self._database)
        due = [one for one in self._awaited if one.looked_at != reached.get(one.partition)]
        for start in range(0, len(due), _IDS_MAX):
            part = due[start : start + _IDS_MAX]
            known = await self._records.known({one.transaction_id for one in part})
            for one in part:
                one.looked_at = reached.get(one.partition)
                if one.transaction_id in known and not one.found.done():
                    one.found.set_result(None)
        return bool(due)
