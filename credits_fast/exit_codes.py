"""What a program's exit code says: one code for each family of errors, and one line for each error.

0    done
1    a bug: something nobody foresaw
2    usage: the command line cannot be understood
3    misconfigured: the set-up is wrong, trying again changes nothing
4    refused: the request is wrong or not allowed, nothing was changed
5    unavailable: a server is not there or not ready, the same may succeed later
6    outcome unknown: it may or may not have taken effect; the same key again settles it
7    not verified: the demo, the benchmark or `verify` found a difference, or the proof kit a broken promise
130  interrupted from the keyboard
141  the reader of the output has gone
"""

from __future__ import annotations

from enum import IntEnum

from credits_fast.errors import (
    CreditsError,
    MisconfiguredError,
    OutcomeUnknownError,
    RefusedError,
    UnavailableError,
)

__all__ = ["BUG", "ExitCode", "error_line", "exit_code", "printable"]

BUG = "BUG"
"""The code of an error nobody foresaw, where the library's errors have theirs."""


class ExitCode(IntEnum):
    """What a program ends with; see the module."""

    OK = 0
    BUG = 1
    USAGE = 2
    MISCONFIGURED = 3
    REFUSED = 4
    UNAVAILABLE = 5
    OUTCOME_UNKNOWN = 6
    NOT_VERIFIED = 7
    INTERRUPTED = 130
    PIPE_CLOSED = 141


def exit_code(error: BaseException) -> ExitCode:
    """The exit code of a program that ends with this error."""
    match error:
        case OutcomeUnknownError():
            return ExitCode.OUTCOME_UNKNOWN
        case UnavailableError():
            return ExitCode.UNAVAILABLE
        case RefusedError():
            return ExitCode.REFUSED
        case MisconfiguredError():
            return ExitCode.MISCONFIGURED
        case _:
            return ExitCode.BUG


def error_line(error: BaseException) -> str:
    """The error as one line for a terminal, without the end of the line."""
    if isinstance(error, CreditsError):
        return f"error: {error.code}: {printable(error.message)}"
    return f"error: {BUG}: {type(error).__name__}: {printable(str(error))}"


def printable(text: str) -> str:
    r"""The text on one line, harmless to a terminal whoever wrote it.

    Example:
        >>> printable("two\nlines, \x1b[2Jone trick")
        'two lines, \\x1b[2Jone trick'
    """
    line = " ".join(text.split()) if "\n" in text else text
    if line.isprintable():
        return line
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in line
    )
