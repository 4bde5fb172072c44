"""What the proof kit says on a terminal: every scenario with its counts, then what was not kept and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from credits_fast.chaos.scenario import Scenario

__all__ = ["listed", "summary"]

_COUNTS: Final = {
    "faults": "faults",
    "attempted": "asked",
    "acknowledged": "acknowledged",
    "refused": "refused",
    "unavailable": "unavailable",
    "ambiguous": "ambiguous",
    "lost": "lost",
    "duplicated": "doubled",
    "below_floor": "below 0",
    "drift": "drift",
}
_NONE_WANTED: Final = ("duplicated", "below_floor", "drift")


def listed(scenarios: Iterable[Scenario]) -> RenderableType:
    """The scenarios for people."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for one in scenarios:
        table.add_row(one.name, Text(one.promise))
    return table


def summary(document: Mapping[str, Any]) -> RenderableType:
    """The document for people."""
    return Group(*_headline(document), _table(document), *_verdict(document))


def _headline(document: Mapping[str, Any]) -> Iterator[RenderableType]:
    servers, machine = document["servers"], document["machine"]
    yield Text(
        f"\n{document['set']} size, seed {document['seed']}, {document['seconds']:,.0f} s, "
        f"{document['date']}\n{servers['redis']} and {servers['database']}, "
        f"{machine['cores']} cores of {machine['cpu']}\n"
    )


def _table(document: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("scenario", no_wrap=True)
    for title in (*_COUNTS.values(), "readmitted, ms"):
        table.add_column(title, justify="right")
    for one in document["scenarios"]:
        table.add_row(*_row(one))
    totals = document["totals"]
    counts = [f"{totals[name]:,}" for name in _COUNTS]
    table.add_row("", "in all", *counts, "", style="bold", end_section=True)
    return table


def _row(one: Mapping[str, Any]) -> Iterator[Text]:
    yield Text("✓", style="green") if one["kept"] else Text("✗", style="red")
    yield Text(one["name"])
    counts = {**one, "faults": sum(one["faults"].values())}
    for name in _COUNTS:
        is_wrong = name in _NONE_WANTED and counts[name]
        yield Text(_count(counts, name), style="red" if is_wrong else "")
    yield Text(_readmission(one["readmission_ms"]))


def _count(counts: Mapping[str, Any], name: str) -> str:
    if name == "ambiguous" and counts[name]:
        return f"{counts[name]:,} ({counts['ambiguous_executed']:,} done)"
    if name == "lost" and counts["lost_within_bound"]:
        return f"{counts[name]:,} ({counts['lost_within_bound']:,} in bound)"
    return f"{counts[name]:,}"


def _readmission(found: Sequence[float | None]) -> str:
    """The median and the longest, and how many never were."""
    known = [ms for ms in found if ms is not None]
    if not found:
        return ""
    never = f"never {len(found) - len(known)} times" if len(known) < len(found) else ""
    return never or f"{median(known):,.0f}, at most {max(known):,.0f}"


def _verdict(document: Mapping[str, Any]) -> Iterator[RenderableType]:
    totals = document["totals"]
    for one in document["scenarios"]:
        if one["kept"]:
            continue
        yield Text(f"\n✗ {one['name']}, seed {one['seed']}: {one['promise']}", style="bold red")
        yield from (Text(f"    {problem}", style="red") for problem in one["problems"])
    if document["kept"]:
        yield Text(
            f"\n✓ {totals['kept']} of {totals['scenarios']} promises kept: "
            f"{totals['lost'] - totals['lost_within_bound']} of {totals['acknowledged']:,} "
            f"acknowledged operations ({totals['acknowledged_held']:,} held first) "
            "lost beyond what was promised "
            f"({totals['lost_within_bound']:,} within it), "
            f"{totals['duplicated']} of {totals['recorded']:,} rows "
            f"doubled, {totals['below_floor']} balances below zero, drift {totals['drift']}",
            style="green",
        )
