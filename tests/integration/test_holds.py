"""Holds through the whole path: reserved, captured, released, expired; recorded and found again."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from credits_fast import (
    BalanceLimitError,
    CaptureExceedsHoldError,
    HoldExpiredError,
    HoldFinishedError,
    HoldLimitError,
    HoldNotFoundError,
    IdempotencyKeyConflictError,
    InsufficientCreditsError,
    InvalidArgumentError,
    MembershipRequiredError,
    MissingVariableError,
    UserNotFoundError,
)
from credits_fast.calls import courier
from credits_fast.calls.expiry import expire_holds
from credits_fast.checks.balance_sheet import balance_sheet, compare_redis
from credits_fast.ledger.records import Records
from credits_fast.protocol.hold_wire import hold_field
from credits_fast.servers.lane import Endpoint
from credits_fast.sync.ledger import Ledger
from credits_fast.sync.tables import holds, users
from credits_fast.sync.worker import SyncWorker
from credits_fast.testing import Clock, CreditsKit, kit_on
from tests.integration.conftest import CONFIG, user_beside, user_elsewhere

AT_ONCE: dict[str, Any] = {**CONFIG, "sync": {"expire_ms": 0}}
"""Holds that are over are looked for in every step."""


@pytest.fixture
async def timed(
    database: AsyncEngine, redis_endpoint: Endpoint
) -> AsyncIterator[tuple[CreditsKit, Clock]]:
    """A kit whose clock is set by hand."""
    clock = Clock()
    async with kit_on(AT_ONCE, redis_endpoint, database, clock) as opened:
        yield opened, clock


@pytest.fixture
async def timed_sqlite(
    sqlite_database: AsyncEngine, redis_endpoint: Endpoint
) -> AsyncIterator[tuple[CreditsKit, Clock]]:
    """The same on SQLite only."""
    clock = Clock()
    async with kit_on(AT_ONCE, redis_endpoint, sqlite_database, clock) as opened:
        yield opened, clock


async def hold_rows(kit: CreditsKit) -> list[Any]:
    """The ledger's holds, oldest first."""
    await kit.sync()
    async with kit.database.connect() as connection:
        return [*(await connection.execute(select(holds).order_by(holds.c.id)))]


async def states(kit: CreditsKit) -> list[str]:
    return [row.state for row in await hold_rows(kit)]


def told(caplog: pytest.LogCaptureFixture) -> int:
    """How often it was said that holds of ada cannot be finished."""
    return caplog.text.count("holds of user 'ada' cannot be finished")


# --- what is recorded ---------------------------------------------------------------------------


async def test_a_hold_is_recorded_with_everything_that_was_done_to_it(kit: CreditsKit) -> None:
    credits = kit.engine
    await credits.create_user("ada", credits=100, tier="pro")
    before = datetime.now(UTC)
    made = await credits.reserve(
        "ada", "chat", variables={"tokens": 1_000}, idempotency_key="r", metadata={"a": "ä\t"}
    )
    assert (Decimal("8.8"), 100, Decimal("8.8"), Decimal("91.2"), False) == (
        *(made.amount, made.balance, made.reserved, made.available),
        made.replayed,
    )
    await kit.assert_balanced()
    part = await credits.capture(
        "ada", "chat", made.hold_id, amount=3, final=False, idempotency_key="c"
    )
    assert (3, 97, Decimal("5.8"), False) == (
        *(part.cost, part.balance_after, part.reserved),
        part.finished,
    )
    await kit.assert_balanced()
    rest = await credits.capture("ada", "chat", made.hold_id, variables={"tokens": -5_000})
    assert (4, 93, 0, True) == (rest.cost, rest.balance_after, rest.reserved, rest.finished)

    (row,) = await hold_rows(kit)
    assert ("ada", "chat", "captured", Decimal("8.8"), 0, 7, "pro", "r") == (
        *(row.user_id, row.action, row.state, row.amount, row.reserved, row.captured),
        *(row.tier, row.idempotency_key),
    )
    assert timedelta(minutes=10) == row.expires_at - row.created_at.replace(
        microsecond=row.created_at.microsecond // 1_000 * 1_000
    )
    assert before - timedelta(seconds=1) < row.created_at < row.finished_at
    assert "ä\t" == row.metadata["a"]
    assert 8.8 == row.metadata["dynamicCost"]["finalCost"]
    charges = [one for one in await kit.transactions("ada") if one.kind == "charge"]
    assert [(-3, made.hold_id), (-4, made.hold_id)] == [
        (one.amount, one.related_id) for one in charges
    ]
    assert 4 == charges[1].metadata["dynamicCost"]["finalCost"]
    told = [(row.action, row.status) for row in await kit.audit("ada")]
    assert [(verb, "success") for verb in ("createUser", "reserve", "capture", "capture")] == told
    await kit.assert_balanced()


