"""Dispatch: who travels together, and that nobody gets a neighbour's reply or fate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, cast

import pytest
from fakeredis import FakeAsyncRedis
from redis.exceptions import AskError, ClusterCrossSlotError, MovedError

from credits_fast import (
    EngineClosedError,
    OutcomeUnknownError,
    RedisUnavailableError,
    ScriptFailedError,
)
from credits_fast.calls.dispatch import BATCH_MAX, FLIGHTS_MAX, REPEATS_MAX, Dispatcher
from credits_fast.prices.pricing import Option, Quote
from credits_fast.protocol.keys import PartitionKeys, Partitions
from credits_fast.protocol.wire import AUDIT_NONE, Call, Operation, charge_call
from credits_fast.servers.acknowledgement import Confirmation, Receipt
from credits_fast.servers.lane import Endpoint, Lane
from credits_fast.servers.routing import Router

KEYS = Partitions("test", 2)


def charge(number: int, cost: bytes = b"1", partition: PartitionKeys = KEYS[0]) -> Call:
    operation = Operation(
        partition=partition,
        user=b"ada",
        action=b"chat",
        key=b"",
        operation_id=f"t{number}",
        fingerprint=b"-",
        ttl_ms=60_000,
        life_ms=61_000,
        audited=AUDIT_NONE,
        metadata=b"",
    )
    return charge_call(operation, Quote((Option(b"", cost),)))


async def submitted(dispatcher: Dispatcher, call: Call) -> bytes:
    """What a caller's task does."""
    return await dispatcher.submit(call)


class CountingLane:
    """Counts the script calls and the writes of a dispatcher's lane, and what is in flight at once."""

    def __init__(self, lane: Any) -> None:
        self.writes: list[int] = []
        self.items: list[int] = []
        self.in_flight = self.most_in_flight = 0
        self._send = lane.send
        lane.send = self.send

    def send(self, requests: Any, replies: Any) -> None:
        scripts = [request for request in requests if b"EVALSHA" in request[:20]]
        if scripts:
            self.writes.append(len(scripts))
            self.items += [request.count(b"ada\0chat\0") for request in scripts]
        self.in_flight += len(replies)
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self._send(requests, [partial(self._landed, reply) for reply in replies])

    def _landed(self, reply: Any, said: Any) -> None:
        self.in_flight -= 1
        reply(said)


@pytest.fixture
async def dispatcher() -> AsyncIterator[Dispatcher]:
    client = FakeAsyncRedis()
    dispatcher = Dispatcher(Router(Endpoint.of(client)))
    dispatcher.open()
    lane: Any = await dispatcher.router.lane(KEYS[0])
    for number in range(2):
        keys = (KEYS[number].gate, KEYS[number].meta, KEYS[number].journal)
        await lane.run_script("open", keys, (b"1", b"2", b"0.1.0", b"1"))
        await client.set(KEYS[number].account(b"ada"), "1-0 1000 0 0  ")
    yield dispatcher
    await dispatcher.close()
    await client.aclose()


