"""A worker's endpoints: `/healthz`, `/readyz` and `/metrics`, over HTTP/1.1 for probes and scrapers.

    /healthz   200 while its steps end, well or not; 503 where it is stuck and should be started anew
    /readyz    200 while it carries; 503 before its first step, and while a server is away
    /metrics   Prometheus' text format

h11 reads the requests, strictly. Only GET and HEAD are answered, each connection once; how much is read,
for how long, and from how many at once is bounded. There is no access control: listen where only those
who may know can connect.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple

import h11

from credits_fast.checks.partition_states import partition_states
from credits_fast.errors import ConfigurationError, CreditsError, Problem
from credits_fast.sync.metrics import CONTENT_TYPE, exposed

if TYPE_CHECKING:
    from credits_fast.checks.partition_states import PartitionState
    from credits_fast.sync.worker import SyncWorker

__all__ = ["STUCK_S", "Listening", "listening"]

_log = logging.getLogger(__name__)

STUCK_S: Final = 60.0
"""Seconds without the end of a step, after which a worker counts as stuck. A step waits ten seconds for
Redis, and as long as the database takes for a commit."""
_REQUEST_S: Final = 5.0
_ANSWER_S: Final = 5.0
_LOOK_S: Final = 5.0
_LOOK_KEPT_S: Final = 1.0
"""Seconds for which what was found about the partitions is told again, whoever asks."""
_REQUEST_BYTES_MAX: Final = 8_192
_CONNECTIONS_MAX: Final = 32
_READ_BYTES: Final = 4_096
_PORT_MAX: Final = 65_535
_JSON: Final = "application/json"
_PAGES: Final = ("/healthz", "/readyz", "/metrics")


class Listening(NamedTuple):
    """Where the endpoints are."""

    host: str
    port: int


class _Page(NamedTuple):
    status: HTTPStatus
    body: bytes
    content_type: str = _JSON
    headers: tuple[tuple[str, str], ...] = ()


@asynccontextmanager
async def listening(worker: SyncWorker, listen: str) -> AsyncGenerator[Listening, None]:
    """Answer about a worker while what is inside goes on; where.

    Args:
        worker: The worker; one that runs inside the application, or beside it.
        listen: `host:port`; with port 0 a free one is taken. An IPv6 host stands in brackets.

    Raises:
        ConfigurationError: It is no such address, or cannot be listened on.

    Example:
        >>> async with (
        ...     CreditsEngine.embedded("credits-data", "credits.toml") as credits,
        ...     listening(credits.worker, "127.0.0.1:9464"),
        ... ):
        ...     await serve_the_application(credits)
    """
    host, port = _parsed(listen)
    door = _Door(worker)
    try:
        server = await asyncio.start_server(door.enter, host, port, limit=_REQUEST_BYTES_MAX)
    except OSError as error:
        raise _unusable(f"{listen} cannot be listened on: {error.strerror or error}") from error
    try:
        bound = server.sockets[0].getsockname()
        _log.info("worker %s answers at %s:%d", worker.id, bound[0], bound[1])
        yield Listening(bound[0], bound[1])
    finally:
        server.close()
        await door.close()


def _parsed(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    is_bare_ipv6 = ":" in host and not listen.startswith("[")
    if not colon or not host or is_bare_ipv6 or not port.isdecimal() or int(port) > _PORT_MAX:
        raise _unusable(f"{listen!r} is not host:port, such as 127.0.0.1:9464 or [::1]:9464")
    return host, int(port)


def _unusable(problem: str) -> ConfigurationError:
    return ConfigurationError(Problem("listen", problem, "listen"))


class _Door:
    """Lets connections in, a bounded number at once."""

    def __init__(self, worker: SyncWorker) -> None:
        self._worker = worker
        self._since = time.monotonic()
        self._connections: set[asyncio.Task[None]] = set()
        self._looking = asyncio.Lock()
        self._states: Sequence[PartitionState] | None = None
        self._looked_s: float | None = None

    def enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer a connection's one request."""
        if len(self._connections) >= _CONNECTIONS_MAX:
            writer.close()
            return
        task = asyncio.create_task(self._answer(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def close(self) -> None:
        """Give up requests under way."""
        tasks = [*self._connections]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_REQUEST_BYTES_MAX)
        try:
            async with asyncio.timeout(_REQUEST_S):
                request = await _request(connection, reader)
            if request is not None:
                page = await self._page(request)
                async with asyncio.timeout(_ANSWER_S):
                    await _send(connection, writer, page)
        except h11.RemoteProtocolError as error:
            with suppress(OSError, TimeoutError, h11.LocalProtocolError):
                async with asyncio.timeout(_ANSWER_S):
                    page = _said(HTTPStatus(error.error_status_hint), "the request is no HTTP/1.1")
                    await _send(connection, writer, page)
        except (OSError, TimeoutError):
            _log.debug("a caller of the endpoints was too slow, or has gone")
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _page(self, request: h11.Request) -> _Page:
        path = request.target.partition(b"?")[0].decode("ascii", errors="replace")
        if path not in _PAGES:
            return _said(HTTPStatus.NOT_FOUND, f"there are {', '.join(_PAGES)}")
        if request.method not in {b"GET", b"HEAD"}:
            page = _said(HTTPStatus.METHOD_NOT_ALLOWED, "GET and HEAD are answered")
            return page._replace(headers=(("Allow", "GET, HEAD"),))
        match path:
            case "/healthz":
                return self._healthz()
            case "/readyz":
                return self._readyz()
            case _:
                return await self._metrics()

    def _healthz(self) -> _Page:
        turned_s = self._worker.tally.turned_s
        quiet_s = time.monotonic() - (self._since if turned_s is None else turned_s)
        facts = {"worker": self._worker.id, "last_step_s": round(quiet_s, 3)}
        if quiet_s > STUCK_S:
            return _told(HTTPStatus.SERVICE_UNAVAILABLE, "stuck", facts)
        return _told(HTTPStatus.OK, "healthy", facts)

    def _readyz(self) -> _Page:
        worker, tally = self._worker, self._worker.tally
        facts = {
            "worker": worker.id,
            "owned": sorted(worker.owned),
            "set_aside": worker.set_aside,
            "last_error": tally.last_error or None,
        }
        if tally.turned_s is None:
            return _told(HTTPStatus.SERVICE_UNAVAILABLE, "starting", facts)
        if tally.is_failing:
            return _told(HTTPStatus.SERVICE_UNAVAILABLE, "waiting", facts)
        return _told(HTTPStatus.OK, "ready", facts)

    async def _metrics(self) -> _Page:
        worker = self._worker
        states = await self._looked()
        body = exposed(
            worker.tally, owned=len(worker.owned), set_aside=worker.set_aside, states=states
        )
        return _Page(HTTPStatus.OK, body, CONTENT_TYPE)

    async def _looked(self) -> Sequence[PartitionState] | None:
        """How the partitions are doing, None where that cannot be asked; one look serves many."""
        async with self._looking:
            now = time.monotonic()
            if self._looked_s is None or now - self._looked_s >= _LOOK_KEPT_S:
                self._states = None
                worker = self._worker
                with suppress(CreditsError, TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        self._states = await partition_states(
                            worker.router, worker.database, worker.partitions
                        )
                self._looked_s = time.monotonic()
            return self._states


async def _request(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    """The head of a request, None where the caller has gone without one; its body is not read.

    Raises:
        h11.RemoteProtocolError: It is none, or longer than is read.
    """
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            return None
        connection.receive_data(await reader.read(_READ_BYTES))


async def _send(connection: h11.Connection, writer: asyncio.StreamWriter, page: _Page) -> None:
    """Answer; to HEAD, h11 sends no body."""
    head = h11.Response(
        status_code=page.status,
        reason=page.status.phrase.encode(),
        headers=[
            ("Content-Type", page.content_type),
            ("Content-Length", str(len(page.body))),
            ("Cache-Control", "no-store"),
            ("Connection", "close"),
            *page.headers,
        ],
    )
    for event in (head, h11.Data(data=page.body), h11.EndOfMessage()):
        writer.write(connection.send(event) or b"")
    await writer.drain()


def _said(status: HTTPStatus, detail: str) -> _Page:
    return _told(status, status.phrase.lower(), {"detail": detail})


def _told(status: HTTPStatus, state: str, facts: Mapping[str, object]) -> _Page:
    return _Page(status, json.dumps({"status": state, **facts}).encode() + b"\n")