async def test_a_released_hold_leaves_no_transaction(kit: CreditsKit) -> None:
    await kit.engine.create_user("ada", credits=100)
    made = await kit.engine.reserve("ada", "image")
    user = await kit.engine.get_user("ada")
    assert (100, 20, 80) == (user.credits, user.reserved, user.available)
    await kit.sync()

    done = await kit.engine.release("ada", made.hold_id)

    assert (20, 100, 0) == (done.amount, done.balance, done.reserved)
    assert ["released"] == await states(kit)
    assert ["grant"] == [one.kind for one in await kit.transactions("ada")]
    assert ["createUser", "reserve", "release"] == [row.action for row in await kit.audit("ada")]
    await kit.assert_balanced()


async def test_holds_made_and_finished_between_two_commits_are_recorded_as_they_are(
    kit: CreditsKit,
) -> None:
    credits = kit.engine
    await credits.create_user("ada", credits=1_000)
    old = await credits.reserve("ada", "image")
    await kit.sync()
    await credits.capture("ada", "image", old.hold_id, amount=5, final=False)
    for number in range(3):
        made = await credits.reserve("ada", "image", amount=number + 1)
        await credits.capture("ada", "image", made.hold_id, final=False, amount=1)
        if number:
            await credits.capture("ada", "image", made.hold_id)
    await credits.release("ada", old.hold_id)

    rows = {(row.state, row.amount, row.captured) for row in await hold_rows(kit)}
    assert {
        *(("released", 20, 5), ("reserved", 1, 1)),
        *(("captured", 2, 2), ("captured", 3, 3)),
    } == rows
    await kit.assert_balanced()


async def test_an_extended_hold_is_recorded_as_it_is_and_its_key_is_remembered(
    kit: CreditsKit,
) -> None:
    credits = kit.engine
    await credits.create_user("ada", credits=100)
    made = await credits.reserve("ada", "image", ttl_ms=60_000)
    await kit.sync()
    more = await credits.extend(
        "ada", made.hold_id, amount=Decimal("2.5"), ttl_ms=120_000, idempotency_key="e"
    )
    assert (Decimal("2.5"), Decimal("22.5"), Decimal("77.5"), False) == (
        *(more.amount, more.kept, more.available, more.replayed),
    )
    assert made.expires_at < more.expires_at

    (row,) = await hold_rows(kit)
    assert ("reserved", Decimal("22.5"), Decimal("22.5"), more.expires_at) == (
        *(row.state, row.amount, row.reserved, row.expires_at),
    )
    (audit,) = [one for one in await kit.audit("ada") if one.action == "extend"]
    assert ("success", made.hold_id, 2.5, 22.5) == (
        *(audit.status, audit.metadata["holdId"]),
        *(audit.metadata["amount"], audit.metadata["reserved"]),
    )
    await kit.assert_balanced()
    lane = await credits.lane()
    await lane.execute(b"FLUSHALL")
    await kit.worker.step()
    again = await credits.extend(
        "ada", made.hold_id, amount=Decimal("2.5"), ttl_ms=120_000, idempotency_key="e"
    )
    assert more._replace(replayed=True) == again
    with pytest.raises(IdempotencyKeyConflictError):
        await credits.extend("ada", made.hold_id, amount=3, idempotency_key="e")
    assert Decimal("22.5") == (await credits.capture("ada", "image", made.hold_id)).cost
    await kit.assert_balanced()


