"""The server's ceiling: how fast it decides charges when the requests are ready and nobody waits.

The requests of `bare` are written to a file, and a process of its own pushes them through one socket,
pipelined. What it reaches is what the server can do with this script; a client cannot be faster
with as many items a call.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from credits_fast.benchmarks.naive import redis_py_url
from credits_fast.benchmarks.readings import Reading

if TYPE_CHECKING:
    from credits_fast.benchmarks.bare import Bare
    from credits_fast.benchmarks.workload import Request

__all__ = ["Ceiling", "reply_lines"]

_DRIVER: Final = "credits_fast.benchmarks.ceiling_driver"
_ENDS_WITHIN_S: Final = 120
_TLS: Final = "rediss://"


class Ceiling:
    """Measures the ceiling of one server.

    Attributes:
        charged: How many charges it has made so far.

    Args:
        bare: Encodes the charges.
        url: The server.
        folder: Where the requests are written.
    """

    def __init__(self, bare: Bare, url: str, folder: Path) -> None:
        self.charged = 0
        self._bare = bare
        self._url = redis_py_url(url)
        self._file = folder / "ceiling.resp"

    @property
    def is_possible(self) -> bool:
        """Whether a plain socket reaches the server; through TLS it would measure the encryption."""
        return not self._url.startswith(_TLS)

    async def measure(self, charges: Sequence[Request], items: int) -> Reading:
        """What the server does with these charges, so many in a call.

        Raises:
            RuntimeError: The driver failed, or the server did not charge every item.
        """
        requests = self._bare.requests(charges, items)
        number = len(requests) * items
        if not number:
            raise RuntimeError(f"{len(charges)} charges fill no call of {items} items")
        await asyncio.to_thread(self._file.write_bytes, b"".join(requests))
        lines = reply_lines(len(requests), items)
        found = await self._drive({"url": self._url, "file": str(self._file), "lines": lines})
        if found["charged"] != number:
            raise RuntimeError(f"the server charged {found['charged']} of {number} items")
        self.charged += number
        return Reading(number, number / found["seconds"])

    async def _drive(self, task: dict[str, Any]) -> dict[str, Any]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            _DRIVER,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(_ENDS_WITHIN_S):
                out, err = await process.communicate(json.dumps(task).encode())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise RuntimeError(f"the ceiling's driver failed: {err.decode(errors='replace')}")
        found: dict[str, Any] = json.loads(out)
        return found


def reply_lines(calls: int, items: int) -> int:
    """How many line ends the replies have: an array's head, and two for each item's bulk string.

    Example:
        >>> reply_lines(1, 2)  # *2, $4, ok.., $4, ok..
        5
    """
    return calls * (1 + 2 * items)
