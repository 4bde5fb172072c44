"""What a lane writes to and is answered by: the socket of a redis-py connection, or its stream.

redis-py connects, authenticates and selects the database; then its socket is taken over. Requests are
written at once, without a task or an await, and replies are parsed where they arrive: both are on the
way of every charge. A connection without a socket, such as fakeredis has, is used through redis-py's
own stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import hiredis
from redis.exceptions import BusyLoadingError, RedisError, ResponseError

from credits_fast.servers.server_errors import server_error

__all__ = ["Socket", "socket_of"]


class Socket(Protocol):
    """One open connection, without an idea of who waits for which reply."""

    def write(self, requests: Sequence[bytes]) -> None:
        """Send packed requests, without waiting."""

    def stop(self) -> None:
        """Hand over nothing any more."""

    async def close(self) -> None:
        """End the connection."""


def socket_of(
    connection: Any,
    answered: Callable[[Any], None],
    lost: Callable[[Exception], None],
) -> Socket:
    """The socket of a connection that redis-py has just opened.

    Args:
        connection: It; nobody else uses it from now on.
        answered: Called with every reply, in order; an error reply is an exception instance.
        lost: Called when the connection has ended, at most once.
    """
    transport = getattr(getattr(connection, "_writer", None), "transport", None)
    if transport is None:
        return _Stream(connection, answered, lost)
    return _Taken(connection, transport, answered, lost)


class _Taken(asyncio.Protocol):
    """The socket itself: redis-py's protocol is only told when it ends, for it waits for that."""

    def __init__(
        self,
        connection: Any,
        transport: Any,
        answered: Callable[[Any], None],
        lost: Callable[[Exception], None],
    ) -> None:
        self._connection = connection
        self._transport = transport
        self._before: asyncio.BaseProtocol = transport.get_protocol()
        self._replies = hiredis.Reader(replyError=server_error)
        self._answered = answered
        self._lost = lost
        self._is_stopped = False
        transport.set_protocol(self)

    def write(self, requests: Sequence[bytes]) -> None:
        self._transport.write(requests[0] if len(requests) == 1 else b"".join(requests))

    def stop(self) -> None:
        self._is_stopped = True

    async def close(self) -> None:
        # A server that stands still takes neither what is left to be written nor a farewell of TLS.
        self._transport.abort()
        await self._connection.disconnect()

    def data_received(self, data: bytes) -> None:
        replies = self._replies
        try:
            replies.feed(data)
            while not self._is_stopped and (reply := replies.gets()) is not False:
                self._answered(reply)
        except (hiredis.ProtocolError, IndexError) as error:
            self._lost(error)

    def eof_received(self) -> None:
        self._lost(ConnectionResetError("the server closed it"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._before.connection_lost(exc)
        if not self._is_stopped:
            self._lost(exc or ConnectionResetError("it was closed"))


class _Stream:
    """The connection as redis-py offers it: one task writes what was asked for, one reads."""

    def __init__(
        self,
        connection: Any,
        answered: Callable[[Any], None],
        lost: Callable[[Exception], None],
    ) -> None:
        self._connection = connection
        self._answered = answered
        self._lost = lost
        self._to_write: asyncio.Queue[Sequence[bytes]] = asyncio.Queue()
        self._tasks = [asyncio.create_task(self._write()), asyncio.create_task(self._read())]

    def write(self, requests: Sequence[bytes]) -> None:
        self._to_write.put_nowait(requests)

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        self.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._connection.disconnect()

    async def _write(self) -> None:
        try:
            while True:
                requests = await self._to_write.get()
                await self._connection.send_packed_command(requests, check_health=False)
        except (RedisError, OSError) as error:
            self._lost(error)

    async def _read(self) -> None:
        try:
            while True:
                try:
                    reply = await self._connection.read_response(disconnect_on_error=False)
                except (ResponseError, BusyLoadingError) as error:
                    reply = error
                self._answered(reply)
        except (RedisError, OSError, IndexError) as error:
            self._lost(error)