async def test_an_extension_that_is_refused_leaves_the_hold_and_says_what_others_hold(
    kit: CreditsKit,
) -> None:
    credits = kit.engine
    await credits.create_user("ada", credits=50)
    made = await credits.reserve("ada", "image")
    other = await credits.reserve("ada", "image", amount=10)
    for amount, is_held in ((21, True), (30, True), (31, False)):
        with pytest.raises(InsufficientCreditsError) as refused:
            await credits.extend("ada", made.hold_id, amount=amount)
        assert (amount, 20, 10, is_held) == (
            *(refused.value.required, refused.value.available, refused.value.reserved),
            refused.value.is_held,
        )
    nonsense: tuple[dict[str, Any], ...] = ({}, {"ttl_ms": 0}, {"amount": 1, "ttl_ms": 0})
    for wrong in nonsense:
        with pytest.raises(InvalidArgumentError):
            await credits.extend("ada", made.hold_id, **wrong)
    assert 20 == (await credits.capture("ada", "image", made.hold_id)).cost
    with pytest.raises(HoldFinishedError):
        await credits.extend("ada", made.hold_id, ttl_ms=1)
    with pytest.raises(HoldNotFoundError):
        await credits.extend("ada", "no-such-hold", amount=1)
    with pytest.raises(UserNotFoundError):
        await credits.extend("nobody", other.hold_id, amount=1)
    failed = [row for row in await kit.audit() if row.status == "failed"]
    assert 3 == sum(row.error_code == "INSUFFICIENT_CREDITS" for row in failed)
    assert {21, 30, 31, 1} == {row.metadata["amount"] for row in failed if "amount" in row.metadata}
    await kit.assert_balanced()


async def test_what_was_captured_is_refunded_like_any_charge(kit: CreditsKit) -> None:
    await kit.engine.create_user("ada", credits=100)
    made = await kit.engine.reserve("ada", "image")
    done = await kit.engine.capture("ada", "image", made.hold_id)

    await kit.engine.refund("ada", 5, "oops", transaction_id=done.transaction_id)

    assert 85 == await kit.engine.query_balance("ada")
    await kit.assert_balanced()


# --- how many -----------------------------------------------------------------------------------


async def test_of_256_holds_at_once_on_credits_for_100_exactly_100_are_granted(
    kit: CreditsKit,
) -> None:
    await kit.engine.create_user("ada", credits=100)

    outcomes = await asyncio.gather(
        *(kit.engine.reserve("ada", "free", amount=1) for _ in range(256)), return_exceptions=True
    )

    granted = [one for one in outcomes if not isinstance(one, BaseException)]
    refused = [one for one in outcomes if isinstance(one, InsufficientCreditsError)]
    assert (100, 156) == (len(granted), len(refused))
    assert {(1, 0, 100, True)} == {
        (one.required, one.available, one.reserved, one.is_held) for one in refused
    }
    await kit.assert_balanced()
    sheet = await balance_sheet(kit.database)
    assert (100, 100) == (sheet.balances, sheet.reserved)
    await asyncio.gather(
        *(kit.engine.capture("ada", "free", one.hold_id) for one in granted[:60]),
        *(kit.engine.release("ada", one.hold_id) for one in granted[60:]),
    )
    user = await kit.engine.get_user("ada")
    assert (40, 0) == (user.credits, user.reserved)
    assert 60 == (await states(kit)).count("captured")
    await kit.assert_balanced()


async def test_a_user_has_so_many_open_holds_and_no_more(
    redis_endpoint: Endpoint, sqlite_database: AsyncEngine
) -> None:
    config = {**CONFIG, "holds": {"open_max": 2}}
    async with kit_on(config, redis_endpoint, sqlite_database, None) as kit:
        await kit.engine.create_user("ada", credits=100)
        first = await kit.engine.reserve("ada", "free")
        await kit.engine.reserve("ada", "free")
        with pytest.raises(HoldLimitError, match="2 open holds"):
            await kit.engine.reserve("ada", "free")

        await kit.engine.release("ada", first.hold_id)

        assert (await kit.engine.reserve("ada", "free")).hold_id
        await kit.assert_balanced()


# --- refusals -----------------------------------------------------------------------------------


async def test_want_of_credits_and_credits_that_others_hold_are_told_apart(
    sqlite_kit: CreditsKit,
) -> None:
    credits = sqlite_kit.engine
    await credits.create_user("ada", credits=30)
    await credits.reserve("ada", "image")

    for work in (credits.charge("ada", "image"), credits.reserve("ada", "image")):
        with pytest.raises(InsufficientCreditsError, match="20 more are held") as refused:
            await work
        assert (20, 10, 20, True) == (
            *(refused.value.required, refused.value.available, refused.value.reserved),
            refused.value.is_held,
        )
    with pytest.raises(InsufficientCreditsError) as refused:
        await credits.charge("ada", "image", amount=31)
    assert not refused.value.is_held
    messages = [row.error_message for row in await sqlite_kit.audit("ada") if row.error_message]
    assert all("20 more are held" in message for message in messages)
    assert 3 == len(messages)


