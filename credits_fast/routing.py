"""Which open lane leads to a partition: the only one, or that of the node its slot is on.

    partition ──▶ slot ──▶ node ──▶ lane

A lane is opened when it is first needed and anew when it was lost; whoever asks meanwhile waits for the
same attempt. What a cluster looks like is asked of its nodes: at the beginning, and when something
contradicts it (a redirection, a lost lane, a node that cannot serve), once for everybody and at most
ten times a second. Lanes to other nodes go on meanwhile.

A redirected request was not executed, so it is sent again, as it is; how often is bounded. The new node
is another server process: its scripts are other texts, and the fence in the partition's meta holds
until the journal was compared there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from copy import copy
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from redis.exceptions import AskError, ClusterDownError, MasterDownError, ReadOnlyError

from credits_fast.endpoints import AnyEndpoint, ClusterEndpoint
from credits_fast.errors import (
    CreditsError,
    EngineClosedError,
    RedisUnavailableError,
    UnsuitableServerError,
)
from credits_fast.lane import Endpoint, Lane
from credits_fast.resp import pack
from credits_fast.server_errors import translated
from credits_fast.topology import Address, Redirection, Topology

if TYPE_CHECKING:
    from credits_fast.keys import PartitionKeys
    from credits_fast.lane import Reply

__all__ = ["REDIRECTIONS_MAX", "ClusterRouter", "Router", "router_to"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

REDIRECTIONS_MAX: Final = 8
"""How often one request is sent on to another node."""
_LOOK_PAUSE_S: Final = 0.1
"""Seconds between two looks at a cluster, at least."""
_LOOK_S: Final = 2.0
"""Seconds a node has to say what the cluster looks like; then another one is asked."""
_ASKING: Final = pack((b"ASKING",))
_NO_CLUSTER: Final = "cluster support disabled"


class _Shared(Generic[T]):
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
        self._opening = _Shared(self._open)

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


async def _closed_when_answered(lane: Lane) -> None:
    """Replies come in order: when that of a PING is there, nobody waits any more."""
    try:
        await lane.replies(pack((b"PING",)))
    finally:
        await lane.close()


class _AskingLane(Lane):
    """A lane to the node a slot is on its way to: every request is preceded by `ASKING`."""

    def __init__(self, lane: Lane) -> None:
        self.behind = lane
        self.address, self.run, self.scripts = lane.address, lane.run, lane.scripts

    @property
    def is_open(self) -> bool:
        return self.behind.is_open

    def send(self, requests: Sequence[bytes], replies: Sequence[Callable[[Reply], None]]) -> None:
        asking = [part for request in requests for part in (_ASKING, request)]
        self.behind.send(asking, [each for one in replies for each in (_pass_over, one)])

    def abandon(self, error: Exception) -> None:
        self.behind.abandon(error)

    async def close(self) -> None:
        await self.behind.close()


def _pass_over(_reply: Reply) -> None:
    """What comes of it shows in the reply that follows."""


class Router:
    """The way to a single server, where every partition is; see the module. `open` it first.

    Attributes:
        is_cluster: Whether partitions are on several servers.

    Args:
        endpoint: How the server is reached.
    """

    is_cluster = False

    def __init__(self, endpoint: Endpoint) -> None:
        self._station = Station(endpoint)
        self._joins = True
        self._is_open = False
        self._ending: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """From now on lanes are opened when they are needed."""
        self._is_open = True

    async def close(self) -> None:
        """End every lane."""
        self._is_open = False
        ending = [*self._ending]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        await asyncio.gather(*(station.close() for station in self._stations()))

    # --- one partition ------------------------------------------------------------------------

    def joint(self, partition: PartitionKeys) -> int:
        """A number that is the same for partitions whose items one script call may hold."""
        return 0 if self._joins else partition.number

    def part(self) -> None:
        """From now on no script call holds items of several partitions: the server forbids it."""
        if self._joins:
            self._joins = False
            _log.info("Redis serves one slot a script call: partitions are not joined any more")

    def open_lane(self, partition: PartitionKeys) -> Lane | None:  # noqa: ARG002  # a cluster's asks
        """The partition's lane, None where it has to be waited for."""
        return self._station.open_lane

    async def lane(self, partition: PartitionKeys) -> Lane:  # noqa: ARG002  # a cluster's asks
        """The partition's lane; a new one where there is none.

        Raises:
            RedisUnavailableError: Its server cannot be reached.
            UnsuitableServerError: Its server does not let us in.
            EngineClosedError: The router is not open.
        """
        self._check_open()
        return await self._station.lane()

    async def follow(self, partition: PartitionKeys, work: Callable[[Lane], Awaitable[T]]) -> T:
        """What comes of some work on the partition's lane, done again where the partition has moved.

        The work is done from its beginning on one lane, so whatever it compares is of one server.

        Raises:
            RedisUnavailableError: The server cannot be reached or cannot answer now.
            UnsuitableServerError: The server does not let us in, or its rules forbid a request.
            EngineClosedError: The router is not open.
        """
        lane = await self.lane(partition)
        for _ in range(REDIRECTIONS_MAX):
            try:
                return await work(lane)
            except RedisUnavailableError as error:
                refusal = error.__cause__
                self.doubt(lane, refusal)
                if not isinstance(refusal, AskError):
                    raise
            lane = await self.redirected(lane, refusal)
        raise RedisUnavailableError(f"partition {partition.number} is redirected again and again")

    async def execute(self, partition: PartitionKeys, *parts: bytes) -> Reply:
        """The reply to one command about a partition; raises as `follow`."""
        return await self.follow(partition, lambda lane: lane.execute(*parts))

    async def run_script(
        self,
        partition: PartitionKeys,
        name: str,
        keys: Sequence[bytes],
        arguments: Sequence[bytes],
    ) -> Reply:
        """The reply of one script, which must be harmless to repeat; raises as `follow`."""
        return await self.follow(partition, lambda lane: lane.run_script(name, keys, arguments))

    # --- many partitions ----------------------------------------------------------------------

    async def outcomes(self, requests: Sequence[tuple[PartitionKeys, bytes]]) -> list[Reply]:
        """The reply to each packed request, in their order, or the error of ours that came of it.

        The requests of a server travel in one write, and no server waits for another.
        """
        found: list[Reply] = [None] * len(requests)

        async def ask(lane: Lane, places: Sequence[int]) -> None:
            replies = await lane.replies(*(requests[place][1] for place in places))
            for place, reply in zip(places, replies, strict=True):
                found[place] = await self._settled(lane, *requests[place], reply)

        asked: dict[Lane, list[int]] = {}
        lanes = await self._lanes(partition for partition, _ in requests)
        for place, (partition, _) in enumerate(requests):
            lane = lanes[partition.number]
            if isinstance(lane, Lane):
                asked.setdefault(lane, []).append(place)
            else:
                found[place] = lane
        await asyncio.gather(*(ask(lane, places) for lane, places in asked.items()))
        return found

    async def replies(self, requests: Sequence[tuple[PartitionKeys, bytes]]) -> list[Reply]:
        """The reply to each packed request, in their order; raises as `follow`."""
        found = await self.outcomes(requests)
        for reply in found:
            if isinstance(reply, CreditsError):
                raise reply
        return found

    async def reached(self, partitions: Iterable[PartitionKeys]) -> dict[Lane, list[PartitionKeys]]:
        """The lanes to these partitions, each with those it leads to; what is away is logged.

        Raises:
            RedisUnavailableError: None of them can be reached.
            UnsuitableServerError: A server does not let us in.
            EngineClosedError: The router is not open.
        """
        wanted = {partition.number: partition for partition in partitions}
        reached: dict[Lane, list[PartitionKeys]] = {}
        away: list[CreditsError] = []
        for number, lane in (await self._lanes(wanted.values())).items():
            if isinstance(lane, Lane):
                reached.setdefault(lane, []).append(wanted[number])
            elif lane.transient:
                away.append(lane)
            else:
                raise lane
        if not reached and away:
            raise away[0]
        for problem in {str(error) for error in away}:
            _log.warning("some partitions cannot be reached now: %s", problem)
        return reached

    # --- what the servers say -----------------------------------------------------------------

    def doubt(self, lane: Lane, refusal: BaseException | None) -> None:
        """Look again where a reply says that this is not the server to ask."""
        if not isinstance(refusal, ReadOnlyError | MasterDownError):
            return
        lane = _behind(lane)
        for station in self._stations():
            if station.open_lane is lane:
                station.leave()
                self._end(_closed_when_answered(lane))

    async def redirected(self, lane: Lane, refusal: AskError) -> Lane:
        """The lane on which a redirected request is to be sent again.

        Raises:
            RedisUnavailableError: Its server cannot be reached.
            UnsuitableServerError: The server is a node of a cluster, and was not named as one.
        """
        raise UnsuitableServerError(
            f"Redis at {lane.address} is a node of a cluster; "
            "name the cluster by redis+cluster://, or give a RedisCluster client",
        ) from refusal

    # --- details ------------------------------------------------------------------------------

    def _end(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _stations(self) -> Iterator[Station]:
        yield self._station

    def _check_open(self) -> None:
        if not self._is_open:
            raise EngineClosedError("the engine is not open; enter it with `async with`")

    async def _lanes(self, partitions: Iterable[PartitionKeys]) -> dict[int, Lane | CreditsError]:
        async def found(partition: PartitionKeys) -> Lane | CreditsError:
            try:
                return await self.lane(partition)
            except CreditsError as error:
                return error

        wanted = {partition.number: partition for partition in partitions}
        self._check_open()
        ready = {number: self.open_lane(partition) for number, partition in wanted.items()}
        absent = [wanted[number] for number, lane in ready.items() if lane is None]
        opened = dict(
            zip(
                (partition.number for partition in absent),
                await asyncio.gather(*map(found, absent)),
                strict=True,
            )
        )
        return {number: lane or opened[number] for number, lane in ready.items()}

    async def _settled(
        self, lane: Lane, partition: PartitionKeys, request: bytes, reply: Reply
    ) -> Reply:
        """The reply itself, that of the node it redirects to, or our error for a refusal."""
        if not isinstance(reply, Exception):
            return reply
        self.doubt(lane, reply)
        if not isinstance(reply, AskError):
            error = translated(reply, lane.address)
            error.__cause__ = reply
            return error
        try:
            (answer,) = await self.follow(partition, lambda other: other.execute_all(request))
        except CreditsError as error:
            return error
        return answer


class ClusterRouter(Router):
    """The way to the nodes of a cluster.

    Args:
        endpoint: How the cluster is reached.
        is_patient: Whether a partition's caller waits for a node that could not be reached the last
            time; else it is told so at once, and the next caller may have more luck.
    """

    is_cluster = True

    def __init__(self, endpoint: ClusterEndpoint, *, is_patient: bool = True) -> None:
        self._endpoint = endpoint
        self._is_patient = is_patient
        self._is_open = False
        self._ending = set()
        self._nodes: dict[Address, Station] = {}
        self._topology = Topology.of((), endpoint.seeds[0])
        self._looking = _Shared(self._look)
        self._look_at = 0.0
        self._is_in_doubt = True
        self._hint: Address | None = None
        self._failure: RedisUnavailableError | None = None

    async def close(self) -> None:
        """End every lane."""
        await self._looking.cancel()
        await super().close()

    def joint(self, partition: PartitionKeys) -> int:
        """Every partition is in a slot of its own, and a script call serves one slot."""
        return partition.number

    def open_lane(self, partition: PartitionKeys) -> Lane | None:
        """The partition's lane, None where it has to be waited for."""
        address = self._topology.primary(partition.slot)
        station = None if address is None else self._nodes.get(address)
        return None if station is None else station.open_lane

    async def lane(self, partition: PartitionKeys) -> Lane:
        """The partition's lane; a new one where there is none.

        Raises:
            RedisUnavailableError: Its node cannot be reached, or no node serves it now.
            UnsuitableServerError: Its node does not let us in.
            EngineClosedError: The router is not open.
        """
        self._check_open()
        lane = self.open_lane(partition)
        if lane is not None:
            return lane
        station = self._station_of(partition)
        if station is None or station.has_lost_its_lane or station.failure is not None:
            self._is_in_doubt = True
        if self._is_in_doubt and time.monotonic() >= self._look_at:
            await self._looking()
            station = self._station_of(partition)
        if station is None:
            raise copy(self._failure) or RedisUnavailableError(
                f"no node of the cluster {self._endpoint.address} serves partition "
                f"{partition.number} now",
            )
        if not self._is_patient and station.failure is not None and station.open_lane is None:
            station.try_again()
            raise copy(station.failure)
        return await station.lane()

    def doubt(self, lane: Lane, refusal: BaseException | None) -> None:
        """Look again where a reply says that this is not the node to ask."""
        super().doubt(lane, refusal)
        if isinstance(refusal, ReadOnlyError | MasterDownError | ClusterDownError):
            self._look_soon()

    async def redirected(self, lane: Lane, refusal: AskError) -> Lane:
        """The lane on which a redirected request is to be sent again.

        Raises:
            RedisUnavailableError: Its node cannot be reached.
            UnsuitableServerError: Its node does not let us in.
        """
        slot, address, is_final = Redirection.of(refusal, self._address_of(lane))
        if is_final:
            _log.info("slot %d is served by %s now", slot, address)
            self._topology.move(slot, address)
            self._hint = address
            self._look_soon()
        lane = await self._node(address).lane()
        return lane if is_final else _AskingLane(lane)

    def _stations(self) -> Iterator[Station]:
        yield from self._nodes.values()

    def _node(self, address: Address) -> Station:
        station = self._nodes.get(address)
        if station is None:
            station = self._nodes[address] = Station(
                self._endpoint.at(address), is_one_of_many=True
            )
        return station

    def _station_of(self, partition: PartitionKeys) -> Station | None:
        address = self._topology.primary(partition.slot)
        return None if address is None else self._node(address)

    def _address_of(self, lane: Lane) -> Address:
        lane = _behind(lane)
        for address, station in self._nodes.items():
            if station.open_lane is lane:
                return address
        return self._endpoint.seeds[0]

    def _look_soon(self) -> None:
        self._is_in_doubt = True
        if self._is_open and time.monotonic() >= self._look_at:
            self._looking.start()

    async def _look(self) -> None:
        """Ask one node after the other what the cluster looks like, until one knows."""
        self._is_in_doubt = False
        self._look_at = time.monotonic() + _LOOK_PAUSE_S
        problem: Exception | None = None
        for address in self._to_ask():
            try:
                async with asyncio.timeout(_LOOK_S):
                    topology = await self._seen_from(address)
            except (RedisUnavailableError, TimeoutError) as error:
                problem = error
                continue
            self._hint = self._failure = None
            self._topology = topology
            self._leave_others(topology.addresses)
            return
        self._is_in_doubt = True
        self._failure = RedisUnavailableError(
            f"no node of the cluster {self._endpoint.address} says what it looks like ({problem})",
        )
        raise self._failure from problem

    def _to_ask(self) -> list[Address]:
        """Who knows best first: whom a redirection named, who answers, who is known."""
        hint = () if self._hint is None else (self._hint,)
        answering = (at for at, station in self._nodes.items() if station.open_lane is not None)
        return [*dict.fromkeys((*hint, *answering, *self._nodes, *self._endpoint.seeds))]

    async def _seen_from(self, address: Address) -> Topology:
        lane = await self._node(address).lane()
        try:
            topology = Topology.of(await lane.execute(b"CLUSTER", b"SLOTS"), address)
        except RedisUnavailableError as error:
            if _NO_CLUSTER in str(error):
                raise UnsuitableServerError(
                    f"Redis at {address} is not a node of a cluster; name it by redis://",
                ) from error
            raise
        if not topology.addresses:
            raise RedisUnavailableError(f"Redis at {address} knows of no slots")
        return topology

    def _leave_others(self, addresses: Sequence[Address]) -> None:
        """Nodes that serve no slot any more are forgotten."""
        for address in self._nodes.keys() - {*addresses}:
            station = self._nodes.pop(address)
            lane = station.leave()
            if lane is not None:
                self._end(_closed_when_answered(lane))
            self._end(station.close(RedisUnavailableError(f"{address} serves no slot any more")))


def _behind(lane: Lane) -> Lane:
    return lane.behind if isinstance(lane, _AskingLane) else lane


def router_to(endpoint: AnyEndpoint, *, is_patient: bool = True) -> Router:
    """A router for an endpoint.

    Args:
        endpoint: How the server or the cluster is reached.
        is_patient: Whether callers wait for a node of a cluster that is away; see `ClusterRouter`.
    """
    if isinstance(endpoint, ClusterEndpoint):
        return ClusterRouter(endpoint, is_patient=is_patient)
    return Router(endpoint)
