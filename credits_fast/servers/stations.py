"""A station: where the lane to one server is kept.

A lane is opened when it is first needed and anew when it was lost; whoever asks meanwhile waits for the
same attempt.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from copy import copy
from typing import Generic, TypeVar

from credits_fast.errors import CreditsError, EngineClosedError
from credits_fast.resp import pack
from credits_fast.servers.lane import Endpoint, Lane

__all__ = ["Shared", "Station", "closed_when_answered"]

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Shared(Generic[T]):
    """Work that is done once, whoever asks for it meanwhile."""

    def __init__(self, work: Callable[[], Awaitable[T]]) -> None:
        self._work = work
        self._task: asyncio.Future[T] | None = None
        self._given_up: CreditsError = EngineClosedError("the connections were closed meanwhile")

    def start(self) -> asyncio.Future[T]:
        """Have it done, without waiting."""
        if self._task is None:
            self._task = asyncio.ensure_future(self._work())
            self._task.add_done_callback(self._ended)
        return self._task

    async def __call__(self) -> T:
        """What came of it; a caller that gives up does not disturb the others."""
        task = self.start()
        await asyncio.wait((task,))
        if task.cancelled():
            raise copy(self._given_up)
        error = task.exception()
        if isinstance(error, CreditsError):
            raise copy(error) from error.__cause__
        return task.result()

    async def cancel(self, error: CreditsError | None = None) -> None:
        """Give it up; whoever waits gets the error, that of a closed engine where none is given."""
        self._given_up = error or self._given_up
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))

    def _ended(self, task: asyncio.Future[T]) -> None:
        self._task = None
        if not task.cancelled():
            task.exception()  # looked at, even where every caller has gone


class Station:
    """Where the lane to one server is kept.

    Attributes:
        endpoint: How the server is reached.
        failure: Why it could not be reached the last time, None where it could.

    Args:
        endpoint: How the server is reached.
        is_one_of_many: Whether the others go on when it is away; then that is logged, once.
    """

    def __init__(self, endpoint: Endpoint, *, is_one_of_many: bool = False) -> None:
        self.endpoint = endpoint
        self._is_one_of_many = is_one_of_many
        self.failure: CreditsError | None = None
        self._lane: Lane | None = None
        self._opening = Shared(self._open)

    @property
    def open_lane(self) -> Lane | None:
        """The lane, None where there is none that is open."""
        return self._lane if self._lane is not None and self._lane.is_open else None

    @property
    def has_lost_its_lane(self) -> bool:
        """Whether there was a lane that is not open any more."""
        return self._lane is not None and not self._lane.is_open

    async def lane(self) -> Lane:
        """The lane; a new one where there is none.

        Raises:
            RedisUnavailableError: The server cannot be reached.
            UnsuitableServerError: The server does not let us in.
        """
        return self.open_lane or await self._opening()

    def try_again(self) -> None:
        """Have a lane opened, without waiting for it."""
        self._opening.start()

    def leave(self) -> Lane | None:
        """The lane, given up for another one; the caller closes it."""
        lane, self._lane = self._lane, None
        return lane

    async def close(self, error: CreditsError | None = None) -> None:
        """End the lane; requests still in flight are lost.

        Args:
            error: What whoever waits for the lane gets, that of a closed engine where none is given.
        """
        await self._opening.cancel(error)
        lane = self.leave()
        if lane is not None:
            await lane.close()

    async def _open(self) -> Lane:
        if self._lane is not None:
            await self._lane.close()
            self._lane = None
        try:
            self._lane = await Lane.open(self.endpoint)
        except CreditsError as error:
            if self._is_one_of_many and self.failure is None:
                _log.warning("%s", error)
            self.failure = error
            raise
        if self._is_one_of_many and self.failure is not None:
            _log.info("Redis at %s can be reached again", self._lane.address)
        self.failure = None
        return self._lane


async def closed_when_answered(lane: Lane) -> None:
    """End a lane nobody is sent to any more, once whoever waits on it has been answered.

    Replies come in order: when that of a PING is there, nobody waits any more.
    """
    try:
        await lane.replies(pack((b"PING",)))
    finally:
        await lane.close()
