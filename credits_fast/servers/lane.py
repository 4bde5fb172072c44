"""One connection to one Redis server, many requests in flight on it, replies in order.

A lane belongs to one server process for as long as it lives: the identity of that process is read
once when it opens, and the scripts are compiled for it. The library owns its lanes; an existing
redis-py client only tells how to connect. Retries of the transport are off: a request that may have
been executed is repeated under its operation id or not at all.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from redis.asyncio.connection import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from credits_fast.errors import ConfigurationError, CreditsError, Problem, RedisUnavailableError
from credits_fast.resp import pack
from credits_fast.servers.scripts import SCRIPTS, Script, compiled
from credits_fast.servers.server_errors import is_not_allowed, is_not_executed, translated
from credits_fast.servers.sockets import socket_of
from credits_fast.servers.versions import version_of

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["Endpoint", "Lane", "LaneLostError", "Reply", "info_fields", "unusable"]

_log = logging.getLogger(__name__)

Reply: TypeAlias = Any
"""What a server answers: bytes, int, None, a list of replies, or an exception instance."""

HIDDEN_IDENTITY: Final = "hidden"
"""The identity of a server that does not tell one; then only the journal shows a lost history."""

COMMAND_TIMEOUT_S: Final = 10
"""Seconds until an unanswered command, not a script call, gives the connection up."""

_URL_SCHEMES: Final = {
    "valkey": "redis",
    "valkeys": "rediss",
    "valkey+unix": "unix",
}
_OURS: Final = {  # what the library decides, whatever the client was made with
    "socket_timeout": None,
    "decode_responses": False,
    "protocol": 2,
    "health_check_interval": 0,
    "retry_on_timeout": False,
    "client_name": "credits-fast",
}
_NOT_OURS: Final = (  # bookkeeping between redis-py's own client and pool
    "retry_on_error",
    "event_dispatcher",
    "himport_registry",
)


class LaneLostError(Exception):
    """The connection ended before the reply came; the request may have been executed."""


class Endpoint:
    """How to reach a server: made from a URL or from an existing redis-py client.

    Args:
        pool: A redis-py asyncio connection pool; its class and arguments are used, never its
            connections.
        connect_timeout_ms: Milliseconds to connect in.
    """

    def __init__(self, pool: ConnectionPool, *, connect_timeout_ms: int = 5_000) -> None:
        self._class: Any = pool.connection_class
        given: dict[str, Any] = {
            name: value
            for name, value in pool.connection_kwargs.items()
            if name not in _NOT_OURS and "maint" not in name
        }
        self._arguments: dict[str, Any] = {
            **given,
            **_OURS,
            "socket_connect_timeout": connect_timeout_ms / 1_000,
            "retry": Retry(NoBackoff(), 0),
        }
        self._arguments.pop("connection_pool", None)

    @classmethod
    def from_url(cls, url: str) -> Endpoint:
        """The endpoint of a `redis://`, `rediss://`, `unix://` or `valkey…://` URL.

        Raises:
            ConfigurationError: It is none of these.
        """
        given, separator, rest = url.partition("://")
        scheme = _URL_SCHEMES.get(given, given)
        if not separator or scheme not in _URL_SCHEMES.values():
            problem = (
                "its scheme is not redis://, rediss://, valkey:// or unix://, "
                "nor redis+cluster:// or redis+sentinel://"
            )
            raise unusable(problem)
        try:
            pool: ConnectionPool = ConnectionPool.from_url(  # pyright: ignore[reportUnknownMemberType]
                f"{scheme}://{rest}"
            )
        except (
            ValueError
        ):  # it quotes what should have been the port, perhaps a piece of a password
            problem = (
                "its port or an option is wrong; a password's / # ? @ : are written %2F and so on"
            )
            raise unusable(problem) from None
        endpoint = cls(pool)
        try:
            endpoint._class(**endpoint._arguments)  # made and dropped: it opens nothing
        except (TypeError, ValueError, RedisError):
            raise unusable("one of its options is not known, or has a wrong value") from None
        return endpoint

    @classmethod
    def of(cls, client: Redis) -> Endpoint:
        """The endpoint an existing client talks to."""
        return cls(client.connection_pool)

    @property
    def address(self) -> str:
        """Where it is, for people and logs; never with a password."""
        if "path" in self._arguments:
            return f"unix:{self._arguments['path']}"
        host = self._arguments.get("host", "localhost")
        return f"{host}:{self._arguments.get('port', 6379)}"

    @property
    def database(self) -> int:
        """The number of the database it names."""
        return int(self._arguments.get("db") or 0)

    def but(self, **arguments: Any) -> Endpoint:
        """The same way of connecting with some arguments changed, such as `host` and `port`."""
        other = copy(self)
        other._arguments = {**self._arguments, **arguments}  # noqa: SLF001  # a copy of our own
        return other

    async def connect(self) -> Any:
        """A new redis-py connection, authenticated and on its database.

        Raises:
            RedisUnavailableError: Nobody answers there.
            UnsuitableServerError: The server does not let us in.
        """
        connection = self._class(**self._arguments)
        try:
            await connection.connect()
        except (RedisError, OSError) as error:
            for said in (error, error.__cause__):  # redis-py wraps what the server said
                if is_not_allowed(said):
                    raise translated(said, self.address) from error
            raise RedisUnavailableError(
                f"Redis at {self.address} cannot be reached ({error}); "
                "start the server or correct the Redis URL",
            ) from error
        return connection


def unusable(problem: str) -> ConfigurationError:
    """The error for a Redis URL or client that cannot be used; it never quotes the URL."""
    return ConfigurationError(Problem("redis_url", f"cannot be used: {problem}", "redis_url"))


class Lane:
    """One open connection; see the module. Made by `Lane.open`.

    Attributes:
        run: The identity of the server process at the other end.
        scripts: The scripts compiled for it.
        address: Where the server is.
    """

    def __init__(self, connection: Any, address: str) -> None:
        self.address = address
        self.run = HIDDEN_IDENTITY
        self.scripts: dict[str, Script] = {}
        self._waiting: deque[Callable[[Reply], None]] = deque()
        self._lost: Exception | None = None
        self._socket = socket_of(connection, self.answered, self.abandon)

    @classmethod
    async def open(cls, endpoint: Endpoint) -> Lane:
        """A lane to the server, with its scripts in place.

        Raises:
            RedisUnavailableError: The server cannot be reached, or is not ready.
            UnsuitableServerError: It does not let us in.
        """
        lane = cls(await endpoint.connect(), endpoint.address)
        try:
            said = await lane._identify()
            lane.run = said.get("run_id") or HIDDEN_IDENTITY
            lane.scripts = compiled(lane.run, has_msetex=version_of(said).has_msetex)
            await lane.load_scripts()
        except BaseException:
            await lane.close()
            raise
        return lane

    @property
    def is_open(self) -> bool:
        """Whether a request may be sent."""
        return self._lost is None

    def send(self, requests: Sequence[bytes], replies: Sequence[Callable[[Reply], None]]) -> None:
        """Send packed requests in one write; each reply is handed over when it comes.

        A reply is an exception instance where the server refuses, and `LaneLostError` where the
        connection ends first. The functions are called in order, on the event loop, exactly once.
        """
        if self._lost is not None:
            for reply in replies:
                reply(self._lost)
            return
        self._waiting.extend(replies)
        self._socket.write(requests)

    async def execute(self, *parts: bytes) -> Reply:
        """The reply to one command.

        Raises:
            RedisUnavailableError: The connection ended, or the server cannot answer now.
            UnsuitableServerError: The server's access rules forbid the command.
        """
        (reply,) = await self.execute_all(pack(parts))
        return reply

    async def execute_all(self, *requests: bytes) -> list[Reply]:
        """The replies to packed requests, sent in one write.

        Raises:
            RedisUnavailableError: The connection ended, or the server cannot answer now.
            UnsuitableServerError: The server's access rules forbid one of them.
        """
        replies = await self.replies(*requests)
        for reply in replies:
            if isinstance(reply, Exception):
                raise translated(reply, self.address) from reply
        return replies

    async def replies(self, *requests: bytes) -> list[Reply]:
        """The replies to packed requests, sent in one write; a refusal is an exception among them."""
        loop = asyncio.get_running_loop()
        answers: list[asyncio.Future[Reply]] = [loop.create_future() for _ in requests]
        late = TimeoutError(f"no reply within {COMMAND_TIMEOUT_S} s")
        timer = loop.call_later(COMMAND_TIMEOUT_S, self.abandon, late)
        try:
            self.send(requests, [_into(answer) for answer in answers])
            return [await answer for answer in answers]
        finally:
            timer.cancel()

    async def run_script(
        self,
        name: str,
        keys: Sequence[bytes],
        arguments: Sequence[bytes],
    ) -> Reply:
        """The reply of one script, which must be harmless to repeat: it is after a NOSCRIPT.

        Raises:
            RedisUnavailableError: The connection ended, or the server cannot answer now.
            UnsuitableServerError: The server's access rules forbid the script.
        """
        parts = (b"EVALSHA", self.scripts[name].sha, b"%d" % len(keys), *keys, *arguments)
        try:
            return await self.execute(*parts)
        except RedisUnavailableError as error:
            if not isinstance(error.__cause__, NoScriptError):
                raise
        await self.load_scripts()
        return await self.execute(*parts)

    async def load_scripts(self) -> None:
        """Bring every script into the server's cache, where a flush may have dropped them."""
        for name in SCRIPTS:
            await self.execute(b"SCRIPT", b"LOAD", self.scripts[name].text)

    def answered(self, reply: Reply) -> None:
        """Hand the next reply over to who waits for it."""
        self._waiting.popleft()(reply)

    def abandon(self, error: Exception) -> None:
        """Give the connection up: whoever still waits learns that the lane is lost."""
        if self._lost is not None:
            return
        self._lost = LaneLostError(f"the connection to Redis at {self.address} was lost: {error}")
        self._lost.__cause__ = error
        self._socket.stop()
        while self._waiting:
            self._waiting.popleft()(self._lost)

    async def close(self) -> None:
        """End the connection; requests still in flight are lost."""
        self.abandon(ConnectionAbortedError("closed by credits-fast"))
        await self._socket.close()

    async def _identify(self) -> dict[str, str]:
        """What the server says of itself, nothing where it hides that."""
        try:
            information: bytes = await self.execute(b"INFO", b"server")
        except CreditsError as error:
            if isinstance(error.__cause__, Exception) and is_not_executed(error.__cause__):
                raise  # it has an identity, and tells it later
            _log.debug("the server at %s does not answer INFO: %s", self.address, error)
            return {}
        return info_fields(information)


def _into(answer: asyncio.Future[Reply]) -> Callable[[Reply], None]:
    def answered(reply: Reply) -> None:
        if not answer.done():
            answer.set_result(reply)

    return answered


def info_fields(information: bytes) -> dict[str, str]:
    """The fields of an INFO reply."""
    lines = information.decode(errors="replace").splitlines()
    pairs = (line.partition(":") for line in lines)
    return {name: value for name, colon, value in pairs if colon}
