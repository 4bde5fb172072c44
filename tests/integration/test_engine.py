"""Every operation, from the call to the ledger, on every database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from credits_fast import (
    UNCHANGED,
    Charge,
    ChargeResult,
    IdempotencyKeyConflictError,
    InsufficientCreditsError,
    InvalidArgumentError,
    InvalidTierChangeError,
    MembershipRequiredError,
    RefundExceedsChargeError,
    TransactionNotFoundError,
    UndefinedTierError,
    UserAlreadyExistsError,
    UserNotFoundError,
)
from credits_fast.servers.lane import Endpoint
from credits_fast.testing import CreditsKit, kit_on
from tests.integration.conftest import CONFIG

NEXT_YEAR = datetime(2027, 11, 22, 12, 30, 15, 123_000, tzinfo=UTC)
AWKWARD = 'a\t\n\r\\"{}:\u2028é😀\\N'


async def test_the_ledger_holds_what_the_calls_returned(kit: CreditsKit) -> None:
    credits = kit.engine
    await credits.create_user("ada", credits="100.5", metadata={"via": "test"})
    charged = await credits.charge("ada", "chat", variables={"tokens": 3456}, metadata={"r": 1})
    granted = await credits.grant("ada", Decimal("0.000001"), "bonus")
    refunded = await credits.refund("ada", "3.46", "apology", transaction_id=charged.transaction_id)
    upgraded = await credits.upgrade_tier("ada", "pro", membership_expires_at=NEXT_YEAR)
    renewed = await credits.renew_membership("ada", None)
    downgraded = await credits.downgrade_tier("ada", "basic")

    rows = await kit.transactions("ada")

    assert [
        ("grant", "create-user", "100.500000", "100.500000"),
        ("charge", "chat", "-13.460000", "87.040000"),
        ("grant", "bonus", "0.000001", "87.040001"),
        ("refund", "apology", "3.460000", "90.500001"),
        ("tier", "tier-upgrade", "909.499999", "1000.000000"),
        ("tier", "tier-renewal", "0.000000", "1000.000000"),
        ("tier", "tier-downgrade", "-900.000000", "100.000000"),
    ] == [(row.kind, row.action, str(row.amount), str(row.balance_after)) for row in rows]
    results: list[Any] = [charged, granted, refunded, upgraded, renewed, downgraded]
    assert [one.transaction_id for one in results] == [row.id for row in rows[1:]]
    assert [*range(1, 8)] == [row.sequence for row in rows]
    assert charged.transaction_id == rows[3].related_id
    assert {
        "r": 1,
        "dynamicCost": {
            "formula": "{tokens} * 0.001 + 10",
            "variables": {"tokens": 3456},
            "rawCost": 13.456,
            "finalCost": 13.46,
        },
    } == rows[1].metadata
    user = await credits.get_user("ada")
    assert ("basic", None, Decimal(100), 7) == (
        user.membership_tier,
        user.membership_expires_at,
        user.credits,
        user.sequence,
    )
    await kit.assert_balanced()


async def test_the_ledger_has_the_membership_as_it_is_now(kit: CreditsKit) -> None:
    await kit.engine.create_user("ada", tier="basic", membership_expires_at=NEXT_YEAR)
    await kit.sync()
    stored = await kit.engine._records.account("ada")
    assert stored is not None
    assert ("basic", NEXT_YEAR, 0) == (stored.tier, stored.expires_at, stored.sequence)

    result = await kit.engine.upgrade_tier("ada", "max", membership_expires_at=UNCHANGED)
    await kit.sync()

    assert NEXT_YEAR == result.membership_expires_at
    stored = await kit.engine._records.account("ada")
    assert stored is not None
    assert ("max", NEXT_YEAR, 5_000_000_000) == (stored.tier, stored.expires_at, stored.balance)


async def test_a_membership_may_have_ended_before_1970(kit: CreditsKit) -> None:
    """Applications mark the end of a membership by a date like this."""
    credits, long_ago = kit.engine, datetime(1900, 1, 1, tzinfo=UTC)
    await credits.create_user("ada", credits=50, tier="pro", membership_expires_at=long_ago)
    await credits.create_user("bob", tier="basic")
    await credits.upgrade_tier("bob", "pro", membership_expires_at=long_ago)

    for user in ("ada", "bob"):
        with pytest.raises(MembershipRequiredError, match="pro"):
            await credits.charge(user, "members")
        assert 20 == (await credits.charge(user, "image")).cost  # without a tier's discount
        assert long_ago == (await credits.get_user(user)).membership_expires_at
    await kit.assert_balanced()


async def test_awkward_names_are_legal_and_harmless(kit: CreditsKit) -> None:
    credits = kit.engine
    await credits.create_user(AWKWARD, credits=50, idempotency_key=AWKWARD)
    first = await credits.charge(
        AWKWARD,
        AWKWARD,
        amount=1,
        idempotency_key=AWKWARD + "2",
        metadata={AWKWARD: [AWKWARD, 1.5, None]},
    )

    (_, row) = await kit.transactions(AWKWARD)

    assert (first.transaction_id, AWKWARD, AWKWARD, AWKWARD + "2") == (
        row.id,
        row.user_id,
        row.action,
        row.idempotency_key,
    )
    assert {AWKWARD: [AWKWARD, 1.5, None]} == row.metadata
    assert AWKWARD == (await kit.audit(AWKWARD))[-1].metadata["operation"]
    await kit.assert_balanced()


async def test_what_was_refused_is_in_the_audit_log_and_not_in_the_ledger(kit: CreditsKit) -> None:
    credits = kit.engine
    await credits.create_user("ada", credits=5)
    with pytest.raises(InsufficientCreditsError) as refused:
        await credits.charge("ada", "image", metadata={"error": "mine", "r": 9})
    with pytest.raises(UserNotFoundError):
        await credits.grant("nobody", 5, "gift")
    with pytest.raises(UndefinedTierError):
        await credits.upgrade_tier("ada", "gold")
    with pytest.raises(MembershipRequiredError):
        await credits.validate_access("ada", "members")

    entries = await kit.audit()

    assert [
        ("ada", "createUser", "success", None),
        ("ada", "charge", "failed", "INSUFFICIENT_CREDITS"),
        ("nobody", "grant", "failed", "USER_NOT_FOUND"),
        ("ada", "upgradeTier", "failed", "UNDEFINED_TIER"),
        ("ada", "validateAccess", "failed", "MEMBERSHIP_REQUIRED"),
    ] == sorted(
        ((one.user_id, one.action, one.status, one.error_code) for one in entries),
        key=lambda row: ["createUser", "charge", "grant", "upgradeTier", "validateAccess"].index(
            row[1]
        ),
    )
    failed = next(one for one in entries if one.action == "charge")
    assert refused.value.message == failed.error_message
    assert {"error": failed.error_message, "operation": "image", "r": 9} == failed.metadata
    assert 1 == len(await kit.transactions())


async def test_ten_concurrent_charges_on_a_balance_for_one(kit: CreditsKit) -> None:
    await kit.engine.create_user("ada", credits=20)

    outcomes = await asyncio.gather(
        *(kit.engine.charge("ada", "image") for _ in range(10)),
        return_exceptions=True,
    )

    assert 1 == sum(isinstance(one, ChargeResult) for one in outcomes)
    assert 9 == sum(isinstance(one, InsufficientCreditsError) for one in outcomes)
    assert 0 == await kit.engine.query_balance("ada")
    await kit.assert_balanced()


async def test_a_thousand_concurrent_calls_with_one_key_are_one_charge(kit: CreditsKit) -> None:
    await kit.engine.create_user("ada", credits=100)

    results = await asyncio.gather(
        *(kit.engine.charge("ada", "image", idempotency_key="k") for _ in range(1_000)),
    )

    assert 1 == len({(one.transaction_id, one.cost, one.balance_after) for one in results})
    assert 999 == sum(one.replayed for one in results)
    assert 80 == await kit.engine.query_balance("ada")
    assert 2 == len(await kit.transactions("ada"))
    await kit.assert_balanced()


async def test_one_key_serves_one_operation_with_one_set_of_parameters(kit: CreditsKit) -> None:
    credits = kit.engine
    await credits.create_user("ada", credits=100)
    await credits.create_user("bob", credits=100)
    first = await credits.charge("ada", "chat", variables={"tokens": 1}, idempotency_key="k")
    same = await credits.charge("ada", "chat", variables={"tokens": 1.0}, idempotency_key="k")
    other_user = await credits.charge("bob", "chat", variables={"tokens": 1}, idempotency_key="k")

    assert first.transaction_id == same.transaction_id != other_user.transaction_id
    for conflicting in (
        credits.charge("ada", "chat", variables={"tokens": 2}, idempotency_key="k"),
        credits.charge("ada", "image", idempotency_key="k"),
        credits.charge("ada", "chat", amount=1, idempotency_key="k"),
        credits.grant("ada", 1, "chat", idempotency_key="k"),
        credits.refund("ada", 1, "chat", idempotency_key="k"),
        credits.upgrade_tier("ada", "pro", idempotency_key="k"),
    ):
        with pytest.raises(IdempotencyKeyConflictError) as refused:
            await conflicting
        assert ("k", first.transaction_id) == (
            refused.value.key,
            refused.value.existing_transaction,
        )
    await kit.assert_balanced()


@pytest.mark.parametrize("verb", ["grant", "refund", "upgrade_tier", "renew_membership"])
async def test_every_changing_operation_honours_its_key(kit: CreditsKit, verb: str) -> None:
    credits = kit.engine
    await credits.create_user("ada", credits=10, tier="basic")
    arguments: dict[str, tuple[Any, ...]] = {
        "grant": (5, "bonus"),
        "refund": (5, "oops"),
        "upgrade_tier": ("max",),
        "renew_membership": (NEXT_YEAR,),
    }

    results = [
        await getattr(credits, verb)("ada", *arguments[verb], idempotency_key="k") for _ in range(2)
    ]

    assert [False, True] == [one.replayed for one in results]
    assert results[0].transaction_id == results[1].transaction_id
    assert 2 == len(await kit.transactions("ada"))


async def test_creating_a_user_twice_is_an_error_unless_it_is_the_same_call(
    kit: CreditsKit,
) -> None:
    credits = kit.engine
    first = await credits.create_user("ada", credits=10, idempotency_key="c")

    assert first == await credits.create_user("ada", credits=10, idempotency_key="c")
    with pytest.raises(IdempotencyKeyConflictError):
        await credits.create_user("ada", credits=11, idempotency_key="c")
    with pytest.raises(IdempotencyKeyConflictError):
        await credits.charge("ada", "image", idempotency_key="c")
    with pytest.raises(UserAlreadyExistsError):
        await credits.create_user("ada")
    assert 10 == await credits.query_balance("ada")
    await kit.assert_balanced()


async def test_users_can_be_created_all_at_once(kit: CreditsKit) -> None:
    names = [f"user-{number}" for number in range(40)]

    await asyncio.gather(*(kit.engine.create_user(name, credits=1) for name in names))
    outcomes = await asyncio.gather(
        *(kit.engine.create_user("same") for _ in range(10)),
        return_exceptions=True,
    )

    assert 9 == sum(isinstance(one, UserAlreadyExistsError) for one in outcomes)
    assert [1] * 40 == [await kit.engine.query_balance(name) for name in names]
    await kit.assert_balanced()


@pytest.fixture
async def bounded_kit(redis_endpoint: Endpoint, database: AsyncEngine) -> AsyncIterator[CreditsKit]:
    config = {**CONFIG, "refunds": {"above_charge": "refuse"}}
    async with kit_on(config, redis_endpoint, database, None) as opened:
        yield opened


async def test_refunds_of_a_charge_can_be_bounded_by_it(bounded_kit: CreditsKit) -> None:
    kit = bounded_kit
    credits = kit.engine
    await credits.create_user("ada", credits=100)
    charged = await credits.charge("ada", "image")
    for amount in (5, 15):
        await credits.refund("ada", amount, "part", transaction_id=charged.transaction_id)
    with pytest.raises(RefundExceedsChargeError) as refused:
        await credits.refund("ada", 1, "more", transaction_id=charged.transaction_id)
    with pytest.raises(TransactionNotFoundError):
        await credits.refund("ada", 1, "wrong", transaction_id="no-such-charge")
    with pytest.raises(InvalidArgumentError, match="transaction_id is required"):
        await credits.refund("ada", 1, "unnamed")
    error: Any = refused.value
    assert (20, 20, 1) == (error.charged, error.refunded, error.amount)
    assert 100 == await credits.query_balance("ada")

    # Redis forgets; the ledger and the journal after it do not, wherever the worker is.
    lane = await credits.lane()
    refunded = credits.partitions.of(b"ada").refunded(charged.transaction_id.encode())
    for _ in range(2):
        await lane.execute(b"DEL", refunded)
        with pytest.raises(RefundExceedsChargeError):
            await credits.refund("ada", 1, "more", transaction_id=charged.transaction_id)
        await kit.sync()
    await kit.assert_balanced()


async def test_nobody_is_refunded_for_a_charge_of_another_user(kit: CreditsKit) -> None:
    """Even where both share a partition, and Redis knows the charge already."""
    credits = kit.engine
    partition = credits.partitions.of(b"ada")
    names = (f"user-{number}" for number in range(100))
    other = next(name for name in names if credits.partitions.of(name.encode()) is partition)
    for user in ("ada", other):
        await credits.create_user(user, credits=100)
    charged = (await credits.charge("ada", "image")).transaction_id
    await credits.refund("ada", 1, "part", transaction_id=charged)

    for _ in range(2):
        outcomes = await asyncio.gather(
            credits.refund("ada", 1, "part", transaction_id=charged),
            credits.refund(other, 1, "wrong", transaction_id=charged),
            return_exceptions=True,
        )
        assert isinstance(outcomes[1], TransactionNotFoundError)
    assert (83, 100) == tuple([await credits.query_balance(user) for user in ("ada", other)])
    await kit.assert_balanced()


async def test_history_is_newest_first_and_pages_without_gaps(kit: CreditsKit) -> None:
    credits = kit.engine
    await credits.create_user("ada", credits=100)
    before = datetime.now(UTC)
    for number in range(7):
        await credits.charge("ada", "image" if number % 3 else "free", amount=number)
    await kit.sync()

    newest = await credits.get_history("ada", limit=3)
    rest = await credits.get_history("ada", limit=50, cursor=newest.next_cursor)
    assert [8, 7, 6] == [row.sequence for row in newest]
    assert [5, 4, 3, 2, 1] == [row.sequence for row in rest]
    assert rest.next_cursor is None
    assert [7, 6] == [row.sequence for row in await credits.get_history("ada", limit=2, offset=1)]
    images = await credits.get_history("ada", action="image", limit=2, offset=1)
    assert [6, 4] == [row.sequence for row in images]
    assert 7 == len(await credits.get_history("ada", start_date=before))
    assert 1 == len(await credits.get_history("ada", end_date=before))
    row = newest[0]
    exact = await credits.get_history("ada", start_date=row.created_at, end_date=row.created_at)
    assert row in exact.transactions
    assert () == (await credits.get_history("ada", limit=0)).transactions
    assert () == (await credits.get_history("nobody")).transactions


async def test_access_follows_the_membership(kit: CreditsKit) -> None:
    credits = kit.engine
    await credits.create_user("ada")

    assert await credits.validate_access("ada", "image")
    assert await credits.validate_access("ada", "never heard of")
    with pytest.raises(MembershipRequiredError) as refused:
        await credits.validate_access("ada", "members")
    assert ("pro", None, "none") == (
        refused.value.required,
        refused.value.current,
        refused.value.reason,
    )
    await credits.upgrade_tier("ada", "max")
    assert await credits.validate_access("ada", "members")
    past = datetime.now(UTC) - timedelta(seconds=1)
    await credits.renew_membership("ada", past)
    with pytest.raises(MembershipRequiredError, match="expired"):
        await credits.validate_access("ada", "members")
    with pytest.raises(InvalidTierChangeError, match="expired"):
        await credits.upgrade_tier("ada", "max")
    assert "max" == (await credits.upgrade_tier("ada", "max", membership_expires_at=None)).new_tier


async def test_charges_of_a_batch_stand_alone_and_answer_in_their_order(kit: CreditsKit) -> None:
    await kit.engine.create_user("ada", credits=30)
    charges = [
        Charge(user_id="ada", action="image"),
        Charge(user_id="nobody", action="image"),
        Charge(user_id="ada", action="image"),
        Charge(user_id="ada", action="chat", variables={"tokens": 0}, metadata={"n": 4}),
        Charge(user_id="ada", action="image", amount=-1),
    ]

    outcomes = await kit.engine.charge_many(charges)

    shown = [one.cost if isinstance(one, ChargeResult) else one.code for one in outcomes]
    assert [20, "USER_NOT_FOUND", "INSUFFICIENT_CREDITS", 10, "INVALID_AMOUNT"] == shown
    await kit.assert_balanced()


async def test_without_a_worker_waiting_for_the_ledger_ends_in_a_clear_error(
    sqlite_kit: CreditsKit,
) -> None:
    from credits_fast import DatabaseUnavailableError

    await sqlite_kit.engine.create_user("ada", credits=30)
    await sqlite_kit.engine.charge("ada", "image")

    with pytest.raises(DatabaseUnavailableError, match="is a worker running"):
        await sqlite_kit.engine.wait_recorded(timeout_ms=1)
    await sqlite_kit.sync()
    await sqlite_kit.engine.wait_recorded(timeout_ms=1)
