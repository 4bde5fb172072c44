"""Membership: levels, expiry, requirements; and what a change of tier makes of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from credits_fast.prices.membership import validate

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
EARLIER, LATER = NOW - timedelta(milliseconds=1), NOW + timedelta(milliseconds=1)
LEVELS = {"free": Decimal(0), "pro": Decimal(2), "plus": Decimal(2), "max": Decimal(3)}


@pytest.mark.parametrize(
    ("tier", "expires_at", "required", "reason"),
    [
        (None, None, None, None),
        (None, EARLIER, None, None),
        ("pro", None, "pro", None),
        ("max", None, "pro", None),
        ("plus", None, "pro", None),
        ("free", None, "free", None),
        ("pro", NOW, "pro", None),
        ("pro", LATER, "pro", None),
        ("pro", EARLIER, "pro", "expired"),
        ("max", EARLIER, "free", "expired"),
        ("gone", EARLIER, "free", "expired"),
        (None, None, "free", "none"),
        ("", None, "free", "none"),
        (None, EARLIER, "free", "none"),
        ("pro", None, "max", "insufficient"),
        ("gone", None, "free", "current_tier_undefined"),
        ("gone", None, "lost", "required_tier_undefined"),
    ],
)
def test_a_membership_satisfies_a_requirement_or_says_why_not(
    tier: str | None,
    expires_at: datetime | None,
    required: str | None,
    reason: str | None,
) -> None:
    access = validate(LEVELS, tier, expires_at, required, NOW)

    assert (reason is None, reason) == (access.valid, access.reason)
    assert (expires_at == EARLIER) == access.is_expired
    assert (None if expires_at == EARLIER else tier or None) == access.current_tier
