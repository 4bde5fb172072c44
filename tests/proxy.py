"""A proxy between an engine and its server that loses replies after the server has acted."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self


class ReplyEater:
    """Forwards everything; of the replies to script calls it eats a share, and the connection too.

    Attributes:
        eaten: How many replies it has eaten.
        share: The probability; 0 lets everything pass.

    Args:
        listen: The Unix socket to listen on.
        server: The server's Unix socket.
        share: The probability that the reply to a script call is eaten.
        seed: For the choice.
    """

    def __init__(self, listen: Path, server: str, *, share: float, seed: int) -> None:
        self.eaten = 0
        self.share = share
        self._listen = listen
        self._server = server
        self._random = random.Random(seed)

    async def __aenter__(self) -> Self:
        self._accepting = await asyncio.start_unix_server(self._connected, self._listen)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._accepting.close()

    async def _connected(
        self,
        caller_in: asyncio.StreamReader,
        caller_out: asyncio.StreamWriter,
    ) -> None:
        server_in, server_out = await asyncio.open_unix_connection(self._server)
        with suppress(ConnectionError):
            while request := await caller_in.read(1 << 20):
                server_out.write(request)
                reply = await server_in.read(1 << 20)
                if b"EVALSHA" in request and self._random.random() < self.share:
                    self.eaten += 1
                    break
                caller_out.write(reply)
                await caller_out.drain()
        for writer in (server_out, caller_out):
            writer.close()
