"""`dead-letters list`, `dead-letters replay`: what of the journal could not be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from credits_fast.cli.command import command
from credits_fast.cli.options import Servers
from credits_fast.cli.output import Answer
from credits_fast.exit_codes import ExitCode, printable

if TYPE_CHECKING:
    from credits_fast.sync.dead_letters import DeadLetter, Replayed

__all__ = ["add_to"]

_SHOWN_MAX: Final = 60
Limit = Annotated[int, typer.Option(min=1, max=10_000, metavar="N", help="Letters at most.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the app."""
    group = typer.Typer(help="See what of the journal could not be read, and put it back.")
    command(group, "list")(list_letters)
    command(group)(replay)
    app.add_typer(group, name="dead-letters")


async def list_letters(servers: Servers, *, limit: Limit = 100) -> Answer:
    """Show metadata that could not be read; the amounts were booked all the same."""
    from credits_fast.ledger import schema  # noqa: PLC0415  # SQLAlchemy only when used
    from credits_fast.sync.dead_letters import letters  # noqa: PLC0415

    async with servers.looking() as room:
        await schema.check(room.database)
        found = await letters(room.database, limit=limit)
    return Answer({"dead_letters": [_facts(letter) for letter in found]}, _shown(found))


async def replay(
    servers: Servers,
    *,
    letter: Annotated[
        list[int] | None, typer.Option(metavar="ID", help="This one; repeat it for more.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    as_text: Annotated[
        bool, typer.Option("--as-text", help="Put back as text what still cannot be read.")
    ] = False,
    limit: Limit = 10_000,
) -> Answer:
    """Put metadata back into its transaction and the audit log."""
    from credits_fast.ledger import schema  # noqa: PLC0415  # SQLAlchemy only when used
    from credits_fast.sync import dead_letters  # noqa: PLC0415

    if bool(letter) == every:
        raise typer.BadParameter("name letters, or --all", param_hint="--letter")
    async with servers.looking() as room:
        await schema.check(room.database)
        ids = None if every else letter
        found = await dead_letters.letters(room.database, limit=limit, ids=ids)
        done = await dead_letters.replay(room.database, found, as_text=as_text)
    unknown = sorted({*(letter or ())} - {one.id for one in found})
    stays = [one for one in done if one.problem]
    data = {
        "replayed": [one.id for one in done if not one.problem],
        "problems": [{"id": one.id, "problem": one.problem} for one in stays],
        "unknown": unknown,
    }
    code = ExitCode.REFUSED if stays or unknown else ExitCode.OK
    return Answer(data, _told(done, unknown), code)


def _facts(letter: DeadLetter) -> dict[str, object]:
    return {
        "id": letter.id,
        "partition": letter.partition,
        "entry_id": letter.entry_id,
        "entry_item": letter.entry_item,
        "user_id": letter.user_id,
        "transaction_id": letter.transaction_id,
        "created_at": letter.created_at.isoformat(),
        "error": letter.error,
        "raw": letter.raw.decode(errors="backslashreplace"),
    }


def _shown(found: Sequence[DeadLetter]) -> RenderableType:
    if not found:
        return Text("there are none")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for title in ("#", "time (UTC)"):
        table.add_column(title, no_wrap=True)
    for title in ("user", "transaction", "why", "begins with"):
        table.add_column(title, overflow="fold")
    for letter in found:
        begins = letter.raw[:_SHOWN_MAX].decode(errors="backslashreplace")
        table.add_row(
            str(letter.id),
            f"{letter.created_at:%Y-%m-%d %H:%M:%S}",
            *(Text(printable(word)) for word in (letter.user_id, letter.transaction_id or "-")),
            *(Text(printable(word)) for word in (letter.error, begins)),
        )
    return table


def _told(done: Sequence[Replayed], unknown: Sequence[int]) -> RenderableType:
    back = sum(not one.problem for one in done)
    lines = [Text(f"{back} of {len(done) + len(unknown)} letters were put back")]
    lines += [Text(f"{one.id} stays: {printable(one.problem)}") for one in done if one.problem]
    lines += [Text(f"{number} is not there") for number in unknown]
    return Group(*lines)
