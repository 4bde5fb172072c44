"""The application under test: `python -m tests.streams.application REDIS DATABASE CONFIG NOTES`.

`GET /?number=7&user=ada&amount=20&pieces=30&ends=raises&at=12` streams pieces that cost a credit each,
out of a hold of `amount`. The stream ends by itself after `pieces`, or

    raises     its generator raises before piece `at`
    cancelled  the task of its request is cancelled when the stream waits for the `at`-th time

The port is printed when it listens. Everything else that may happen to a stream happens from outside.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route
from starlette.types import Send

from credits_fast import CreditsEngine
from tests.streams.notes import Notebook

_PIECE = b"."


class _UpstreamError(Exception):
    """The model fails."""


class _Waits:
    """Awaits something, and does a deed when it is about to wait for the `at`-th time."""

    def __init__(self, work: Awaitable[None], at: int, deed: Callable[[], object]) -> None:
        self._work = work
        self._at = at
        self._deed = deed

    def __await__(self) -> Generator[Any, Any, None]:
        steps = self._work.__await__()
        step: Callable[[], Any] = partial(steps.send, None)
        for waits in itertools.count(1):
            try:
                waited_for = step()
            except StopIteration:
                return
            if waits == self._at:
                self._deed()
            try:
                step = partial(steps.send, (yield waited_for))
            except BaseException as error:  # noqa: BLE001  # it belongs to whoever waits
                step = partial(steps.throw, error)


class _Response(StreamingResponse):
    """A stream whose request is cancelled when it waits for the `at`-th time."""

    def __init__(self, pieces: AsyncIterator[bytes], at: int) -> None:
        super().__init__(pieces)
        self._at = at

    async def stream_response(self, send: Send) -> None:
        """Send the pieces; the task of the request is the one that runs `__call__`."""
        await _Waits(super().stream_response(send), self._at, self._request.cancel)

    async def __call__(self, *given: Any) -> None:
        self._request = cast("asyncio.Task[None]", asyncio.current_task())
        await super().__call__(*given)


def application(credits: CreditsEngine, notebook: Notebook) -> Starlette:
    """The application on an engine, which it opens and closes."""

    async def pieces(asked: dict[str, str]) -> AsyncGenerator[bytes, None]:
        number = int(asked["number"])
        fails_at = int(asked["at"]) if asked["ends"] == "raises" else None
        hold = credits.hold(
            *(asked["user"], "stream"),
            amount=int(asked["amount"]),
            ttl_ms=int(asked["ttl_ms"]),
            idempotency_key=f"stream-{number}",
            metadata={"stream": number},
        )
        try:
            async with hold:
                for piece in range(int(asked["pieces"])):
                    if piece == fails_at:
                        raise _UpstreamError
                    await hold.consume(amount=1)
                    notebook.counted(number, hold.consumed)
                    await asyncio.sleep(0)
                    yield _PIECE
        finally:
            notebook.over(number, hold.consumed)

    async def stream(request: Request) -> StreamingResponse:
        asked = dict(request.query_params)
        if asked["ends"] == "cancelled":
            return _Response(pieces(asked), int(asked["at"]))
        return StreamingResponse(pieces(asked))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None, None]:
        async with credits:
            yield

    return Starlette(routes=[Route("/", stream)], lifespan=lifespan)


def main(redis_url: str, database_url: str, config: str, notes: str) -> None:
    """Serve on a free port of the loopback, until ended."""
    listening = socket.create_server(("127.0.0.1", 0))
    credits = CreditsEngine.from_url(redis_url, database_url, Path(config))
    served = application(credits, Notebook(Path(notes)))
    sys.stdout.write(f"{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    server = uvicorn.Server(uvicorn.Config(served, log_level="critical", access_log=False))
    server.run(sockets=[listening])


if __name__ == "__main__":
    main(*sys.argv[1:])
