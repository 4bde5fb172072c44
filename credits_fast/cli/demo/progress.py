"""How far the demo is: a moving bar on a terminal, a line now and then elsewhere; always on stderr."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Final, NamedTuple, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from credits_fast.cli.output import notice

__all__ = ["Screen", "Sight", "screen", "watching"]

_TICK_S: Final = 0.1
_LINE_S: Final = 2.0


class Sight(NamedTuple):
    """What is to be seen at a moment.

    Attributes:
        title: What is going on.
        done: How much of it is done.
        total: How much there is.
        note: How it goes, in a few words.
    """

    title: str
    done: int
    total: int
    note: str = ""


class Screen(Protocol):
    """Something to show a sight on."""

    def show(self, sight: Sight) -> None:
        """Show it now, or soon."""
        ...


@contextmanager
def screen(*, moves_by_itself: bool = True) -> Generator[Screen, None, None]:
    """The screen that stderr is.

    Args:
        moves_by_itself: Whether a thread keeps the bar moving; without, it moves when something is
            shown, and takes no time from what goes on in between.
    """
    if not sys.stderr.isatty():
        yield _Lines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
    )
    console = Console(file=sys.stderr)
    with Progress(
        *columns, console=console, transient=True, auto_refresh=moves_by_itself
    ) as progress:
        yield _Bars(progress, refreshes=not moves_by_itself)


@asynccontextmanager
async def watching(screen_: Screen, look: Callable[[], Sight]) -> AsyncGenerator[None, None]:
    """Show what is to be seen, again and again, until the work inside is done."""

    async def repeat() -> None:
        while True:
            screen_.show(look())
            await asyncio.sleep(_TICK_S)

    task = asyncio.create_task(repeat())
    try:
        yield
        screen_.show(look())
    finally:
        task.cancel()


class _Bars:
    def __init__(self, progress: Progress, *, refreshes: bool) -> None:
        self._progress = progress
        self._refreshes = refreshes
        self._tasks: dict[str, TaskID] = {}

    def show(self, sight: Sight) -> None:
        if sight.title not in self._tasks:
            added = self._progress.add_task(sight.title, total=sight.total, note="")
            self._tasks[sight.title] = added
        task = self._tasks[sight.title]
        self._progress.update(
            task,
            completed=sight.done,
            total=sight.total,
            note=sight.note,
            refresh=self._refreshes,
        )


class _Lines:
    """A line every two seconds, and one at the end of each title."""

    def __init__(self) -> None:
        self._title = ""
        self._is_ended = False
        self._next = 0.0

    def show(self, sight: Sight) -> None:
        if sight.title != self._title:
            self._title, self._is_ended, self._next = sight.title, False, 0.0
        is_last = sight.done == sight.total
        if self._is_ended or (time.monotonic() < self._next and not is_last):
            return
        self._is_ended, self._next = is_last, time.monotonic() + _LINE_S
        notice(f"{sight.title}: {sight.done:,} of {sight.total:,} {sight.note}".rstrip())
