"""Concurrent calls of one turn of the event loop become one script call per partition and verb.

Calls that arrive while nothing is in flight go out in the next turn, without a timer: a lone call
waits for nobody. While a partition has a script in flight, its calls gather, and so batches grow
with the load. All scripts of a turn leave in one write to each server; a server that has to be
waited for keeps nobody else's waiting.

A batch that another node of a cluster should have had, or whose script the server has dropped, was not
executed: it is sent again as it is.

A call is refused, answered or cancelled alone: one bad item never fails its batch, and a cancelled
caller's reply is dropped, never given to a neighbour.
"""

from __future__ import annotations

import asyncio
from collections import deque
from copy import copy
from dataclasses import dataclass, field
from itertools import repeat
from typing import TYPE_CHECKING, Final, NamedTuple

from redis.exceptions import AskError, NoScriptError

from credits_fast.errors import (
    CreditsError,
    EngineClosedError,
    OutcomeUnknownError,
    RedisUnavailableError,
    ScriptFailedError,
)
from credits_fast.lane import LaneLostError
from credits_fast.server_errors import is_not_allowed, is_not_executed, translated
from credits_fast.wire import request

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from credits_fast.keys import PartitionKeys
    from credits_fast.lane import Lane, Reply
    from credits_fast.routing import Router
    from credits_fast.wire import Call

__all__ = ["BATCH_MAX", "Dispatcher"]

BATCH_MAX: Final = 128
"""Items of one script call: large enough for most of the gain, small enough to end in a
millisecond or two, for the server does nothing else meanwhile."""
FLIGHTS_MAX: Final = 2
"""Script calls of one partition and verb in flight at once."""
REPEATS_MAX: Final = 10
"""How often a batch is sent again because the server had dropped the script or redirects it."""
GRACE_MS: Final = 1_000
"""How much longer than its time to live a record stays in Redis, for clocks that differ a little
after a failover; the record itself says when it ends."""


class Dispatcher:
    """Sends calls to the servers of their partitions; see the module.

    Attributes:
        router: Which lane leads to a partition; opened and closed with the dispatcher.

    Args:
        router: Which lane leads to a partition.
        timeout_ms: Milliseconds until an unanswered script call gives the connection up.
        clock: Microseconds since 1970 for every call, None for the server's own time.
        grace_ms: How much longer than its time to live a record stays in Redis.
    """

    def __init__(
        self,
        router: Router,
        *,
        timeout_ms: int = 5_000,
        clock: Callable[[], int] | None = None,
        grace_ms: int = GRACE_MS,
    ) -> None:
        self.router = router
        self._timeout = timeout_ms / 1_000
        self._clock = clock
        self._grace = b"%d" % grace_ms
        self._queues: dict[tuple[str, int], _Queue] = {}
        self._ready: list[_Queue] = []
        self.flights = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_sending = False
        self._is_open = False
        self._loop: asyncio.AbstractEventLoop

    def submit(self, call: Call) -> asyncio.Future[bytes]:
        """The script's reply to one item, to be awaited.

        Raises:
            RedisUnavailableError: It was certainly not executed.
            OutcomeUnknownError: It may have been executed; the same call again settles it.
            UnsuitableServerError: The server's access rules forbid it.
            ScriptFailedError: The script ended with an error of its own.
            EngineClosedError: The dispatcher is not open.
        """
        self._check_open()
        place = (call.script, call.partition.number)
        queue = self._queues.get(place)
        if queue is None:
            queue = self._queues[place] = _Queue(place, call.partition)
        answer: asyncio.Future[bytes] = self._loop.create_future()
        queue.calls.append(_Waiting(call, answer))
        if not queue.is_ready:
            self.wake(queue)
        return answer

    def now_us(self) -> bytes:
        """The moment for the next script call, b"" for the server's own time."""
        return b"" if self._clock is None else b"%d" % self._clock()

    def open(self) -> None:
        """From now on calls of this event loop are sent; connections are made when needed."""
        self._loop = asyncio.get_running_loop()
        self._is_open = True
        self.router.open()

    async def close(self) -> None:
        """Give up what is waiting and end the connections."""
        self._is_open = False
        for queue in self._queues.values():
            queue.refuse(EngineClosedError("the engine was closed before the call was sent"))
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.router.close()

    def wake(self, queue: _Queue) -> None:
        """Have the calls of a queue sent in the next turn, if it may have another flight."""
        if queue.waits_for_lane or not (self._is_open and self._may_depart(queue)):
            return
        queue.is_ready = True
        self._ready.append(queue)
        if not self._is_sending:
            self._is_sending = True
            self._start(self._send())

    async def _send(self) -> None:
        """One turn: everything that is ready, in one write to each server."""
        self._is_sending = False
        flights: dict[Lane, list[_Flight]] = {}
        for queue in self._take_ready():
            lane = self.router.open_lane(queue.partition)
            if lane is None:
                queue.waits_for_lane = True
                self._start(self._send_later(queue))
            else:
                flights.setdefault(lane, []).extend(self._board(lane, queue))
        departures = [self._depart(*departing) for departing in flights.items()]
        if len(departures) == 1:
            await departures[0]
        else:
            await asyncio.gather(*departures)

    async def _send_later(self, queue: _Queue) -> None:
        """The calls of a queue, once its lane is open."""
        try:
            lane = await self.router.lane(queue.partition)
        except CreditsError as error:
            queue.refuse(error)
            return
        finally:
            queue.waits_for_lane = False
        await self._depart(lane, self._board(lane, queue))

    def _check_open(self) -> None:
        if not self._is_open:
            raise EngineClosedError("the engine is not open; enter it with `async with`")

    def _may_depart(self, queue: _Queue) -> bool:
        """Whether the queue may have another flight.

        A second one only where it is full, or where the server would have nothing to do while the
        first one's reply is read: else it is worth more to let calls gather.
        """
        if queue.flights == 0:
            return True
        if queue.flights >= FLIGHTS_MAX:
            return False
        return self.flights < FLIGHTS_MAX or len(queue.calls) >= BATCH_MAX

    def _take_ready(self) -> list[_Queue]:
        queues, self._ready = self._ready, []
        for queue in queues:
            queue.is_ready = False
        return queues

    def _board(self, lane: Lane, queue: _Queue) -> list[_Flight]:
        flights: list[_Flight] = []
        while self._may_depart(queue) and (waiting := queue.next_batch()):
            queue.flights += 1
            self.flights += 1
            flights.append(_Flight(self, lane, queue, waiting))
        return flights

    async def _depart(self, lane: Lane, flights: list[_Flight]) -> None:
        if not flights:
            return
        now_us = self.now_us()
        requests = [flight.packed(now_us, self._grace) for flight in flights]
        late = TimeoutError(f"no reply within {self._timeout:g} s")
        for flight in flights:
            flight.timer = self._loop.call_later(self._timeout, lane.abandon, late)
        await lane.send(requests, [flight.landed for flight in flights])

    def send_again(self, flight: _Flight, refusal: AskError | NoScriptError) -> None:
        """Send the same batch once more: to where it belongs, or with the scripts brought back."""
        self._start(self._send_again(flight, refusal))

    async def _send_again(self, flight: _Flight, refusal: AskError | NoScriptError) -> None:
        flight.repeats += 1
        try:
            if flight.repeats > REPEATS_MAX:
                raise RedisUnavailableError(f"the server says it again and again: {refusal}")
            if isinstance(refusal, AskError):
                flight.lane = await self.router.redirected(flight.lane, refusal)
            else:
                await flight.lane.load_scripts()
        except CreditsError as error:
            flight.failed(repeat(error))
            return
        await self._depart(flight.lane, [flight])

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Waiting(NamedTuple):
    call: Call
    answer: asyncio.Future[bytes]


