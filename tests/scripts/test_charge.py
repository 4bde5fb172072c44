"""charge.lua: what is refused, in which order; what is written, and what is not."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from credits_fast.prices.pricing import Option, Quote
from credits_fast.protocol.entries import RefusedItem, TransactionItem
from credits_fast.protocol.wire import AUDIT_NONE, AUDIT_SUCCESS, charge_call
from tests.scripts.conftest import NOW_MS, NOW_US, Bench, priced

TIERS = Quote(
    (
        Option(b"pro", b"5", b"5.4", b"{x}"),
        Option(b"", b"-", b"pro"),
    ),
)


async def test_a_charge_takes_the_cost_and_journals_it(bench: Bench) -> None:
    await bench.account(b=100, s=7)

    replies = await bench.run(
        charge_call(bench.operation(key="k", metadata=b'{"a":1}'), priced(30))
    )

    assert ["ok 30 70"] == replies
    (entry,) = await bench.journal()
    assert {"b": "70", "s": "8", "l": str(entry.id)} == await bench.fields()
    assert NOW_US == entry.time_us
    assert (
        TransactionItem(
            index=0,
            kind="charge",
            transaction_id="t1",
            sequence=8,
            delta=-30,
            balance_after=70,
            fingerprint="f",
            ttl_ms=60_000,
            audited=True,
            user_id="ada",
            action="chat",
            key="k",
            extra="",
            metadata=b'{"a":1}',
        ),
    ) == entry.items


REFUSALS_IN_ORDER: list[tuple[str, dict[str, Any], Quote, str]] = [
    # Each row repairs the fault of the row above. A record with another fingerprint stands first.
    ("conflict", {}, Quote((Option(b"", b"!", b"CODE", b"{}"),)), "idempotency_key_conflict t0"),
    ("no record", {}, Quote((Option(b"", b"!", b"CODE", b"{}"),)), "cold"),
    ("an account", {"b": 4}, TIERS, "membership_required pro"),
    ("a tier", {"t": "pro"}, Quote((Option(b"", b"!", b"CODE", b"{}"),)), "unpriced CODE {}"),
    ("a price", {}, TIERS, "insufficient_credits 5 4"),
    ("credits", {"b": 5}, TIERS, "ok 5 0"),
]


async def test_refusals_come_in_their_order(bench: Bench) -> None:
    record = bench.operation().record_key
    await bench.lane.execute(b"SET", record, b"other\0t0\0%d\0" % (NOW_MS + 1))
    for repaired, account, quote, reply in REFUSALS_IN_ORDER:
        if repaired == "no record":
            await bench.lane.execute(b"DEL", record)
        if account:
            await bench.account("ada", **{"b": 4, **account})

        assert [reply] == await bench.run(charge_call(bench.operation(), quote)), repaired


@pytest.mark.parametrize(
    ("gate", "reply"),
    [
        ({"run": "another-server"}, "fenced"),
        ({"format": "2", "library": "9.9.9"}, "incompatible 2 9.9.9"),
    ],
)
async def test_a_closed_partition_refuses_every_item(
    bench: Bench,
    gate: dict[str, str],
    reply: str,
) -> None:
    await bench.account(b=100)
    await bench.gate(**gate)
    charge = charge_call(bench.operation(), priced(1))

    assert [reply, reply] == await bench.run(charge, charge)
    assert [] == await bench.journal()
    assert "100" == (await bench.fields())["b"]


async def test_a_partition_without_a_gate_refuses(bench: Bench) -> None:
    await bench.account(b=100)
    await bench.lane.execute(b"DEL", bench.keys.gate)

    assert ["unopened"] == await bench.run(charge_call(bench.operation(), priced(1)))


async def test_an_exact_balance_is_enough_and_one_less_is_not(bench: Bench) -> None:
    await bench.account(b=10)
    replies = await bench.run(
        charge_call(bench.operation("t1"), priced(11)),
        charge_call(bench.operation("t2"), priced(10)),
        charge_call(bench.operation("t3"), priced(1)),
    )

    assert ["insufficient_credits 11 10", "ok 10 0", "insufficient_credits 1 0"] == replies


async def test_reserved_credits_are_not_available(bench: Bench) -> None:
    await bench.account(b=10, r=4)

    replies = await bench.run(
        charge_call(bench.operation("t1"), priced(7)),
        charge_call(bench.operation("t2"), priced(6)),
    )

    assert ["insufficient_credits 7 6 4", "ok 6 4"] == replies


async def test_a_balance_below_zero_refuses_even_what_is_free(bench: Bench) -> None:
    await bench.account(b=-5)

    assert ["insufficient_credits 0 -5"] == await bench.run(
        charge_call(bench.operation(), priced(0))
    )


async def test_a_record_that_cannot_be_read_stops_its_own_item(bench: Bench) -> None:
    await bench.account(b=10)
    broken = bench.operation("t1", key="k")
    await bench.lane.execute(b"SET", broken.record_key, b"nonsense")

    replies = await bench.run(
        charge_call(broken, priced(1)), charge_call(bench.operation("t2"), priced(1))
    )

    assert replies[0].startswith("failed MALFORMED")
    assert "ok 1 9" == replies[1]


async def test_a_free_charge_is_recorded(bench: Bench) -> None:
    await bench.account(b=0)

    assert ["ok 0 0"] == await bench.run(charge_call(bench.operation(), priced(0)))
    assert "1" == (await bench.fields())["s"]


@pytest.mark.parametrize(
    ("expires", "reply"),
    [
        (NOW_MS, "ok 5 95"),
        (NOW_MS - 1, "membership_required pro pro 1"),
        (NOW_MS + 1, "ok 5 95"),
        (-1, "membership_required pro pro 1"),
    ],
)
async def test_a_tier_counts_up_to_and_including_its_expiry(
    bench: Bench,
    expires: int,
    reply: str,
) -> None:
    await bench.account(b=100, t="pro", x=expires)

    assert [reply] == await bench.run(charge_call(bench.operation(), TIERS))


async def test_a_repeated_operation_gets_the_first_reply_and_changes_nothing(bench: Bench) -> None:
    await bench.account(b=100)
    charge = charge_call(bench.operation(key="k"), priced(30))
    repeated = charge_call(bench.operation("t2", key="k"), priced(40))

    assert ["ok 30 70"] == await bench.run(charge)
    assert ["replayed t1 30 70"] == await bench.run(repeated)
    assert "70" == (await bench.fields())["b"]
    assert 1 == len(await bench.journal())


async def test_a_repetition_within_a_batch_is_one_charge(bench: Bench) -> None:
    await bench.account(b=100)

    replies = await bench.run(
        *(charge_call(bench.operation(f"t{n}", key="k"), priced(30)) for n in range(4))
    )

    assert ["ok 30 70", *["replayed t0 30 70"] * 3] == replies
    (entry,) = await bench.journal()
    assert 1 == len(entry.items)


async def test_the_same_key_of_two_users_is_two_operations(bench: Bench) -> None:
    await bench.account("ada", b=10)
    await bench.account("bob", b=10)

    replies = await bench.run(
        charge_call(bench.operation("t1", user="ada", key="k"), priced(1)),
        charge_call(bench.operation("t2", user="bob", key="k"), priced(1)),
    )

    assert ["ok 1 9", "ok 1 9"] == replies


@pytest.mark.parametrize(("later_ms", "reply"), [(60_000, "replayed t1 1 9"), (60_001, "ok 1 8")])
async def test_a_record_holds_up_to_and_including_its_expiry(
    bench: Bench,
    later_ms: int,
    reply: str,
) -> None:
    await bench.account(b=10)
    await bench.run(charge_call(bench.operation("t1", key="k"), priced(1)))
    again = charge_call(bench.operation("t2", key="k"), priced(1))

    assert [reply] == await bench.run(again, now_us=NOW_US + later_ms * 1_000)


async def test_a_record_leaves_redis_by_itself(bench: Bench) -> None:
    await bench.account(b=10)
    operation = bench.operation(key="k", ttl_ms=60_000)
    await bench.run(charge_call(operation, priced(1)))

    left_ms = await bench.lane.execute(b"PTTL", operation.record_key)
    assert 0 < left_ms <= 61_000


async def test_items_of_a_batch_see_what_earlier_ones_did_and_stand_alone(bench: Bench) -> None:
    await bench.account("ada", b=10, s=3)
    await bench.account("bob", b=1)

    replies = await bench.run(
        charge_call(bench.operation("t1"), priced(6)),
        charge_call(bench.operation("t2", user="bob"), priced(2)),
        charge_call(bench.operation("t3", user="cold"), priced(2)),
        charge_call(bench.operation("t4"), priced(6)),
        charge_call(bench.operation("t5"), priced(4)),
    )

    assert [
        "ok 6 4",
        "insufficient_credits 2 1",
        "cold",
        "insufficient_credits 6 4",
        "ok 4 0",
    ] == replies
    (entry,) = await bench.journal()
    assert [4, "refused", "refused", 5] == [
        item.sequence if isinstance(item, TransactionItem) else "refused" for item in entry.items
    ]


async def test_a_refusal_is_journalled_only_where_it_is_wanted(bench: Bench) -> None:
    await bench.account(b=0)
    for audited in (AUDIT_NONE, AUDIT_SUCCESS):
        await bench.run(charge_call(bench.operation(audited=audited), priced(1)))

    assert [] == await bench.journal()

    await bench.run(charge_call(bench.operation(), priced(1)))
    (entry,) = await bench.journal()
    (item,) = entry.items
    assert isinstance(item, RefusedItem)
    assert ("charge", "insufficient_credits", ("1", "0", "")) == (
        item.verb,
        item.refusal.code,
        item.refusal.details,
    )


async def test_entries_are_numbered_within_their_epoch(bench: Bench) -> None:
    await bench.account(b=10)
    for number in range(3):
        await bench.run(charge_call(bench.operation(f"t{number}"), priced(1)))

    assert ["1-0", "1-1", "1-2"] == [str(entry.id) for entry in await bench.journal()]


async def test_the_servers_own_time_is_used_where_none_is_given(bench: Bench) -> None:
    await bench.account(b=10)
    await bench.run(charge_call(bench.operation(), priced(1)), now_us=None)

    seconds, _ = await bench.lane.execute(b"TIME")
    (entry,) = await bench.journal()
    assert abs(entry.time_us // 1_000_000 - int(seconds)) <= 60


@pytest.mark.parametrize(
    "cost",
    ["1.5", "nan", "inf", "0x10", " 12 ", "1e3", "9000000000000001", "", "12a"],
)
async def test_a_malformed_number_ends_the_script_before_its_first_write(
    bench: Bench,
    cost: str,
) -> None:
    await bench.account(b=100)
    good = charge_call(bench.operation("t1"), priced(1))
    bad = charge_call(bench.operation("t2"), Quote((Option(b"", cost.encode()),)))

    with pytest.raises(Exception, match="MALFORMED"):
        await bench.run(good, bad)

    assert [] == await bench.journal()
    assert "100" == (await bench.fields())["b"]


async def test_large_balances_stay_exact(bench: Bench) -> None:
    await bench.account(b=9_000_000_000_000_000)

    replies = await bench.run(charge_call(bench.operation(), priced(1)))

    assert ["ok 1 8999999999999999"] == replies
    assert "8999999999999999" == (await bench.fields())["b"]


@pytest.mark.parametrize("tier", ["own", "fingerprint", "audited", "ttl_ms", "-", "!"])
async def test_a_tier_may_have_any_name(bench: Bench, tier: str) -> None:
    quote = Quote((Option(tier.encode(), b"3"), Option(b"", b"7")))
    await bench.account(b=100, t=tier)
    await bench.account("bob", b=100)
    calls = [charge_call(bench.operation("t1"), quote), charge_call(bench.operation("t2"), quote)]
    other = charge_call(bench.operation("t3", user="bob"), quote)

    assert ["ok 3 97", "ok 3 94", "ok 7 93"] == await bench.run(*calls, other)


async def test_a_call_that_was_pickled_is_of_the_same_partition(bench: Bench) -> None:
    """So an account names the last entry that changed it, without which it may not be evicted."""
    await bench.account(b=100)
    calls = [charge_call(bench.operation(f"t{number}"), priced(1)) for number in range(3)]
    calls[1] = pickle.loads(pickle.dumps(calls[1]))  # noqa: S301  # our own

    assert ["ok 1 99", "ok 1 98", "ok 1 97"] == await bench.run(*calls)
    (entry,) = await bench.journal()
    assert str(entry.id) == (await bench.fields())["l"]
