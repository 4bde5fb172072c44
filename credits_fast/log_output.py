"""A program's log: lines on stderr, as text for people or as JSON for machines.

The library itself installs no handler; the command line and the worker's program do, here.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from credits_fast.errors import ConfigurationError, Problem

__all__ = ["FORMATS", "LEVELS", "log_to_stderr"]

LEVELS: Final = ("debug", "info", "warning", "error")
FORMATS: Final = ("text", "json")

_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def log_to_stderr(level: str, format_: str) -> None:
    """Have this program's log written to stderr from now on.

    Args:
        level: The least severe level to write, one of `LEVELS`, for what this library logs; other
            libraries are heard from `warning` on.
        format_: One of `FORMATS`.

    Raises:
        ConfigurationError: There is no such level or format.
    """
    for name, value, allowed in (("LEVEL", level, LEVELS), ("FORMAT", format_, FORMATS)):
        if value not in allowed:
            problem = f"{value!r} is none of {', '.join(allowed)}"
            raise ConfigurationError(Problem(f"CREDITS_LOG_{name}", problem, "log"))
    handler = _Stderr()
    handler.setFormatter(_JsonLine() if format_ == "json" else _TextLine())
    root = logging.getLogger()
    root.handlers = [old for old in root.handlers if not isinstance(old, _Stderr)]
    root.addHandler(handler)
    logging.getLogger("credits_fast").setLevel(level.upper())


class _Stderr(logging.Handler):
    """Writes to what stderr is at the moment."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except OSError:  # nobody reads it any more
            return


class _TextLine(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")


class _JsonLine(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the record's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        own: Mapping[str, Any] = {
            name: value for name, value in vars(record).items() if name not in _OWN
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields | dict(own), default=str)