@dataclass(slots=True)
class _Queue:
    """The calls of one verb and partition that have not been sent, and how many flights it has."""

    place: tuple[str, int]
    partition: PartitionKeys
    calls: deque[_Waiting] = field(default_factory=deque[_Waiting])
    flights: int = 0
    is_ready: bool = False
    waits_for_lane: bool = False

    def next_batch(self) -> list[_Waiting]:
        """The next calls whose callers still wait, as many as a batch may have."""
        batch: list[_Waiting] = []
        while self.calls and len(batch) < BATCH_MAX:
            waiting = self.calls.popleft()
            if not waiting.answer.done():
                batch.append(waiting)
        return batch

    def refuse(self, error: CreditsError) -> None:
        """Let every caller know that nothing was sent."""
        for waiting in self.calls:
            if not waiting.answer.done():
                waiting.answer.set_exception(copy(error))
        self.calls.clear()


@dataclass(slots=True)
class _Flight:
    """A batch on its way."""

    dispatcher: Dispatcher
    lane: Lane
    queue: _Queue
    waiting: list[_Waiting]
    repeats: int = 0
    timer: asyncio.TimerHandle | None = None

    def packed(self, now_us: bytes, grace_ms: bytes) -> bytes:
        sha = self.lane.scripts[self.queue.place[0]].sha
        return request(sha, [waiting.call for waiting in self.waiting], now_us, grace_ms)

    def landed(self, reply: Reply) -> None:
        if self.timer is not None:
            self.timer.cancel()
        if isinstance(reply, AskError | NoScriptError):
            self.dispatcher.send_again(self, reply)
            return
        if not isinstance(reply, Exception):
            for waiting, answer in zip(self.waiting, reply, strict=True):
                if not waiting.answer.done():
                    waiting.answer.set_result(answer)
            self._ended()
        elif isinstance(reply, LaneLostError):
            why = str(reply)
            self.failed(OutcomeUnknownError(w.call.operation_id, why) for w in self.waiting)
        elif is_not_allowed(reply) or is_not_executed(reply):
            self.dispatcher.router.doubt(self.lane, reply)
            self.failed(repeat(translated(reply, self.lane.address)))
        else:
            self.failed(repeat(ScriptFailedError(f"script {self.queue.place[0]}: {reply}")))

    def failed(self, errors: Iterable[CreditsError]) -> None:
        """End with an error for each caller."""
        for waiting, error in zip(self.waiting, errors, strict=False):
            if not waiting.answer.done():
                waiting.answer.set_exception(copy(error))
        self._ended()

    def _ended(self) -> None:
        self.queue.flights -= 1
        self.dispatcher.flights -= 1
        if self.queue.calls:
            self.dispatcher.wake(self.queue)
