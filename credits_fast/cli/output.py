"""What commands say: answers on stdout, as text or as one JSON document; everything else on stderr."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import typer
from rich.console import Console

from credits_fast.errors import ConfigurationError, CreditsError
from credits_fast.exit_codes import BUG, ExitCode, error_line, exit_code, printable

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = [
    "Answer",
    "Speaker",
    "as_json",
    "fail",
    "notice",
    "problems_of",
    "reporting",
    "say",
    "say_json",
]

USAGE: Final = "USAGE"
"""The code of a command line that cannot be understood."""
_WIDTH_WITHOUT_TERMINAL: Final = 160
"""Columns of a table that is written to a file or a pipe."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command found or did.

    Attributes:
        data: For machines: the members of the JSON document.
        text: For people.
        code: What the program ends with.
    """

    data: Mapping[str, object]
    text: RenderableType
    code: ExitCode = ExitCode.OK


class Speaker(Protocol):
    """How a command was told to speak."""

    @property
    def in_json(self) -> bool:
        """Whether stdout is for one JSON document."""
        ...

    @property
    def debug(self) -> bool:
        """Whether an error shows its traceback."""
        ...


def as_json(data: Mapping[str, object]) -> str:
    """A JSON document: amounts are strings, moments are ISO 8601.

    An amount as a JSON number would become a binary fraction in most readers.
    """
    return json.dumps(data, default=_encoded, indent=2)


def problems_of(error: ConfigurationError) -> list[dict[str, str]]:
    """The mistakes of a configuration for a JSON document."""
    return [problem._asdict() for problem in error.problems]


def say(text: RenderableType, *, stderr: bool = False) -> None:
    """Write for people; styled on a terminal, plain and wide elsewhere."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _WIDTH_WITHOUT_TERMINAL
    console = Console(file=stream, width=width, markup=False, highlight=False, emoji=False)
    with console.capture() as captured:
        console.print(text, soft_wrap=isinstance(text, str))
    stream.write(captured.get())
    stream.flush()


def say_json(data: Mapping[str, object]) -> None:
    """Write one JSON document to stdout."""
    sys.stdout.write(as_json(data) + "\n")
    sys.stdout.flush()


def notice(text: str) -> None:
    """Write one line to stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def fail(code: str, message: str, line: str, facts: Mapping[str, object], *, in_json: bool) -> None:
    """Write an error: one line on stderr, and the document where stdout is for one."""
    notice(line)
    if in_json:
        say_json({"error": {"code": code, "message": message, **facts}})


@contextmanager
def reporting(speaker: Speaker) -> Generator[None, None, None]:
    """Whatever ends the command becomes words and an exit code, never a traceback.

    Raises:
        typer.Exit: With the code.
    """
    try:
        yield
    except typer.Exit:
        raise
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  # nothing above would show it better
        try:
            code = _shown(error, speaker)
        except BrokenPipeError:
            code = _shown(BrokenPipeError(), speaker)
        raise typer.Exit(code) from None


def _shown(error: BaseException, speaker: Speaker) -> ExitCode:
    """The exit code of an error that has been shown."""
    if isinstance(error, BrokenPipeError):
        _close_output()
        return ExitCode.PIPE_CLOSED
    if isinstance(error, KeyboardInterrupt):
        notice("interrupted")
        return ExitCode.INTERRUPTED
    usage: Any = getattr(error, "format_message", None)  # typer's own errors share no public class
    if usage is not None:
        message = usage() + _where_to_read(error)
        fail(USAGE, message, f"error: {USAGE}: {printable(message)}", {}, in_json=speaker.in_json)
        return ExitCode.USAGE
    if speaker.debug:
        traceback.print_exception(error)
    if isinstance(error, CreditsError):
        facts = {name: value for name, value in vars(error).items() if name != "message"}
        if isinstance(error, ConfigurationError):
            facts["problems"] = problems_of(error)
        fail(error.code, error.message, error_line(error), facts, in_json=speaker.in_json)
        return exit_code(error)
    hint = "" if speaker.debug else " (--debug shows where)"
    message = f"{type(error).__name__}: {error}"
    fail(BUG, message, error_line(error) + hint, {}, in_json=speaker.in_json)
    return ExitCode.BUG


def _encoded(value: object) -> object:
    match value:
        case Mapping():
            return {**cast("Mapping[str, object]", value)}
        case Decimal():
            return f"{value:f}"
        case datetime():
            return value.isoformat()
        case _:
            return str(value)


def _where_to_read(error: BaseException) -> str:
    context: Any = getattr(error, "ctx", None)
    return f" (see {context.command_path} --help)" if context is not None else ""


def _close_output() -> None:
    """Nobody reads any more: what is left goes nowhere, the interpreter's last flush included."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())
