"""Routing on scripted nodes: who is asked, how often, and where a request goes in the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

from credits_fast import EngineClosedError, RedisUnavailableError, UnsuitableServerError
from credits_fast.protocol.keys import Partitions
from credits_fast.resp import pack
from credits_fast.servers import cluster_routing as module
from credits_fast.servers.cluster_routing import ClusterRouter
from credits_fast.servers.endpoints import endpoint_from_url
from credits_fast.servers.lane import Endpoint, Lane, LaneLostError
from credits_fast.servers.routing import router_to
from credits_fast.servers.server_routing import REDIRECTIONS_MAX, Router

KEYS = Partitions("test", 3)
FIRST, SECOND, THIRD = KEYS
LOOK = pack((b"CLUSTER", b"SLOTS"))
PING = pack((b"PING",))
ASKING = pack((b"ASKING",))


@dataclass
class Network:
    """Nodes by their port: what each answers, what it was sent, and which cannot be reached.

    Every node says that slots are shared as `shares` has it: port for each third.
    """

    shares: list[int | None] = field(default_factory=lambda: [1, 2, 3])
    answers: dict[int, Callable[[bytes], Any]] = field(default_factory=dict[int, Any])
    sent: list[tuple[int, bytes]] = field(default_factory=list[tuple[int, bytes]])
    opened: list[int] = field(default_factory=list[int])
    away: set[int] = field(default_factory=set[int])
    lanes: list[ScriptedLane] = field(default_factory=list["ScriptedLane"])

    async def open(self, endpoint: Endpoint) -> Lane:
        port = int(endpoint.address.rpartition(":")[2])
        await asyncio.sleep(0)
        self.opened.append(port)
        if port in self.away:
            raise RedisUnavailableError(f"nobody is at {port}")
        self.lanes.append(ScriptedLane(self, port))
        return self.lanes[-1]

    def reply(self, port: int, request: bytes) -> Any:
        self.sent.append((port, request))
        if port in self.answers:
            return self.answers[port](request)
        if request == LOOK:
            edges = [0, *(16_384 * share // 3 for share in (1, 2, 3))]
            return [
                [start, beyond - 1, [b"10.0.0.1", served, b"", []]]
                for start, beyond, served in zip(edges, edges[1:], self.shares, strict=False)
                if served is not None
            ]
        return b"from %d" % port

    def looks(self) -> int:
        return sum(request == LOOK for _, request in self.sent)

    def answers_with(self, port: int, *replies: Any) -> None:
        """These replies one after the other, the last one for ever; looks are not counted."""
        left = [*replies]

        def answer(request: bytes) -> Any:
            if request == LOOK:
                del self.answers[port]
                try:
                    return self.reply(port, request)
                finally:
                    self.answers[port] = answer
            return left.pop(0) if len(left) > 1 else left[0]

        self.answers[port] = answer


class ScriptedLane(Lane):
    """A lane that answers as its network says."""

    def __init__(self, network: Network, port: int) -> None:
        self.address = f"10.0.0.1:{port}"
        self.run, self.scripts = f"run-{port}", {}
        self.port = port
        self._network = network
        self._gone = False

    @property
    def is_open(self) -> bool:
        return not self._gone

    def send(self, requests: Sequence[bytes], replies: Sequence[Callable[[Any], None]]) -> None:
        asyncio.get_running_loop().call_soon(self._answer, requests, replies)

    def _answer(self, requests: Sequence[bytes], replies: Sequence[Callable[[Any], None]]) -> None:
        for request, reply in zip(requests, replies, strict=True):
            reply(LaneLostError("lost") if self._gone else self._network.reply(self.port, request))

    def abandon(self, error: Exception) -> None:  # noqa: ARG002  # a lane's
        self._gone = True

    async def close(self) -> None:
        self._gone = True


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    network = Network()
    monkeypatch.setattr(Lane, "open", network.open)
    monkeypatch.setattr(module, "_LOOK_PAUSE_S", 0)
    return network


@pytest.fixture
async def router(network: Network) -> AsyncIterator[ClusterRouter]:
    router = cluster_router()
    yield router
    await router.close()
    assert not any(lane.is_open for lane in network.lanes)


def cluster_router(*, is_patient: bool = True) -> ClusterRouter:
    endpoint = endpoint_from_url("redis+cluster://10.0.0.1:1,10.0.0.1:2")
    router = router_to(endpoint, is_patient=is_patient)
    assert isinstance(router, ClusterRouter)
    router.open()
    return router


async def test_a_crowd_has_the_cluster_looked_at_once_and_a_lane_opened_to_each_node(
    network: Network, router: ClusterRouter
) -> None:
    lanes = await asyncio.gather(*(router.lane(KEYS[number % 3]) for number in range(60)))

    assert ["run-1", "run-2", "run-3"] == [lane.run for lane in lanes[:3]]
    assert 1 == network.looks()
    assert [1, 2, 3] == sorted(network.opened)
    assert lanes[1] is router.open_lane(SECOND)


async def test_a_single_server_has_one_lane_for_all(network: Network) -> None:
    router = Router(Endpoint.from_url("redis://10.0.0.1:5"))
    with pytest.raises(EngineClosedError):
        await router.lane(FIRST)
    router.open()

    lanes = await asyncio.gather(*(router.lane(partition) for partition in KEYS))

    assert 1 == len(set(lanes)) == len(network.opened)
    await router.close()


async def test_the_next_seed_is_asked_where_one_is_away(
    network: Network, router: ClusterRouter
) -> None:
    network.away.add(1)

    assert "run-2" == (await router.lane(SECOND)).run
    with pytest.raises(RedisUnavailableError, match="nobody is at 1"):
        await router.lane(FIRST)


async def test_where_no_node_answers_everybody_is_told(
    network: Network, router: ClusterRouter
) -> None:
    network.away |= {1, 2, 3}

    outcomes = await asyncio.gather(
        *(router.lane(partition) for partition in KEYS), return_exceptions=True
    )

    assert 3 == sum(isinstance(outcome, RedisUnavailableError) for outcome in outcomes)
    assert 3 == len({id(outcome) for outcome in outcomes})
    assert [1, 2] == network.opened


async def test_a_slot_nobody_serves_is_an_error_until_somebody_does(
    network: Network, router: ClusterRouter
) -> None:
    network.shares[1] = None
    with pytest.raises(RedisUnavailableError, match="serves partition 1 now"):
        await router.lane(SECOND)
    assert "run-1" == (await router.lane(FIRST)).run

    network.shares[1] = 3
    assert "run-3" == (await router.lane(SECOND)).run


async def test_a_moved_partition_is_followed_and_only_it(
    network: Network, router: ClusterRouter
) -> None:
    for partition in KEYS:
        await router.lane(partition)
    network.answers_with(2, MovedError(f"{SECOND.slot} 10.0.0.1:3"), b"still mine")
    network.shares[1] = 3

    assert b"from 3" == await router.execute(SECOND, b"PING")

    assert "run-3" == (await router.lane(SECOND)).run
    assert "run-1" == (await router.lane(FIRST)).run


async def test_a_move_is_believed_before_anybody_has_confirmed_it(
    network: Network, router: ClusterRouter
) -> None:
    for partition in KEYS:
        await router.lane(partition)
    network.answers_with(2, MovedError(f"{SECOND.slot} 10.0.0.1:3"))

    assert b"from 3" == await router.execute(SECOND, b"PING")


async def test_a_request_sent_in_circles_comes_to_an_end(
    network: Network, router: ClusterRouter
) -> None:
    network.answers_with(2, MovedError(f"{SECOND.slot} 10.0.0.1:3"))
    network.answers_with(3, MovedError(f"{SECOND.slot} 10.0.0.1:2"))

    with pytest.raises(RedisUnavailableError, match="again and again"):
        await router.execute(SECOND, b"PING")

    assert REDIRECTIONS_MAX == sum(request == PING for _, request in network.sent)


async def test_a_slot_on_its_way_is_asked_for_this_once(
    network: Network, router: ClusterRouter
) -> None:
    network.answers_with(2, AskError(f"{SECOND.slot} 10.0.0.1:3"), b"from 2")

    assert b"from 3" == await router.execute(SECOND, b"PING")
    assert b"from 2" == await router.execute(SECOND, b"PING")

    assert [(2, PING), (3, ASKING), (3, PING), (2, PING)] == [
        sent for sent in network.sent if sent[1] != LOOK
    ]
    assert 1 == network.looks()


async def test_work_that_is_redirected_is_done_again_from_its_beginning(
    network: Network, router: ClusterRouter
) -> None:
    network.answers_with(2, b"from 2", MovedError(f"{SECOND.slot} 10.0.0.1:3"))

    async def work(lane: Lane) -> list[Any]:
        return [await lane.execute(b"PING"), await lane.execute(b"PING")]

    assert [b"from 3", b"from 3"] == await router.follow(SECOND, work)


async def test_after_a_lost_lane_the_cluster_is_looked_at_again(
    network: Network, router: ClusterRouter
) -> None:
    """Its replica has taken over; the others keep their lanes."""
    before = [await router.lane(partition) for partition in KEYS]
    before[1].abandon(ConnectionResetError())
    network.away.add(2)
    network.shares[1] = 4

    after = [await router.lane(partition) for partition in KEYS]

    assert "run-4" == after[1].run
    assert [before[0], before[2]] == [after[0], after[2]]


@pytest.mark.parametrize("refusal", [ReadOnlyError("replica"), ClusterDownError("down")])
async def test_a_node_that_cannot_serve_makes_the_router_look_again(
    network: Network, router: ClusterRouter, refusal: Exception
) -> None:
    for partition in KEYS:
        await router.lane(partition)
    network.answers_with(2, refusal)
    network.shares[1] = 3

    with pytest.raises(RedisUnavailableError):
        await router.execute(SECOND, b"PING")
    while router._looking._task is not None:
        await asyncio.sleep(0)

    assert b"from 3" == await router.execute(SECOND, b"PING")
    assert 2 == network.looks()


async def test_a_demoted_single_server_is_left_when_it_has_answered(network: Network) -> None:
    router = Router(Endpoint.from_url("redis://10.0.0.1:5"))
    router.open()
    before = await router.lane(FIRST)
    network.answers_with(5, ReadOnlyError("replica"))
    with pytest.raises(RedisUnavailableError):
        await router.execute(FIRST, b"SET", b"a", b"b")

    assert before is not await router.lane(FIRST)
    while router._ending:
        await asyncio.sleep(0)
    assert not before.is_open
    await router.close()


async def test_try_again_is_left_to_the_caller(network: Network, router: ClusterRouter) -> None:
    network.answers_with(2, TryAgainError("slot is moving"))

    with pytest.raises(RedisUnavailableError, match="moving"):
        await router.execute(SECOND, b"PING")
    assert 1 == network.looks()


async def test_many_partitions_are_asked_in_one_write_a_node(
    network: Network, router: ClusterRouter
) -> None:
    network.answers_with(2, MovedError(f"{SECOND.slot} 10.0.0.1:3"))
    network.away.add(1)
    requests = [(partition, pack((b"ECHO", b"%d" % at))) for at in (1, 2) for partition in KEYS]

    found = await router.outcomes(requests)

    assert ["RedisUnavailableError", b"from 3", b"from 3"] * 2 == [
        type(reply).__name__ if isinstance(reply, Exception) else reply for reply in found
    ]
    with pytest.raises(RedisUnavailableError, match="nobody is at 1"):
        await router.replies(requests)


async def test_partitions_of_nodes_that_are_away_are_left_out_of_what_is_reached(
    network: Network, router: ClusterRouter, caplog: pytest.LogCaptureFixture
) -> None:
    network.away.add(1)

    reached = await router.reached(KEYS)

    assert {"run-2": [SECOND], "run-3": [THIRD]} == {
        lane.run: partitions for lane, partitions in reached.items()
    }
    assert "some partitions cannot be reached now: nobody is at 1" in caplog.text
    network.away |= {2, 3}
    for lane in reached:
        lane.abandon(ConnectionResetError())
    with pytest.raises(RedisUnavailableError):
        await router.reached(KEYS)


async def test_an_impatient_router_does_not_wait_for_a_node_that_was_away(
    network: Network,
) -> None:
    router = cluster_router(is_patient=False)
    network.away.add(3)
    with pytest.raises(RedisUnavailableError, match="nobody is at 3"):
        await router.lane(THIRD)
    network.away.clear()

    with pytest.raises(RedisUnavailableError, match="nobody is at 3"):
        await router.lane(THIRD)  # but it is tried
    while router.open_lane(THIRD) is None:
        await asyncio.sleep(0)

    assert "run-3" == (await router.lane(THIRD)).run
    await router.close()


async def test_nodes_that_serve_nothing_any_more_are_forgotten(
    network: Network, router: ClusterRouter
) -> None:
    lanes = [await router.lane(partition) for partition in KEYS]
    network.shares = [1, 3, 3]
    await router._look()
    while router._ending:
        await asyncio.sleep(0)

    assert [True, False, True] == [lane.is_open for lane in lanes]
    assert {1, 3} == {address.port for address in router._nodes}


async def test_a_redirection_by_a_single_server_names_the_cause(network: Network) -> None:
    router = Router(Endpoint.from_url("redis://10.0.0.1:5"))
    router.open()
    network.answers_with(5, MovedError("7 10.0.0.1:6"))

    with pytest.raises(UnsuitableServerError, match=r"redis\+cluster://"):
        await router.execute(FIRST, b"PING")
    await router.close()


async def test_a_cluster_url_of_a_single_server_names_the_cause(
    network: Network, router: ClusterRouter
) -> None:
    for port in (1, 2):
        network.answers[port] = lambda _: ResponseError(
            "This instance has cluster support disabled"
        )

    with pytest.raises(UnsuitableServerError, match="not a node of a cluster"):
        await router.lane(FIRST)


@pytest.mark.usefixtures("network")
async def test_whoever_waits_for_a_node_that_is_forgotten_may_try_again() -> None:
    router = cluster_router()
    station = router._node(router._endpoint.seeds[0])
    waiting = asyncio.ensure_future(station.lane())
    await asyncio.sleep(0)

    router._leave_others(())

    with pytest.raises(RedisUnavailableError, match="serves no slot any more"):
        await waiting
    await router.close()


@pytest.mark.usefixtures("network")
async def test_whoever_waits_when_the_router_closes_is_told() -> None:
    router = cluster_router()
    waiting = [asyncio.ensure_future(router.lane(partition)) for partition in KEYS]
    await asyncio.sleep(0)
    await router.close()

    outcomes = await asyncio.gather(*waiting, return_exceptions=True)

    assert {EngineClosedError} == {type(outcome) for outcome in outcomes}


async def test_a_caller_that_gives_up_leaves_the_lane_to_the_others(
    router: ClusterRouter,
) -> None:
    tasks = [asyncio.ensure_future(router.lane(FIRST)) for _ in range(3)]
    await asyncio.sleep(0)
    tasks[0].cancel()

    outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert outcomes[1] is outcomes[2]
