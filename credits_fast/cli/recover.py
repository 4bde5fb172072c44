"""`recover`: partitions that a worker has set aside go on, from what you say is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from credits_fast.amounts import to_credits
from credits_fast.cli.command import command
from credits_fast.cli.options import Servers
from credits_fast.cli.output import Answer
from credits_fast.cli.words import amount
from credits_fast.exit_codes import ExitCode, printable

if TYPE_CHECKING:
    from credits_fast.sync.recovery import Recovered

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Add the command to the app."""
    command(app)(recover)


async def recover(
    servers: Servers,
    *,
    trust: Annotated[
        Literal["ledger", "redis"],
        typer.Option(help="Whose balances are right where the two differ."),
    ],
    partition: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N", help="This one; repeat it for more. Else all that are set aside."
        ),
    ] = None,
) -> Answer:
    """Have partitions go on that a worker could not carry any more."""
    from credits_fast.ledger import schema  # noqa: PLC0415  # SQLAlchemy only when used
    from credits_fast.sync import recovery  # noqa: PLC0415

    done: list[Recovered] = []
    problems: dict[int, str] = {}
    async with servers.looking() as room:
        await schema.check(room.database)
        numbers = partition or sorted(await recovery.set_aside(room.database))
        beyond = [number for number in numbers if not 0 <= number < len(room.partitions)]
        if beyond:
            problem = f"there is no partition {beyond[0]}; they are 0 to {len(room.partitions) - 1}"
            raise typer.BadParameter(problem, param_hint="--partition")
        work = recovery.Recovery(room.partitions, room.router, room.database)
        for number in numbers:
            try:
                done.append(await work.recover(number, trust))
            except recovery.UNRECOVERABLE as error:
                problems[number] = str(error)
    data = {
        "recovered": [_facts(one) for one in done],
        "problems": [{"partition": one, "problem": why} for one, why in problems.items()],
    }
    return Answer(data, _told(done, problems), ExitCode.REFUSED if problems else ExitCode.OK)


def _facts(one: Recovered) -> dict[str, object]:
    return {
        "partition": one.partition,
        "trusted": one.trusted,
        "epoch": one.epoch,
        "entries": one.entries,
        "adopted": one.adopted,
        "created": one.created,
        "settled": one.settled,
        "added": to_credits(one.added),
        "taken": to_credits(one.taken),
    }


def _told(done: Sequence[Recovered], problems: Mapping[int, str]) -> RenderableType:
    if not done and not problems:
        return Text("no partition is set aside")
    lines = [Text(_line(one), style="green") for one in done]
    lines += [
        Text(f"✗ partition {number} stays set aside: {printable(why)}", style="bold red")
        for number, why in problems.items()
    ]
    return Group(*lines)


def _line(one: Recovered) -> str:
    sums = f"{_credits(one.added)} added and {_credits(one.taken)} taken"
    settled = f", {one.settled:,} users settled: {sums}"
    return (
        f"✓ partition {one.partition} goes on in epoch {one.epoch}: {one.entries:,} entries read, "
        f"{one.adopted:,} transactions adopted, {one.created:,} users created"
        f"{settled if one.trusted == 'redis' else ''}"
    )


def _credits(micros: int) -> str:
    return f"{amount(to_credits(micros))} credits"
