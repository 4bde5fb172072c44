"""A key that is used again although the ledger remembers it takes effect once, in the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final

import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from credits_fast import RefundExceedsChargeError
from credits_fast.servers.lane import Endpoint
from credits_fast.sync import reversal
from credits_fast.sync.reversal import REVERSAL, reversal_id
from credits_fast.sync.tables import idempotency_records, reversals
from credits_fast.testing import CreditsKit, kit_on
from tests.integration.conftest import CONFIG, user_elsewhere

AT_ONCE: Final[dict[str, Any]] = {**CONFIG, "sync": {"expire_ms": 0}}


@pytest.fixture
async def prompt(database: AsyncEngine, redis_endpoint: Endpoint) -> AsyncIterator[CreditsKit]:
    """A kit whose worker looks for reversals in every step, and a user with 100 credits."""
    async with kit_on(AT_ONCE, redis_endpoint, database, None) as opened:
        await opened.engine.create_user("ada", credits=100)
        yield opened


async def forget(kit: CreditsKit, key: str, user: str = "ada") -> None:
    """Redis loses the record of a key."""
    record = kit.engine.partitions.of(user.encode()).record(user.encode(), b"key:" + key.encode())
    lane = await kit.engine.lane()
    assert 1 == await lane.execute(b"DEL", record)


async def noted(kit: CreditsKit) -> list[tuple[str, str, bool]]:
    async with kit.database.connect() as connection:
        rows = await connection.execute(select(reversals).order_by(reversals.c.transaction_id))
        return [(row.transaction_id, row.first_id, row.settled_at is not None) for row in rows]


async def settle(kit: CreditsKit) -> None:
    """Recorded, reversed, the reversal recorded, and that noted."""
    for _ in range(3):
        await kit.sync()


@pytest.mark.parametrize("at_once", [False, True])
async def test_a_charge_under_a_key_that_was_lost_is_undone(
    prompt: CreditsKit,
    at_once: bool,  # noqa: FBT001  # drawn by name
) -> None:
    """Whether the first one is recorded before, or both are in one commit."""
    first = await prompt.engine.charge("ada", "image", idempotency_key="k")
    if not at_once:
        await prompt.sync()
    await forget(prompt, "k")
    again = await prompt.engine.charge("ada", "image", idempotency_key="k")
    assert (False, Decimal(60)) == (again.replayed, again.balance_after)

    await settle(prompt)

    assert Decimal(80) == await prompt.engine.query_balance("ada")
    undone = (await prompt.transactions("ada"))[-1]
    assert ("refund", REVERSAL, Decimal(20)) == (undone.kind, undone.action, undone.amount)
    assert (reversal_id(again.transaction_id), again.transaction_id) == (
        undone.id,
        undone.related_id,
    )
    assert {
        "reverses": again.transaction_id,
        "repeats": first.transaction_id,
        "repeatedKey": "k",
    }.items() <= undone.metadata.items()
    assert [(again.transaction_id, first.transaction_id, True)] == await noted(prompt)
    assert 1 == prompt.worker.tally.reversals
    await prompt.assert_balanced()


async def test_what_was_given_twice_is_taken_back_even_below_zero(prompt: CreditsKit) -> None:
    await prompt.engine.grant("ada", 50, "purchase", idempotency_key="k")
    await prompt.sync()
    await forget(prompt, "k")
    await prompt.engine.grant("ada", 50, "purchase", idempotency_key="k")
    await prompt.engine.charge("ada", "image", amount=180)

    await settle(prompt)

    assert Decimal(-30) == await prompt.engine.query_balance("ada")
    undone = (await prompt.transactions("ada"))[-1]
    assert ("grant", REVERSAL, Decimal(-50)) == (undone.kind, undone.action, undone.amount)
    await prompt.assert_balanced()


async def test_a_reversal_happens_once_however_often_it_is_asked_for(
    prompt: CreditsKit,
) -> None:
    """The worker that asked is killed before it knows; the next one asks again."""
    await prompt.engine.charge("ada", "image", idempotency_key="k")
    await forget(prompt, "k")
    await prompt.engine.charge("ada", "image", idempotency_key="k")
    await prompt.sync()
    for _ in range(3):
        await prompt.worker._reversals.settle(range(4), prompt.worker._clock(), b"")

    await settle(prompt)

    assert Decimal(80) == await prompt.engine.query_balance("ada")
    actions = [row.action for row in await prompt.transactions("ada")]
    assert 1 == actions.count(REVERSAL)
    await prompt.assert_balanced()


async def test_every_partition_has_its_turn_however_much_an_other_has_waiting(
    database: AsyncEngine, redis_endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is closed would keep all others waiting."""
    monkeypatch.setattr(reversal, "_AT_ONCE", 2)
    config = {**CONFIG, "sync": {"expire_ms": 3_600_000}}  # nothing is settled meanwhile
    async with kit_on(config, redis_endpoint, database, None) as kit:
        other = user_elsewhere(kit, "ada")
        for user in ("ada", other):
            await kit.engine.create_user(user, credits=1_000)
        await kit.sync()
        for user, key in (("ada", "a"), ("ada", "b"), ("ada", "c"), (other, "d")):
            await kit.engine.charge(user, "image", idempotency_key=key)
            await forget(kit, key, user)
            await kit.engine.charge(user, "image", idempotency_key=key)
            await kit.sync()

        due = await kit.worker._reversals._due(range(4))

        assert {("ada", "a"), (other, "d")} == {(row.user_id, row.key) for row in due}