@pytest.mark.parametrize(
    ("forbidden", "writes", "items"), [(False, [1], [20]), (True, [2], [10, 10])]
)
async def test_calls_of_one_turn_leave_in_one_write(
    dispatcher: Dispatcher,
    forbidden: bool,  # noqa: FBT001  # a row of the table
    writes: list[int],
    items: list[int],
) -> None:
    """In one script call; in one a partition, where the server forbids to join them."""
    lane = CountingLane(await dispatcher.router.lane(KEYS[0]))
    if forbidden:
        dispatcher.router.part()

    calls = [charge(number, partition=KEYS[number % 2]) for number in range(20)]
    replies = await asyncio.gather(*(dispatcher.submit(call) for call in calls))

    assert writes == lane.writes
    assert items == lane.items
    expected = [b"ok\0001\0%d" % (999 - number // 2) for number in range(20)]
    assert expected == replies


async def test_a_batch_is_bounded_and_so_are_the_flights(dispatcher: Dispatcher) -> None:
    lane = CountingLane(await dispatcher.router.lane(KEYS[0]))
    number = BATCH_MAX * (FLIGHTS_MAX + 1) + 5

    replies = await asyncio.gather(*(dispatcher.submit(charge(n, b"0")) for n in range(number)))

    assert number == len(replies)
    assert BATCH_MAX == max(lane.items)
    assert FLIGHTS_MAX == lane.most_in_flight
    assert [BATCH_MAX, 5] == sorted(lane.items[FLIGHTS_MAX:], reverse=True)


async def asked_again_and_again(dispatcher: Dispatcher, callers: int, rounds: int) -> None:
    async def caller(number: int) -> None:
        for _ in range(rounds):
            await dispatcher.submit(charge(number, b"0"))

    await asyncio.gather(*(caller(number) for number in range(callers)))


@pytest.mark.parametrize(
    ("callers", "first", "then"),
    [
        (15, 15, {15}),
        (16, 16, {8}),
        (30, 30, {15}),
        (BATCH_MAX, BATCH_MAX, {BATCH_MAX // 2}),
        (2 * BATCH_MAX, BATCH_MAX, {BATCH_MAX}),
        (5 * BATCH_MAX, BATCH_MAX, {BATCH_MAX}),
    ],
)
async def test_callers_who_were_answered_together_are_sent_in_halves(
    dispatcher: Dispatcher, callers: int, first: int, then: set[int]
) -> None:
    """So that server and callers need not wait for each other."""
    lane = CountingLane(await dispatcher.router.lane(KEYS[0]))

    await asked_again_and_again(dispatcher, callers, 5)

    assert first == lane.items[0]
    assert then == {*lane.items[1:]}
    assert 5 * callers == sum(lane.items)


async def test_the_first_half_leaves_before_the_rest_has_asked(dispatcher: Dispatcher) -> None:
    await asked_again_and_again(dispatcher, 40, 1)
    await asked_again_and_again(dispatcher, 1, 5)
    lane = CountingLane(await dispatcher.router.lane(KEYS[0]))

    answers = [dispatcher.submit(charge(number, b"0")) for number in range(19)]
    assert [] == lane.items
    answers.append(dispatcher.submit(charge(19, b"0")))
    assert [20] == lane.items
    answers += [dispatcher.submit(charge(number, b"0")) for number in range(20, 40)]
    assert [20] == lane.items  # one is in flight: the rest gathers until the turn ends
    await asyncio.gather(*answers)
    assert [20, 20] == lane.items


@pytest.mark.parametrize("callers", [BATCH_MAX + 2, 200, 2 * BATCH_MAX - 2])
async def test_a_crowd_that_fills_more_than_a_batch_is_halved_as_well(
    dispatcher: Dispatcher, callers: int
) -> None:
    await asked_again_and_again(dispatcher, callers, 1)
    lane = CountingLane(await dispatcher.router.lane(KEYS[0]))

    await asked_again_and_again(dispatcher, callers, 70)

    assert {callers // 2} == {*lane.items}


async def test_a_full_batch_leaves_before_the_rest_has_asked(dispatcher: Dispatcher) -> None:
    lane = CountingLane(await dispatcher.router.lane(KEYS[0]))

    answers = [dispatcher.submit(charge(number, b"0")) for number in range(BATCH_MAX - 1)]
    assert [] == lane.items
    answers += [dispatcher.submit(charge(number, b"0")) for number in range(BATCH_MAX, 400)]

    assert [BATCH_MAX] * FLIGHTS_MAX == lane.items  # no more may be in flight
    await asyncio.gather(*answers)
    assert 399 == sum(lane.items)


class HoldingLane:
    """Keeps what leaves on a dispatcher's lane back, until it is answered here."""

    def __init__(self, lane: Any) -> None:
        self._lane = lane
        self._send = lane.send
        self.waiting: list[Any] = []
        lane.send = lambda _, replies: self.waiting.extend(replies)

    def let_go(self) -> CountingLane:
        """From now on everything leaves; what left before still waits."""
        self._lane.send = self._send
        return CountingLane(self._lane)

    def land(self, items: int = BATCH_MAX) -> None:
        """Answer what has waited longest."""
        self.waiting.pop(0)([FREE] * items)


FREE = b"ok\0000\0001000"


async def test_a_full_batch_that_waits_leaves_before_anybody_answered_asks_again(
    dispatcher: Dispatcher,
) -> None:
    holding = HoldingLane(await dispatcher.router.lane(KEYS[0]))
    answers = [dispatcher.submit(charge(number, b"0")) for number in range(3 * BATCH_MAX)]
    assert FLIGHTS_MAX == len(holding.waiting)
    lane = holding.let_go()

    holding.land()

    assert [BATCH_MAX] == lane.items
    holding.land()
    assert {FREE} == {*await asyncio.gather(*answers)}


async def test_where_one_answer_serves_all_of_them_full_batches_leave_together(
    dispatcher: Dispatcher,
) -> None:
    dispatcher.router.part()
    dispatcher._flights_max = 1
    holding = HoldingLane(await dispatcher.router.lane(KEYS[0]))
    calls = [charge(number, b"0", KEYS[number % 2]) for number in range(4 * BATCH_MAX)]
    answers = [dispatcher.submit(call) for call in calls]
    assert [] == holding.waiting
    await asyncio.sleep(0)
    assert 2 == len(holding.waiting)
    lane = holding.let_go()

    holding.land()
    holding.land()

    assert {FREE} == {*await asyncio.gather(*answers)}
    assert [2] == lane.writes


async def test_a_batch_of_callers_who_have_gone_keeps_nobody_waiting(
    dispatcher: Dispatcher,
) -> None:
    holding = HoldingLane(await dispatcher.router.lane(KEYS[0]))
    answers = [dispatcher.submit(charge(number, b"0")) for number in range(3 * BATCH_MAX + 5)]
    for answer in answers[2 * BATCH_MAX : 3 * BATCH_MAX]:
        answer.cancel()
    lane = holding.let_go()

    holding.land()

    assert [5] == lane.items
    holding.land()
    assert [FREE] * 5 == await asyncio.gather(*answers[-5:])


async def test_where_one_answer_serves_all_of_them_they_travel_together(
    dispatcher: Dispatcher,
) -> None:
    dispatcher._flights_max = 1  # as where a level of acknowledgement is asked for
    lane = CountingLane(await dispatcher.router.lane(KEYS[0]))

    await asked_again_and_again(dispatcher, 40, 5)

    assert [40] * 5 == lane.items


async def test_a_crowd_that_has_gone_is_forgotten(dispatcher: Dispatcher) -> None:
    await asked_again_and_again(dispatcher, 3 * BATCH_MAX, 1)
    lane = CountingLane(await dispatcher.router.lane(KEYS[0]))

    await asked_again_and_again(dispatcher, 20, 150)

    assert 20 == lane.items[0]
    assert {10} == {*lane.items[-40:]}


async def test_each_caller_gets_its_own_reply(dispatcher: Dispatcher) -> None:
    calls = [charge(number, b"%d" % number) for number in range(30)]

    replies = await asyncio.gather(*(dispatcher.submit(call) for call in calls))

    assert [b"%d" % number for number in range(30)] == [reply.split(b"\0")[1] for reply in replies]


async def test_what_was_decided_stands_when_the_connection_ends_before_it_is_confirmed(
    dispatcher: Dispatcher,
) -> None:
    dispatcher.confirmation = Confirmation("replicated", (b"WAIT", b"1"), (1,), 1_000)
    lane: Any = await dispatcher.router.lane(KEYS[0])
    original = lane.send

    def send(requests: Any, replies: Any) -> None:
        decided, marked, answered = replies

        def marked_and_lost(reply: Any) -> None:
            marked(reply)
            lane.abandon(ConnectionResetError("it ended"))
            answered(lane._lost)

        original(requests[:2], (decided, marked_and_lost))

    lane.send = send
    receipt = Receipt("replicated")

    assert b"ok\0001\000999" == await dispatcher.submit(charge(1), receipt)
    assert Receipt("memory") == receipt
    assert 0 == dispatcher.flights


async def test_a_call_cancelled_before_it_was_sent_is_never_sent(dispatcher: Dispatcher) -> None:
    tasks = [asyncio.create_task(submitted(dispatcher, charge(number))) for number in range(3)]
    await asyncio.sleep(0)
    tasks[1].cancel()

    first, second, third = await asyncio.gather(*tasks, return_exceptions=True)

    assert isinstance(second, asyncio.CancelledError)
    assert [b"ok\0001\000999", b"ok\0001\000998"] == [first, third]


async def test_a_call_cancelled_in_flight_disturbs_nobody(dispatcher: Dispatcher) -> None:
    lane: Any = await dispatcher.router.lane(KEYS[0])
    sent = asyncio.Event()
    original = lane.send

    def send(requests: Any, replies: Any) -> None:
        original(requests, replies)
        sent.set()

    lane.send = send
    tasks = [asyncio.create_task(submitted(dispatcher, charge(n, b"%d" % n))) for n in range(4)]
    await sent.wait()
    tasks[2].cancel()

    replies = await asyncio.gather(*tasks, return_exceptions=True)
    later = await dispatcher.submit(charge(9, b"9"))

    assert isinstance(replies[2], asyncio.CancelledError)
    costs = [reply.split(b"\0")[1] for reply in replies if isinstance(reply, bytes)]
    assert [b"0", b"1", b"3"] == costs
    assert b"ok\0009\000985" == later


async def test_a_dropped_script_is_brought_back_and_the_batch_sent_again(
    dispatcher: Dispatcher,
) -> None:
    lane: Any = await dispatcher.router.lane(KEYS[0])
    await lane.execute(b"SCRIPT", b"FLUSH")

    replies = await asyncio.gather(*(dispatcher.submit(charge(number)) for number in range(3)))

    assert [b"ok\0001\000999", b"ok\0001\000998", b"ok\0001\000997"] == replies


async def test_scripts_that_are_dropped_for_ever_end_in_an_error(dispatcher: Dispatcher) -> None:
    lane: Any = await dispatcher.router.lane(KEYS[0])

    async def load_nothing() -> None:
        await lane.execute(b"SCRIPT", b"FLUSH")

    lane.load_scripts = load_nothing
    await lane.execute(b"SCRIPT", b"FLUSH")

    with pytest.raises(RedisUnavailableError, match="again and again"):
        await dispatcher.submit(charge(1))


class Redirecting(Router):
    """Every redirection leads to the one lane there is, and is counted."""

    redirections = 0

    async def redirected(self, lane: Lane, refusal: AskError) -> Lane:  # noqa: ARG002  # a router's
        self.redirections += 1
        return lane


@pytest.fixture
async def redirected(dispatcher: Dispatcher) -> Dispatcher:
    router: Any = dispatcher.router
    router.__class__ = Redirecting
    return dispatcher


def redirecting(lane: Any, times: int) -> None:
    """The first script calls of a lane belong elsewhere."""
    send, left = lane.send, [MovedError("1 127.0.0.1:1") for _ in range(times)]

    def sending(requests: Any, replies: Any) -> None:
        if left:
            for reply in replies:
                reply(left[-1])
            left.pop()
        else:
            send(requests, replies)

    lane.send = sending


async def test_a_redirected_batch_is_sent_again_as_it_is(redirected: Dispatcher) -> None:
    redirecting(await redirected.router.lane(KEYS[0]), times=3)

    replies = await asyncio.gather(
        *(redirected.submit(charge(number, b"%d" % number)) for number in range(5))
    )

    assert [b"%d" % number for number in range(5)] == [reply.split(b"\0")[1] for reply in replies]
    assert cast("Redirecting", redirected.router).redirections == 3


async def test_a_batch_sent_in_circles_ends_in_an_error(redirected: Dispatcher) -> None:
    redirecting(await redirected.router.lane(KEYS[0]), times=1_000)

    with pytest.raises(RedisUnavailableError, match="again and again"):
        await redirected.submit(charge(1))
    assert REPEATS_MAX == cast("Redirecting", redirected.router).redirections


async def test_a_server_that_has_to_be_waited_for_keeps_nobody_elses_waiting(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    router, arrived = dispatcher.router, asyncio.Event()
    router.part()  # as in a cluster
    lane = await router.lane(KEYS[0])

    async def later(_partition: PartitionKeys) -> Lane:
        await arrived.wait()
        return lane

    monkeypatch.setattr(router, "lane", later)
    monkeypatch.setattr(router, "open_lane", lambda p: lane if p.number == 0 else None)
    waiting = [
        asyncio.ensure_future(dispatcher.submit(charge(n, partition=KEYS[1]))) for n in range(3)
    ]
    assert b"ok\0001\000999" == await dispatcher.submit(charge(9))
    assert not any(task.done() for task in waiting)
    arrived.set()

    assert [b"ok\0001\000%d" % left for left in (999, 998, 997)] == await asyncio.gather(*waiting)


async def test_a_lost_connection_leaves_the_outcome_unknown_under_each_operations_id(
    dispatcher: Dispatcher,
) -> None:
    lane: Any = await dispatcher.router.lane(KEYS[0])
    tasks: list[asyncio.Task[None]] = []

    async def write_and_lose(requests: Any) -> None:
        await lane._socket._connection.send_packed_command(requests)
        lane.abandon(ConnectionResetError("reset"))

    def write(requests: Any) -> None:
        lane._socket.stop()  # the replies are never read
        tasks.append(asyncio.create_task(write_and_lose(requests)))

    lane._socket.write = write
    outcomes = await asyncio.gather(
        *(dispatcher.submit(charge(number)) for number in range(2)),
        return_exceptions=True,
    )

    unknown = [one.operation_id for one in outcomes if isinstance(one, OutcomeUnknownError)]
    assert ["t0", "t1"] == unknown
    assert [b"replayed\0t0\0001\000999", b"replayed\0t1\0001\000998"] == [
        await dispatcher.submit(charge(number)) for number in range(2)
    ]


async def test_a_reply_that_never_comes_gives_the_connection_up() -> None:
    client = FakeAsyncRedis()
    dispatcher = Dispatcher(Router(Endpoint.of(client)), timeout_ms=10)
    dispatcher.open()
    lane: Any = await dispatcher.router.lane(KEYS[0])

    def swallow(_requests: Any, replies: Any) -> None:
        lane._waiting.extend(replies)

    lane.send = swallow
    with pytest.raises(OutcomeUnknownError, match=r"no reply within 0\.01 s"):
        await dispatcher.submit(charge(1))

    assert not lane.is_open
    assert await dispatcher.router.lane(KEYS[0]) is not lane
    await dispatcher.close()
    await client.aclose()


async def test_a_script_error_is_final(dispatcher: Dispatcher) -> None:
    with pytest.raises(ScriptFailedError, match="MALFORMED") as failed:
        await dispatcher.submit(charge(1, b"nonsense"))

    assert not failed.value.transient


async def test_without_a_server_every_caller_is_told() -> None:
    dispatcher = Dispatcher(Router(Endpoint.from_url("redis://127.0.0.1:1")))
    dispatcher.open()

    outcomes = await asyncio.gather(
        *(dispatcher.submit(charge(number)) for number in range(3)),
        return_exceptions=True,
    )

    assert 3 == sum(isinstance(one, RedisUnavailableError) for one in outcomes)
    assert 3 == len({id(one) for one in outcomes})
    await dispatcher.close()


async def test_after_closing_nothing_is_sent(dispatcher: Dispatcher) -> None:
    waiting = asyncio.create_task(submitted(dispatcher, charge(1)))
    await asyncio.sleep(0)
    await dispatcher.close()

    with pytest.raises(EngineClosedError, match="before the call was sent"):
        await waiting
    with pytest.raises(EngineClosedError, match="not open"):
        await dispatcher.submit(charge(2))


async def test_closing_answers_who_waits_for_scripts_to_be_brought_back(
    dispatcher: Dispatcher,
) -> None:
    """And leaves nothing behind: opened again, it serves as before."""
    for _ in range(FLIGHTS_MAX):
        lane: Any = await dispatcher.router.lane(KEYS[0])
        loading = asyncio.Event()

        async def load_for_ever(begun: asyncio.Event = loading) -> None:
            begun.set()
            await asyncio.Event().wait()

        lane.load_scripts = load_for_ever
        await lane.execute(b"SCRIPT", b"FLUSH")
        waiting = asyncio.create_task(submitted(dispatcher, charge(1)))
        await loading.wait()
        await dispatcher.close()

        with pytest.raises(EngineClosedError, match="before the call was sent"):
            await asyncio.wait_for(waiting, 1)
        dispatcher.open()

    assert b"ok\0001\000999" == await asyncio.wait_for(dispatcher.submit(charge(2)), 1)


async def test_closing_before_a_connection_is_asked_for_leaves_nothing_behind(
    dispatcher: Dispatcher,
) -> None:
    (await dispatcher.router.lane(KEYS[0])).abandon(ConnectionResetError("reset"))
    waiting = asyncio.create_task(submitted(dispatcher, charge(1)))
    while not dispatcher._tasks:
        await asyncio.sleep(0)
    await dispatcher.close()
    with pytest.raises(EngineClosedError, match="before the call was sent"):
        await waiting

    dispatcher.open()
    assert b"ok\0001\000999" == await asyncio.wait_for(dispatcher.submit(charge(2)), 1)


async def test_a_batch_that_comes_back_while_closing_is_refused(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane: Any = await dispatcher.router.lane(KEYS[0])
    flown: list[Any] = []
    monkeypatch.setattr(lane, "send", lambda _requests, replies: flown.extend(replies))
    waiting = asyncio.create_task(submitted(dispatcher, charge(1)))
    while not flown:
        await asyncio.sleep(0)

    async def answer_and_close() -> None:
        flown[0](ClusterCrossSlotError("Keys in request don't hash to the same slot"))

    monkeypatch.setattr(dispatcher.router, "close", answer_and_close)
    await dispatcher.close()

    with pytest.raises(EngineClosedError, match="before the call was sent"):
        await asyncio.wait_for(waiting, 1)
    monkeypatch.undo()
