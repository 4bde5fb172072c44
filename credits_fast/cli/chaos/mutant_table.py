"""What the mutants come to on a terminal: each with its scenario and what was broken there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

__all__ = ["mutant_summary"]


def mutant_summary(document: Mapping[str, Any]) -> RenderableType:
    """The document for people."""
    table = Table(box=None, pad_edge=False)
    for title in ("", "mutant", "scenario", "has to break", "broken", "seconds"):
        table.add_column(title, no_wrap=title != "broken")
    for one in document["mutants"]:
        mark = Text("\u2713", style="green") if one["caught"] else Text("\u2717", style="red")
        broken = ", ".join(one["broken"]) or one["failure"] or "nothing"
        row = (one["name"], one["scenario"], one["breaks"], broken, f"{one['seconds']:.0f}")
        table.add_row(mark, *map(Text, row))
    headline = Text(f"\nmutants, seed {document['seed']}, {document['seconds']:,.0f} s\n")
    return Group(headline, table, *_verdict(document))


def _verdict(document: Mapping[str, Any]) -> Iterator[RenderableType]:
    for one in document["unchanged"]:
        if not one["kept"]:
            why = "; ".join(one["problems"]) or one["failure"]
            yield Text(f"\n\u2717 {one['scenario']} breaks as it is: {why}", style="bold red")
    for one in document["mutants"]:
        if not one["caught"]:
            yield Text(f"\n\u2717 {one['name']} is not caught: {one['defect']}", style="bold red")
    if document["kept"]:
        yield Text(
            f"\n\u2713 {document['caught']} of {len(document['mutants'])} mutants caught; "
            f"{len(document['unchanged'])} scenarios keep their promise as they are",
            style="green",
        )
