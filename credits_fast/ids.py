"""Operation ids: one for every call that may change something, the transaction's id if it does.

An id is a UUID of version 7 (RFC 9562) written as 32 hexadecimal digits: 48 bits of milliseconds, so
that ids made later sort later, and 74 random bits. The random bits come from a generator of this
process, seeded by the operating system and seeded anew in a forked child.
"""

from __future__ import annotations

import os
import random
import time
from typing import Final

__all__ = ["operation_id"]

_FIXED: Final = 7 << 76 | 0b10 << 62
"""Version and variant, in the lower 80 bits."""
_RANDOM: Final = ~(0b11 << 62)
"""Of 76 random bits those that are not in the place of the variant."""

# Uniqueness is what is needed here, not secrecy; the system's generator costs a call into the kernel.
_random: Final = random.Random(os.urandom(32))  # noqa: S311
if hasattr(os, "register_at_fork"):  # pragma: no branch  # not on Windows
    os.register_at_fork(after_in_child=lambda: _random.seed(os.urandom(32)))


def operation_id() -> str:
    """A new id; two calls never give the same one, on any machine.

    Example:
        >>> len(operation_id())
        32
    """
    milliseconds = time.time_ns() // 1_000_000
    others = _random.getrandbits(76) & _RANDOM | _FIXED
    return (milliseconds << 80 | others).to_bytes(16).hex()  # half as long as any format takes
