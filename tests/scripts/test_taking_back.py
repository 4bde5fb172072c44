"""A write that is denied in the middle of a script: what was written before it is taken back."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import pytest

from credits_fast.protocol.hold_wire import (
    capture_call,
    extend_call,
    release_call,
    reserve_call,
)
from credits_fast.protocol.wire import Call, charge_call, grant_call, refund_call
from credits_fast.servers.lane import info_fields
from credits_fast.servers.versions import version_of
from tests.scripts.conftest import NOW_US, Bench, priced

_LATER_US = NOW_US + 100_000_000


async def has_msetex(bench: Bench) -> bool:
    return version_of(info_fields(await bench.lane.execute(b"INFO", b"server"))).has_msetex


@asynccontextmanager
async def denied(bench: Bench, command: str) -> AsyncGenerator[None, None]:
    """Nobody may use the command; without SET no other way to write a record either."""
    together = command == "set" and await has_msetex(bench)
    commands = [command.encode(), *([b"msetex"] if together else [])]
    await bench.lane.execute(b"ACL", b"SETUSER", b"default", *(b"-" + one for one in commands))
    try:
        yield
    finally:
        await bench.lane.execute(b"ACL", b"SETUSER", b"default", *(b"+" + one for one in commands))


async def everything(bench: Bench) -> dict[bytes, Any]:
    """All that is there, as it is."""
    keys = await bench.lane.execute(b"KEYS", b"*")
    found: dict[bytes, Any] = {}
    for key in sorted(keys):
        kind = await bench.lane.execute(b"TYPE", key)
        look = {
            b"string": (b"GET", key),
            b"hash": (b"HGETALL", key),
            b"stream": (b"XRANGE", key, b"-", b"+"),
        }[kind]
        found[key] = await bench.lane.execute(*look)
    return found


async def prepared(bench: Bench) -> None:
    """Two users, an open hold of each, and a charge whose refunds are known."""
    for user in ("ada", "ben"):
        await bench.account(user, b=1_000)
        made = reserve_call(
            bench.operation(f"h-{user}", user=user), priced(30), hold_ms=60_000, open_max=9
        )
        await bench.run(made)
    known = (bench.keys.gate, bench.keys.refunded(b"c"))
    await bench.lane.run_script("load_charge", known, (b"ada", b"50", b"7", b"60000"))


def charges(bench: Bench) -> list[Call]:
    users = ("ada", "ben", "ada")
    return [
        charge_call(bench.operation(f"t{n}", user=user, key=f"k{n}"), priced(5))
        for n, user in enumerate(users)
    ]


def grants(bench: Bench) -> list[Call]:
    return [grant_call(bench.operation("g1", key="k"), 5)]


def refunds(bench: Bench) -> list[Call]:
    return [refund_call(bench.operation(f"r{n}"), 5, b"c", bounded=True) for n in range(2)]


def reservations(bench: Bench) -> list[Call]:
    return [
        reserve_call(bench.operation(f"n{n}", user=user), priced(5), hold_ms=9_000, open_max=9)
        for n, user in enumerate(("ada", "ben", "ada"))
    ]


def captures(bench: Bench) -> list[Call]:
    """A part of one hold, and all of another."""
    made: list[Call] = []
    for user, final in (("ada", False), ("ben", True)):
        operation, hold = bench.operation(f"c-{user}", user=user), f"h-{user}".encode()
        made.append(capture_call(operation, hold, priced(5), final=final, above="debt"))
    return made


def releases(bench: Bench) -> list[Call]:
    return [
        release_call(bench.operation(f"o-{user}", user=user), f"h-{user}".encode())
        for user in ("ada", "ben")
    ]


def extensions(bench: Bench) -> list[Call]:
    return [
        extend_call(bench.operation(f"e{n}"), b"h-ada", micros=5, hold_ms=90_000) for n in range(2)
    ]


WRITES = {
    charges: ("mset", "set"),
    grants: ("mset", "set"),
    refunds: ("mset", "set", "hset"),
    reservations: ("mset", "set", "hset"),
    captures: ("mset", "set", "hset", "hdel"),
    releases: ("mset", "set", "hdel"),
    extensions: ("mset", "set", "hset"),
}
"""What each writes with, besides the journal's entry."""
CASES = [(verb, command) for verb, commands in WRITES.items() for command in commands]


