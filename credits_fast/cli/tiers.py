"""`tier upgrade`, `tier downgrade`, `tier renew`: what changes a membership."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from credits_fast.cli.command import command
from credits_fast.cli.options import Connection
from credits_fast.cli.output import Answer
from credits_fast.cli.words import (
    Acknowledge,
    Key,
    MetadataText,
    UserId,
    amount,
    ending,
    expiry,
    metadata_of,
    name,
    spoken_expiry,
)
from credits_fast.types import Level, TierChangeResult, Unchanged

__all__ = ["add_to"]

_Tier: TypeAlias = Annotated[str, typer.Argument(metavar="TIER", help="The new tier.")]
_EXPIRES = "--expires"


def add_to(app: typer.Typer) -> None:
    """Add the commands to the app."""
    group = typer.Typer(help="Upgrade, downgrade or renew a membership.")
    for function in (upgrade, downgrade, renew):
        command(group)(function)
    app.add_typer(group, name="tier")


async def upgrade(
    user: UserId,
    tier: _Tier,
    connection: Connection,
    *,
    expires: Annotated[
        str, typer.Option(metavar="DATE|never|keep", help="When the membership ends.")
    ] = "keep",
    key: Key = None,
    metadata: MetadataText = None,
    acknowledge: Acknowledge = None,
) -> Answer:
    """Change to a higher tier."""
    async with connection.engine() as engine:
        result = await engine.upgrade_tier(
            user,
            tier,
            membership_expires_at=expiry(expires),
            idempotency_key=key,
            metadata=metadata_of(metadata),
            acknowledge=acknowledge,
        )
    return _answer("upgraded", user, result, acknowledge)


async def downgrade(
    user: UserId,
    tier: _Tier,
    connection: Connection,
    *,
    expires: Annotated[
        str, typer.Option(metavar="never|keep", help="Whether the membership's end stays.")
    ] = "keep",
    key: Key = None,
    metadata: MetadataText = None,
    acknowledge: Acknowledge = None,
) -> Answer:
    """Change to a lower tier."""
    expires_at = expiry(expires)
    if expires_at is not None and not isinstance(expires_at, Unchanged):
        problem = "a downgrade sets no new end; give never or keep, and renew afterwards"
        raise typer.BadParameter(problem, param_hint=_EXPIRES)
    async with connection.engine() as engine:
        result = await engine.downgrade_tier(
            user,
            tier,
            clear_expiration=expires_at is None,
            idempotency_key=key,
            metadata=metadata_of(metadata),
            acknowledge=acknowledge,
        )
    return _answer("downgraded", user, result, acknowledge)


async def renew(
    user: UserId,
    connection: Connection,
    *,
    expires: Annotated[
        str, typer.Option(metavar="DATE|never", help="When the membership ends from now on.")
    ],
    key: Key = None,
    metadata: MetadataText = None,
    acknowledge: Acknowledge = None,
) -> Answer:
    """Give the tier a user has, expired or not, a new end."""
    expires_at = expiry(expires)
    if isinstance(expires_at, Unchanged):
        problem = "a renewal sets a new end; give a date or never"
        raise typer.BadParameter(problem, param_hint=_EXPIRES)
    async with connection.engine() as engine:
        result = await engine.renew_membership(
            user,
            expires_at,
            idempotency_key=key,
            metadata=metadata_of(metadata),
            acknowledge=acknowledge,
        )
    return _answer("renewed", user, result, acknowledge)


def _answer(done: str, user: str, result: TierChangeResult, asked: Level | None) -> Answer:
    data = {
        "transaction_id": result.transaction_id,
        "user_id": user,
        "old_tier": result.old_tier,
        "new_tier": result.new_tier,
        "old_credits": result.old_credits,
        "new_credits": result.new_credits,
        "credits_delta": result.credits_delta,
        "membership_expires_at": result.membership_expires_at,
        "replayed": result.replayed,
        "acknowledged": result.acknowledged,
    }
    tiers = f"{name(result.old_tier or 'none')} -> {name(result.new_tier)}"
    balances = f"{amount(result.old_credits)} -> {amount(result.new_credits)} credits"
    behind = ending(replayed=result.replayed, asked=asked, reached=result.acknowledged)
    end = spoken_expiry(result.membership_expires_at)
    text = f"{done} {name(user)}: {tiers} {end}, {balances}, transaction {result.transaction_id}"
    return Answer(data, text + behind)
