"""Bad input gets a clear, typed error and leaves nothing half written."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from credits_fast import (
    EngineClosedError,
    FormulaEvaluationError,
    IdempotencyKeyConflictError,
    InvalidAmountError,
    InvalidArgumentError,
    InvalidMetadataError,
    MissingVariableError,
    UndefinedActionError,
    UndefinedTierError,
    UserNotFoundError,
)
from credits_fast.testing import CreditsKit

Call = Callable[[Any], Awaitable[Any]]

DEEP: dict[str, Any] = {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {}}}}}}}}}
BEFORE_ALL = datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))
"""There is no such moment in UTC."""
HUGE = 10**5_000
"""More digits than Python writes."""
BAD_AMOUNTS = [-1, Decimal("NaN"), Decimal("Infinity"), 1.5, True, "0.0000001", 10**10, "x", None]
BAD_IDENTIFIERS = ["", "x" * 257, "a\0b", "\ud800", 5]

TABLE: list[tuple[str, type[Exception], Call]] = [
    *(
        (f"grant {amount!r}", InvalidAmountError, lambda e, a=amount: e.grant("ada", a, "x"))
        for amount in [*BAD_AMOUNTS, 0]
    ),
    *(
        (f"refund {amount!r}", InvalidAmountError, lambda e, a=amount: e.refund("ada", a, "x"))
        for amount in [*BAD_AMOUNTS, 0]
    ),
    *(
        (
            f"charge {amount!r}",
            InvalidAmountError,
            lambda e, a=amount: e.charge("ada", "x", amount=a),
        )
        for amount in BAD_AMOUNTS[:-1]
    ),
    *(
        (
            f"create {amount!r}",
            InvalidAmountError,
            lambda e, a=amount: e.create_user("eve", credits=a),
        )
        for amount in BAD_AMOUNTS
    ),
    *(
        (f"key {key!r:.9}", InvalidArgumentError, lambda e, k=key: _charge(e, idempotency_key=k))
        for key in BAD_IDENTIFIERS
    ),
    *(
        (f"user {user!r:.9}", InvalidArgumentError, lambda e, u=user: e.charge(u, "image"))
        for user in BAD_IDENTIFIERS[1:]
    ),
    *(
        (f"action {action!r:.9}", InvalidArgumentError, lambda e, a=action: e.charge("ada", a))
        for action in BAD_IDENTIFIERS
    ),
    ("no user", UserNotFoundError, lambda e: e.charge("", "image")),
    ("metadata, no JSON", InvalidMetadataError, lambda e: _charge(e, metadata={"a": object()})),
    ("metadata, too long", InvalidMetadataError, lambda e: _charge(e, metadata={"a": "x" * 5_000})),
    ("metadata, too deep", InvalidMetadataError, lambda e: _charge(e, metadata=DEEP)),
    ("metadata, NaN", InvalidMetadataError, lambda e: _charge(e, metadata={"a": float("nan")})),
    ("metadata, NUL", InvalidMetadataError, lambda e: _charge(e, metadata={"a": "\0"})),
    ("variables, a list", InvalidArgumentError, lambda e: _charge(e, variables=["tokens"])),
    ("variables, no name", InvalidArgumentError, lambda e: _charge(e, variables={1: 1})),
    ("a huge number", InvalidArgumentError, lambda e: _charge(e, variables={"tokens": HUGE})),
    (
        "a huge number inside",
        InvalidArgumentError,
        lambda e: _charge(e, variables={"tokens": 1, "more": [HUGE]}),
    ),
    (
        "an amount and variables",
        InvalidArgumentError,
        lambda e: _charge(e, amount=1, variables={"tokens": 1}),
    ),
    ("a negative page", InvalidArgumentError, lambda e: e.get_history("ada", limit=-1)),
    ("a huge page", InvalidArgumentError, lambda e: e.get_history("ada", limit=1_001)),
    ("a negative offset", InvalidArgumentError, lambda e: e.get_history("ada", offset=-1)),
    ("a huge offset", InvalidArgumentError, lambda e: e.get_history("ada", offset=10**30)),
    ("a huge cursor", InvalidArgumentError, lambda e: e.get_history("ada", cursor="1" * 30)),
    ("an action with NUL", InvalidArgumentError, lambda e: e.get_history("ada", action="a\0b")),
    ("half an action", InvalidArgumentError, lambda e: e.get_history("ada", action="\ud800")),
    ("no audit", InvalidArgumentError, lambda e: e.get_audit_log("ada", limit=0)),
    ("a negative audit", InvalidArgumentError, lambda e: e.get_audit_log("ada", limit=-1)),
    ("a huge audit", InvalidArgumentError, lambda e: e.get_audit_log("ada", limit=1_001)),
    (
        "a moment before all",
        InvalidArgumentError,
        lambda e: e.upgrade_tier("ada", "pro", membership_expires_at=BEFORE_ALL),
    ),
    ("no cursor", InvalidArgumentError, lambda e: e.get_history("ada", cursor="x")),
    ("tier of a new user", UndefinedTierError, lambda e: e.create_user("eve", tier="gold")),
]


def _charge(engine: Any, **arguments: Any) -> Awaitable[Any]:
    charge: Awaitable[Any] = engine.charge("ada", "chat", **arguments)
    return charge


@pytest.mark.parametrize(
    ("error", "call"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
async def test_nothing_is_sent_for_what_cannot_be_meant(
    sqlite_kit: CreditsKit,
    error: type[Exception],
    call: Call,
) -> None:
    await sqlite_kit.engine.create_user("ada", credits=100)

    with pytest.raises(error) as refused:
        await call(sqlite_kit.engine)

    assert "\n" not in str(refused.value)
    assert [("ada", "createUser")] == [
        (one.user_id, one.action) for one in await sqlite_kit.audit()
    ]
    assert 1 == len(await sqlite_kit.transactions())
    assert 100 == await sqlite_kit.engine.query_balance("ada")


@pytest.mark.parametrize(
    ("error", "code", "call"),
    [
        (UndefinedActionError, "UNDEFINED_ACTION", lambda e: e.charge("ada", "nope")),
        (MissingVariableError, "MISSING_VARIABLE", lambda e: e.charge("ada", "chat")),
        (
            FormulaEvaluationError,
            "FORMULA_EVALUATION_ERROR",
            lambda e: e.charge("ada", "chat", variables={"tokens": "many"}),
        ),
        (UndefinedTierError, "UNDEFINED_TIER", lambda e: e.upgrade_tier("ada", "gold")),
        (UndefinedTierError, "UNDEFINED_TIER", lambda e: e.downgrade_tier("ada", None)),
    ],
)
async def test_what_the_configuration_does_not_know_is_refused_and_audited(
    sqlite_kit: CreditsKit,
    error: type[Exception],
    code: str,
    call: Call,
) -> None:
    await sqlite_kit.engine.create_user("ada", credits=100)

    with pytest.raises(error):
        await call(sqlite_kit.engine)

    failed = (await sqlite_kit.audit())[-1]
    assert ("failed", code) == (failed.status, failed.error_code)
    assert 1 == len(await sqlite_kit.transactions())


async def test_legal_names_of_full_length_work(sqlite_kit: CreditsKit) -> None:
    longest = "é" * 128
    await sqlite_kit.engine.create_user(longest, credits=1)
    await sqlite_kit.engine.charge(longest, longest, amount=1, idempotency_key=longest)

    await sqlite_kit.assert_balanced()


async def test_what_should_have_been_a_number_is_told_in_part_however_long_it_is(
    sqlite_kit: CreditsKit,
) -> None:
    """The audit log gets the error as it is told, by way of Redis."""
    await sqlite_kit.engine.create_user("ada", credits=100)
    variables: Any = {"tokens": "x" * 1_000_000}

    with pytest.raises(FormulaEvaluationError) as refused:
        await sqlite_kit.engine.charge("ada", "chat", variables=variables)

    assert 5_000 > len(refused.value.message)
    lane = await sqlite_kit.engine.lane()
    journal = sqlite_kit.engine.partitions.of(b"ada").journal
    assert 10_000 > sum(
        len(value)
        for _, fields in await lane.execute(b"XRANGE", journal, b"-", b"+")
        for value in fields
    )
    assert "FORMULA_EVALUATION_ERROR" == (await sqlite_kit.audit())[-1].error_code


async def test_a_fingerprint_cannot_be_taken_for_a_variable(sqlite_kit: CreditsKit) -> None:
    await sqlite_kit.engine.create_user("ada", credits=100)
    await sqlite_kit.engine.charge(
        "ada", "image", variables={"a": 1}, fingerprint="b=2", idempotency_key="k"
    )

    with pytest.raises(IdempotencyKeyConflictError):
        await sqlite_kit.engine.charge(
            "ada", "image", variables={"a": 1, "b": 2}, idempotency_key="k"
        )


async def test_an_engine_that_is_used_from_another_event_loop_charges_nothing(
    sqlite_kit: CreditsKit,
) -> None:
    await sqlite_kit.engine.create_user("ada", credits=100)

    async def charge() -> None:
        await sqlite_kit.engine.charge("ada", "image")

    with pytest.raises(EngineClosedError, match="another event loop"):
        await asyncio.to_thread(lambda: asyncio.run(charge()))
    assert 100 == await sqlite_kit.engine.query_balance("ada")
