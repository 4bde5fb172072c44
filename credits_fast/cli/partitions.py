"""`partitions`: one line for each partition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from credits_fast.cli.command import command
from credits_fast.cli.options import Servers
from credits_fast.cli.output import Answer
from credits_fast.exit_codes import printable

if TYPE_CHECKING:
    import typer

    from credits_fast.checks.partition_states import PartitionState
    from credits_fast.protocol.entries import EntryId

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Add the command to the app."""
    command(app)(partitions)


async def partitions(servers: Servers) -> Answer:
    """Show every partition: where it is, whether it is open, how far it is recorded, who carries it."""
    from credits_fast.checks.partition_states import partition_states  # noqa: PLC0415
    from credits_fast.ledger import schema  # noqa: PLC0415  # SQLAlchemy only when used

    async with servers.looking() as room:
        await schema.check(room.database)
        states = await partition_states(room.router, room.database, room.partitions)
    return Answer({"partitions": [_facts(state) for state in states]}, _shown(states))


def _facts(state: PartitionState) -> dict[str, object]:
    return {
        "partition": state.number,
        "slot": state.slot,
        "node": state.node or None,
        "state": state.state,
        "epoch": state.epoch,
        "journal_length": state.journal_length,
        "last": _id(state.last),
        "synced": _id(state.synced),
        "lag_ms": state.lag_ms,
        "owner": state.owner,
        "lease_left_ms": state.lease_left_ms,
        "set_aside": state.set_aside or None,
        "problem": state.problem or None,
    }


def _id(entry: EntryId | None) -> str | None:
    return None if entry is None else str(entry)


def _shown(states: Sequence[PartitionState]) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for title in ("#", "slot"):
        table.add_column(title, justify="right", no_wrap=True)
    for title in ("node", "state"):
        table.add_column(title, overflow="fold")
    for title in ("epoch", "journal", "last", "synced", "lag ms"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("owner", overflow="fold")
    table.add_column("lease ms", justify="right", no_wrap=True)
    for state in states:
        table.add_row(
            *map(str, (state.number, state.slot)),
            Text(printable(state.node) or "-"),
            Text(state.state, style="green" if state.state == "open" else "red"),
            *(_number(one) for one in (state.epoch, state.journal_length)),
            *(_id(one) or "-" for one in (state.last, state.synced)),
            _number(state.lag_ms),
            Text("set aside" if state.set_aside else state.owner or "-"),
            _number(state.lease_left_ms),
        )
    reasons = [
        Text(f"partition {state.number} {what}: {printable(why)}")
        for state in states
        for what, why in (("is set aside", state.set_aside), ("is away", state.problem))
        if why
    ]
    return Group(table, *reasons)


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