@pytest.mark.parametrize("bench", ["real"], indirect=True)  # fakeredis has no access rules
@pytest.mark.parametrize(("calls_of", "command"), CASES)
async def test_nothing_of_a_call_that_was_cut_short_is_left(
    bench: Bench, calls_of: Callable[[Bench], list[Call]], command: str
) -> None:
    await prepared(bench)
    before = await everything(bench)
    calls = calls_of(bench)

    async with denied(bench, command):
        replies = await bench.run(*calls)
    after = await everything(bench)
    again = await bench.run(*calls)

    assert all(reply.startswith("failed") for reply in replies)
    if calls_of is refunds:  # what is known of a charge may be forgotten, and loaded anew
        before.pop(bench.keys.refunded(b"c"))
        after.pop(bench.keys.refunded(b"c"), None)
        assert {"cold_charge"} >= {reply for reply in again if not reply.startswith("ok")}
    else:
        assert all(reply.startswith("ok") for reply in again), again
    assert before == after


@pytest.mark.parametrize("bench", ["real"], indirect=True)
@pytest.mark.parametrize("command", ["mset", "hdel"])
async def test_an_expiry_that_was_cut_short_leaves_the_holds(bench: Bench, command: str) -> None:
    await prepared(bench)
    before = await everything(bench)
    users = (b"ada", b"ben")
    accounts = map(bench.keys.account, users)
    keys = (bench.keys.journal, bench.keys.gate, bench.keys.holds, *accounts)
    items = [part for user in users for part in (user + b"\0expire\0\0\0", b"")]
    arguments = (b"%d" % _LATER_US, b"9", *items)

    async with denied(bench, command):
        replies = await bench.lane.run_script("expire", keys, arguments)

    assert all(reply.startswith(b"failed") for reply in replies)
    assert before == await everything(bench)
    assert [b"expired\0" + b"1"] * 2 == await bench.lane.run_script("expire", keys, arguments)


@pytest.mark.parametrize("bench", ["real"], indirect=True)
@pytest.mark.parametrize("forbidden", ["", "msetex"])
async def test_records_are_the_same_written_together_or_one_by_one(
    bench: Bench, forbidden: str
) -> None:
    if not await has_msetex(bench):
        pytest.skip("this server has no MSETEX")
    await prepared(bench)
    lives_ms = (61_000, 3_600_000, 61_000)
    operations = [
        bench.operation(f"t{n}", user=user, key=f"k{n}")._replace(life_ms=life_ms)
        for n, (user, life_ms) in enumerate(zip(("ada", "ben", "ada"), lives_ms, strict=True))
    ]
    calls = [charge_call(operation, priced(5)) for operation in operations]

    async with denied(bench, forbidden) if forbidden else nullcontext():
        replies = await bench.run(*calls)
    repeated = await bench.run(*calls)
    left_ms = [await bench.lane.execute(b"PTTL", one.record_key) for one in operations]

    assert all(reply.startswith("ok") for reply in replies)
    assert [f"replayed t{n} {reply[3:]}" for n, reply in enumerate(replies)] == repeated
    assert all(left > life / 2 for left, life in zip(left_ms, lives_ms, strict=True))
    assert all(left <= life for left, life in zip(left_ms, lives_ms, strict=True))


@pytest.mark.parametrize("bench", ["real"], indirect=True)
async def test_records_are_written_together_where_only_some_items_have_one(bench: Bench) -> None:
    if not await has_msetex(bench):
        pytest.skip("this server has no MSETEX")
    await prepared(bench)
    calls = captures(bench)
    assert [True, False] == [bool(call.record) for call in calls]

    await bench.lane.execute(b"ACL", b"SETUSER", b"default", b"-set")
    replies = await bench.run(*calls)
    await bench.lane.execute(b"ACL", b"SETUSER", b"default", b"+set")

    assert all(reply.startswith("ok") for reply in replies)
    again = await bench.run(*calls)
    assert [f"replayed c-ada {replies[0][3:]}", "unknown_hold"] == again