async def test_a_finished_hold_is_never_finished_again_and_its_state_is_told(
    kit: CreditsKit,
) -> None:
    credits = kit.engine
    await credits.create_user("ada", credits=100)
    await credits.create_user("bob", credits=100)
    captured = (await credits.reserve("ada", "image")).hold_id
    released = (await credits.reserve("ada", "image")).hold_id
    await credits.capture("ada", "image", captured)
    await credits.release("ada", released)

    async def told(hold_id: str, user: str = "ada") -> list[str]:
        found: list[str] = []
        for work in (credits.capture(user, "image", hold_id), credits.release(user, hold_id)):
            with pytest.raises((HoldFinishedError, HoldNotFoundError)) as refused:
                await work
            found.append(getattr(refused.value, "state", "unknown"))
        return found

    for _ in range(2):  # by the journal; then, recorded, by the ledger
        assert ["captured"] * 2 == await told(captured)
        assert ["released"] * 2 == await told(released)
        assert ["unknown"] * 2 == await told("no-such-hold")
        assert ["unknown"] * 2 == await told(captured, "bob")
        await kit.sync()
    assert 80 == await credits.query_balance("ada")
    codes = {row.error_code for row in await kit.audit("ada") if row.error_code}
    assert {"HOLD_FINISHED", "HOLD_NOT_FOUND"} == codes
    await kit.assert_balanced()


async def test_captures_in_part_are_refused_before_their_sum_is_inexact(kit: CreditsKit) -> None:
    """A journal with such a sum could not be recorded, and its partition would stand still."""
    nearly_all = 9_000_000_000 - Decimal("0.000001")
    await kit.engine.create_user("ada", credits=nearly_all)
    made = await kit.engine.reserve("ada", "image", amount=1)
    await kit.engine.capture("ada", "image", made.hold_id, amount=nearly_all, final=False)
    await kit.engine.grant("ada", nearly_all, "purchase")

    with pytest.raises(BalanceLimitError, match="captured in all") as refused:
        await kit.engine.capture("ada", "image", made.hold_id, amount=nearly_all)
    assert ("captured", nearly_all) == (refused.value.of, refused.value.balance)
    await kit.engine.capture("ada", "image", made.hold_id, amount=Decimal("0.000001"))
    (row,) = [row for row in await kit.audit("ada") if row.error_code]
    assert "BALANCE_LIMIT" == row.error_code
    await kit.assert_balanced()


async def test_what_reserve_and_capture_refuse_besides(sqlite_kit: CreditsKit) -> None:
    credits = sqlite_kit.engine
    await credits.create_user("ada", credits=100)
    with pytest.raises(UserNotFoundError):
        await credits.reserve("nobody", "image")
    with pytest.raises(MembershipRequiredError):
        await credits.reserve("ada", "members")
    with pytest.raises(MissingVariableError):
        await credits.reserve("ada", "chat", variables={"other": 1})
    for wrong in (0, -(10**5_000), 10**12):
        with pytest.raises(InvalidArgumentError, match="ttl_ms"):
            await credits.reserve("ada", "image", ttl_ms=wrong)
    made = await credits.reserve("ada", "image")
    with pytest.raises(CaptureExceedsHoldError) as refused:
        await credits.capture("ada", "image", made.hold_id, amount=21, above="refuse")
    assert (21, 20) == (refused.value.required, refused.value.reserved)
    with pytest.raises(MissingVariableError):
        await credits.capture("ada", "chat", made.hold_id, variables={"other": 1})
    with pytest.raises(InvalidArgumentError, match="above"):
        await credits.capture("ada", "image", made.hold_id, above="what")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="explicit amount"):
        await credits.capture("ada", "image", made.hold_id, amount=1, variables={"tokens": 1})
    failed = [row.error_code for row in await sqlite_kit.audit() if row.status == "failed"]
    expected = ["USER_NOT_FOUND", "MEMBERSHIP_REQUIRED", "MISSING_VARIABLE"]
    assert sorted([*expected, "CAPTURE_EXCEEDS_HOLD", "MISSING_VARIABLE"]) == sorted(
        code for code in failed if code
    )
    assert 20 == (await credits.get_user("ada")).reserved
    await sqlite_kit.assert_balanced()


@pytest.mark.parametrize(
    ("above", "cost", "left"), [("debt", 150, -50), ("cap", 20, 80), (None, 150, -50)]
)
async def test_a_capture_above_the_hold_follows_its_policy(
    sqlite_kit: CreditsKit, above: Any, cost: int, left: int
) -> None:
    await sqlite_kit.engine.create_user("ada", credits=100)
    made = await sqlite_kit.engine.reserve("ada", "image")

    done = await sqlite_kit.engine.capture("ada", "image", made.hold_id, amount=150, above=above)

    assert (cost, 150, left) == (done.cost, done.price, done.balance_after)
    await sqlite_kit.assert_balanced()


