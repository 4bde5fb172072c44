"""Logging: structured fields under `credits_fast`, a success quieter than a refusal."""

from __future__ import annotations

import logging
from decimal import Decimal

import pytest

from credits_fast import CreditsError
from credits_fast.testing import CreditsKit


async def test_decisions_carry_user_action_and_amount(
    sqlite_kit: CreditsKit,
    caplog: pytest.LogCaptureFixture,
) -> None:
    credits = sqlite_kit.engine
    await credits.create_user("ada", credits=100)
    with caplog.at_level(logging.DEBUG, "credits_fast.decisions"):
        charged = await credits.charge("ada", "image", idempotency_key="k")
        await credits.charge("ada", "image", idempotency_key="k")
        await credits.grant("ada", 5, "bonus")
        for refused in (credits.charge("ada", "image", amount=1_000), credits.grant("eve", 1, "x")):
            with pytest.raises(CreditsError):
                await refused

    seen = [
        (r.levelname, vars(r)["verb"], vars(r)["user_id"], vars(r)["action"], vars(r)["amount"])
        for r in caplog.records
    ]
    assert [
        ("DEBUG", "charge", "ada", "image", Decimal(-20)),
        ("DEBUG", "charge", "ada", "image", Decimal(-20)),
        ("DEBUG", "grant", "ada", "bonus", Decimal(5)),
        ("INFO", "charge", "ada", "image", None),
        ("INFO", "grant", "eve", "x", None),
    ] == seen
    first = vars(caplog.records[0])
    assert (charged.transaction_id, "k") == (first["transaction_id"], first["idempotency_key"])
    assert "INSUFFICIENT_CREDITS" == vars(caplog.records[3])["code"]


async def test_at_the_default_level_nothing_is_said(
    sqlite_kit: CreditsKit,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await sqlite_kit.engine.create_user("ada", credits=100)
    await sqlite_kit.engine.charge("ada", "image")
    with pytest.raises(CreditsError):
        await sqlite_kit.engine.charge("ada", "image", amount=1_000)
    await sqlite_kit.sync()

    assert [] == caplog.records