async def test_what_was_given_back_already_is_not_given_back_again(
    database: AsyncEngine, redis_endpoint: Endpoint
) -> None:
    config = {**AT_ONCE, "refunds": {"above_charge": "refuse"}}
    async with kit_on(config, redis_endpoint, database, None) as kit:
        await kit.engine.create_user("ada", credits=100)
        await kit.engine.charge("ada", "image", idempotency_key="k")
        await forget(kit, "k")
        again = await kit.engine.charge("ada", "image", idempotency_key="k")
        await kit.engine.refund("ada", 1, "image", transaction_id=again.transaction_id)
        await settle(kit)

        with pytest.raises(RefundExceedsChargeError):
            await kit.engine.refund("ada", 1, "image", transaction_id=again.transaction_id)
        assert Decimal(80) == await kit.engine.query_balance("ada")
        await kit.assert_balanced()


@pytest.mark.parametrize("above_charge", ["allow", "refuse"])
async def test_what_was_given_back_and_is_not_recorded_yet_is_not_given_back_again(
    database: AsyncEngine, redis_endpoint: Endpoint, above_charge: str
) -> None:
    config = {**AT_ONCE, "refunds": {"above_charge": above_charge}}
    async with kit_on(config, redis_endpoint, database, None) as kit:
        await kit.engine.create_user("ada", credits=100)
        await kit.engine.charge("ada", "image", idempotency_key="k")
        await kit.sync()
        await forget(kit, "k")
        again = await kit.engine.charge("ada", "image", idempotency_key="k")
        await kit.worker.step()
        await kit.engine.refund("ada", 20, "image", transaction_id=again.transaction_id)

        await settle(kit)

        assert Decimal(80) == await kit.engine.query_balance("ada")
        assert 1 == kit.worker.tally.reversals
        await kit.assert_balanced()


async def test_a_refund_that_was_undone_leaves_its_charge_to_be_refunded(
    database: AsyncEngine, redis_endpoint: Endpoint
) -> None:
    config = {**AT_ONCE, "refunds": {"above_charge": "refuse"}}
    async with kit_on(config, redis_endpoint, database, None) as kit:
        await kit.engine.create_user("ada", credits=100)
        charge = await kit.engine.charge("ada", "image")
        facts: dict[str, Any] = {"transaction_id": charge.transaction_id, "idempotency_key": "k"}
        await kit.engine.refund("ada", 8, "image", **facts)
        await kit.sync()
        await forget(kit, "k")
        await kit.engine.refund("ada", 8, "image", **facts)
        await settle(kit)
        assert Decimal(88) == await kit.engine.query_balance("ada")

        await kit.engine.refund("ada", 12, "image", transaction_id=charge.transaction_id)

        with pytest.raises(RefundExceedsChargeError):
            await kit.engine.refund("ada", 1, "image", transaction_id=charge.transaction_id)
        assert Decimal(100) == await kit.engine.query_balance("ada")
        await kit.assert_balanced()


async def test_a_cold_user_and_a_server_without_the_script_are_no_obstacle(
    prompt: CreditsKit,
) -> None:
    await prompt.engine.charge("ada", "image", idempotency_key="k")
    await forget(prompt, "k")
    await prompt.engine.charge("ada", "image", idempotency_key="k")
    await prompt.sync()
    lane = await prompt.engine.lane()
    await lane.execute(b"DEL", prompt.engine.partitions.of(b"ada").account(b"ada"))
    await lane.execute(b"SCRIPT", b"FLUSH")

    await settle(prompt)

    assert Decimal(80) == await prompt.engine.query_balance("ada")
    await prompt.assert_balanced()


async def test_a_change_of_tier_is_told_and_left_alone(
    prompt: CreditsKit, caplog: pytest.LogCaptureFixture
) -> None:
    await prompt.engine.upgrade_tier("ada", "basic", idempotency_key="k")
    await prompt.sync()
    await forget(prompt, "k")
    await prompt.engine.upgrade_tier("ada", "pro", idempotency_key="k")

    await settle(prompt)

    assert [True] == [settled for _, _, settled in await noted(prompt)]
    assert any("is no amount: it stays" in record.message for record in caplog.records)
    assert REVERSAL not in [row.action for row in await prompt.transactions("ada")]


async def test_a_key_that_has_expired_may_be_used_again(prompt: CreditsKit) -> None:
    """Nothing is late where the ledger does not remember the key either."""
    await prompt.engine.charge("ada", "image", idempotency_key="k")
    await prompt.sync()
    columns = idempotency_records.c
    async with prompt.database.begin() as connection:
        row = (await connection.execute(select(columns.created_at))).scalar_one()
        await connection.execute(
            update(idempotency_records).values(expires_at=row - timedelta(days=1))
        )
    await forget(prompt, "k")
    await prompt.engine.charge("ada", "image", idempotency_key="k")

    await settle(prompt)

    assert [] == await noted(prompt)
    assert Decimal(60) == await prompt.engine.query_balance("ada")