# --- again --------------------------------------------------------------------------------------


async def test_a_repeated_call_gets_the_first_result_and_other_parameters_a_conflict(
    kit: CreditsKit,
) -> None:
    credits = kit.engine
    await credits.create_user("ada", credits=100)
    made = await credits.reserve("ada", "image", idempotency_key="r")
    again = await credits.reserve("ada", "image", idempotency_key="r")
    assert made._replace(replayed=True) == again
    done = await credits.capture("ada", "image", made.hold_id, amount=7, idempotency_key="c")
    for _ in range(2):
        again_done = await credits.capture(
            "ada", "image", made.hold_id, amount=7, idempotency_key="c"
        )
        assert done._replace(replayed=True) == again_done
        await kit.sync()
    with pytest.raises(IdempotencyKeyConflictError):
        await credits.capture("ada", "image", made.hold_id, amount=8, idempotency_key="c")
    with pytest.raises(IdempotencyKeyConflictError):
        await credits.release("ada", made.hold_id, idempotency_key="c")
    assert 93 == await credits.query_balance("ada")
    await kit.assert_balanced()


# --- time ---------------------------------------------------------------------------------------


async def test_the_worker_finishes_what_nobody_asks_for(timed: tuple[CreditsKit, Clock]) -> None:
    kit, clock = timed
    await kit.engine.create_user("ada", credits=100)
    await kit.engine.create_user("bob", credits=100)
    made = [await kit.engine.reserve(name, "image") for name in ("ada", "bob")]
    young = await kit.engine.reserve("ada", "image", ttl_ms=3_600_000)
    assert ["reserved"] * 3 == await states(kit)

    clock.advance(seconds=600.001)
    assert ["expired", "expired", "reserved"] == sorted(await states(kit))

    for one, name in zip(made, ("ada", "bob"), strict=True):
        with pytest.raises(HoldExpiredError):
            await kit.engine.capture(name, "image", one.hold_id)
    assert 80 == (await kit.engine.get_user("ada")).available
    assert 100 == (await kit.engine.get_user("bob")).available
    audit = [row for row in await kit.audit() if row.action == "expire"]
    assert ["success", "success"] == [row.status for row in audit]
    assert {one.hold_id for one in made} == {row.metadata["holdId"] for row in audit}
    await kit.engine.capture("ada", "image", young.hold_id)
    await kit.assert_balanced()


async def test_a_cold_account_is_loaded_so_that_its_holds_can_expire(
    timed: tuple[CreditsKit, Clock],
) -> None:
    kit, clock = timed
    await kit.engine.create_user("ada", credits=100)
    await kit.engine.reserve("ada", "image")
    await kit.sync()
    lane, keys = await kit.engine.lane(), kit.engine.partitions.of(b"ada")
    await lane.execute(b"DEL", keys.account(b"ada"), keys.holds)

    clock.advance(hours=1)

    assert ["expired"] == await states(kit)
    await kit.assert_balanced()


@pytest.mark.parametrize("another", [user_elsewhere, user_beside])
async def test_everybody_has_a_turn_however_many_holds_of_an_other_are_over(
    timed: tuple[CreditsKit, Clock], another: Callable[[CreditsKit, str], str]
) -> None:
    """A closed partition, or a user whose holds cannot be finished, would keep all others waiting."""
    kit, clock = timed
    other = another(kit, "ada")
    for user in ("ada", other):
        await kit.engine.create_user(user, credits=100)
    for user in ("ada", "ada", "ada", other):
        await kit.engine.reserve(user, "image")
        clock.advance(seconds=1)
    await kit.sync()
    clock.advance(hours=1)

    overdue = await Records(kit.database).overdue_holds(range(4), clock(), most=2)

    assert {"ada", other} == {user for users in overdue.values() for user in users}


