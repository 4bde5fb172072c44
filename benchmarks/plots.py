"""Plots as SVG text: lines over a scale or over names, and stacked bars. Pure, and nothing to install.

Colours are the page's, by class name; a plot has no style of its own, so that it is readable on light
and on dark paper alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

__all__ = ["Line", "line_plot", "stacked_bars", "ticks"]

_WIDTH: Final = 720
_HEIGHT: Final = 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 18, 16, 52
_TICKS: Final = 5
_BAR: Final = 34
_COLOURS: Final = 6


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a plot.

    Attributes:
        name: What the legend says.
        points: Where it goes; x is a place in `names`, or a number.
        spread: The lowest and the highest round at each point, to be drawn as a bar.
        is_dashed: Whether it is for reference only.
    """

    name: str
    points: Sequence[tuple[float, float]]
    spread: Sequence[tuple[float, float]] = ()
    is_dashed: bool = False


@dataclass(frozen=True, slots=True)
class _Scale:
    """From values to places."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.is_log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, self.low))
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)


def line_plot(
    lines: Sequence[Line],
    *,
    x_title: str,
    y_title: str,
    names: Sequence[str] = (),
    is_log: bool = False,
) -> str:
    """Lines over a scale from 0, or over names where there are some.

    Args:
        lines: The lines; those without points are left out.
        x_title: What is to the right.
        y_title: What is upwards.
        names: The places on the horizontal axis.
        is_log: Whether the vertical axis is logarithmic.
    """
    drawn = [line for line in lines if line.points]
    values = [y for line in drawn for _, y in line.points]
    values += [end for line in drawn for pair in line.spread for end in pair]
    marks = _log_ticks(values) if is_log else ticks(max(values, default=1))
    up = _Scale(marks[0], marks[-1], _HEIGHT - _BOTTOM, _TOP, is_log=is_log)
    across_marks = [*range(len(names))] if names else ticks(_furthest(drawn))
    margin = 36 if names else 0
    across = _Scale(across_marks[0], across_marks[-1], _LEFT + margin, _WIDTH - _RIGHT - margin)
    parts = [_horizontal(up(mark), _number(mark)) for mark in marks]
    for place, mark in enumerate(across_marks):
        label = names[place] if names else _number(mark)
        parts.append(_text(across(mark), _HEIGHT - _BOTTOM + 18, label, "middle"))
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, x_title, "middle", kind="title"))
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    turned = f'transform="rotate(-90 14 {middle:.1f})"'
    parts.append(_text(14, middle, y_title, "middle", kind="title", more=turned))
    for number, line in enumerate(drawn):
        parts += _line(line, number, across, up)
    return _figure(parts, _HEIGHT, y_title + " by " + x_title) + _legend([x.name for x in drawn])


def stacked_bars(
    bars: Sequence[tuple[str, Sequence[float]]], parts: Sequence[str], unit: str
) -> str:
    """One horizontal bar for each name, made of parts in one order.

    Args:
        bars: A name and the size of every part.
        parts: What the parts are.
        unit: What they count.
    """
    longest = max((sum(sizes) for _, sizes in bars), default=0) or 1
    height = _TOP + len(bars) * (_BAR + 14) + _BOTTOM
    marks = ticks(longest)
    across = _Scale(0, marks[-1], _LEFT + 40, _WIDTH - _RIGHT - 30)
    drawn = [_text(across(mark), height - _BOTTOM + 18, _number(mark), "middle") for mark in marks]
    drawn.append(_text((_LEFT + _WIDTH) / 2, height - 8, unit, "middle", kind="title"))
    for row, (name, sizes) in enumerate(bars):
        y, begun = _TOP + row * (_BAR + 14), 0.0
        drawn.append(_text(_LEFT + 32, y + _BAR / 2 + 4, name, "end"))
        for number, size in enumerate(sizes):
            x, end = across(begun), across(begun + size)
            title = f"<title>{escape(parts[number])}: {_number(size)} {escape(unit)}</title>"
            drawn.append(
                f'<rect class="fill{number % _COLOURS}" x="{x:.1f}" y="{y}" width="{end - x:.1f}"'
                f' height="{_BAR}">{title}</rect>'
            )
            begun += size
    return _figure(drawn, height, unit) + _legend(parts)


def ticks(highest: float) -> list[float]:
    """Round numbers from 0 to at least the highest value.

    Example:
        >>> ticks(63_000)
        [0.0, 20000.0, 40000.0, 60000.0, 80000.0]
    """
    if not highest > 0:
        return [0.0, 1.0]
    rough = highest / _TICKS
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [number * step for number in range(math.ceil(highest / step - 1e-9) + 1)]


def _log_ticks(values: Sequence[float]) -> list[float]:
    positive = [value for value in values if value > 0] or [1.0]
    low, high = (math.log10(end) for end in (min(positive), max(positive)))
    first, last = math.floor(low), math.ceil(high)
    return [10.0**power for power in range(first, max(last, first + 1) + 1)]


def _furthest(lines: Sequence[Line]) -> float:
    return max((x for line in lines for x, _ in line.points), default=1)


def _line(line: Line, number: int, across: _Scale, up: _Scale) -> list[str]:
    colour = f"line{number % _COLOURS}" + (" dashed" if line.is_dashed else "")
    places = [(across(x), up(y)) for x, y in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = [f'<polyline class="{colour}" points="{path}"/>']
    for (x, _), (low, high) in zip(places, line.spread, strict=False):
        parts.append(
            f'<line class="{colour} whisker" x1="{x:.1f}" x2="{x:.1f}"'
            f' y1="{up(low):.1f}" y2="{up(high):.1f}"/>'
        )
    if len(places) <= _TICKS + 2 and not line.is_dashed:
        for (x, y), (_, value) in zip(places, line.points, strict=True):
            title = f"<title>{escape(line.name)}: {_number(value)}</title>"
            dot = f'<circle class="fill{number % _COLOURS}" cx="{x:.1f}" cy="{y:.1f}" r="4">'
            parts.append(f"{dot}{title}</circle>")
    return parts


def _horizontal(y: float, label: str) -> str:
    rule = f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return rule + _text(_LEFT - 8, y + 4, label, "end")


def _text(
    x: float, y: float, text: str, anchor: str, *, kind: str = "label", more: str = ""
) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {place} {more}>{escape(text)}</text>'


def _figure(parts: Sequence[str], height: float, title: str) -> str:
    head = f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'
    return head + "".join(parts) + "</svg>"


def _legend(names: Sequence[str]) -> str:
    items = (
        f'<li><span class="key back{number % _COLOURS}"></span>{escape(name)}</li>'
        for number, name in enumerate(names)
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def _number(value: float) -> str:
    if value and abs(value) < 1:
        return f"{value:.3g}"
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:,.1f}"  # noqa: PLR2004  # three digits
