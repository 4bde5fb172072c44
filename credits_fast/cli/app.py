"""All commands in one app, and the way into it."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from credits_fast.cli import (
    credits,  # noqa: A004
    dead_letters,
    doctor,
    history,
    partitions,
    recover,
    setup,
    tiers,
    users,
    verify,
    worker,
)
from credits_fast.cli.bench import command as bench
from credits_fast.cli.chaos import command as chaos
from credits_fast.cli.demo import command as demo
from credits_fast.cli.output import reporting, say
from credits_fast.version import __version__

__all__ = ["app", "run"]

app = typer.Typer(
    help="Meter every request: credits charged in Redis or Valkey, recorded exactly once in SQL.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
for _commands in (
    demo,
    bench,
    chaos,
    setup,
    users,
    credits,
    tiers,
    history,
    worker,
    doctor,
    partitions,
    recover,
    dead_letters,
    verify,
):
    _commands.add_to(app)


@dataclass(frozen=True, slots=True)
class _Given:
    """How the command line wants to be spoken to, where it cannot be understood."""

    in_json: bool
    debug: bool


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Answer where no command is named."""
    if version:
        say(f"credits-fast {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        say(context.get_help())  # typer may have written it already, and gives nothing then
        raise typer.Exit


def run(arguments: Sequence[str]) -> int:
    """Run the command line; the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an odd name never ends a program
    given = _Given(in_json="--json" in arguments, debug="--debug" in arguments)
    try:
        with reporting(given):
            return int(app([*arguments], prog_name="credits-fast", standalone_mode=False) or 0)
    except typer.Exit as ended:
        return ended.exit_code