@pytest.mark.parametrize("kind", ["text", "hash"])
async def test_an_account_that_is_none_keeps_nobody_elses_holds_from_expiring(
    timed: tuple[CreditsKit, Clock], kind: str
) -> None:
    """Nor the worker from its work."""
    kit, clock = timed
    others = (user_beside(kit, "ada"), user_elsewhere(kit, "ada"))
    for user in ("ada", *others):
        await kit.engine.create_user(user, credits=100)
        await kit.engine.reserve(user, "image")
    await kit.sync()
    lane, key = await kit.engine.lane(), kit.engine.partitions.of(b"ada").account(b"ada")
    there: bytes = await lane.execute(b"GET", key)
    await lane.execute(b"DEL", key)
    await lane.execute(*((b"SET", key, b"none") if kind == "text" else (b"HSET", key, b"no", b"t")))
    clock.advance(hours=1)
    await kit.engine.charge(others[1], "image")

    for _ in range(3):
        await kit.sync()

    async with kit.database.connect() as connection:
        found = await connection.execute(select(holds.c.user_id, holds.c.state))
        told = {row.user_id: row.state for row in found}
    assert {"ada": "reserved"} | dict.fromkeys(others, "expired") == told
    await lane.execute(b"SET", key, there)
    await kit.sync()
    assert ["expired"] * 3 == await states(kit)
    await kit.assert_balanced()


async def test_a_crowd_of_refused_callers_has_holds_looked_through_once(
    timed: tuple[CreditsKit, Clock], monkeypatch: pytest.MonkeyPatch
) -> None:
    kit, clock = timed
    looks: list[object] = []

    async def counted(*facts: Any) -> list[int | None]:
        looks.append(facts[2])
        return await expire_holds(*facts)

    monkeypatch.setattr(courier, "expire_holds", counted)
    await kit.engine.create_user("ada", credits=100)
    await kit.engine.reserve("ada", "image", amount=100)
    clock.advance(hours=1)

    await asyncio.gather(*(kit.engine.charge("ada", "image") for _ in range(5)))

    assert [{b"ada": ()}] == looks
    await kit.assert_balanced()


async def test_an_extended_hold_ends_when_its_extension_says(
    timed: tuple[CreditsKit, Clock],
) -> None:
    kit, clock = timed
    await kit.engine.create_user("ada", credits=100)
    made = await kit.engine.reserve("ada", "image")
    clock.advance(seconds=590)
    await kit.engine.extend("ada", made.hold_id, ttl_ms=60_000)
    clock.advance(seconds=59)
    assert ["reserved"] == await states(kit)
    clock.advance(seconds=2)

    with pytest.raises(HoldExpiredError):
        await kit.engine.extend("ada", made.hold_id, ttl_ms=60_000)
    assert ["expired"] == await states(kit)
    await kit.assert_balanced()


async def test_whoever_wants_the_credits_of_an_expired_hold_gets_them_without_a_worker(
    timed_sqlite: tuple[CreditsKit, Clock],
) -> None:
    kit, clock = timed_sqlite
    await kit.engine.create_user("ada", credits=100)
    abandoned = await kit.engine.reserve("ada", "free", amount=90)
    clock.advance(seconds=601)

    charge = await kit.engine.charge("ada", "free", amount=60)
    made = await kit.engine.reserve("ada", "free", amount=40)

    assert (40, 40) == (charge.balance_after, made.amount)
    with pytest.raises(HoldExpiredError):
        await kit.engine.release("ada", abandoned.hold_id)
    assert [] == [
        row
        for row in await kit.audit("ada")
        if row.status == "failed" and row.error_code != "HOLD_EXPIRED"
    ]
    await kit.assert_balanced()


async def test_a_hold_that_has_expired_unnoticed_is_refused_all_the_same(
    timed_sqlite: tuple[CreditsKit, Clock],
) -> None:
    kit, clock = timed_sqlite
    await kit.engine.create_user("ada", credits=100)
    made = await kit.engine.reserve("ada", "image", ttl_ms=5)
    clock.advance(seconds=0.006)

    with pytest.raises(HoldExpiredError):
        await kit.engine.capture("ada", "image", made.hold_id)

    assert 100 == await kit.engine.query_balance("ada")
    assert ["expired"] == await states(kit)
    await kit.assert_balanced()


