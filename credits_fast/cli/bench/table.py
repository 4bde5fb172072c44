"""What the benchmark says on a terminal: every figure with its spread, and whether the sums agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from credits_fast.benchmarks.figures import FIGURES
from credits_fast.benchmarks.page import shown

__all__ = ["summary"]

_MARKS: Final = {True: ("✓", "green"), False: ("✗", "yellow"), None: ("", "")}


def summary(document: Mapping[str, Any]) -> RenderableType:
    """The document for people."""
    return Group(*_headline(document), _figures(document), *_verdict(document))


def _headline(document: Mapping[str, Any]) -> Iterator[RenderableType]:
    servers, machine = document["servers"], document["machine"]
    yield Text(
        f"\n{document['set']} set, {document['rounds']} rounds, {document['seconds']:,.0f} s, "
        f"{document['date']}\n{servers['redis']} and {servers['database']}, {document['loop']}, "
        f"{machine['cores']} cores of {machine['cpu']}\n"
    )


def _figures(document: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("figure")
    for name in ("median", "from", "to", "goal"):
        table.add_column(name, justify="right")
    table.add_column("")
    table.add_column("meaning", style="dim")
    for name, figure in FIGURES.items():
        spread = document["spread"][name]
        if spread is None:
            continue
        goal = document["goals"].get(name, {"goal": "", "reached": None})
        mark, style = _MARKS[goal["reached"]]
        low, high = (shown(spread[end]) for end in ("minimum", "maximum"))
        median = Text(shown(spread["median"], figure.unit), style="bold")
        row = (name, median, low, high, goal["goal"], Text(mark, style=style), figure.meaning)
        table.add_row(*row)
    return table


def _verdict(document: Mapping[str, Any]) -> Iterator[RenderableType]:
    for note in document["notes"]:
        yield Text(f"note: {note}")
    if not document["verified"]:
        yield Text("\nThe sums do not agree; no figure counts:", style="bold red")
        yield from (Text(f"✗ {problem}", style="red") for problem in document["problems"])
        return
    proof = document["proof"]
    yield Text(
        f"\n✓ {proof['charges_acknowledged']:,} charges acknowledged, "
        f"{proof['charges_in_the_ledger']:,} in the ledger; {proof['redis_users_compared']:,} of "
        f"{proof['users']:,} users compared with Redis, {proof['redis_users_differing']:,} differ",
        style="green",
    )
