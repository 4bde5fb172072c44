"""Work that several callers want at the same time, done once for all of them."""

from __future__ import annotations

import asyncio
from copy import copy
from typing import TYPE_CHECKING, Any

from credits_fast.errors import CreditsError, EngineClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["Once"]


class Once:
    """Does one piece of work of a name at a time; who wants it meanwhile waits for its end."""

    def __init__(self) -> None:
        self._tasks: dict[bytes, asyncio.Task[None]] = {}

    async def do(self, name: bytes, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Nothing, when the work is done: this caller's, or the one that is under way.

        A caller that is cancelled leaves it to the others.

        Args:
            name: What it is about.
            work: Does it.

        Raises:
            CreditsError: What ended the work, a copy for each caller.
            EngineClosedError: The engine was closed meanwhile.
        """
        task = self._tasks.get(name)
        if task is None:
            task = asyncio.create_task(work())
            self._tasks[name] = task
            task.add_done_callback(lambda done: self._ended(name, done))
        await asyncio.wait((task,))  # `shield` would take its cancellation for the caller's own
        if task.cancelled():
            raise EngineClosedError("the engine was closed meanwhile")
        try:
            task.result()
        except CreditsError as error:
            raise copy(error) from error

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = [*self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, name: bytes, task: asyncio.Task[None]) -> None:
        del self._tasks[name]
        if not task.cancelled():
            task.exception()  # looked at, even where every caller has gone
