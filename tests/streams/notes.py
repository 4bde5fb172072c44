"""What an application that may die at any moment says of its streams: lines, each written at once."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

__all__ = ["Notebook", "Story", "stories"]


class Notebook:
    """Writes what happens; what is written outlives the process.

    Args:
        path: The file; it is appended to.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def counted(self, number: int, consumed: Decimal) -> None:
        """A piece was counted, and the stream has consumed so much."""
        self._write(number, consumed, is_over=False)

    def over(self, number: int, consumed: Decimal) -> None:
        """The block is left, and so much was consumed."""
        self._write(number, consumed, is_over=True)

    def close(self) -> None:
        """Write no more."""
        os.close(self._file)

    def _write(self, number: int, consumed: Decimal, *, is_over: bool) -> None:
        os.write(self._file, json.dumps([number, str(consumed), is_over]).encode() + b"\n")


@dataclass(slots=True)
class Story:
    """What is known of a stream.

    Attributes:
        consumed: What it consumed, as it said last.
        is_over: Whether its block was left; False for one whose process died.
    """

    consumed: Decimal = Decimal(0)
    is_over: bool = False


def stories(path: Path) -> dict[int, Story]:
    """What was written, by the numbers of the streams."""
    found: dict[int, Story] = {}
    for line in path.read_text().splitlines():
        number, consumed, is_over = json.loads(line)
        found[number] = Story(Decimal(consumed), is_over)
    return found
