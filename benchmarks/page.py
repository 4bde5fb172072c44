"""The run as one page that needs nothing else: figures, plots, circumstances. Pure, out of the document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from credits_fast.benchmarks.figures import FIGURES
from credits_fast.benchmarks.plots import Line, line_plot, stacked_bars
from credits_fast.benchmarks.readings import ATOMIC, CEILING, NAIVE, OPEN_LOOP, PRODUCT

__all__ = ["page", "shown"]

_UNIFORM: Final = "uniform"
_CPU: Final = "cpu_s_per_million"
_CPU_PARTS: Final = ("client", "redis", "worker", "sql")
_STYLE: Final = """
:root { --paper: #fff; --ink: #1c2430; --soft: #667; --rule: #d9dde4;
  --c0: #1f6feb; --c1: #d1570f; --c2: #1a7f4b; --c3: #8250df; --c4: #b3267a; --c5: #6b7280; }
@media (prefers-color-scheme: dark) { :root { --paper: #12161d; --ink: #e6e9ef; --soft: #9aa3b2;
  --rule: #2b323d; --c0: #6ea8ff; --c1: #ff9a5c; --c2: #56d08d; --c3: #b794ff; --c4: #ff7ac0;
  --c5: #a3acba; } }
body { margin: 2rem auto; max-width: 62rem; padding: 0 1rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.4rem; }
p, .legend { color: var(--soft); } .bad { color: var(--c4); font-weight: 600; }
.good { color: var(--c2); font-weight: 600; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
td, th { padding: .3rem .6rem; border-bottom: 1px solid var(--rule); text-align: left; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
svg { width: 100%; height: auto; } .grid { stroke: var(--rule); }
.label, .title { fill: var(--soft); font-size: 12px; } .title { font-size: 13px; }
polyline, .whisker { fill: none; stroke-width: 2.2; } .whisker { stroke-width: 5; opacity: .35; }
.dashed { stroke-dasharray: 5 4; stroke-width: 1.6; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding: 0; }
.key { display: inline-block; width: .8rem; height: .8rem; border-radius: 2px; margin-right: .4rem; }
""" + "\n".join(
    f".line{n} {{ stroke: var(--c{n}); }} .fill{n} {{ fill: var(--c{n}); }}"
    f" .back{n} {{ background: var(--c{n}); }}"
    for n in range(6)
)


def page(document: Mapping[str, Any]) -> str:
    """The page of a document."""
    sections = (
        _verdict(document),
        _figures(document),
        _section("Throughput by callers", _by_callers(document), _WHISKERS),
        _section("Workloads", _workloads(document), "Medians of the rounds."),
        _section("Latency", _latency(document), _WAITING),
        _section("Sync lag while charges are made", _lag(document), _LAG),
        _section("CPU per million recorded charges", _cpu(document), _CPU_NOTE),
        _section("Growth with users", _growth(document), _GROWTH),
        _circumstances(document),
    )
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    title = "credits-fast: benchmark"
    body = "".join(sections)
    return (
        f'<!doctype html><html lang="en"><head>{head}<title>{title}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1>{body}</body></html>\n"
    )


_WHISKERS: Final = (
    "Medians of the rounds; the thick strokes reach from the slowest to the fastest one."
)
_WAITING: Final = (
    "In the open loop calls begin at a constant rate, half of the best one, and are timed from when "
    "they should have begun, so that waiting counts."
)
_LAG: Final = (
    "From an answer until it is in the ledger, measured from outside: the slowest partition."
)
_CPU_NOTE: Final = "One round a bar, the worker and PostgreSQL at work while charges are made."
_GROWTH: Final = (
    "The same ledger and the same Redis: a thousand of the users charged, or all of them."
)


def shown(value: float | None, unit: str = "") -> str:
    """A figure for people: as many digits as it deserves.

    Example:
        >>> shown(63120.0, "/s"), shown(0.0312, "s"), shown(None)
        ('63,120 /s', '0.0312 s', 'not measured')
    """
    if value is None:
        return "not measured"
    text = f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"  # noqa: PLR2004  # four digits
    return f"{text} {unit}".rstrip()


def _verdict(document: Mapping[str, Any]) -> str:
    proof = document["proof"]
    if document["verified"]:
        facts = (
            f"{proof['charges_acknowledged']:,} charges acknowledged,"
            f" {proof['charges_in_the_ledger']:,} in the ledger;"
            f" {proof['redis_users_compared']:,} of {proof['users']:,} users compared with Redis,"
            f" {proof['redis_users_differing']:,} differ"
        )
        return f'<p><span class="good">All sums agree.</span> {facts}.</p>'
    problems = "".join(f"<li>{escape(problem)}</li>" for problem in document["problems"])
    return f'<p class="bad">The sums do not agree; no figure here counts.</p><ul>{problems}</ul>'


def _figures(document: Mapping[str, Any]) -> str:
    head = ("figure", "median", "from", "to", "goal", "")
    rows = [_row(name, document) for name in FIGURES]
    return _section("Figures", _table(head, rows), "")


def _row(name: str, document: Mapping[str, Any]) -> Sequence[str]:
    figure, spread = FIGURES[name], document["spread"][name]
    goal = document["goals"].get(name, {"goal": "", "reached": None})
    mark = {True: "reached", False: "not reached", None: ""}[goal["reached"]]
    words = f"<code>{escape(name)}</code><br>{escape(figure.meaning)}"
    if spread is None:
        return (words, "not measured", "", "", escape(goal["goal"]), "")
    median = shown(spread["median"], figure.unit)
    low, high = (shown(spread[end]) for end in ("minimum", "maximum"))
    return (words, median, low, high, escape(goal["goal"]), mark)


def _contests(document: Mapping[str, Any], who: str, workload: str) -> list[Mapping[str, Any]]:
    return [
        one for one in document["throughput"] if one["who"] == who and one["workload"] == workload
    ]


def _by_callers(document: Mapping[str, Any]) -> str:
    ours = _contests(document, PRODUCT, _UNIFORM)
    callers = [one["callers"] for one in ours]
    lines = [_line(who, _contests(document, who, _UNIFORM), [*callers]) for who in (PRODUCT, NAIVE)]
    flat = [
        (f"{CEILING}, {one['callers']} a call", one)
        for one in _contests(document, CEILING, _UNIFORM)
    ]
    flat += [(f"{ATOMIC}", one) for one in _contests(document, ATOMIC, _UNIFORM)]
    last = len(callers) - 1
    for name, one in flat:
        median = one["charges_per_s"]["median"]
        lines.append(Line(name, [(0, median), (last, median)], is_dashed=True))
    names = [f"{number:,}" for number in callers]
    return line_plot(lines, x_title="callers", y_title="charges a second", names=names)


def _line(name: str, contests: Sequence[Mapping[str, Any]], places: list[Any]) -> Line:
    rates = [one["charges_per_s"] for one in contests]
    points = [
        (float(places.index(one["callers"])), rate["median"])
        for one, rate in zip(contests, rates, strict=True)
    ]
    return Line(name, points, [(rate["minimum"], rate["maximum"]) for rate in rates])


def _workloads(document: Mapping[str, Any]) -> str:
    head = ("who", "workload", "callers or items", "charges/s", "from", "to", "p50 ms", "p99 ms")
    rows: list[Sequence[str]] = []
    for one in document["throughput"]:
        rate = one["charges_per_s"]
        latency: Mapping[str, float] = one["latency_ms"] or {}
        numbers = (shown(rate[name]) for name in ("median", "minimum", "maximum"))
        times = (shown(latency[name]) if name in latency else "" for name in ("p50", "p99"))
        callers = f"{one['callers']:,}" if one["callers"] else ""
        rows.append((escape(one["who"]), escape(one["workload"]), callers, *numbers, *times))
    return _table(head, rows)


def _latency(document: Mapping[str, Any]) -> str:
    chosen = (
        ("a lone call", PRODUCT, _UNIFORM, 1),
        ("a lone call of redis-py", NAIVE, _UNIFORM, 1),
        ("open loop", PRODUCT, OPEN_LOOP, 0),
        ("256 callers", PRODUCT, _UNIFORM, 256),
        ("256 callers of redis-py", NAIVE, _UNIFORM, 256),
    )
    names = ("p50", "p95", "p99", "p99_9")
    lines: list[Line] = []
    for name, who, workload, callers in chosen:
        for one in _contests(document, who, workload):
            if one["callers"] == callers:
                points = [(float(at), one["latency_ms"][key]) for at, key in enumerate(names)]
                lines.append(Line(name, points))
    labels = [name.replace("_", ".") for name in names]
    return line_plot(lines, x_title="percentile", y_title="milliseconds", names=labels, is_log=True)


def _lag(document: Mapping[str, Any]) -> str:
    lines = [Line(f"round {at}", points) for at, points in enumerate(document["lag"], start=1)]
    return line_plot(lines, x_title="seconds since the first charge", y_title="lag, milliseconds")


def _cpu(document: Mapping[str, Any]) -> str:
    spreads = [document["spread"][f"{_CPU}.{part}"] for part in _CPU_PARTS]
    known = [
        (part, spread["rounds"]) for part, spread in zip(_CPU_PARTS, spreads, strict=True) if spread
    ]
    bars = [
        (f"round {number + 1}", [rounds[number] for _, rounds in known])
        for number in range(document["rounds"])
    ]
    return stacked_bars(bars, [part for part, _ in known], "CPU seconds per million charges")


def _growth(document: Mapping[str, Any]) -> str:
    found = document["growth"]
    names = [f"{one['users']:,}" for one in found]
    lines = [
        Line(
            name,
            [(float(at), one[key]["median"]) for at, one in enumerate(found)],
            [(one[key]["minimum"], one[key]["maximum"]) for one in found],
        )
        for name, key in (("a thousand of them charged", "few_per_s"), ("all charged", "all_per_s"))
    ]
    return line_plot(lines, x_title="users", y_title="charges a second", names=names)


def _circumstances(document: Mapping[str, Any]) -> str:
    names = ("date", "command", "set", "rounds", "seconds", "loop")
    rows = [(name, escape(str(document[name]))) for name in names]
    for group in ("machine", "versions", "servers"):
        rows += [(f"{group}: {name}", escape(str(v))) for name, v in document[group].items()]
    rows += [("note", escape(note)) for note in document["notes"]]
    return _section("Circumstances", _table(("", ""), rows, numbers=False), "")


def _section(title: str, content: str, note: str) -> str:
    below = f"<p>{escape(note)}</p>" if note else ""
    return f'<section><h2>{escape(title)}</h2><div class="scroll">{content}</div>{below}</section>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool = True) -> str:
    def cell(tag: str, place: int, text: str) -> str:
        kind = ' class="n"' if numbers and place else ""
        return f"<{tag}{kind}>{text}</{tag}>"

    def row(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(cell(tag, at, text) for at, text in enumerate(cells)) + "</tr>"

    return f"<table>{row('th', head)}{''.join(row('td', cells) for cells in rows)}</table>"
