"""A TCP proxy that breaks connections in every way a network does, drawn from a seed.

It listens on a port of its own and passes bytes on to a server, in both directions:

    caller ── requests ──▶ proxy ── requests ──▶ server
           ◀── replies ───       ◀── replies ───

Each direction has a `Weather`, which may be changed at any time and holds for what passes from then on.
The proxy knows no protocol. A fault can be kept to what follows certain bytes: the replies to a script
call are eaten by `Weather(eats=0.1, after=b"EVALSHA")` for the replies, the answer to a commit likewise.

A piece of bytes meets the faults in this order: held for what is in it, or while the direction stalls;
cut off with the connection (`resets`); eaten together with the connection (`eats`), so that the server
has acted and nobody hears of it; swallowed (`is_deaf`), so that the connection stays half open; then
rewritten, delayed, and passed on whole or in slices.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

__all__ = ["CLEAR", "FaultProxy", "Weather"]

_READ_MAX: Final = 1 << 16
_CONNECT_S: Final = 5.0
_LINGER_NOT: Final = struct.pack("ii", 1, 0)
"""The value of SO_LINGER with which closing sends a reset instead of an orderly end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """What happens to the bytes of one direction.

    Attributes:
        latency_ms: How long a piece is held at most; each is drawn anew from 0 on.
        slice_bytes: The longest slice, each drawn anew from 1 on; 0 leaves pieces whole.
        slices: The probability that a piece is sliced, where `slice_bytes` is not 0.
        resets: The probability that a piece is cut off, and both ends get a reset.
        eats: The probability that a piece is eaten, and the connection ends.
        after: Bytes that must have passed in the other direction since the last piece for one to be
            eaten; b"" for any.
        is_deaf: Whether pieces vanish while the connection stays.
        is_stalled: Whether pieces are held until the weather changes.
        holds: The next piece with these bytes is held until the weather changes, and no other; b"" for
            none.
        rewrites: Bytes, and those of the same length that take their place.
    """

    latency_ms: float = 0.0
    slice_bytes: int = 0
    slices: float = 1.0
    resets: float = 0.0
    eats: float = 0.0
    after: bytes = b""
    is_deaf: bool = False
    is_stalled: bool = False
    holds: bytes = b""
    rewrites: tuple[tuple[bytes, bytes], ...] = ()

    def __post_init__(self) -> None:
        if any(len(old) != len(new) for old, new in self.rewrites):
            raise ValueError("what is rewritten keeps its length: the protocol counts bytes")


CLEAR: Final = Weather()
"""Nothing happens."""


class _CutError(Exception):
    """The connection ends here."""


class FaultProxy:
    """A proxy in front of a server; open it with `async with`.

    Attributes:
        port: The port it listens on, at 127.0.0.1.
        upstream: The path of the server's Unix socket; connections made from now on go there.
        faults: How often each fault happened.
        is_refusing: Whether new connections are closed at once.
        is_holding: Whether a piece is held because of what is in it.

    Args:
        upstream: The path of the server's Unix socket.
        seed: For every choice; each connection has a generator of its own.

    Example:
        >>> async with FaultProxy(socket, seed="7/engine") as proxy:
        ...     proxy.replies = Weather(eats=0.1, after=b"EVALSHA")
        ...     client = Redis(port=proxy.port)
    """

    def __init__(self, upstream: Path, *, seed: str) -> None:
        self.port = 0
        self.upstream = upstream
        self.faults: Counter[str] = Counter()
        self.is_refusing = False
        self.is_holding = False
        self._seed = seed
        self._requests, self._replies = CLEAR, CLEAR
        self._changed = asyncio.Event()
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepted = 0

    @property
    def requests(self) -> Weather:
        """The weather towards the server."""
        return self._requests

    @requests.setter
    def requests(self, weather: Weather) -> None:
        self._requests = weather
        self._wake()

    @property
    def replies(self) -> Weather:
        """The weather towards the caller."""
        return self._replies

    @replies.setter
    def replies(self, weather: Weather) -> None:
        self._replies = weather
        self._wake()

    def clear(self) -> None:
        """Nothing happens from now on."""
        self.is_refusing = False
        self.requests = self.replies = CLEAR

    def reset(self) -> int:
        """Cut every connection that is open now; how many there were."""
        cut = [*self._links]
        for link in cut:
            link.cut()
        self.faults["connections reset"] += len(cut)
        return len(cut)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.close()
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for link in [*self._links]:
            link.cut()

    async def changed(self) -> None:
        """Wait until the weather of either direction changes."""
        await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # a callback of the server runs in a task of its own
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_refusing:
            self.faults["connections refused"] += 1
            return
        try:
            async with asyncio.timeout(_CONNECT_S):
                server = await asyncio.open_unix_connection(str(self.upstream))
        except OSError:
            return  # the server is away: the caller learns it by the end of the connection
        self._accepted += 1
        link = _Link(self, reader, writer, *server, random.Random(f"{self._seed}/{self._accepted}"))
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)
            link.end()


