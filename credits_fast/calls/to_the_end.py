"""Work that a cancelled caller still waits for, so that it is never left half-way."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["to_the_end"]

_T = TypeVar("_T")


async def to_the_end(work: Coroutine[Any, Any, _T]) -> tuple[_T, bool]:
    """The result, and whether the caller was cancelled meanwhile; it is for it to say so then.

    Raises:
        asyncio.CancelledError: The caller was cancelled, and the work failed.
    """
    task = asyncio.ensure_future(work)
    was_cancelled = False
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            was_cancelled = True
    if was_cancelled and not task.cancelled() and (error := task.exception()) is not None:
        raise asyncio.CancelledError from error
    return task.result(), was_cancelled
