"""`history`: a user's transactions as the ledger has them, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from credits_fast.cli.command import command
from credits_fast.cli.options import Connection
from credits_fast.cli.output import Answer
from credits_fast.cli.words import UserId, amount, moment, name
from credits_fast.types import HistoryPage, Transaction

__all__ = ["add_to", "ledger_table"]


def add_to(app: typer.Typer) -> None:
    """Add the command to the app."""
    command(app)(history)


async def history(
    user: UserId,
    connection: Connection,
    *,
    limit: Annotated[int, typer.Option(help="Rows at most, up to 1000.")] = 50,
    offset: Annotated[int, typer.Option(help="Rows to pass over.")] = 0,
    cursor: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="Where the page before ended.")
    ] = None,
    action: Annotated[str | None, typer.Option(metavar="WORD", help="This action only.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="DATE", help="Nothing older; UTC where no zone is said.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="DATE", help="Nothing newer; a date counts as a whole.")
    ] = None,
) -> Answer:
    """Show a user's transactions, newest first."""
    start = None if since is None else moment(since, "--since")
    end = None if until is None else moment(until, "--until", end_of_day=True)
    async with connection.engine() as engine:
        page = await engine.get_history(
            user,
            limit=limit,
            offset=offset,
            cursor=cursor,
            start_date=start,
            end_date=end,
            action=action,
        )
    data = {
        "user_id": user,
        "transactions": [_facts(transaction) for transaction in page],
        "next_cursor": page.next_cursor,
    }
    return Answer(data, _shown(user, page))


def ledger_table(transactions: Sequence[Transaction], *, with_ids: bool = True) -> Table:
    """Rows of the ledger as a table; without the transactions' ids it fits into 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for title in ("#", "time (UTC)", "kind", "action"):
        table.add_column(title, no_wrap=True, justify="right" if title == "#" else "left")
    for title in ("amount", "balance"):
        table.add_column(title, no_wrap=True, justify="right")
    if with_ids:
        table.add_column("transaction", overflow="fold")
    for row in transactions:
        signed = amount(row.amount) if row.amount < 0 else f"+{amount(row.amount)}"
        table.add_row(
            str(row.sequence),
            f"{row.created_at:%Y-%m-%d %H:%M:%S}",
            row.kind,
            Text(name(row.action)),
            Text(signed, style="red" if row.amount < 0 else "green"),
            amount(row.balance_after),
            *([row.id] if with_ids else []),
        )
    return table


def _shown(user: str, page: HistoryPage) -> RenderableType:
    if not page:
        return f"{name(user)} has no transactions there"
    table = ledger_table(page)
    if page.next_cursor is None:
        return table
    return Group(table, Text(f"more: --cursor {page.next_cursor}"))


def _facts(row: Transaction) -> dict[str, object]:
    return {
        "id": row.id,
        "kind": row.kind,
        "action": row.action,
        "amount": row.amount,
        "balance_before": row.balance_before,
        "balance_after": row.balance_after,
        "sequence": row.sequence,
        "metadata": row.metadata,
        "idempotency_key": row.idempotency_key,
        "related_id": row.related_id,
        "created_at": row.created_at,
    }
