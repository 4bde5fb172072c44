"""set_tier.lua: whose tier counts, what becomes of the credits and of the expiry."""

from __future__ import annotations

from dataclasses import replace

import pytest

from credits_fast.protocol.entries import TierFacts, TransactionItem
from credits_fast.protocol.wire import TierChange, Verdict, tier_call
from tests.scripts.conftest import NOW_MS, Bench

UPGRADE = TierChange(
    verb=b"upgradeTier",
    target=b"pro",
    judged_by=b"effective",
    policy=b"set_to_cap",
    expiry=b"keep",
    verdicts=(Verdict(b"pro", b"not_higher", 1_000), Verdict(b"", b"", 1_000)),
)
DOWNGRADE = TierChange(
    verb=b"downgradeTier",
    target=b"free",
    judged_by=b"stored",
    policy=b"set_to_cap",
    expiry=b"keep",
    verdicts=(Verdict(b"pro", b"", 100), Verdict(b"", b"not_lower", 100)),
)
RENEWAL = TierChange(
    verb=b"renewMembership",
    target=b"",
    judged_by=b"stored",
    policy=b"keep",
    expiry=b"clear",
    verdicts=(Verdict(b"pro", b"", 1_000), Verdict(b"", b"no_tier", 0)),
)


async def run(bench: Bench, change: TierChange, transaction_id: str = "t1") -> str:
    (reply,) = await bench.run(tier_call(bench.operation(transaction_id), change))
    return reply


async def test_an_upgrade_sets_tier_credits_and_expiry(bench: Bench) -> None:
    await bench.account(b=50, s=1)
    change = replace(UPGRADE, expiry=b"%d" % (NOW_MS + 5))

    assert f"ok  pro 50 1000 {NOW_MS + 5}" == await run(bench, change)
    fields = await bench.fields()
    assert {"b": "1000", "s": "2", "t": "pro", "x": str(NOW_MS + 5), "l": "1-0"} == fields
    (entry,) = await bench.journal()
    (item,) = entry.items
    assert isinstance(item, TransactionItem)
    assert ("tier", 950, 1_000) == (item.kind, item.delta, item.balance_after)
    expected = TierFacts("upgradeTier", "", "pro", NOW_MS + 5, str(NOW_MS + 5))
    assert expected == item.tier


async def test_refusals_come_in_their_order(bench: Bench) -> None:
    record = bench.operation().record_key
    await bench.lane.execute(b"SET", record, b"other\0t0\0%d\0" % (NOW_MS + 1))
    undefined = replace(UPGRADE, target=b"gold", verdicts=(Verdict(b"", b"undefined_tier", 0),))

    assert "idempotency_key_conflict t0" == await run(bench, undefined)
    await bench.lane.execute(b"DEL", record)
    assert "cold" == await run(bench, undefined)
    await bench.account(b=1, t="pro")
    assert "undefined_tier" == await run(bench, undefined)
    assert "invalid_tier_change pro not_higher" == await run(bench, UPGRADE)
    await bench.account(b=1, t="free")
    assert "ok free pro 1 1000" == await run(bench, UPGRADE)
    assert "replayed t1 free pro 1 1000" == await run(bench, UPGRADE)


@pytest.mark.parametrize(
    ("policy", "before", "after"),
    [
        (b"set_to_cap", 5_000, 1_000),
        (b"set_to_cap", 50, 1_000),
        (b"keep", 5_000, 5_000),
        (b"keep", 50, 50),
        (b"raise_to_cap", 5_000, 5_000),
        (b"raise_to_cap", 50, 1_000),
    ],
)
async def test_credits_follow_the_policy(
    bench: Bench,
    policy: bytes,
    before: int,
    after: int,
) -> None:
    await bench.account(b=before)

    assert f"ok  pro {before} {after}" == await run(bench, replace(UPGRADE, policy=policy))


async def test_an_expired_tier_counts_as_none_for_an_upgrade_that_brings_an_expiry(
    bench: Bench,
) -> None:
    await bench.account(b=1, t="pro", x=NOW_MS - 1)

    assert "invalid_tier_change  expired" == await run(bench, UPGRADE)
    assert "ok pro pro 1 1000" == await run(bench, replace(UPGRADE, expiry=b"clear"))
    assert "x" not in await bench.fields()


async def test_a_downgrade_looks_at_the_stored_tier_and_keeps_a_past_expiry(bench: Bench) -> None:
    await bench.account(b=10, t="pro", x=NOW_MS - 1)

    assert f"ok pro free 10 100 {NOW_MS - 1}" == await run(bench, DOWNGRADE)
    assert "invalid_tier_change free not_lower" == await run(bench, DOWNGRADE, "t2")


async def test_a_renewal_keeps_the_tier_and_needs_one(bench: Bench) -> None:
    await bench.account("ada", b=10, t="pro", x=NOW_MS - 1)
    assert "ok pro pro 10 10" == await run(bench, RENEWAL)

    await bench.account("ada", b=10, t="gone")
    assert "invalid_tier_change gone no_tier" == await run(bench, RENEWAL, "t2")


async def test_two_changes_in_one_batch_leave_the_last_membership(bench: Bench) -> None:
    await bench.account(b=10, t="free", x=NOW_MS + 9)

    replies = await bench.run(
        tier_call(bench.operation("t1"), replace(UPGRADE, expiry=b"clear")),
        tier_call(bench.operation("t2"), DOWNGRADE),
    )

    assert ["ok free pro 10 1000", "ok pro free 1000 100"] == replies
    assert {"b": "100", "s": "2", "t": "free", "l": "1-0"} == await bench.fields()
