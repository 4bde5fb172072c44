"""A program's last words: a code for the family of the error, one harmless line for its message."""

from decimal import Decimal

import pytest

from credits_fast import (
    ConfigurationError,
    DatabaseUnavailableError,
    InsufficientCreditsError,
    OutcomeUnknownError,
    Problem,
    RedisUnavailableError,
    SchemaMismatchError,
    UserNotFoundError,
    exit_codes,
)
from credits_fast.exit_codes import ExitCode, error_line, exit_code, printable


@pytest.mark.parametrize(
    ("expected", "error"),
    [
        (3, ConfigurationError(Problem("costs", "is required"))),
        (3, SchemaMismatchError("not migrated")),
        (4, UserNotFoundError("ada")),
        (4, InsufficientCreditsError("ada", Decimal(2), Decimal(1))),
        (5, RedisUnavailableError("gone")),
        (5, DatabaseUnavailableError("gone")),
        (6, OutcomeUnknownError("0123", "no reply")),
        (1, ValueError("a bug")),
    ],
)
def test_each_family_of_errors_has_its_code(expected: int, error: Exception) -> None:
    assert expected == exit_code(error)


def test_the_drawing_in_the_module_lists_every_code() -> None:
    lines = (line.split() for line in (exit_codes.__doc__ or "").splitlines())
    drawn = {int(words[0]) for words in lines if words and words[0].isdecimal()}

    assert set(ExitCode) == drawn


def test_an_error_is_one_line_with_its_code() -> None:
    error = RedisUnavailableError("the server has ended; its log:\nline one\nline two")

    expected = "error: REDIS_UNAVAILABLE: the server has ended; its log: line one line two"
    assert expected == error_line(error)


def test_a_bug_is_one_line_with_the_name_of_the_exception() -> None:
    assert "error: BUG: KeyError: 'ada'" == error_line(KeyError("ada"))


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        ("ada", "ada"),
        ("zoë 喵", "zoë 喵"),
        ("[red]ada[/red]", "[red]ada[/red]"),
        (r"\x1b[2Jada", "\x1b[2Jada"),
        (r"ada\x00", "ada\0"),
        (r"\udcff", "\udcff"),
        (r"tab\there", "tab\there"),
        ("two lines", "two\nlines"),
    ],
)
def test_foreign_text_is_harmless_to_a_terminal(expected: str, text: str) -> None:
    assert expected == printable(text)
