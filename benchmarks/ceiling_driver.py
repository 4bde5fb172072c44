"""A program that writes requests from a file to a server as fast as it takes them, and times it.

It runs in a process of its own, so that nothing of the harness stands in its way, and does as little
as can be done: bytes out, bytes in, line ends counted. It reads one JSON document from stdin (`url`,
`file`, `lines`) and writes one to stdout (`seconds`, `charged`).
"""

from __future__ import annotations

import json
import select
import sys
import time
from pathlib import Path
from typing import Any, Final

from redis import ConnectionPool

__all__ = ["drive", "main"]

_CHUNK: Final = 1 << 16
_SILENT_S: Final = 30
_CHARGED: Final = b"\r\nok\0"


def drive(socket: Any, requests: bytes, lines: int) -> tuple[float, bytes]:
    """Seconds from the first byte sent until so many lines have come back, and what came back.

    Raises:
        TimeoutError: The server fell silent.
        ConnectionError: It hung up.
    """
    socket.setblocking(False)
    left, answers, seen = memoryview(requests), bytearray(), 0
    begun = time.perf_counter()
    while seen < lines:
        readable, writable, _ = select.select([socket], [socket] if left else [], [], _SILENT_S)
        if not readable and not writable:
            raise TimeoutError(f"{seen} of {lines} lines came back")
        if readable:
            chunk: bytes = socket.recv(_CHUNK)
            if not chunk:
                raise ConnectionError("the server hung up")
            answers += chunk
            seen += chunk.count(b"\n")
        if writable:
            left = left[socket.send(left[:_CHUNK]) :]
    return time.perf_counter() - begun, bytes(answers)


def main() -> None:
    """Drive as stdin says."""
    given = json.load(sys.stdin)
    pool: Any = ConnectionPool.from_url(given["url"])  # pyright: ignore[reportUnknownMemberType]
    connection = pool.get_connection()  # connected, authenticated, on its database
    raw = connection._sock  # noqa: SLF001  # the plain socket under redis-py
    try:
        requests = Path(given["file"]).read_bytes()
        seconds, answers = drive(raw, requests, given["lines"])
    finally:
        connection.disconnect()
    json.dump({"seconds": seconds, "charged": answers.count(_CHARGED)}, sys.stdout)


if __name__ == "__main__":
    main()
