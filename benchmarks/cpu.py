"""CPU seconds of processes, from /proc; None where there is none, or where the process is not ours."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

__all__ = ["children_s", "parse_stat", "process_s"]

_PROC: Final = Path("/proc")
_AFTER_NAME: Final = ") "
_PARENT, _OWN, _REAPED = 1, slice(11, 13), slice(13, 15)


def process_s(pid: int) -> float | None:
    """What a process has used so far, and its ended children that it has waited for."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return parse_stat(text)[1]


def children_s(pid: int) -> float | None:
    """What a process and its children have used so far: a server that starts one for each client."""
    own = process_s(pid)
    if own is None:
        return None
    for path in _PROC.glob("[0-9]*/stat"):
        try:
            parent, used = parse_stat(path.read_text(encoding="utf-8", errors="replace"))
        except OSError:
            continue  # ended meanwhile; its parent has it now
        own += used if parent == pid else 0.0
    return own


def parse_stat(text: str, ticks_per_s: int | None = None) -> tuple[int, float]:
    """The parent and the CPU seconds in a line of /proc/<pid>/stat.

    Example:
        >>> parse_stat("7 (a) b) S 3 7 7 0 -1 0 0 0 0 0 150 50 20 30 20", ticks_per_s=100)
        (3, 2.5)
    """
    fields = text.rpartition(_AFTER_NAME)[2].split()
    ticks = sum(map(int, (*fields[_OWN], *fields[_REAPED])))
    return int(fields[_PARENT]), ticks / (ticks_per_s or os.sysconf("SC_CLK_TCK"))
