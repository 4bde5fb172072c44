"""The way to the nodes of a cluster.

    partition ──▶ slot ──▶ node ──▶ lane

What a cluster looks like is asked of its nodes: at the beginning, and when something contradicts it (a
redirection, a lost lane, a node that cannot serve), once for everybody and at most ten times a second.
Lanes to other nodes go on meanwhile.

The node a request is redirected to is another server process: its scripts are other texts, and the
fence in the partition's gate holds until the journal was compared there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import TYPE_CHECKING, Final

from redis.exceptions import AskError, ClusterDownError, MasterDownError, ReadOnlyError

from credits_fast.errors import RedisUnavailableError, UnsuitableServerError
from credits_fast.resp import pack
from credits_fast.servers.lane import Lane
from credits_fast.servers.server_routing import Router
from credits_fast.servers.stations import Shared, Station, closed_when_answered
from credits_fast.servers.topology import Address, Redirection, Topology

if TYPE_CHECKING:
    from credits_fast.protocol.keys import PartitionKeys
    from credits_fast.servers.endpoints import ClusterEndpoint
    from credits_fast.servers.lane import Reply

__all__ = ["ClusterRouter"]

_log = logging.getLogger(__name__)

_LOOK_PAUSE_S: Final = 0.1
"""Seconds between two looks at a cluster, at least."""
_LOOK_S: Final = 2.0
"""Seconds a node has to say what the cluster looks like; then another one is asked."""
_ASKING: Final = pack((b"ASKING",))
_NO_CLUSTER: Final = "cluster support disabled"


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
        self._looking = Shared(self._look)
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
        super().doubt(_behind(lane), refusal)
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
                self._end(closed_when_answered(lane))
            self._end(station.close(RedisUnavailableError(f"{address} serves no slot any more")))


def _behind(lane: Lane) -> Lane:
    return lane.behind if isinstance(lane, _AskingLane) else lane
