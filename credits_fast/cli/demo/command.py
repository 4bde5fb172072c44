"""`demo`: the command, from its options to its verdict."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from credits_fast.cli.command import command
from credits_fast.cli.demo.scenario import Scenario, draw_tokens, scenario
from credits_fast.cli.demo.trace import TraceError, read_trace
from credits_fast.cli.options import Document
from credits_fast.cli.output import Answer
from credits_fast.exit_codes import ExitCode
from credits_fast.settings import Settings

__all__ = ["add_to"]

_USERS: Final = 1_000
_REQUESTS: Final = 50_000
_CALLERS: Final = 64
_SEED: Final = 2026
_SERVERS: Final = "Servers (an embedded Valkey and SQLite where none is named)"


def add_to(app: typer.Typer) -> None:
    """Add the command to the app."""
    command(app, output=Document)(demo)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Servers:
    """Existing servers. The environment is not asked: nobody wants a demo on the servers of it."""

    redis_url: Annotated[
        str | None, typer.Option(metavar="URL", help="A server.", rich_help_panel=_SERVERS)
    ] = None
    database_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="A database without users.", rich_help_panel=_SERVERS),
    ] = None

    @property
    def settings(self) -> Settings:
        """Both, or neither.

        Raises:
            typer.BadParameter: Only one of them is named.
        """
        if (self.redis_url is None) != (self.database_url is None):
            named, absent = "--redis-url", "--database-url"
            if self.redis_url is None:
                named, absent = absent, named
            raise typer.BadParameter(f"give {absent} too, or neither", param_hint=named)
        return Settings(redis_url=self.redis_url, database_url=self.database_url)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scene:
    """What is asked for."""

    users: Annotated[int, typer.Option(min=1, max=1_000_000, help="Users.")] = _USERS
    requests: Annotated[
        int | None,
        typer.Option(min=0, help=f"Requests at most; {_REQUESTS:,}, or all of a trace."),
    ] = None
    seed: Annotated[int, typer.Option(help="What everything is drawn from.")] = _SEED
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Replay real requests: CSV with TIMESTAMP, ContextTokens, GeneratedTokens.",
        ),
    ] = None

    def drawn(self) -> Scenario:
        """The scenario.

        Raises:
            typer.BadParameter: The trace cannot be read.
        """
        if self.trace is None:
            number = _REQUESTS if self.requests is None else self.requests
            return scenario(self.seed, self.users, [*draw_tokens(self.seed, number)])
        try:
            return scenario(self.seed, self.users, read_trace(self.trace, self.requests))
        except TraceError as error:
            raise typer.BadParameter(str(error), param_hint="--trace") from error


async def demo(
    scene: _Scene,
    servers: _Servers,
    *,
    callers: Annotated[int, typer.Option(min=1, max=10_000, help="Steps at once.")] = _CALLERS,
    speed: Annotated[
        str,
        typer.Option(
            metavar="max|FACTOR", help="Of a trace: 1 is real time, 10 ten times as fast."
        ),
    ] = "max",
    folder: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where the data goes and stays; a new temporary one."),
    ] = None,
) -> Answer:
    """Charge a thousand users on an embedded Valkey and SQLite, and prove the sums."""
    from credits_fast.cli.demo.play import play  # noqa: PLC0415  # SQLAlchemy only when used
    from credits_fast.cli.demo.report import document, summary  # noqa: PLC0415

    pace = _factor(speed, scene)
    drawn = scene.drawn()
    outcome = await play(drawn, folder, servers.settings, callers=callers, speed=pace)
    code = ExitCode.NOT_VERIFIED if outcome.verdict.problems else ExitCode.OK
    return Answer(document(outcome), summary(outcome), code)


def _factor(speed: str, scene: _Scene) -> float | None:
    """How many times faster than real time; None for as fast as possible."""
    if speed == "max":
        return None
    try:
        factor = float(speed)
    except ValueError:
        factor = 0.0
    if not 0 < factor < float("inf"):
        problem = f"{speed!r} is neither max nor a number above 0"
        raise typer.BadParameter(problem, param_hint="--speed")
    if scene.trace is None:
        raise typer.BadParameter("only a trace has times: give --trace", param_hint="--speed")
    return factor
