"""Work that takes its stage down when the program is told to stop, by Ctrl-C or by SIGTERM."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["until_told"]

_T = TypeVar("_T")


async def until_told(work: Coroutine[Any, Any, _T]) -> _T:
    """What the work gives; told to stop by SIGTERM it is cancelled, and takes its stage down.

    Raises:
        KeyboardInterrupt: It was told to stop.
    """
    task, loop = asyncio.ensure_future(work), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:  # Ctrl-C: the runner cancels us, and we the work
        task.cancel()
        await asyncio.wait({task})
        raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
    if task.cancelled():
        raise KeyboardInterrupt
    return task.result()
