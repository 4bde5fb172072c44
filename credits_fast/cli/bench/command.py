"""`bench`: the command, from its options to the reports."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from credits_fast.cli.command import command
from credits_fast.cli.demo.trace import TraceError, read_trace
from credits_fast.cli.options import Document, check_file
from credits_fast.cli.output import Answer
from credits_fast.cli.told import until_told
from credits_fast.exit_codes import ExitCode
from credits_fast.settings import Settings

__all__ = ["add_to"]

_SERVERS: Final = "Servers (a Valkey and a PostgreSQL of its own where none is named)"
_PLAIN_LOOP: Final = "asyncio"


def add_to(app: typer.Typer) -> None:
    """Add the command to the app."""
    command(app, output=_Reports)(bench)


class _Set(StrEnum):
    """What is measured."""

    STANDARD = "standard"
    QUICK = "quick"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reports(Document):
    """How the benchmark speaks: a table, a document, and a page with plots."""

    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a page with plots there; it needs nothing else.",
            rich_help_panel="Output",
        ),
    ] = None

    def begin(self, default_level: str) -> None:
        """Have the log written from now on; the files must be ones that can be written."""
        Document.begin(self, default_level)
        if self.html is not None:
            check_file(self.html, "--html")

    def give(self, answer: Answer) -> None:
        """Write the table, and the reports that are wanted."""
        from credits_fast.benchmarks.page import page  # noqa: PLC0415  # only when wanted

        Document.give(self, answer)
        if self.html is not None:
            self.html.write_text(page(answer.data), encoding="utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Servers:
    """Existing servers. The environment is not asked: nobody wants a benchmark on the servers of it."""

    redis_url: Annotated[
        str | None, typer.Option(metavar="URL", help="A single server.", rich_help_panel=_SERVERS)
    ] = None
    database_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="A PostgreSQL, of a user who may create databases.",
            rich_help_panel=_SERVERS,
        ),
    ] = None

    @property
    def settings(self) -> Settings:
        """Those that are named."""
        return Settings(redis_url=self.redis_url, database_url=self.database_url)

    @property
    def words(self) -> list[str]:
        """That they were named, for the report, without saying where."""
        named = {"--redis-url": self.redis_url, "--database-url": self.database_url}
        return [f"{flag} URL" for flag, url in named.items() if url is not None]


def bench(
    servers: _Servers,
    *,
    set_: Annotated[
        _Set, typer.Option("--set", help="How much is measured: minutes, or less than one.")
    ] = _Set.STANDARD,
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Charge real requests too: CSV with TIMESTAMP, ContextTokens, GeneratedTokens.",
        ),
    ] = None,
) -> Answer:
    """Measure charges, recording and memory beside their baselines, and prove the sums."""
    from credits_fast.benchmarks.document import document  # noqa: PLC0415  # SQLAlchemy when used
    from credits_fast.benchmarks.machine import machine, versions  # noqa: PLC0415
    from credits_fast.benchmarks.plan import PLANS  # noqa: PLC0415
    from credits_fast.benchmarks.run import Step, run  # noqa: PLC0415
    from credits_fast.cli.bench.table import summary  # noqa: PLC0415
    from credits_fast.cli.demo.progress import Sight, screen  # noqa: PLC0415  # rich.progress too

    plan, tokens = PLANS[set_.value], _tokens(trace)
    began, (loop, make_loop) = datetime.now(UTC), _event_loop()
    with screen(moves_by_itself=False) as screen_:

        def watch(step: Step) -> None:
            screen_.show(Sight("benchmark", step.done, step.total, step.title))

        with asyncio.Runner(loop_factory=make_loop) as runner:
            outcome = runner.run(until_told(run(plan, servers.settings, watch, tokens)))
        screen_.show(Sight("benchmark", 1, 1, "done"))
    words = [f"credits-fast bench --set {plan.name}", *servers.words]
    circumstances = {
        "date": began.isoformat(timespec="seconds"),
        "command": " ".join([*words, *(["--trace FILE"] if trace else [])]),
        "loop": loop,
        "machine": machine(),
        "versions": versions(),
    }
    data = document(outcome, circumstances)
    code = ExitCode.OK if outcome.proof.is_verified else ExitCode.NOT_VERIFIED
    return Answer(data, summary(data), code)


def _tokens(trace: Path | None) -> list[tuple[int, int]]:
    """What was read and written in each request of a trace.

    Raises:
        typer.BadParameter: The trace cannot be read.
    """
    if trace is None:
        return []
    try:
        return [(one.input, one.output) for one in read_trace(trace)]
    except TraceError as error:
        raise typer.BadParameter(str(error), param_hint="--trace") from error


def _event_loop() -> tuple[str, Callable[[], asyncio.AbstractEventLoop] | None]:
    """The name of the event loop and what makes one: uvloop where it is installed, for all alike."""
    try:
        uvloop: Any = import_module("uvloop")  # an extra, perhaps absent
    except ImportError:
        return _PLAIN_LOOP, None
    return f"uvloop {uvloop.__version__}", uvloop.new_event_loop
