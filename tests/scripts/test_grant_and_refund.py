"""grant.lua and refund.lua: what they have in common, and what bounds a refund."""

from __future__ import annotations

import pytest

from credits_fast.protocol.entries import TransactionItem
from credits_fast.protocol.wire import Call, grant_call, refund_call
from tests.scripts.conftest import NOW_MS, Bench

LARGEST = 9_000_000_000_000_000


def grant(bench: Bench, micros: int, transaction_id: str = "t1", key: str = "") -> Call:
    return grant_call(bench.operation(transaction_id, key=key), micros)


def refund(
    bench: Bench,
    micros: int,
    transaction_id: str = "t1",
    *,
    related: str = "",
    bounded: bool = False,
) -> Call:
    operation = bench.operation(transaction_id)
    return refund_call(operation, micros, related.encode(), bounded=bounded)


@pytest.mark.parametrize("kind", ["grant", "refund"])
async def test_credits_are_added_and_journalled(bench: Bench, kind: str) -> None:
    await bench.account(b=10, s=2)
    call = grant(bench, 5) if kind == "grant" else refund(bench, 5)

    assert ["ok 5 15"] == await bench.run(call)
    assert ["replayed t1 5 15"] == await bench.run(call)
    (entry,) = await bench.journal()
    (item,) = entry.items
    assert isinstance(item, TransactionItem)
    assert (kind, 3, 5, 15) == (item.kind, item.sequence, item.delta, item.balance_after)


async def test_refusals_of_a_grant_come_in_their_order(bench: Bench) -> None:
    record = bench.operation().record_key
    await bench.lane.execute(b"SET", record, b"other\0t0\0%d\0" % (NOW_MS + 1))

    assert ["idempotency_key_conflict t0"] == await bench.run(grant(bench, 1))
    await bench.lane.execute(b"DEL", record)
    assert ["cold"] == await bench.run(grant(bench, 1))
    await bench.account(b=LARGEST)
    assert [f"balance_limit {LARGEST} 1"] == await bench.run(grant(bench, 1))
    await bench.account(b=LARGEST - 1)
    assert [f"ok 1 {LARGEST}"] == await bench.run(grant(bench, 1))


async def test_refusals_of_a_refund_come_in_their_order(bench: Bench) -> None:
    record = bench.operation().record_key
    await bench.lane.execute(b"SET", record, b"other\0t0\0%d\0" % (NOW_MS + 1))
    call = refund(bench, 2, related="c1", bounded=True)

    assert ["idempotency_key_conflict t0"] == await bench.run(call)
    await bench.lane.execute(b"DEL", record)
    assert ["cold"] == await bench.run(call)
    await bench.account(b=LARGEST)
    assert ["cold_charge"] == await bench.run(call)
    await load_charge(bench, charged=2, refunded=1)
    assert ["refund_exceeds_charge 2 1"] == await bench.run(call)
    await bench.lane.execute(b"DEL", bench.keys.refunded(b"c1"))
    await load_charge(bench, charged=2, refunded=0)
    assert [f"balance_limit {LARGEST} 2"] == await bench.run(call)
    await bench.account(b=0)
    assert ["ok 2 2"] == await bench.run(call)


async def test_refunds_of_one_charge_never_pass_it_together(bench: Bench) -> None:
    await bench.account(b=0)
    await load_charge(bench, charged=10, refunded=3)

    replies = await bench.run(
        *(refund(bench, 3, f"t{n}", related="c1", bounded=True) for n in range(4))
    )

    assert ["ok 3 3", "ok 3 6", *["refund_exceeds_charge 10 9"] * 2] == replies
    again = refund(bench, 1, "t9", related="c1", bounded=True)
    assert ["ok 1 7"] == await bench.run(again)


async def test_an_unbounded_refund_may_pass_its_charge_and_is_counted(bench: Bench) -> None:
    await bench.account(b=0)
    await load_charge(bench, charged=10, refunded=0)

    assert ["ok 15 15"] == await bench.run(refund(bench, 15, related="c1"))
    bounded = refund(bench, 1, "t2", related="c1", bounded=True)
    assert ["refund_exceeds_charge 10 15"] == await bench.run(bounded)


async def test_refunds_of_one_charge_end_where_their_sum_is_no_longer_exact(bench: Bench) -> None:
    """However often the user has spent them in between; and nobody else's refund has to wait."""
    await bench.account(b=0)
    await load_charge(bench, charged=10, refunded=LARGEST - 3)
    calls = [refund(bench, 2, f"t{n}", related="c1") for n in range(2)]

    replies = await bench.run(*calls, refund(bench, 7, "t9"))

    assert ["ok 2 2", f"balance_limit {LARGEST - 1} 2 refunded", "ok 7 9"] == replies
    assert ["ok 1 10"] == await bench.run(refund(bench, 1, "t3", related="c1"))


async def test_a_loaded_charge_is_never_overwritten(bench: Bench) -> None:
    assert "loaded" == await load_charge(bench, charged=10, refunded=0)
    assert "present" == await load_charge(bench, charged=99, refunded=0)

    await bench.account(b=0)
    call = refund(bench, 11, related="c1", bounded=True)
    assert ["refund_exceeds_charge 10 0"] == await bench.run(call)


async def test_a_charge_is_of_one_user(bench: Bench) -> None:
    await bench.account(b=0)
    await bench.account("ben", b=0)
    await load_charge(bench, charged=10, refunded=0)

    others = refund_call(bench.operation("t2", user="ben"), 1, b"c1", bounded=True)
    calls = (others, refund(bench, 1, related="c1", bounded=True), others)
    assert ["cold_charge", "ok 1 1", "cold_charge"] == await bench.run(*calls)


async def test_what_was_loaded_without_its_user_gets_it(bench: Bench) -> None:
    """As a version before did."""
    await bench.account(b=0)
    key = bench.keys.refunded(b"c1")
    await bench.lane.execute(b"HSET", key, b"epoch", b"1", b"charged", b"10", b"refunded", b"8")
    call = refund(bench, 3, related="c1", bounded=True)

    assert ["cold_charge"] == await bench.run(call)
    assert "present" == await load_charge(bench, charged=10, refunded=0)
    assert ["refund_exceeds_charge 10 8"] == await bench.run(call)


async def load_charge(bench: Bench, *, charged: int, refunded: int) -> str:
    keys = (bench.keys.gate, bench.keys.refunded(b"c1"))
    facts = (b"ada", b"%d" % charged, b"%d" % refunded, b"60000")
    (reply,) = await bench.lane.run_script("load_charge", keys, facts)
    return str(reply.decode())
