"""`doctor`: what is good and what is bad about a set-up, each with its remedy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.text import Text

from credits_fast.cli.command import command
from credits_fast.cli.options import Servers
from credits_fast.cli.output import Answer
from credits_fast.exit_codes import ExitCode, printable

if TYPE_CHECKING:
    from credits_fast.checks.findings import Finding, Severity

__all__ = ["add_to"]

_STYLES: Final[dict[Severity, str]] = {
    "ok": "green",
    "advice": "cyan",
    "warning": "yellow",
    "error": "bold red",
}


def add_to(app: typer.Typer) -> None:
    """Add the command to the app."""
    command(app)(doctor)


async def doctor(
    servers: Servers,
    *,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Show people only what is not ok.")
    ] = False,
) -> Answer:
    """Look at Redis, the database, the ledger and its workers: what is wrong, and the remedy."""
    from credits_fast.checks.doctor import examine  # noqa: PLC0415  # SQLAlchemy only when used

    async with servers.looking() as room:
        found = await examine(room.router, room.database, room.partitions)
    number = Counter(finding.severity for finding in found)
    counts: dict[Severity, int] = {severity: number[severity] for severity in _STYLES}
    data: dict[str, object] = {
        "healthy": not counts["error"],
        "counts": counts,
        "findings": [finding._asdict() for finding in found],
    }
    code = ExitCode.MISCONFIGURED if counts["error"] else ExitCode.OK
    shown = [finding for finding in found if not quiet or finding.severity != "ok"]
    return Answer(data, _text(shown, counts), code)


def _text(found: Sequence[Finding], counts: dict[Severity, int]) -> Text:
    text = Text()
    for finding in found:
        text.append(f"{finding.severity:8}", style=_STYLES[finding.severity])
        text.append(f"{finding.check}: {printable(finding.found)} [{printable(finding.where)}]\n")
        if finding.remedy:
            text.append(f"{'':8}-> {printable(finding.remedy)}\n")
    return text.append(", ".join(f"{number} {severity}" for severity, number in counts.items()))