@dataclass(eq=False, slots=True)
class _Link:
    """One connection, from caller to server."""

    proxy: FaultProxy
    caller_in: asyncio.StreamReader
    caller_out: asyncio.StreamWriter
    server_in: asyncio.StreamReader
    server_out: asyncio.StreamWriter
    chance: random.Random
    since: dict[str, bytes] = field(default_factory=lambda: {"requests": b"", "replies": b""})

    async def run(self) -> None:
        """Pass bytes on until either end, or a fault, ends it."""
        pumps = (
            asyncio.create_task(self._pump("requests", self.caller_in, self.server_out)),
            asyncio.create_task(self._pump("replies", self.server_in, self.caller_out)),
        )
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    def cut(self) -> None:
        """End it at once, at both ends by a reset."""
        for writer in (self.caller_out, self.server_out):
            connection = writer.get_extra_info("socket")
            if connection is not None and connection.family == socket.AF_INET:
                with suppress(OSError):
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
            writer.transport.abort()

    def end(self) -> None:
        """End it in order; what was written still leaves."""
        for writer in (self.caller_out, self.server_out):
            writer.close()

    async def _pump(
        self, way: str, source: asyncio.StreamReader, sink: asyncio.StreamWriter
    ) -> None:
        with suppress(OSError, _CutError):
            while piece := await source.read(_READ_MAX):
                await self._pass(way, piece, sink)

    async def _pass(self, way: str, piece: bytes, sink: asyncio.StreamWriter) -> None:
        """One piece through the weather of its way.

        Raises:
            _CutError: The connection ends with it.
        """
        await self._perhaps_held(way, piece)
        weather = await self._when_not_stalled(way)
        self._strike(way, weather)
        if weather.is_deaf:
            self.proxy.faults[f"{way} swallowed"] += 1
            return
        piece = self._rewritten(way, weather, piece)
        if weather.latency_ms:
            self.proxy.faults[f"{way} delayed"] += 1
            await asyncio.sleep(self.chance.uniform(0, weather.latency_ms) / 1_000)
        self._note(way, piece)
        for part in self._slices(way, weather, piece):
            sink.write(part)
            await sink.drain()
            if len(part) < len(piece):
                await asyncio.sleep(0)  # so that it leaves before the next one

    def _strike(self, way: str, weather: Weather) -> None:
        """Draw the faults that end the connection.

        Raises:
            _CutError: One of them happened.
        """
        other = "replies" if way == "requests" else "requests"
        passed, self.since[other] = self.since[other], b""
        if weather.resets and self.chance.random() < weather.resets:
            self.proxy.faults[f"{way} reset"] += 1
            self.cut()
            raise _CutError
        if weather.after in passed and weather.eats and self.chance.random() < weather.eats:
            self.proxy.faults[f"{way} eaten"] += 1
            raise _CutError

    def _note(self, way: str, piece: bytes) -> None:
        """Keep what passes, as far as the weather of the other way asks for it."""
        other = self.proxy.replies if way == "requests" else self.proxy.requests
        if other.after:
            self.since[way] = (self.since[way] + piece)[-_READ_MAX:]

    async def _perhaps_held(self, way: str, piece: bytes) -> None:
        holds = self._weather(way).holds
        if not holds or holds not in piece or self.proxy.is_holding:
            return
        self.proxy.faults[f"{way} held"] += 1
        self.proxy.is_holding = True
        try:
            await self.proxy.changed()
        finally:
            self.proxy.is_holding = False

    async def _when_not_stalled(self, way: str) -> Weather:
        weather = self._weather(way)
        if weather.is_stalled:
            self.proxy.faults[f"{way} stalled"] += 1
        while weather.is_stalled:
            await self.proxy.changed()
            weather = self._weather(way)
        return weather

    def _weather(self, way: str) -> Weather:
        return self.proxy.requests if way == "requests" else self.proxy.replies

    def _rewritten(self, way: str, weather: Weather, piece: bytes) -> bytes:
        for old, new in weather.rewrites:
            if times := piece.count(old):
                self.proxy.faults[f"{way} rewritten"] += times
                piece = piece.replace(old, new)
        return piece

    def _slices(self, way: str, weather: Weather, piece: bytes) -> Iterator[bytes]:
        if not weather.slice_bytes or self.chance.random() >= weather.slices:
            yield piece
            return
        self.proxy.faults[f"{way} sliced"] += 1
        start = 0
        while start < len(piece):
            end = start + self.chance.randint(1, weather.slice_bytes)
            yield piece[start:end]
            start = end