async def test_the_worker_passes_over_an_account_that_does_not_fit_its_holds(
    timed_sqlite: tuple[CreditsKit, Clock], caplog: pytest.LogCaptureFixture
) -> None:
    kit, clock = timed_sqlite
    partition = kit.engine.partitions.of(b"ada")
    names = [f"user-{number}" for number in range(60)]
    names = [name for name in names if kit.engine.partitions.of(name.encode()) is partition]
    for name in ("ada", *names):
        await kit.engine.create_user(name, credits=100)
        await kit.engine.reserve(name, "image")
    await kit.sync()
    lane = await kit.engine.lane()
    account: bytes = await lane.execute(b"GET", partition.account(b"ada"))
    await lane.execute(b"SET", partition.account(b"ada"), account.replace(b" 20000000/", b" 1/"))

    clock.advance(hours=1)
    found = await states(kit)

    assert (1, len(names)) == (found.count("reserved"), found.count("expired"))
    assert 1 == told(caplog)

    clock.advance(seconds=1)
    await states(kit)
    assert 1 == told(caplog), "it is said once, however often it is tried"

    await lane.execute(b"DEL", partition.account(b"ada"), partition.holds)
    clock.advance(seconds=1)
    assert "reserved" not in await states(kit)
    await kit.engine.reserve("ada", "image")
    await kit.sync()
    await lane.execute(b"SET", partition.account(b"ada"), b"no account")
    clock.advance(hours=1)
    await states(kit)
    clock.advance(seconds=1)
    await states(kit)
    assert 2 == told(caplog), "it was mended in between"


# --- cold, and lost -----------------------------------------------------------------------------


async def test_a_cold_account_comes_back_with_its_open_holds(kit: CreditsKit) -> None:
    credits = kit.engine
    await credits.create_user("ada", credits=100, tier="pro")
    made = [await credits.reserve("ada", "image") for _ in range(3)]
    await credits.capture("ada", "image", made[0].hold_id, amount=5, final=False)
    await credits.release("ada", made[1].hold_id)
    await kit.sync()
    lane, keys = await credits.lane(), credits.partitions.of(b"ada")
    await lane.execute(b"DEL", keys.account(b"ada"), keys.holds)

    first = await credits.capture("ada", "image", made[0].hold_id)
    assert (10, 85) == (first.cost, first.balance_after)
    with pytest.raises(HoldFinishedError):
        await credits.capture("ada", "image", made[1].hold_id)
    assert 15 == (await credits.get_user("ada")).reserved
    await kit.assert_balanced()


async def test_after_a_wipe_holds_come_from_the_ledger_and_keys_still_hold(
    kit: CreditsKit,
) -> None:
    credits = kit.engine
    await credits.create_user("ada", credits=100)
    opened = await credits.reserve("ada", "image", idempotency_key="r1")
    other = await credits.reserve("ada", "image", idempotency_key="r2")
    done = await credits.capture("ada", "image", other.hold_id, amount=3, idempotency_key="c")
    third = await credits.reserve("ada", "image", idempotency_key="r3")
    gone = await credits.release("ada", third.hold_id, idempotency_key="d")
    await kit.sync()
    await (await credits.lane()).execute(b"FLUSHALL")

    await kit.worker.step()

    assert opened._replace(replayed=True) == await credits.reserve(
        "ada", "image", idempotency_key="r1"
    )
    again = await credits.capture("ada", "image", other.hold_id, amount=3, idempotency_key="c")
    assert done._replace(replayed=True) == again
    assert gone._replace(replayed=True) == await credits.release(
        "ada", third.hold_id, idempotency_key="d"
    )
    assert 77 == (await credits.capture("ada", "image", opened.hold_id)).balance_after
    await kit.assert_balanced()


async def test_what_only_the_journal_knows_of_holds_is_adopted(kit: CreditsKit) -> None:
    """The entry the ledger knows was executed at another moment; what follows it is new."""
    credits = kit.engine
    await credits.create_user("ada", credits=100)
    old = [await credits.reserve("ada", "image") for _ in range(3)]
    await credits.extend("ada", old[2].hold_id, amount=1)
    await kit.sync()
    await credits.extend("ada", old[2].hold_id, amount=2)
    longer = await credits.extend("ada", old[2].hold_id, ttl_ms=3_600_000)
    await credits.capture("ada", "image", old[0].hold_id, amount=5, final=False)
    await credits.capture("ada", "image", old[0].hold_id, amount=6)
    await credits.release("ada", old[1].hold_id)
    new = await credits.reserve("ada", "image", amount=7)
    short = await credits.reserve("ada", "image", amount=9)
    await credits.release("ada", short.hold_id)
    keys, lane = credits.partitions.of(b"ada"), await credits.lane()
    entries = await lane.execute(b"XRANGE", keys.journal, b"-", b"+")
    await lane.execute(b"DEL", keys.journal)
    entries[2][1][3] = b"%d" % (int(entries[2][1][3]) + 1)
    for entry_id, fields in entries:
        await lane.execute(b"XADD", keys.journal, entry_id, *fields)

    await kit.worker.step()

    assert not kit.worker.set_aside
    user = await credits.get_user("ada")
    assert (89, 30) == (user.credits, user.reserved)
    found = {row.id: (row.state, row.reserved, row.captured) for row in await hold_rows(kit)}
    assert {
        old[0].hold_id: ("captured", 0, 11),
        old[1].hold_id: ("released", 0, 0),
        old[2].hold_id: ("reserved", 23, 0),
        new.hold_id: ("reserved", 7, 0),
        short.hold_id: ("released", 0, 0),
    } == found
    assert longer.expires_at in {row.expires_at for row in await hold_rows(kit)}
    assert 82 == (await credits.capture("ada", "image", new.hold_id)).balance_after
    await kit.assert_balanced()


