"""Upgrades, downgrades and renewals as the script judges them: a verdict for every tier. Pure.

Source of the rules: the reference Credit SDK. An upgrade needs a higher level than the user's, a
downgrade a lower one; no tier and an undefined tier rank below every level. Better than there: an
expired tier counts as none for an upgrade, which then has to bring a new expiry, and the same tier
can be renewed. A downgrade looks at the stored tier, expired or not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from credits_fast import arguments
from credits_fast.amounts import to_micros
from credits_fast.protocol.wire import TierChange, Verdict, to_ms
from credits_fast.types import Unchanged

if TYPE_CHECKING:
    from datetime import datetime

    from credits_fast.config import MembershipConfig

__all__ = ["downgrade", "renewal", "upgrade"]


def upgrade(
    config: MembershipConfig,
    target: str,
    expires_at: datetime | Unchanged | None,
) -> TierChange:
    """To a higher tier.

    Raises:
        InvalidArgumentError: The tier's name or the expiry cannot be used.
    """
    name, level = _target(target), config.tiers.get(target)
    verdicts = _UNDEFINED
    if level is not None:
        cap = _cap(config, target)
        refused = (tier for tier, other in config.tiers.items() if other >= level)
        verdicts = (
            *(Verdict(tier.encode(), b"not_higher", cap) for tier in refused),
            Verdict(b"", b"", cap),
        )
    return TierChange(
        verb=b"upgradeTier",
        target=name,
        judged_by=b"effective",
        policy=config.credits_on_tier_change.encode(),
        expiry=_expiry(expires_at),
        verdicts=verdicts,
    )


def downgrade(config: MembershipConfig, target: str, *, clear_expiration: bool) -> TierChange:
    """To a lower tier.

    Raises:
        InvalidArgumentError: The tier's name cannot be used.
    """
    name, level = _target(target), config.tiers.get(target)
    verdicts = _UNDEFINED
    if level is not None:
        cap = _cap(config, target)
        allowed = (tier for tier, other in config.tiers.items() if other > level)
        verdicts = (
            *(Verdict(tier.encode(), b"", cap) for tier in allowed),
            Verdict(b"", b"not_lower", cap),
        )
    return TierChange(
        verb=b"downgradeTier",
        target=name,
        judged_by=b"stored",
        policy=config.credits_on_tier_change.encode(),
        expiry=b"clear" if clear_expiration else b"keep",
        verdicts=verdicts,
        extra=b"1" if clear_expiration else b"0",
    )


def renewal(config: MembershipConfig, expires_at: datetime | None) -> TierChange:
    """Of the stored tier, expired or not.

    Raises:
        InvalidArgumentError: The expiry cannot be used.
    """
    verdicts = (Verdict(tier.encode(), b"", _cap(config, tier)) for tier in config.tiers)
    return TierChange(
        verb=b"renewMembership",
        target=b"",
        judged_by=b"stored",
        policy=config.credits_on_renewal.encode(),
        expiry=_expiry(expires_at),
        verdicts=(*verdicts, Verdict(b"", b"no_tier", 0)),
    )


_UNDEFINED: Final[tuple[Verdict, ...]] = (Verdict(b"", b"undefined_tier", 0),)


def _target(target: str) -> bytes:
    """The name as it travels; none and "" are undefined tiers like any other."""
    return arguments.identifier("target_tier", target) if target else b""


def _cap(config: MembershipConfig, tier: str) -> int:
    return to_micros(config.credits_caps[tier])


def _expiry(expires_at: datetime | Unchanged | None) -> bytes:
    if isinstance(expires_at, Unchanged):
        return b"keep"
    if expires_at is None:
        return b"clear"
    return b"%d" % to_ms(arguments.moment("membership_expires_at", expires_at))
