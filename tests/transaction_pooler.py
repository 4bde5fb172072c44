"""A pooler before PostgreSQL that gives each transaction any idle server connection, the last one first.

It does what matters of PgBouncer's `pool_mode = transaction` without `max_prepared_statements`, and like
it greets its clients as a process of its own.
"""

from __future__ import annotations

import asyncio
import struct
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

_READY, _KEY = b"Z", b"K"
_IDLE = b"I"
_OWN_PROCESS = 1


class _Wire(NamedTuple):
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class TransactionPooler:
    """Listens on a Unix socket in a folder, as PostgreSQL does.

    Args:
        folder: Where it listens.
        server: The folder of PostgreSQL's own socket.
    """

    def __init__(self, folder: Path, server: str) -> None:
        self._path = folder / ".s.PGSQL.5432"
        self._server = f"{server}/.s.PGSQL.5432"
        self._idle: list[_Wire] = []
        self._all: list[_Wire] = []
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._accepting = await asyncio.start_unix_server(self._connected, self._path)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._accepting.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        for wire in self._all:
            wire.writer.close()
            with suppress(ConnectionError):
                await wire.writer.wait_closed()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._welcome(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = _Wire(reader, writer)
        self._all.append(client)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            startup = await _sized(reader, b"")
            server, greeting = await self._opened(startup)
            self._idle.append(server)
            writer.write(greeting)
            await self._serve(startup, client)
        writer.close()

    async def _opened(self, startup: bytes) -> tuple[_Wire, bytes]:
        """A new connection to the server, and its greeting under another process's name."""
        server = _Wire(*await asyncio.open_unix_connection(self._server))
        self._all.append(server)
        server.writer.write(startup)
        greeting = b""
        while True:
            message = await _message(server.reader)
            if message[:1] == _KEY:
                message = message[:5] + struct.pack("!I", _OWN_PROCESS) + message[9:]
            greeting += message
            if message[:1] == _READY:
                return server, greeting

    async def _serve(self, startup: bytes, client: _Wire) -> None:
        """What the client says goes to one server until that is idle again."""
        while True:
            message = await _message(client.reader)
            if message[:1] == b"X":
                return
            server = self._idle.pop() if self._idle else (await self._opened(startup))[0]
            server.writer.write(message)
            sending = asyncio.create_task(_pump(client.reader, server.writer))
            try:
                await _until_idle(server.reader, client.writer)
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
            self._idle.append(server)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while message := await _message(source):
        sink.write(message)


async def _until_idle(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while True:
        message = await _message(source)
        sink.write(message)
        if message[:1] == _READY and message[5:6] == _IDLE:
            return


async def _message(reader: asyncio.StreamReader) -> bytes:
    return await _sized(reader, await reader.readexactly(1))


async def _sized(reader: asyncio.StreamReader, kind: bytes) -> bytes:
    size = await reader.readexactly(4)
    return kind + size + await reader.readexactly(int.from_bytes(size) - 4)
