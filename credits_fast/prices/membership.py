"""Membership tiers: which one counts now, and whether it is enough. Pure rules, no clock of its own.

Source of the rules: the reference Credit SDK's membership validator. A tier has a level; a higher
level satisfies a lower requirement, equal levels satisfy each other. A membership has expired when
now is strictly later than its expiry; an expired membership counts as none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from decimal import Decimal

__all__ = ["LEVEL_NONE", "Access", "Levels", "effective_tier", "is_expired", "level", "validate"]

Levels: TypeAlias = "Mapping[str, Decimal]"
"""The level of every defined tier."""

LEVEL_NONE: Final = -1
"""The level of no tier, and of a tier the configuration does not define."""

Reason: TypeAlias = Literal[
    "expired",
    "none",
    "insufficient",
    "required_tier_undefined",
    "current_tier_undefined",
]


@dataclass(frozen=True, slots=True)
class Access:
    """Whether a membership satisfies a requirement.

    Attributes:
        valid: Whether it does.
        current_tier: The tier that counts now, None where there is none.
        required_tier: The requirement, None where there is none.
        is_expired: Whether the expiry lies in the past, with or without a tier.
        reason: Why it does not, None where it does.
    """

    valid: bool
    current_tier: str | None
    required_tier: str | None
    is_expired: bool
    reason: Reason | None


def is_expired(expires_at: datetime | None, now: datetime) -> bool:
    """Whether a membership has ended: strictly after its expiry; None never expires."""
    return expires_at is not None and now > expires_at


def effective_tier(tier: str | None, expires_at: datetime | None, now: datetime) -> str | None:
    """The tier that counts now: None where there is none or it has expired."""
    return None if is_expired(expires_at, now) else tier or None


def level(levels: Levels, tier: str | None) -> Decimal | int:
    """The level of a tier; -1 for no tier and for an undefined one."""
    return levels.get(tier, LEVEL_NONE) if tier else LEVEL_NONE


def validate(
    levels: Levels,
    tier: str | None,
    expires_at: datetime | None,
    required: str | None,
    now: datetime,
) -> Access:
    """Whether a membership satisfies a requirement at this moment.

    Args:
        levels: The level of every defined tier.
        tier: The stored tier.
        expires_at: The stored expiry, None for a membership without end.
        required: The tier that is asked for, None for no requirement.
        now: The moment to judge by.
    """
    expired = is_expired(expires_at, now)
    current = None if expired else tier or None
    reason = _reason(levels, tier, current, required)
    return Access(reason is None, current, required, expired, reason)


def _reason(
    levels: Levels,
    stored: str | None,
    current: str | None,
    required: str | None,
) -> Reason | None:
    if required is None:
        return None
    if current is None:
        return "expired" if stored else "none"
    if required not in levels:
        return "required_tier_undefined"
    if current not in levels:
        return "current_tier_undefined"
    return None if levels[current] >= levels[required] else "insufficient"
