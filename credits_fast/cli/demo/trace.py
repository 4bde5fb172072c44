"""Real requests from a CSV file: when each came, and how many tokens went in and out.

The columns are those of the Azure LLM inference traces: TIMESTAMP, ContextTokens, GeneratedTokens.
Other columns are ignored. A timestamp is ISO 8601 with any number of digits, or a number of seconds.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from credits_fast.cli.demo.scenario import Tokens

if TYPE_CHECKING:
    from typing import TextIO

__all__ = ["COLUMNS", "TraceError", "read_trace"]

COLUMNS: Final = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")

_SHOWN_MAX: Final = 40


class TraceError(ValueError):
    """The file is no trace; the message is one line that says where."""


def read_trace(path: Path, limit: int | None = None) -> list[Tokens]:
    """The requests of a file, in the order of their time; the first one is at 0.

    Args:
        path: The file.
        limit: Requests to read at most, None for all.

    Raises:
        TraceError: The file cannot be read, has not these columns, or not these numbers.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = sorted(islice(_rows(path, file), limit))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise TraceError(f"{path} cannot be read: {reason}") from error
    if not rows:
        raise TraceError(f"{path} has no requests")
    start = rows[0].at
    return [row._replace(at=row.at - start) for row in rows]


def _rows(path: Path, file: TextIO) -> Iterator[Tokens]:
    reader = csv.DictReader(file)
    try:
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise TraceError(f"{path} has no column {', '.join(missing)} in its first line")
        for row in reader:
            try:
                yield _tokens(row)
            except ValueError as error:
                raise TraceError(f"{path}, line {reader.line_num}: {error}") from None
    except csv.Error as error:
        raise TraceError(f"{path}, line {reader.line_num}: {error}") from error


def _tokens(row: Mapping[str, str | None]) -> Tokens:
    time, prompt, answer = (row[column] or "" for column in COLUMNS)
    return Tokens(_seconds(time), _count(COLUMNS[1], prompt), _count(COLUMNS[2], answer))


def _seconds(text: str) -> float:
    try:
        number = text.replace(".", "", 1).isdecimal() and len(text) <= _SHOWN_MAX
        return float(text) if number else _moment(text).timestamp()
    except (ValueError, OverflowError):
        problem = f"{COLUMNS[0]} is no time such as 2023-11-16 18:17:03.97, but {_shown(text)}"
        raise ValueError(problem) from None


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text.strip())
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _count(column: str, text: str) -> int:
    if not text.strip().isdecimal() or len(text) > _SHOWN_MAX:
        raise ValueError(f"{column} is no whole number of 0 or more, but {_shown(text)}")
    return int(text)


def _shown(text: str) -> str:
    return repr(text[:_SHOWN_MAX]) if text else "empty"
