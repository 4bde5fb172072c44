"""`user create`, `user show`, `balance`: who there is and what they have."""

from __future__ import annotations

from typing import Annotated

import typer

from credits_fast.cli.command import command
from credits_fast.cli.options import Connection
from credits_fast.cli.output import Answer
from credits_fast.cli.words import (
    Key,
    MetadataText,
    UserId,
    amount,
    expiry,
    metadata_of,
    name,
    spoken_expiry,
)
from credits_fast.types import Unchanged, User

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the app."""
    group = typer.Typer(help="Create a user, or show one.")
    command(group)(create)
    command(group)(show)
    app.add_typer(group, name="user")
    command(app)(balance)


async def create(
    user: UserId,
    connection: Connection,
    *,
    credits_: Annotated[
        str, typer.Option("--credits", metavar="AMOUNT", help="The first credits.")
    ] = "0",
    tier: Annotated[str | None, typer.Option(metavar="TIER", help="The membership's tier.")] = None,
    expires: Annotated[
        str, typer.Option(metavar="DATE|never", help="When the membership ends.")
    ] = "never",
    key: Key = None,
    metadata: MetadataText = None,
) -> Answer:
    """Create a user, with first credits and a membership if you like."""
    expires_at = expiry(expires)
    if isinstance(expires_at, Unchanged):
        raise typer.BadParameter("a new user has nothing to keep", param_hint="--expires")
    async with connection.engine() as engine:
        made = await engine.create_user(
            user,
            credits=credits_,
            tier=tier,
            membership_expires_at=expires_at,
            idempotency_key=key,
            metadata=metadata_of(metadata),
        )
    return Answer(_facts(made), f"created {_description(made)}")


async def show(user: UserId, connection: Connection) -> Answer:
    """Show a user's credits and membership at this moment."""
    async with connection.engine() as engine:
        found = await engine.get_user(user)
    return Answer(_facts(found), _description(found))


async def balance(user: UserId, connection: Connection) -> Answer:
    """Show a user's credits at this moment."""
    async with connection.engine() as engine:
        credits_ = await engine.query_balance(user)
    text = f"{name(user)} has {amount(credits_)} credits"
    return Answer({"user_id": user, "credits": credits_}, text)


def _facts(user: User) -> dict[str, object]:
    return {
        "user_id": user.id,
        "credits": user.credits,
        "reserved": user.reserved,
        "available": user.available,
        "membership_tier": user.membership_tier,
        "membership_expires_at": user.membership_expires_at,
        "sequence": user.sequence,
    }


def _description(user: User) -> str:
    text = f"{name(user.id)}: {amount(user.credits)} credits"
    if user.reserved:
        text += f" ({amount(user.reserved)} reserved)"
    if user.membership_tier is None:
        return f"{text}, no tier"
    return f"{text}, tier {name(user.membership_tier)} {spoken_expiry(user.membership_expires_at)}"
