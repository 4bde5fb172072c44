"""reserve, extend, capture, release, expire: what is refused, in which order; what is held."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from credits_fast.calls.open_holds import open_holds as everyones_holds
from credits_fast.errors import ScriptFailedError
from credits_fast.prices.pricing import Option, Quote
from credits_fast.protocol.entries import HoldFacts, HoldItem, TransactionItem
from credits_fast.protocol.hold_wire import (
    WHOLE,
    OpenHold,
    capture_call,
    extend_call,
    hold_field,
    packed_holds,
    release_call,
    reserve_call,
)
from credits_fast.protocol.wire import AUDIT_SUCCESS, Call, charge_call
from credits_fast.types import AboveHold
from tests.scripts.conftest import NOW_MS, NOW_US, Bench, priced

TTL_MS = 60_000
ENDS = NOW_MS + TTL_MS
LARGEST = 9_000_000_000_000_000
LATER_US = NOW_US + (TTL_MS + 1) * 1_000
"""The first moment at which a hold that was made now has expired."""
UNPRICED = Quote((Option(b"", b"!", b"CODE", b"{}"),))
TIERS = Quote((Option(b"pro", b"5"), Option(b"", b"-", b"pro")))


def reserve(
    bench: Bench,
    cost: int | Quote,
    hold_id: str = "h1",
    *,
    key: str = "",
    user: str = "ada",
    open_max: int = 1_000,
) -> Call:
    operation = bench.operation(hold_id, key=key, user=user)
    quote = priced(cost) if isinstance(cost, int) else cost
    return reserve_call(operation, quote, hold_ms=TTL_MS, open_max=open_max)


def capture(
    bench: Bench,
    cost: int | Quote = WHOLE,
    transaction_id: str = "t1",
    *,
    hold_id: str = "h1",
    final: bool = True,
    above: AboveHold = "debt",
    key: str = "",
) -> Call:
    quote = priced(cost) if isinstance(cost, int) else cost
    operation = bench.operation(transaction_id, key=key)
    return capture_call(operation, hold_id.encode(), quote, final=final, above=above)


def release(bench: Bench, operation_id: str = "o1", *, hold_id: str = "h1") -> Call:
    return release_call(bench.operation(operation_id), hold_id.encode())


def extend(
    bench: Bench, more: int = 0, operation_id: str = "e1", *, hold_ms: int | None = None
) -> Call:
    return extend_call(bench.operation(operation_id), b"h1", micros=more, hold_ms=hold_ms)


async def expire(
    bench: Bench,
    *users: str,
    most: int = 100,
    now_us: int = LATER_US,
    ids: Sequence[str] = (),
) -> list[str]:
    """Without ids of holds, all open ones are looked through."""
    named = users or ("ada",)
    accounts = [bench.keys.account(user.encode()) for user in named]
    keys = (bench.keys.journal, bench.keys.gate, bench.keys.holds, *accounts)
    listed = "\0".join(ids).encode()
    items = [part for user in named for part in (bench.operation(user=user).tail(), listed)]
    arguments = (b"%d" % now_us, b"%d" % most, *items)
    replies = await bench.lane.run_script("expire", keys, arguments)
    return [reply.decode().replace("\0", " ") for reply in replies]


async def put(bench: Bench, hold: OpenHold) -> None:
    field = hold_field(b"ada", hold.hold_id.encode())
    await bench.lane.execute(b"HSET", bench.keys.holds, field, hold.packed())


async def open_holds(bench: Bench, user: str = "ada") -> dict[str, OpenHold]:
    found = await everyones_holds(bench.lane.execute, bench.keys)
    return found.get(user, {})


async def test_a_reservation_keeps_credits_and_leaves_the_balance(bench: Bench) -> None:
    await bench.account(b=100, s=7, t="pro")

    assert [f"ok 30 {ENDS} 100 30"] == await bench.run(reserve(bench, 30, key="k"))
    (entry,) = await bench.journal()
    (item,) = entry.items
    assert isinstance(item, HoldItem)
    hold = HoldFacts("h1", "reserved", 30, 30, 0, ENDS, 30, 30)
    assert ("reserve", "h1", 100, hold, "ada", "k") == (
        item.verb,
        item.operation_id,
        item.balance,
        item.hold,
        item.user_id,
        item.key,
    )
    expected = {"b": "100", "s": "7", "t": "pro", "r": f"30/{ENDS}/1", "l": str(entry.id)}
    assert expected == await bench.fields()
    assert {"h1": OpenHold("h1", 30, 30, 0, ENDS, audited=True, tier="pro")} == await open_holds(
        bench
    )


RESERVE_REFUSALS: list[tuple[str, dict[str, Any], Quote, str]] = [
    # Each row repairs the fault of the row above. A record with another fingerprint stands first.
    ("conflict", {}, UNPRICED, "idempotency_key_conflict t0"),
    ("no record", {}, UNPRICED, "cold"),
    ("an account", {"b": 4}, TIERS, "membership_required pro"),
    ("a tier", {"b": 4, "t": "pro"}, UNPRICED, "unpriced CODE {}"),
    ("a price", {"b": 6, "r": f"3/{NOW_MS - 1}/1"}, TIERS, "overdue"),
    ("time", {"b": 6, "r": f"3/{NOW_MS}/1"}, TIERS, "insufficient_credits 5 3 3"),
    ("credits", {"b": 8, "r": f"3/{NOW_MS}/1"}, TIERS, "hold_limit 1"),
]


async def test_refusals_of_a_reservation_come_in_their_order(bench: Bench) -> None:
    record = bench.operation("h1").record_key
    await bench.lane.execute(b"SET", record, b"other\0t0\0%d\0" % (NOW_MS + 1))
    other = OpenHold("h0", 3, 3, 0, NOW_MS, audited=True, tier="")
    await put(bench, other)
    for repaired, account, quote, reply in RESERVE_REFUSALS:
        if repaired == "no record":
            await bench.lane.execute(b"DEL", record)
        if account:
            await bench.account("ada", **{"t": "pro", **account} if "r" in account else account)

        assert [reply] == await bench.run(reserve(bench, quote, open_max=1)), repaired

    assert [f"ok 5 {ENDS} 8 8"] == await bench.run(reserve(bench, TIERS, open_max=2))


async def test_a_full_house_whose_time_is_over_is_looked_through_first(bench: Bench) -> None:
    await bench.account(b=10)
    await bench.run(reserve(bench, 1))

    late = await bench.run(reserve(bench, 1, "h2", open_max=1), now_us=LATER_US)
    assert ["overdue"] == late
    assert ["expired 1"] == await expire(bench)
    again = await bench.run(reserve(bench, 1, "h2", open_max=1), now_us=LATER_US)
    assert [f"ok 1 {LATER_US // 1_000 + TTL_MS} 10 1"] == again


async def test_items_of_a_call_see_what_earlier_ones_hold_capture_and_release(
    bench: Bench,
) -> None:
    await bench.account(b=10)

    replies = await bench.run(
        reserve(bench, 4, "h1"),
        reserve(bench, 4, "h2"),
        reserve(bench, 4, "h3"),
        reserve(bench, 1, "h4", open_max=2),
    )
    assert [f"ok 4 {ENDS} 10 4", f"ok 4 {ENDS} 10 8", "insufficient_credits 4 2 8"] == replies[:3]
    assert "hold_limit 2" == replies[3]
    assert ["ok 4 6 4 0 1", "unknown_hold"] == await bench.run(
        capture(bench, transaction_id="t1"), capture(bench, transaction_id="t2")
    )
    second = [release(bench, one, hold_id="h2") for one in ("o1", "o2")]
    assert ["ok 4 6 0", "unknown_hold"] == await bench.run(*second)
    assert {} == await open_holds(bench)
    assert "r" not in await bench.fields()


@pytest.mark.parametrize("verb", ["reserve", "extend", "capture", "part", "release"])
async def test_a_repeated_operation_gets_the_first_reply(bench: Bench, verb: str) -> None:
    await bench.account(b=10)
    (first,) = await bench.run(reserve(bench, 4))
    call, name = reserve(bench, 4), "h1"
    if verb != "reserve":
        calls = {
            "extend": (extend(bench, 2), "e1"),
            "capture": (capture(bench, key="k"), "t1"),
            "part": (capture(bench, 1, final=False), "t1"),
            "release": (release(bench), "o1"),
        }
        call, name = calls[verb]
        (first,) = await bench.run(call)
    before = await bench.fields(), await open_holds(bench), len(await bench.journal())

    assert [f"replayed {name} {first.removeprefix('ok ')}"] == await bench.run(call)
    assert before == (await bench.fields(), await open_holds(bench), len(await bench.journal()))


async def test_a_capture_that_finishes_its_hold_has_no_record_and_finishes_it_once(
    bench: Bench,
) -> None:
    await bench.account(b=10)
    await bench.run(reserve(bench, 4), reserve(bench, 3, "h2"))
    last = capture(bench)
    part = capture(bench, 1, "t2", hold_id="h2", final=False)

    assert ["ok 4 6 4 0 1", "ok 1 5 1 2 0"] == await bench.run(last, part)
    before = await bench.fields(), await open_holds(bench), len(await bench.journal())
    names = [bench.operation(name).record_key for name in ("t1", "t2")]
    assert [0, 1] == [await bench.lane.execute(b"EXISTS", name) for name in names]
    # In whatever order items come that have a record and those that have none.
    for again in ([last, part], [part, last], [last, part, last], [last, last]):
        replies = await bench.run(*again)
        assert replies == [
            "unknown_hold" if call is last else "replayed t2 1 5 1 2 0" for call in again
        ]
    assert before == (await bench.fields(), await open_holds(bench), len(await bench.journal()))


CAPTURES: list[tuple[int | Quote, bool, AboveHold, str, dict[str, str], int | None]] = [
    # price, final, above; the reply; the account; what the hold keeps, None where it is finished
    (WHOLE, True, "debt", "ok 40 60 40 0 1", {"b": "60", "s": "1"}, None),
    (10, True, "refuse", "ok 10 90 10 0 1", {"b": "90", "s": "1"}, None),
    (0, True, "refuse", "ok 0 100 0 0 1", {"b": "100", "s": "1"}, None),
    (10, False, "debt", "ok 10 90 10 30 0", {"b": "90", "s": "1", "r": f"30/{ENDS}/1"}, 30),
    (130, True, "debt", "ok 130 -30 130 0 1", {"b": "-30", "s": "1"}, None),
    (
        *(130, False, "debt", "ok 130 -30 130 0 0"),
        *({"b": "-30", "s": "1", "r": f"0/{ENDS}/1"}, 0),
    ),
    (130, True, "cap", "ok 40 60 130 0 1", {"b": "60", "s": "1"}, None),
    (130, False, "cap", "ok 40 60 130 0 0", {"b": "60", "s": "1", "r": f"0/{ENDS}/1"}, 0),
    (
        *(41, True, "refuse", "capture_exceeds_hold h1 41 40"),
        *({"b": "100", "s": "0", "r": f"40/{ENDS}/1"}, 40),
    ),
]


@pytest.mark.parametrize(("price", "final", "above", "reply", "account", "kept"), CAPTURES)
async def test_a_capture_takes_what_its_policy_says_and_keeps_the_rest_or_not(
    bench: Bench,
    price: int | Quote,
    final: bool,  # noqa: FBT001  # a column of the table
    above: AboveHold,
    reply: str,
    account: dict[str, str],
    kept: int | None,
) -> None:
    await bench.account(b=100)
    await bench.run(reserve(bench, 40))

    assert [reply] == await bench.run(capture(bench, price, final=final, above=above))
    fields = await bench.fields()
    assert account == {name: value for name, value in fields.items() if name != "l"}
    found = await open_holds(bench)
    assert kept == (found["h1"].reserved if found else None)
    if reply.startswith("ok"):
        item = (await bench.journal())[-1].items[0]
        assert isinstance(item, TransactionItem)
        assert item.hold is not None
        cost, _, asked, left, _ = map(int, reply.split()[1:])
        assert ("charge", -cost, asked, left, cost) == (
            item.kind,
            item.delta,
            item.hold.price,
            item.hold.reserved,
            item.hold.captured,
        )
        assert left - 40 == item.hold.change if not final else item.hold.change == -40


async def test_partial_captures_add_up_and_the_last_one_releases_the_rest(bench: Bench) -> None:
    await bench.account(b=100)
    await bench.run(reserve(bench, 40))

    replies = await bench.run(
        *(capture(bench, 15, f"t{n}", final=False, above="refuse") for n in range(3)),
        capture(bench, 4, "t9"),
    )
    exceeded = "capture_exceeds_hold h1 15 10"
    assert ["ok 15 85 15 25 0", "ok 15 70 15 10 0", exceeded, "ok 4 66 4 0 1"] == replies
    last = (await bench.journal())[-1].items[-1]
    assert isinstance(last, TransactionItem)
    assert HoldFacts("h1", "captured", 40, 0, 34, ENDS, -10, 0, 4) == last.hold


@pytest.mark.parametrize("final", [True, False])
async def test_neighbours_in_a_call_are_captured_each_from_its_own_hold_and_account(
    bench: Bench, *, final: bool
) -> None:
    """As one by one, whatever two that stand together have in common."""
    tier = "pro"
    neighbours = {  # what is held of how much, until when, by whom; and for how much it is captured
        "ada": (10, f"30/{ENDS}/2", ENDS, "", 4),
        "as-ada": (10, f"30/{ENDS}/2", ENDS, "", 4),
        "another-hold": (20, f"30/{ENDS}/2", ENDS, "", 4),
        "another-sum": (20, f"50/{ENDS}/2", ENDS, "", 4),
        "another-moment": (20, f"50/{NOW_MS}/2", ENDS, "", 4),
        "another-end": (20, f"50/{NOW_MS}/2", ENDS + 1, "", 4),
        "another-tier": (20, f"50/{NOW_MS}/2", ENDS + 1, tier, 4),
        "another-price": (20, f"50/{NOW_MS}/2", ENDS + 1, tier, 5),
        "nobody-else": (20, f"20/{NOW_MS}/1", ENDS + 1, tier, 5),
    }

    async def outcomes(name: str, at_once: int) -> list[Any]:
        calls = list[Call]()
        for user, (held, reserved, ends, judged, cost) in neighbours.items():
            await bench.account(user, b=100, s=len(user), r=reserved)
            hold = OpenHold("h1", held, held, 0, ends, audited=True, tier=judged)
            field = hold_field(user.encode(), b"h1")
            await bench.lane.execute(b"HSET", bench.keys.holds, field, hold.packed())
            operation = bench.operation(f"{name}-{user}", user=user)
            calls.append(capture_call(operation, b"h1", priced(cost), final=final, above="debt"))
        before = len(await bench.journal())
        replies = list[str]()
        for first in range(0, len(calls), at_once):
            replies += await bench.run(*calls[first : first + at_once])
        entries = (await bench.journal())[before:]
        told = [item.hold for entry in entries for item in entry.items]  # type: ignore[union-attr]
        there = [{**await bench.fields(user), "l": ""} for user in neighbours]
        return [replies, told, there, [await open_holds(bench, user) for user in neighbours]]

    at_once = await outcomes("all", len(neighbours))
    assert {True} == {reply.startswith("ok ") for reply in at_once[0]}
    assert await outcomes("each", 1) == at_once


async def test_refusals_of_a_capture_come_in_their_order(bench: Bench) -> None:
    record = bench.operation("t1", key="k").record_key
    await bench.lane.execute(b"SET", record, b"other\0t0\0%d\0" % (NOW_MS + 1))
    refused = Quote((Option(b"", b"-", b"pro"),))

    async def reply(quote: Quote | int, above: AboveHold = "refuse", key: str = "") -> str:
        (said,) = await bench.run(capture(bench, quote, above=above, key=key))
        return said

    assert "idempotency_key_conflict t0" == await reply(refused, key="k")
    assert "cold" == await reply(refused)
    await bench.account(b=4)
    assert "unknown_hold" == await reply(refused)
    await bench.account(b=-9_000_000_000_000_000, r=f"4/{ENDS}/1")
    assert "unknown_hold" == await reply(refused)
    hold = OpenHold("h1", 4, 4, 0, NOW_MS - 1, audited=True, tier="")
    await put(bench, hold)
    assert "hold_expired h1" == await reply(refused)
    await put(bench, hold._replace(expires_ms=NOW_MS))
    assert "membership_required pro" == await reply(refused)
    assert "unpriced CODE {}" == await reply(UNPRICED)
    assert "capture_exceeds_hold h1 5 4" == await reply(5)
    assert "balance_limit -9000000000000000 4" == await reply(4)
    await bench.account(b=4)
    assert "ok 4 0 4 0 1" == await reply(4)


async def test_a_hold_ends_where_its_sums_are_no_longer_exact(bench: Bench) -> None:
    """What is captured of it in parts, and reserved for it by extensions, however it was paid for."""
    await bench.account(b=10, r=f"4/{ENDS}/1")
    hold = OpenHold("h1", LARGEST - 3, 4, LARGEST - 3, ENDS, audited=True, tier="")
    await put(bench, hold)

    assert [f"balance_limit {LARGEST - 3} 4 captured"] == await bench.run(capture(bench, 4))
    assert [f"balance_limit {LARGEST - 3} 4 reserved"] == await bench.run(extend(bench, 4))
    assert [f"ok 3 7 {ENDS} 10 7"] == await bench.run(extend(bench, 3))
    assert ["ok 3 7 3 0 1"] == await bench.run(capture(bench, 3))


async def test_refusals_of_a_release_come_in_their_order(bench: Bench) -> None:
    record = bench.operation("o1").record_key
    await bench.lane.execute(b"SET", record, b"other\0t0\0%d\0" % (NOW_MS + 1))

    assert ["idempotency_key_conflict t0"] == await bench.run(release(bench))
    await bench.lane.execute(b"DEL", record)
    assert ["cold"] == await bench.run(release(bench))
    await bench.account(b=10)
    assert ["unknown_hold"] == await bench.run(release(bench))
    await bench.run(reserve(bench, 4))
    assert ["hold_expired h1"] == await bench.run(release(bench), now_us=LATER_US)
    assert ["ok 4 10 0"] == await bench.run(release(bench))


async def test_an_extension_keeps_more_for_longer_and_leaves_the_balance(bench: Bench) -> None:
    await bench.account(b=100, s=7)
    await bench.run(reserve(bench, 30), reserve(bench, 5, "h2"))
    later, longer = NOW_US + 1_000, NOW_MS + 1 + 2 * TTL_MS

    replies = await bench.run(extend(bench, 4, hold_ms=2 * TTL_MS), now_us=later)
    assert [f"ok 4 34 {longer} 100 39"] == replies
    (item,) = (await bench.journal())[-1].items
    assert isinstance(item, HoldItem)
    hold = HoldFacts("h1", "reserved", 34, 34, 0, longer, 4, 39)
    assert ("extend", "e1", 100, hold) == (*(item.verb, item.operation_id, item.balance), item.hold)
    assert f"39/{ENDS}/2" == (await bench.fields())["r"]
    found = (await open_holds(bench))["h1"]
    assert OpenHold("h1", 34, 34, 0, longer, audited=True, tier="") == found
    assert ["expired 1"] == await expire(bench)
    assert ["ok 34 66 34 0 1"] == await bench.run(capture(bench), now_us=LATER_US)


async def test_an_extension_never_shortens_a_hold_and_may_ask_for_one_thing_alone(
    bench: Bench,
) -> None:
    await bench.account(b=10)
    await bench.run(reserve(bench, 4))

    replies = await bench.run(
        extend(bench, 0, "e1", hold_ms=1),
        extend(bench, 2, "e2"),
        extend(bench, 0, "e3", hold_ms=TTL_MS + 5),
    )
    assert [f"ok 0 4 {ENDS} 10 4", f"ok 2 6 {ENDS} 10 6", f"ok 0 6 {ENDS + 5} 10 6"] == replies


async def test_a_hold_that_kept_nothing_more_can_expire_once_it_keeps_something_again(
    bench: Bench,
) -> None:
    await bench.account(b=10)
    await bench.run(reserve(bench, 4))
    await bench.run(capture(bench, 4, final=False))
    assert f"0/{ENDS}/1" == (await bench.fields())["r"]

    assert [f"ok 3 3 {ENDS} 6 3"] == await bench.run(extend(bench, 3))
    assert f"3/{ENDS}/1" == (await bench.fields())["r"]
    charge = charge_call(bench.operation("t2"), priced(6))
    assert ["overdue"] == await bench.run(charge, now_us=LATER_US)


async def test_refusals_of_an_extension_come_in_their_order(bench: Bench) -> None:
    record = bench.operation("e1").record_key
    await bench.lane.execute(b"SET", record, b"other\0t0\0%d\0" % (NOW_MS + 1))

    assert ["idempotency_key_conflict t0"] == await bench.run(extend(bench, 5))
    await bench.lane.execute(b"DEL", record)
    assert ["cold"] == await bench.run(extend(bench, 5))
    await bench.account(b=10)
    assert ["unknown_hold"] == await bench.run(extend(bench, 5))
    await bench.run(reserve(bench, 4), reserve(bench, 2, "h2"))
    assert ["hold_expired h1"] == await bench.run(extend(bench, 5), now_us=LATER_US)
    await bench.account(b=10, r=f"6/{NOW_MS - 1}/2")
    assert ["overdue"] == await bench.run(extend(bench, 5))
    await bench.account(b=10, r=f"6/{ENDS}/2")
    assert ["insufficient_credits 5 4 2"] == await bench.run(extend(bench, 5))
    assert [f"ok 4 8 {ENDS} 10 10"] == await bench.run(extend(bench, 4))


async def test_a_capture_is_priced_for_the_tier_the_hold_was_made_for(bench: Bench) -> None:
    await bench.account(b=100, t="pro")
    await bench.run(reserve(bench, TIERS))
    await bench.account(b=100, t="")

    assert ["ok 5 95 5 0 1"] == await bench.run(capture(bench, TIERS))


async def test_a_hold_lasts_to_its_last_millisecond_and_no_longer(bench: Bench) -> None:
    await bench.account(b=100)
    await bench.run(reserve(bench, 40))
    at_the_end = ENDS * 1_000

    assert ["expired 0"] == await expire(bench, now_us=at_the_end)
    assert ["hold_expired h1"] == await bench.run(capture(bench), now_us=LATER_US)
    assert ["ok 40 60 40 0 1"] == await bench.run(capture(bench), now_us=at_the_end)


async def test_what_expired_is_available_again_and_journalled_once(bench: Bench) -> None:
    await bench.account(b=10)
    await bench.account("bob", b=5)
    await bench.run(reserve(bench, 4, "h1"), reserve(bench, 3, "h2"))
    young = await bench.run(reserve(bench, 2, "h3"), now_us=LATER_US)
    assert [f"ok 2 {LATER_US // 1_000 + TTL_MS} 10 9"] == young

    assert ["expired 2", "expired 0", "cold"] == await expire(bench, "ada", "bob", "nobody")
    assert ["expired 0"] == await expire(bench)
    items = (await bench.journal())[-1].items
    told = {
        item.hold.hold_id: (item.verb, item.hold.state, item.hold.change, item.hold.reserved)
        for item in items
        if isinstance(item, HoldItem)
    }
    assert {"h1": ("expire", "expired", -4, 0), "h2": ("expire", "expired", -3, 0)} == told
    assert [2] == [one.reserved for one in (await open_holds(bench)).values()]
    assert f"2/{LATER_US // 1_000 + TTL_MS}/1" == (await bench.fields())["r"]
    assert ["unknown_hold"] == await bench.run(capture(bench))


async def test_an_expiry_is_bounded_and_goes_on_where_it_ended(bench: Bench) -> None:
    await bench.account(b=10)
    await bench.run(*(reserve(bench, 1, f"h{n}") for n in range(5)))

    done = [(await expire(bench, most=2))[0] for _ in range(4)]
    assert ["expired 2", "expired 2", "expired 1", "expired 0"] == done
    assert "r" not in await bench.fields()


async def test_a_charge_that_wants_what_an_expired_hold_keeps_asks_for_the_expiry(
    bench: Bench,
) -> None:
    await bench.account(b=10)
    await bench.run(reserve(bench, 4))
    charge = charge_call(bench.operation("t1"), priced(7))

    assert ["insufficient_credits 7 6 4"] == await bench.run(charge)
    before = len(await bench.journal())
    assert ["overdue"] == await bench.run(charge, now_us=LATER_US)
    assert before == len(await bench.journal())
    await expire(bench)
    assert ["ok 7 3"] == await bench.run(charge, now_us=LATER_US)


async def test_a_moment_that_is_too_early_is_put_right_without_an_entry(bench: Bench) -> None:
    """The hold that would have ended first was captured; the moment stayed."""
    await bench.account(b=10)
    await bench.run(reserve(bench, 4, "h1"))
    await bench.run(reserve(bench, 3, "h2"), now_us=LATER_US)
    await bench.run(capture(bench))
    before = await bench.journal()
    assert f"3/{ENDS}/1" == (await bench.fields())["r"]

    assert ["expired 0"] == await expire(bench)
    assert f"3/{LATER_US // 1_000 + TTL_MS}/1" == (await bench.fields())["r"]
    assert before == await bench.journal()


@pytest.mark.parametrize("told", [f"3/{ENDS}/1", "3", "4"])
async def test_an_account_that_does_not_fit_its_holds_stops_its_own_items(
    bench: Bench, told: str
) -> None:
    await bench.account(b=10)
    await bench.run(reserve(bench, 4))
    await bench.account(r=told)

    replies = await bench.run(capture(bench), capture(bench, transaction_id="t2"))
    assert {"failed MALFORMED"} == {reply[:16] for reply in replies}
    assert (await bench.run(release(bench)))[0].startswith("failed MALFORMED")
    assert (await bench.run(extend(bench, 1)))[0].startswith("failed MALFORMED")
    assert (await expire(bench, ids=["h1"]))[0].startswith("failed MALFORMED")
    if told != "4":  # else there is only a number to put right
        assert (await expire(bench))[0].startswith("failed MALFORMED")
    assert 1 == len(await bench.journal())


async def test_what_is_kept_as_a_hold_and_is_none_stops_its_own_items(bench: Bench) -> None:
    await bench.account(b=10)
    await bench.account("bob", b=10)
    await bench.run(reserve(bench, 4), reserve(bench, 4, "h2", user="bob"))
    await bench.lane.execute(b"HSET", bench.keys.holds, hold_field(b"ada", b"h1"), b"garbage")
    others = bench.operation("t2", user="bob")
    other = capture_call(others, b"h2", WHOLE, final=False, above="debt")

    for call in (capture(bench), release(bench), extend(bench, 1)):
        (reply,) = await bench.run(call)
        assert reply.startswith("failed MALFORMED")
    replies = await bench.run(capture(bench), other)
    assert ["failed MALFORMED", "ok 4 6 4 0 0"] == [replies[0][:16], replies[1]]
    for ids in ((), ("h1",)):
        mine, bobs = await expire(bench, "ada", "bob", ids=ids)
        assert mine.startswith("failed MALFORMED")
        assert bobs == ("expired 0" if ids else "expired 1")
    with pytest.raises(ScriptFailedError, match="garbage"):
        await open_holds(bench)


@pytest.mark.parametrize("ids", [(), ("h1",)])
async def test_holds_that_cannot_be_read_are_told_so_where_they_expire(
    bench: Bench, ids: Sequence[str]
) -> None:
    await bench.account(b=10)
    await bench.run(reserve(bench, 4))
    await bench.lane.execute(b"SET", bench.keys.holds, b"no hash")

    (reply,) = await expire(bench, ids=ids)
    assert reply.startswith("failed WRONGTYPE")


async def test_an_account_that_is_none_stops_nobody_elses_expiry(bench: Bench) -> None:
    for user in ("ada", "bob"):
        await bench.account(user, b=10)
        await bench.run(reserve(bench, 4, f"h-{user}", user=user))
    key = bench.keys.account(b"ada")
    await bench.lane.execute(b"DEL", key)
    await bench.lane.execute(b"HSET", key, b"no", b"text")

    assert ["cold", "expired 1"] == await expire(bench, "ada", "bob")


async def test_a_closed_partition_expires_nothing(bench: Bench) -> None:
    await bench.account(b=10)
    await bench.run(reserve(bench, 4))
    await bench.gate(run="another-server")

    assert ["fenced"] == await expire(bench)
    assert ["fenced"] == await bench.run(capture(bench))
    assert 1 == len(await open_holds(bench))


async def test_what_a_hold_was_audited_as_its_expiry_is(bench: Bench) -> None:
    await bench.account(b=10)
    for name, audited in (("h1", b"0"), ("h2", AUDIT_SUCCESS)):
        operation = bench.operation(name, audited=audited)
        await bench.run(reserve_call(operation, priced(1), hold_ms=TTL_MS, open_max=9))

    await expire(bench)
    items = (await bench.journal())[-1].items
    assert {"h1": False, "h2": True} == {
        item.hold.hold_id: item.audited for item in items if isinstance(item, HoldItem)
    }


async def test_loading_an_account_brings_its_open_holds(bench: Bench) -> None:
    holds = [
        OpenHold("h1", 4, 4, 0, ENDS + 5, audited=True, tier="a tier"),
        OpenHold("h2", 9, 3, 6, ENDS, audited=False, tier=""),
    ]
    keys = (bench.keys.gate, bench.keys.meta, bench.keys.holds, bench.keys.account(b"ada"))
    generation = await bench.lane.execute(b"HGET", bench.keys.meta, b"generation")
    facts = (generation, b"ada", b"10", b"7", b"2", b"", b"", packed_holds(holds))

    assert [b"loaded"] == await bench.lane.run_script("load", keys, facts)
    assert {one.hold_id: one for one in holds} == await open_holds(bench)
    assert f"7/{ENDS}/2" == (await bench.fields())["r"]
    await bench.run(release(bench, hold_id="h2"))
    assert [b"present"] == await bench.lane.run_script("load", keys, facts)
    assert ["h1"] == [*await open_holds(bench)]


async def test_a_new_epoch_begins_without_holds(bench: Bench) -> None:
    await bench.account(b=10)
    await bench.run(reserve(bench, 4))
    await bench.lane.execute(b"UNLINK", bench.keys.gate)
    begun = (bench.keys.gate, bench.keys.meta, bench.keys.journal, bench.keys.holds)
    epoch = (b"2", b"2-0", b"%d" % NOW_US, b"1", b"0.1.0")
    assert b"begun" == await bench.lane.run_script("begin", begun, epoch)

    assert ["cold"] == await bench.run(capture(bench))
    assert {} == await open_holds(bench)
    keys = (bench.keys.gate, bench.keys.meta, bench.keys.holds, bench.keys.account(b"ada"))
    generation = await bench.lane.execute(b"HGET", bench.keys.meta, b"generation")
    facts = (generation, b"ada", b"10", b"0", b"2", b"", b"", b"")
    assert [b"loaded"] == await bench.lane.run_script("load", keys, facts)
    assert ["unknown_hold"] == await bench.run(capture(bench))


async def test_of_named_holds_those_are_finished_that_are_over(bench: Bench) -> None:
    await bench.account(b=10)
    await bench.run(reserve(bench, 4, "h1"), reserve(bench, 3, "h2"))
    await bench.run(reserve(bench, 2, "h3"), now_us=LATER_US)

    assert ["expired 1"] == await expire(bench, ids=["h1", "h3", "nobody's"])
    assert {"h2": 3, "h3": 2} == {
        name: one.reserved for name, one in (await open_holds(bench)).items()
    }
    # The moment stays as it was: not all open holds were seen.
    assert f"5/{ENDS}/2" == (await bench.fields())["r"]
    assert ["expired 1"] == await expire(bench, ids=["h2", "h3"])
    assert f"2/{LATER_US // 1_000 + TTL_MS}/1" == (await bench.fields())["r"]


async def test_another_users_hold_is_not_named_by_its_id(bench: Bench) -> None:
    await bench.account(b=10)
    await bench.account("bob", b=10)
    await bench.run(reserve(bench, 4))

    assert ["expired 0"] == await expire(bench, "bob", ids=["h1"])
    other = capture_call(bench.operation("t1", user="bob"), b"h1", WHOLE, final=True, above="debt")
    assert ["unknown_hold"] == await bench.run(other)
    assert ["h1"] == [*await open_holds(bench)]


@pytest.mark.parametrize("user", ["a*", "a?", "a[b]", "a\\", "a", "a^-z"])
async def test_all_holds_of_a_user_are_found_among_those_of_others(bench: Bench, user: str) -> None:
    """Whatever a pattern makes of the name."""
    others = [name for name in ("a", "ab", "a*", "abc", "a-", "a]") if name != user]
    for name in (user, *others):
        await bench.account(name, b=10)
        await bench.run(reserve(bench, 1, f"h-{name}", user=name))

    assert ["expired 1"] == await expire(bench, user)
    assert all([len(await open_holds(bench, name)) == 1 for name in others])
    assert {} == await open_holds(bench, user)


async def test_how_many_are_open_is_counted_anew_where_all_are_looked_at(bench: Bench) -> None:
    await bench.account(b=10)
    await bench.run(reserve(bench, 4))
    await bench.account(b=10, r=f"4/{NOW_MS}/7")

    assert ["expired 0"] == await expire(bench, now_us=NOW_US)
    assert f"4/{ENDS}/1" == (await bench.fields())["r"]


async def test_a_hold_of_nothing_is_counted_and_its_time_ends_too(bench: Bench) -> None:
    await bench.account(b=10)
    await bench.run(reserve(bench, 0))
    assert f"0/{ENDS}/1" == (await bench.fields())["r"]
    full = reserve(bench, 1, "h2", open_max=1)

    assert ["hold_limit 1"] == await bench.run(full)
    assert ["overdue"] == await bench.run(full, now_us=LATER_US)
    assert ["expired 1"] == await expire(bench)
    assert [f"ok 1 {LATER_US // 1_000 + TTL_MS} 10 1"] == await bench.run(full, now_us=LATER_US)


async def test_a_journal_that_takes_no_entry_leaves_the_holds_as_they_were(bench: Bench) -> None:
    await bench.account(b=10)
    await bench.run(reserve(bench, 4))
    await bench.lane.execute(b"DEL", bench.keys.journal)
    await bench.lane.execute(b"SET", bench.keys.journal, b"not a stream")

    assert (await bench.run(capture(bench)))[0].startswith("failed")
    assert (await bench.run(reserve(bench, 1, "h2")))[0].startswith("failed")
    assert (await bench.run(extend(bench, 1)))[0].startswith("failed")
    assert (await expire(bench))[0].startswith("failed")
    assert {"h1": 4} == {name: one.reserved for name, one in (await open_holds(bench)).items()}
    assert f"4/{ENDS}/1" == (await bench.fields())["r"]
