"""The way to a single server, where every partition is; and what the ways to all servers have in common.

A redirected request was not executed, so it is sent again, as it is; how often is bounded.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from redis.exceptions import AskError, MasterDownError, ReadOnlyError

from credits_fast.errors import (
    CreditsError,
    EngineClosedError,
    RedisUnavailableError,
    UnsuitableServerError,
)
from credits_fast.servers.lane import Endpoint, Lane
from credits_fast.servers.server_errors import translated
from credits_fast.servers.stations import Station, closed_when_answered

if TYPE_CHECKING:
    from credits_fast.protocol.keys import PartitionKeys
    from credits_fast.servers.lane import Reply

__all__ = ["REDIRECTIONS_MAX", "Router"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

REDIRECTIONS_MAX: Final = 8
"""How often one request is sent on to another node."""


class Router:
    """The way to a single server, where every partition is. `open` it first.

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
        for station in self._stations():
            if station.open_lane is lane:
                station.leave()
                self._end(closed_when_answered(lane))

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
