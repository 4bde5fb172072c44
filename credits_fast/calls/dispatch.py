"""Concurrent calls of one turn of the event loop become one script call per verb and server.

Calls that arrive while nothing is in flight go out in the next turn, without a timer: a lone call
waits for nobody. While a verb has a script in flight, its calls gather, and so batches grow with the
load. A script call holds items of several partitions; in a cluster, where each is in a slot of its own, of
one. All scripts of a turn leave in one write to each server; a server that has to be waited for keeps
nobody else's waiting.

Callers that are answered together ask together again, and they and the server would wait for each other in
turn. So what is worth a script call leaves before the turn has ended: a full batch, and where nothing is
in flight the first half of those who were answered together.

A batch that another node of a cluster should have had, or whose script the server has dropped, was not
executed: it is sent again as it is.

Where a level of acknowledgement is asked for, a question to the server follows the scripts of a write,
and what they decided is handed over with its answer. The server serves nobody else on that connection
meanwhile. So such calls have a dispatcher, and connections, of their own; they gather while an answer is
awaited, and one answer serves them all.

A call is refused, answered or cancelled alone: one bad item never fails its batch, and a cancelled
caller's reply is dropped, never given to a neighbour.
"""

from __future__ import annotations

import asyncio
from collections import deque
from copy import copy
from dataclasses import dataclass, field
from itertools import repeat
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from redis.exceptions import AskError, ClusterCrossSlotError, NoScriptError