# --- what the worker does not write --------------------------------------------------------------


async def test_a_batch_that_was_written_already_writes_nothing(kit: CreditsKit) -> None:
    """A worker that dies after its commit: the next one reads the same again."""
    await kit.engine.create_user("ada", credits=100)
    made = await kit.engine.reserve("ada", "image")
    await kit.engine.capture("ada", "image", made.hold_id, amount=5, final=False)
    original = Ledger.write
    dying = pytest.MonkeyPatch()

    async def written_and_dead(*arguments: Any) -> None:
        await original(*arguments)
        raise KeyboardInterrupt

    dying.setattr(Ledger, "write", written_and_dead)
    with pytest.raises(KeyboardInterrupt):
        await kit.worker.step()
    dying.undo()
    await kit.worker.close()
    other = SyncWorker(
        kit.engine.endpoint, kit.database, kit.engine.partitions, kit.engine.config.sync
    )
    again = CreditsKit(kit.engine, other, kit.database, None)

    await kit.engine.release("ada", made.hold_id)

    assert ["released"] == await states(again)
    await again.assert_balanced()
    await other.close()


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        (update(users).values(reserved=Decimal(1)), "has reserved"),
        (update(holds).values(captured=Decimal(1)), "hold .* is"),
        (
            update(holds).values(
                state="released", reserved=Decimal(0), finished_at=datetime.now(UTC)
            ),
            "hold .* is",
        ),
    ],
    ids=["reserved", "captured", "state"],
)
async def test_a_hold_that_was_changed_by_hand_sets_its_partition_aside(
    kit: CreditsKit, statement: Any, reason: str
) -> None:
    await kit.engine.create_user("ada", credits=100)
    made = await kit.engine.reserve("ada", "image")
    await kit.sync()
    async with kit.database.begin() as connection:
        await connection.execute(statement)
    await kit.engine.capture("ada", "image", made.hold_id)

    await kit.sync()

    (told,) = kit.worker.set_aside.values()
    assert "ChainBrokenError" in told
    assert re.search(reason, told)


async def test_the_sheet_and_the_comparison_notice_holds_that_differ(kit: CreditsKit) -> None:
    credits = kit.engine
    await credits.create_user("ada", credits=100)
    made = await credits.reserve("ada", "image")
    await kit.assert_balanced()
    lane, keys = await credits.lane(), credits.partitions.of(b"ada")
    field = hold_field(b"ada", made.hold_id.encode())
    text: bytes = await lane.execute(b"HGET", keys.holds, field)
    other = text.replace(b" 20000000 0", b" 19000000 0")
    await lane.execute(b"HSET", keys.holds, field, other)

    compared = await compare_redis(kit.database, credits.router, credits.partitions)
    assert ["ada"] == [*compared.differing]

    await lane.execute(b"HSET", keys.holds, field, text)
    account: bytes = await lane.execute(b"GET", keys.account(b"ada"))
    await lane.execute(b"SET", keys.account(b"ada"), re.sub(rb"/1 ", b"/2 ", account))
    compared = await compare_redis(kit.database, credits.router, credits.partitions)
    assert {"ada": "Redis counts 2 open holds and has 1"} == compared.differing

    await lane.execute(b"DEL", keys.account(b"ada"))
    compared = await compare_redis(kit.database, credits.router, credits.partitions)
    assert "without an account" in compared.differing["ada"]

    await lane.execute(b"SET", keys.account(b"ada"), account)
    await kit.assert_balanced()
    async with kit.database.begin() as connection:
        await connection.execute(update(holds).values(reserved=Decimal(19)))
    sheet = await balance_sheet(kit.database)
    assert not sheet.conserves
    assert "the open holds keep 19" in sheet.differing["ada"]
