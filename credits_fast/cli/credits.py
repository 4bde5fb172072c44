"""`charge`, `grant`, `refund`: what changes a balance."""

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
    metadata_of,
    name,
    variables_of,
)
from credits_fast.types import ChargeResult, GrantResult, Level, RefundResult

__all__ = ["add_to"]

_Amount: TypeAlias = Annotated[str, typer.Argument(metavar="AMOUNT", help="Credits, more than 0.")]
_Action: TypeAlias = Annotated[str, typer.Option(metavar="WORD", help="Your word for it.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the app."""
    for function in (charge, grant, refund):
        command(app)(function)


async def charge(
    user: UserId,
    action: Annotated[str, typer.Argument(metavar="ACTION", help="What is charged for.")],
    connection: Connection,
    *,
    variable: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=NUMBER", help="A formula's variable; repeat it for more."),
    ] = None,
    explicit: Annotated[
        str | None,
        typer.Option(
            "--amount", metavar="AMOUNT", help="The price, instead of the configured one."
        ),
    ] = None,
    key: Key = None,
    metadata: MetadataText = None,
    acknowledge: Acknowledge = None,
) -> Answer:
    """Take the price of an action from a user."""
    variables = variables_of(variable or ())
    async with connection.engine() as engine:
        result = await engine.charge(
            user,
            action,
            amount=explicit,
            variables=variables,
            idempotency_key=key,
            metadata=metadata_of(metadata),
            acknowledge=acknowledge,
        )
    what = f"charged {name(user)} {amount(result.cost)} credits for {name(action)}"
    facts = {"transaction_id": result.transaction_id, "user_id": user, "action": action}
    return Answer(
        {**facts, "cost": result.cost, **_balances(result)}, _told(what, result, acknowledge)
    )


async def grant(
    user: UserId,
    credits_: _Amount,
    connection: Connection,
    *,
    action: _Action = "grant",
    key: Key = None,
    metadata: MetadataText = None,
    acknowledge: Acknowledge = None,
) -> Answer:
    """Add credits."""
    async with connection.engine() as engine:
        result = await engine.grant(
            user,
            credits_,
            action,
            idempotency_key=key,
            metadata=metadata_of(metadata),
            acknowledge=acknowledge,
        )
    what = f"granted {name(user)} {amount(result.amount)} credits"
    facts = {"transaction_id": result.transaction_id, "user_id": user, "action": action}
    return Answer(
        {**facts, "amount": result.amount, **_balances(result)}, _told(what, result, acknowledge)
    )


async def refund(
    user: UserId,
    credits_: _Amount,
    connection: Connection,
    *,
    action: _Action = "refund",
    transaction: Annotated[
        str | None, typer.Option(metavar="ID", help="The charge that is given back.")
    ] = None,
    key: Key = None,
    metadata: MetadataText = None,
    acknowledge: Acknowledge = None,
) -> Answer:
    """Give credits back."""
    async with connection.engine() as engine:
        result = await engine.refund(
            user,
            credits_,
            action,
            transaction_id=transaction,
            idempotency_key=key,
            metadata=metadata_of(metadata),
            acknowledge=acknowledge,
        )
    what = f"refunded {name(user)} {amount(result.amount)} credits"
    facts = {"transaction_id": result.transaction_id, "user_id": user, "action": action}
    return Answer(
        {**facts, "amount": result.amount, "related_id": transaction, **_balances(result)},
        _told(what, result, acknowledge),
    )


def _balances(result: ChargeResult | GrantResult | RefundResult) -> dict[str, object]:
    return {
        "balance_before": result.balance_before,
        "balance_after": result.balance_after,
        "replayed": result.replayed,
        "acknowledged": result.acknowledged,
    }


def _told(what: str, result: ChargeResult | GrantResult | RefundResult, asked: Level | None) -> str:
    balances = f"{amount(result.balance_before)} -> {amount(result.balance_after)}"
    end = ending(replayed=result.replayed, asked=asked, reached=result.acknowledged)
    return f"{what}: {balances}, transaction {result.transaction_id}{end}"