from credits_fast.errors import (
    CreditsError,
    EngineClosedError,
    OutcomeUnknownError,
    RedisUnavailableError,
    ScriptFailedError,
)
from credits_fast.protocol.wire import DONE, request
from credits_fast.servers.lane import LaneLostError
from credits_fast.servers.server_errors import (
    is_not_allowed,
    is_not_executed,
    server_error,
    translated,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from credits_fast.protocol.keys import PartitionKeys
    from credits_fast.protocol.wire import Call
    from credits_fast.servers.acknowledgement import Confirmation, Receipt
    from credits_fast.servers.lane import Lane, Reply
    from credits_fast.servers.pressure import Pressure
    from credits_fast.servers.routing import Router
    from credits_fast.types import Level

__all__ = ["BATCH_MAX", "Dispatcher"]

BATCH_MAX: Final = 128
"""Items of one script call: large enough for most of the gain, small enough to end in a
millisecond or two, for the server does nothing else meanwhile."""
FLIGHTS_MAX: Final = 2
"""Script calls of one queue in flight at once."""
_HALF_MIN: Final = 8
"""Calls that are worth a script call of their own while others are still to come: what every script call
costs the server is then about half of what they cost it."""
_CALLERS_LAST: Final = 64
"""Departures after which it is forgotten how many calls were in flight together."""
REPEATS_MAX: Final = 10
"""How often a batch is sent again because the server had dropped the script or redirects it."""
_FAILED: Final = b"failed\0"
"""How the reply to an item begins whose partition's journal takes no entry; nothing was written."""


class Dispatcher:
    """Sends calls to the servers of their partitions; see the module.

    Attributes:
        router: Which lane leads to a partition; opened and closed with the dispatcher.

    Args:
        router: Which lane leads to a partition.
        timeout_ms: Milliseconds until an unanswered script call gives the connection up.
        clock: Microseconds since 1970 for every call, None for the server's own time.
        confirmation: What the server is asked behind every write, None for nothing.
        pressure: Whether there is room for more, None where there always is.
    """

    def __init__(
        self,
        router: Router,
        *,
        timeout_ms: int = 5_000,
        clock: Callable[[], int] | None = None,
        confirmation: Confirmation | None = None,
        pressure: Pressure | None = None,
    ) -> None:
        self.router = router
        self._pressure = pressure
        self.confirmation = confirmation
        self._flights_max = FLIGHTS_MAX if confirmation is None else 1
        self._timeout = timeout_ms / 1_000
        self._clock = clock
        self._queues: dict[tuple[str, int], _Queue] = {}
        self._ready: list[_Queue] = []
        self.flights = 0
        self._in_flight = 0
        self._lately_in_flight: deque[int] = deque(maxlen=_CALLERS_LAST)
        self._half = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_sending = False
        self._is_open = False
        self._loop: asyncio.AbstractEventLoop

    def submit(self, call: Call, receipt: Receipt | None = None) -> asyncio.Future[bytes]:
        """The script's reply to one item, to be awaited.

        Args:
            call: The item.
            receipt: What is filled in before the reply is there, None where nobody asks.

        Raises:
            RedisUnavailableError: It was certainly not executed.
            OutcomeUnknownError: It may have been executed; the same call again settles it.
            UnsuitableServerError: The server's access rules forbid it.
            ScriptFailedError: The script ended with an error of its own.
            EngineClosedError: The dispatcher is not open, or open in another event loop.
        """
        if not self._is_open:
            raise EngineClosedError("the engine is not open; enter it with `async with`")
        if asyncio.get_running_loop() is not self._loop:  # else it is sent, and nobody hears of it
            raise EngineClosedError(
                "the engine is open in another event loop; open one in this one"
            )
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self._enqueue((call.partition.number, call, answer, receipt))
        return answer

    def now_us(self) -> bytes:
        """The moment for the next script call, b"" for the server's own time."""
        return b"" if self._clock is None else b"%d" % self._clock()

    def journal_max(self, script: str, lane: Lane) -> bytes:
        """How many entries a journal may have for this verb, b"" for any number."""
        return b"" if self._pressure is None else self._pressure.journal_max(script, lane)

    def open(self) -> None:
        """From now on calls of this event loop are sent; connections are made when needed."""
        self._loop = asyncio.get_running_loop()
        self._is_open = True
        self.router.open()

    async def close(self) -> None:
        """Give up what is waiting and end the connections."""
        self._is_open = False
        self._refuse_all()
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.router.close()
        self._refuse_all()  # what a server has sent back meanwhile

    def wake(self, queue: _Queue) -> None:
        """Have the calls of a queue sent in the next turn, if it may have another flight."""
        if queue.waits_for_lane or not (self._is_open and self._may_depart(queue)):
            return
        queue.is_ready = True
        self._ready.append(queue)
        if not self._is_sending:
            self._is_sending = True
            self._loop.call_soon(self._send)

    def _refuse_all(self) -> None:
        """Let every caller know whose call has not been sent."""
        for queue in self._queues.values():
            queue.refuse(_closed())

    def _enqueue(self, waiting: _Waiting) -> None:
        call = waiting[1]
        place = (call.script, self.router.joint(call.partition))
        queue = self._queues.get(place)
        if queue is None:
            queue = self._queues[place] = _Queue(call.script, call.partition)
        queue.calls.append(waiting)
        if not queue.is_ready:
            self.wake(queue)
        elif self._flights_max > 1 and (
            len(queue.calls) == BATCH_MAX or (len(queue.calls) == self._half and not self.flights)
        ):
            self._send()

    def _send(self) -> None:
        """One turn: everything that is ready, in one write to each server."""
        self._is_sending = False
        flights: dict[Lane, list[_Flight]] = {}
        for queue in self._take_ready():
            lane = self.router.open_lane(queue.partition)
            if lane is None:
                queue.waits_for_lane = True
                self._start(self._send_later(queue), queue.given_up)
            else:
                flights.setdefault(lane, []).extend(self._board(lane, queue))
        for lane, departing in flights.items():
            self._depart(lane, departing)

    async def _send_later(self, queue: _Queue) -> None:
        """The calls of a queue, once its lane is open."""
        try:
            lane = await self.router.lane(queue.partition)
        except CreditsError as error:
            queue.refuse(error)
            return
        finally:
            queue.waits_for_lane = False
        self._depart(lane, self._board(lane, queue))

    def _may_depart(self, queue: _Queue) -> bool:
        """Whether the queue may have another flight.

        A second one only where it is full, or where the server would have nothing to do while the
        first one's reply is read: else it is worth more to let calls gather.
        """
        if queue.flights == 0:
            return True
        if queue.flights >= self._flights_max:
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
            self._in_flight += len(waiting)
            flights.append(_Flight(self, lane, queue, waiting))
        if flights:
            self._count_callers()
        return flights

    def _count_callers(self) -> None:
        """How many are half of the callers; all of them have had calls in flight together, not long ago."""
        self._lately_in_flight.append(self._in_flight)
        half = max(self._lately_in_flight) // 2
        self._half = half if half >= _HALF_MIN else 0

    def landed(self, queue: _Queue, calls: int) -> None:
        """A flight of a queue with so many calls has ended; those that wait may have another."""
        queue.flights -= 1
        self.flights -= 1
        self._in_flight -= calls
        if queue.calls:
            self.wake(queue)
            if self._flights_max > 1 and queue.is_ready and len(queue.calls) >= BATCH_MAX:
                self._send()  # it is full without those who are answered now

    def _depart(self, lane: Lane, flights: list[_Flight]) -> None:
        if not flights:
            return
        now_us = self.now_us()
        requests = [flight.packed(now_us) for flight in flights]
        seconds = self._timeout
        replies: list[Callable[[Reply], None]] = [flight.landed for flight in flights]
        if self.confirmation is not None:
            first = flights[0].queue.partition
            round_ = _Round(self.confirmation, flights)
            requests += self.confirmation.requests(first)
            replies += (round_.marked, round_.answered)
            # Behind every other flight's question, at worst, each of which has its own time.
            seconds += self.flights * self.confirmation.timeout_ms / 1_000
        late = TimeoutError(f"no reply within {seconds:g} s")
        for flight in flights:
            flight.timer = self._loop.call_later(seconds, lane.abandon, late)
        lane.send(requests, replies)

    def send_again(self, flight: _Flight, refusal: AskError | NoScriptError) -> None:
        """Send the same batch once more: to where it belongs, or with the scripts brought back."""
        if self._is_open:
            self._start(self._send_again(flight, refusal), flight.given_up)
        else:
            flight.given_up()

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
        self._depart(flight.lane, [flight])

    def part(self, flight: _Flight) -> None:
        """Send the items of a flight anew, one partition a script call: the server forbids more."""
        self.router.part()
        for waiting in flight.waiting:
            self._enqueue(waiting)

    def _start(self, work: Coroutine[None, None, None], given_up: Callable[[], None]) -> None:
        """Have work done; `given_up` is called where it is cancelled, perhaps before it has begun."""

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if task.cancelled():
                given_up()

        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(ended)


def _closed() -> EngineClosedError:
    return EngineClosedError("the engine was closed before the call was sent")


_Waiting: TypeAlias = "tuple[int, Call, asyncio.Future[bytes], Receipt | None]"
"""The number of its partition, a call, what its caller awaits, and the receipt, if it asked for one. A
plain tuple, because every call needs one."""
_by_partition: Final = itemgetter(0)


@dataclass(slots=True)
class _Queue:
    """The calls of one verb, to one server or slot, that have not been sent; and its flights.

    Attributes:
        script: The verb.
        partition: One of theirs: where it is, all of them are.
    """

    script: str
    partition: PartitionKeys
    calls: deque[_Waiting] = field(default_factory=deque[_Waiting])
    flights: int = 0
    is_ready: bool = False
    waits_for_lane: bool = False

    def next_batch(self) -> list[_Waiting]:
        """The next calls whose callers still wait, as many as a batch may have, by partition."""
        calls, batch = self.calls, list[_Waiting]()
        while calls and (room := BATCH_MAX - len(batch)):
            taken = [calls.popleft() for _ in range(min(room, len(calls)))]
            batch += [waiting for waiting in taken if not waiting[2].done()]
        batch.sort(key=_by_partition)
        return batch

    def given_up(self) -> None:
        """The lane it waited for does not come."""
        self.waits_for_lane = False

    def refuse(self, error: CreditsError) -> None:
        """Let every caller know that nothing was sent."""
        for _, _, answer, _ in self.calls:
            if not answer.done():
                answer.set_exception(copy(error))
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
    round: _Round | None = None
    held: Sequence[bytes] | None = None

    def packed(self, now_us: bytes) -> bytes:
        sha = self.lane.scripts[self.queue.script].sha
        journal_max = self.dispatcher.journal_max(self.queue.script, self.lane)
        return request(sha, [call for _, call, _, _ in self.waiting], now_us, journal_max)

    def landed(self, reply: Reply) -> None:
        if self.round is not None and not isinstance(reply, Exception):
            self._hold(reply)
            return
        self._stop_timer()
        if isinstance(reply, AskError | NoScriptError):
            self.dispatcher.send_again(self, reply)
        elif isinstance(reply, ClusterCrossSlotError):
            self._ended()
            self.dispatcher.part(self)
        elif isinstance(reply, LaneLostError):
            why = str(reply)
            ids = (call.operation_id for _, call, _, _ in self.waiting)
            self.failed(OutcomeUnknownError(operation_id, why) for operation_id in ids)
        elif isinstance(reply, Exception):
            self.failed(repeat(self._meaning(reply)))
        else:
            self._answer(reply)
            self._ended()

    def given_up(self) -> None:
        """End without having been executed, and without being sent again."""
        self.failed(repeat(_closed()))

    def confirmed(self, level: Level) -> None:
        """Hand over what was decided, now that it is known how far it has come."""
        if self.held is None:
            return  # it was not executed: it travels again, or has failed
        self._stop_timer()
        for _, _, _, receipt in self.waiting:
            if receipt is not None:
                receipt.level = level
        self._answer(self.held)
        self._ended()

    def _hold(self, replies: Sequence[bytes]) -> None:
        """Keep what was decided until it is confirmed; what was refused has nothing to wait for."""
        self.held = replies
        for (_, _, answer, _), reply in zip(self.waiting, replies, strict=True):
            if not reply.startswith(DONE):
                self._answer_one(answer, reply)

    def _stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()

    def _answer(self, replies: Sequence[bytes]) -> None:
        for (_, _, answer, _), reply in zip(self.waiting, replies, strict=True):
            if answer.done() or reply.startswith(_FAILED):
                self._answer_one(answer, reply)
            else:
                answer.set_result(reply)

    def _answer_one(self, answer: asyncio.Future[bytes], reply: bytes) -> None:
        if answer.done():
            return
        if reply.startswith(_FAILED):
            problem = reply.removeprefix(_FAILED).decode(errors="replace")
            answer.set_exception(self._meaning(server_error(problem)))
        else:
            answer.set_result(reply)

    def _meaning(self, refusal: Exception) -> CreditsError:
        """Our error for what the server says instead of executing items."""
        if is_not_allowed(refusal) or is_not_executed(refusal):
            self.dispatcher.router.doubt(self.lane, refusal)
            return translated(refusal, self.lane.address)
        return ScriptFailedError(f"script {self.queue.script}: {refusal}")

    def failed(self, errors: Iterable[CreditsError]) -> None:
        """End with an error for each caller."""
        for (_, _, answer, _), error in zip(self.waiting, errors, strict=False):
            if not answer.done():
                answer.set_exception(copy(error))
        self._ended()

    def _ended(self) -> None:
        self.dispatcher.landed(self.queue, len(self.waiting))


class _Round:
    """The flights of one write, and the answer about all of them.

    A flight that was not executed travels again with another write; then this answer is not about it.

    Args:
        confirmation: What the server is asked.
        flights: The flights, on one lane.
    """

    def __init__(self, confirmation: Confirmation, flights: Sequence[_Flight]) -> None:
        self._confirmation = confirmation
        self._flights = flights
        self._is_marked = False
        for flight in flights:
            flight.round = self

    def marked(self, reply: Reply) -> None:
        """Without the mark the answer could be about an earlier write."""
        self._is_marked = not isinstance(reply, Exception)

    def answered(self, answer: Any) -> None:
        """An error, or the loss of the connection, confirms nothing; what was decided stands."""
        is_reached = self._is_marked and self._confirmation.is_reached(answer)
        for flight in self._flights:
            if flight.round is self:
                flight.confirmed(self._confirmation.level if is_reached else "memory")
