"""Credits held while an ASGI application answers: settled once, however a response comes to its end."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any, NamedTuple

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from credits_fast import CreditsEngine, RedisUnavailableError
from credits_fast.holds.hold import Hold
from credits_fast.servers.lane import Endpoint
from credits_fast.testing import Clock, CreditsKit, kit_on
from credits_fast.web.on_asgi import HoldFor, HoldMiddleware, Receive, Scope, Send
from tests.integration.conftest import CONFIG

ENDS_WITHIN_S = 20
"""Seconds after which something that should have ended is a failure."""

TURNS_MAX = 600
"""Turns of the event loop that a request takes at most."""
TURNS_OF_A_PART = 25
"""Turns for which the server keeps a part of a response; more than the turns of an answer differ by."""


class UpstreamError(Exception):
    """The model fails."""


class Call(NamedTuple):
    """What a route of the application has of its request."""

    hold: Any
    receive: Receive
    send: Send


class Stage:
    """What the tests and the application they drive know of each other.

    Attributes:
        served: Paths the application has run for.
        ended: How each call of the application ended, as the server saw it: None, or an exception.
        go: Lets an application go on that waits between two parts.
    """

    def __init__(self) -> None:
        self.served: list[str] = []
        self.ended: asyncio.Queue[BaseException | None] = asyncio.Queue()
        self.go = asyncio.Event()

    async def end(self) -> BaseException | None:
        """How the next call of the application ends."""
        return await asyncio.wait_for(self.ended.get(), ENDS_WITHIN_S)


async def hold_for(scope: Scope) -> HoldFor | None:
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    if scope["path"] == "/free":
        return None
    return HoldFor(headers.get("x-user", "ada"), "image", metadata={"path": scope["path"]})


def begin(status: int = 200) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": [(b"x-own", b"1")]}


def part(body: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


class Model:
    """An application as ASGI has it, which says what it used as it goes on."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._stage.served.append(scope["path"])
        call = Call(scope.get("credits"), receive, send)
        await getattr(self, scope["path"].strip("/"))(call)

    async def whole(self, call: Call) -> None:
        await call.send(begin())
        await call.send(part(b"answer", more=False))

    async def free(self, call: Call) -> None:
        assert call.hold is None
        await self.echo(call)

    async def measured(self, call: Call) -> None:
        call.hold.used(amount=7)
        await self.whole(call)

    async def echo(self, call: Call) -> None:
        body, more = b"", True
        while more:
            message = await call.receive()
            body += message["body"]
            more = message["more_body"]
        await call.send(begin())
        await call.send(part(body, more=False))

    async def invalid(self, call: Call) -> None:
        await call.send(begin(422))
        await call.send(part(b"no", more=False))

    async def broken(self, call: Call) -> None:
        call.hold.used(amount=3)
        await call.send(begin(500))
        await call.send(part(b"sorry", more=False))

    async def empty(self, call: Call) -> None:
        await call.hold.consume(amount=0)
        await self.whole(call)

    async def consumes(self, call: Call) -> None:
        await call.hold.consume(amount=3)
        await call.send(begin(500))
        await call.send(part(b"sorry", more=False))

    async def fails(self, call: Call) -> None:
        call.hold.used(amount=3)
        raise UpstreamError

    async def misuses(self, call: Call) -> None:
        call.hold.used(amount="-1")

    async def tears(self, call: Call) -> None:
        await call.send(begin())
        call.hold.used(amount=3)
        await call.send(part(b"one"))
        raise UpstreamError

    async def stops(self, call: Call) -> None:
        await call.send(begin())
        call.hold.used(amount=3)
        await call.send(part(b"one"))

    async def stream(self, call: Call) -> None:
        """Two parts, and the second only when the test says so; ends where the client leaves."""
        await call.send(begin())
        call.hold.used(amount=3)
        await call.send(part(b"one"))
        await self._go_or_leave(call.receive)
        if self._stage.go.is_set():
            call.hold.used(amount=5)
            await call.send(part(b"two", more=False))

    async def silent(self, call: Call) -> None:
        """The same, without a word of what is used."""
        await call.send(begin())
        await call.send(part(b"one"))
        await self._go_or_leave(call.receive)

    async def _go_or_leave(self, receive: Receive) -> None:
        async def left() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            going.cancel()

        going = asyncio.ensure_future(self._stage.go.wait())
        leaving = asyncio.create_task(left())
        await asyncio.wait((going,))
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)


@asynccontextmanager
async def served(app: Any, stage: Stage) -> AsyncGenerator[httpx.AsyncClient, None]:
    """A real server of the application, and a client of it."""

    async def noted(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except BaseException as error:
            stage.ended.put_nowait(error)
            raise
        stage.ended.put_nowait(None)

    listening = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(noted, log_level="critical", lifespan="off"))
    running = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        async with httpx.AsyncClient(base_url=url, timeout=ENDS_WITHIN_S) as client:
            yield client
    finally:
        stage.go.set()
        server.should_exit = True
        await asyncio.wait_for(running, ENDS_WITHIN_S)
        listening.close()


@pytest.fixture
def stage() -> Stage:
    return Stage()


def metered(kit: CreditsKit, stage: Stage, **options: Any) -> HoldMiddleware:
    return HoldMiddleware(Model(stage), credits=lambda _: kit.engine, hold_for=hold_for, **options)


@pytest.fixture
async def client(sqlite_kit: CreditsKit, stage: Stage) -> AsyncIterator[httpx.AsyncClient]:
    await sqlite_kit.engine.create_user("ada", credits=50)
    async with served(metered(sqlite_kit, stage), stage) as opened:
        yield opened


async def account(kit: CreditsKit) -> tuple[Decimal, Decimal]:
    """What ada has, and what is held of it."""
    user = await kit.engine.get_user("ada")
    return user.credits, user.reserved


# --- a whole response ---------------------------------------------------------------------------


async def test_a_response_says_what_is_held_and_is_charged_by_its_end(
    client: httpx.AsyncClient, sqlite_kit: CreditsKit
) -> None:
    whole = await client.post("/whole")
    after_whole = await account(sqlite_kit)
    measured = await client.post("/measured")

    assert (200, b"answer", "1") == (whole.status_code, whole.content, whole.headers["X-Own"])
    assert [(30, 0), (23, 0)] == [after_whole, await account(sqlite_kit)]
    assert ("20.000000", "10.000000") == (
        measured.headers["X-Credits-Reserved"],
        measured.headers["X-Credits-Remaining"],
    )
    ledger = await sqlite_kit.transactions("ada")
    assert [one.headers["X-Credits-Reservation"] for one in (whole, measured)] == [
        row.related_id for row in ledger[1:]
    ]
    assert "/measured" == ledger[-1].metadata["path"]
    await sqlite_kit.assert_balanced()


async def test_a_request_that_is_not_metered_is_passed_on(
    client: httpx.AsyncClient, sqlite_kit: CreditsKit
) -> None:
    response = await client.post("/free", content=b"body", headers={"Idempotency-Key": "k"})

    assert (200, b"body") == (response.status_code, response.content)
    assert not [name for name in response.headers if name.startswith("x-credits")]
    assert (50, 0) == await account(sqlite_kit)


async def test_who_cannot_pay_is_told_so_and_the_application_does_not_run(
    client: httpx.AsyncClient, stage: Stage, sqlite_kit: CreditsKit
) -> None:
    for _ in range(2):
        await client.post("/whole")
    refused = await client.post("/whole")
    unknown = await client.post("/whole", headers={"X-User": "nobody"})

    assert (402, "application/problem+json") == (
        refused.status_code,
        refused.headers["Content-Type"],
    )
    assert ("20.000000", "10.000000") == (
        refused.json()["required"],
        refused.json()["available"],
    )
    assert 404 == unknown.status_code
    assert ["/whole"] * 2 == stage.served
    await sqlite_kit.assert_balanced()


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [("/invalid", 422, None), ("/broken", 500, None), ("/misuses", 400, "INVALID_AMOUNT")],
)
async def test_an_error_costs_nothing(
    client: httpx.AsyncClient, sqlite_kit: CreditsKit, path: str, status: int, code: str | None
) -> None:
    response = await client.post(path)

    assert status == response.status_code
    assert code is None or code == response.json()["code"]
    assert (50, 0) == await account(sqlite_kit)
    await sqlite_kit.assert_balanced()


# --- a stream -----------------------------------------------------------------------------------


async def test_a_stream_is_passed_on_part_by_part_and_charged_at_its_end(
    client: httpx.AsyncClient, sqlite_kit: CreditsKit, stage: Stage
) -> None:
    async with client.stream("POST", "/stream") as response:
        parts = response.aiter_bytes()
        assert b"one" == await anext(parts)
        assert (50, 20) == await account(sqlite_kit)
        stage.go.set()
        assert b"two" == await anext(parts)

    assert (45, 0) == await account(sqlite_kit)
    await sqlite_kit.assert_balanced()


@pytest.mark.parametrize(("path", "left"), [("/stream", 47), ("/silent", 50)])
async def test_a_reader_who_leaves_pays_what_was_said_to_be_used_by_then(
    client: httpx.AsyncClient, sqlite_kit: CreditsKit, stage: Stage, path: str, left: int
) -> None:
    async with client.stream("POST", path) as response:
        assert b"one" == await anext(response.aiter_bytes())

    assert await stage.end() is None
    assert (left, 0) == await account(sqlite_kit)
    await sqlite_kit.assert_balanced()


async def test_a_client_that_leaves_before_the_response_began_pays_nothing_for_a_silent_application(
    sqlite_kit: CreditsKit, stage: Stage
) -> None:
    await sqlite_kit.engine.create_user("ada", credits=50)
    inside = asyncio.Event()

    async def app(_scope: Scope, receive: Receive, _send: Send) -> None:
        inside.set()
        while (await receive())["type"] != "http.disconnect":
            pass

    around = HoldMiddleware(app, credits=lambda _: sqlite_kit.engine, hold_for=hold_for)
    async with served(around, stage) as client:
        request = asyncio.create_task(client.post("/whole"))
        await asyncio.wait_for(inside.wait(), ENDS_WITHIN_S)
        assert (50, 20) == await account(sqlite_kit)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        assert await stage.end() is None

    assert (50, 0) == await account(sqlite_kit)
    await sqlite_kit.assert_balanced()


@pytest.mark.parametrize(("path", "left"), [("/empty", 50), ("/consumes", 47)])
async def test_what_is_consumed_is_charged_once_however_the_request_ends(
    client: httpx.AsyncClient,
    sqlite_kit: CreditsKit,
    stage: Stage,
    caplog: pytest.LogCaptureFixture,
    path: str,
    left: int,
) -> None:
    await client.post(path)
    await stage.end()

    assert (left, 0) == await account(sqlite_kit)
    assert [] == [one.message for one in caplog.records if one.levelno >= logging.WARNING]
    await sqlite_kit.assert_balanced()


@pytest.mark.parametrize(
    ("path", "error"),
    [("/fails", UpstreamError), ("/tears", UpstreamError), ("/stops", type(None))],
)
async def test_an_application_that_fails_gives_everything_back(
    client: httpx.AsyncClient,
    sqlite_kit: CreditsKit,
    stage: Stage,
    path: str,
    error: type[BaseException],
) -> None:
    if path == "/fails":
        assert 500 == (await client.post(path)).status_code
    else:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post(path)

    assert isinstance(await stage.end(), error)
    assert (50, 0) == await account(sqlite_kit)
    await sqlite_kit.assert_balanced()


async def test_an_answer_that_could_not_be_charged_is_cut_off(
    redis_endpoint: Endpoint, sqlite_database: Any, stage: Stage
) -> None:
    clock = Clock()
    async with kit_on(CONFIG, redis_endpoint, sqlite_database, clock) as kit:
        await kit.engine.create_user("ada", credits=50)
        async with (
            served(metered(kit, stage), stage) as client,
            client.stream("POST", "/stream") as response,
        ):
            parts = response.aiter_bytes()
            assert b"one" == await anext(parts)
            clock.advance(seconds=3_600)
            stage.go.set()
            with pytest.raises(httpx.RemoteProtocolError):
                await anext(parts)
            assert "HOLD_EXPIRED" == getattr(await stage.end(), "code", None)
        assert 50 == await kit.engine.query_balance("ada")
        await kit.assert_balanced()


async def test_a_capture_that_fails_gives_the_hold_back(
    client: httpx.AsyncClient,
    sqlite_kit: CreditsKit,
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise RedisUnavailableError("it is away")

    monkeypatch.setattr(sqlite_kit.engine._holding, "capture", away)
    with pytest.raises(httpx.RemoteProtocolError):
        await client.post("/whole")

    assert isinstance(await stage.end(), RedisUnavailableError)
    assert (50, 0) == await account(sqlite_kit)


# --- the same key -------------------------------------------------------------------------------


async def test_a_request_with_a_key_is_served_once(
    client: httpx.AsyncClient, stage: Stage, sqlite_kit: CreditsKit
) -> None:
    async def sent(body: bytes, **headers: str) -> httpx.Response:
        keyed = {"Idempotency-Key": '"k-1"'} | headers
        return await client.post("/echo", content=body, headers=keyed)

    first, again, other = await sent(b"body"), await sent(b"body"), await sent(b"another")

    assert (200, b"body") == (first.status_code, first.content)
    assert (409, "HOLD_FINISHED", "captured") == (
        again.status_code,
        again.json()["code"],
        again.json()["state"],
    )
    assert (422, "IDEMPOTENCY_KEY_CONFLICT") == (other.status_code, other.json()["code"])
    assert ["/echo"] == stage.served
    assert (30, 0) == await account(sqlite_kit)
    await sqlite_kit.assert_balanced()


async def test_a_request_that_comes_again_while_it_is_served_is_refused_and_harms_nothing(
    client: httpx.AsyncClient, stage: Stage, sqlite_kit: CreditsKit
) -> None:
    keyed = {"Idempotency-Key": "k-1"}
    async with client.stream("POST", "/stream", headers=keyed) as response:
        parts = response.aiter_bytes()
        assert b"one" == await anext(parts)
        again = await client.post("/stream", headers=keyed)
        stage.go.set()
        assert b"two" == await anext(parts)

    assert (409, "REQUEST_IN_PROGRESS", response.headers["X-Credits-Reservation"]) == (
        again.status_code,
        again.json()["code"],
        again.json()["hold_id"],
    )
    assert (45, 0) == await account(sqlite_kit)
    await sqlite_kit.assert_balanced()


async def test_a_request_that_failed_needs_another_key(
    client: httpx.AsyncClient, stage: Stage
) -> None:
    failed = await client.post("/fails", headers={"Idempotency-Key": "k-1"})
    again = await client.post("/fails", headers={"Idempotency-Key": "k-1"})

    assert (500, 409, "released") == (failed.status_code, again.status_code, again.json()["state"])
    assert ["/fails"] == stage.served


@pytest.mark.parametrize(
    ("headers", "body", "told"),
    [
        ({}, b"", "is required"),
        ({"Idempotency-Key": '"half'}, b"", "is no quoted string"),
        ({"Idempotency-Key": "k"}, b"x" * 11, "at most 10 bytes"),
    ],
)
async def test_a_key_that_cannot_be_used_is_refused_before_anything_is_held(
    sqlite_kit: CreditsKit, stage: Stage, headers: dict[str, str], body: bytes, told: str
) -> None:
    await sqlite_kit.engine.create_user("ada", credits=50)
    app = metered(sqlite_kit, stage, keys="required", body_bytes_max=10)
    async with served(app, stage) as client:
        refused = await client.post("/whole", content=body, headers=headers)

    assert (400, "INVALID_ARGUMENT") == (refused.status_code, refused.json()["code"])
    assert told in refused.json()["detail"]
    assert [] == stage.served


async def test_types_and_headers_can_be_the_applications_own(
    sqlite_kit: CreditsKit, stage: Stage
) -> None:
    await sqlite_kit.engine.create_user("ada", credits=30)
    types = "https://example.com/problems/"
    app = metered(sqlite_kit, stage, types=types, header_prefix=None)
    async with served(app, stage) as client:
        charged, refused = [await client.post("/whole") for _ in range(2)]

    assert not [name for name in charged.headers if name.startswith("x-credits")]
    assert f"{types}insufficient-credits" == refused.json()["type"]


# --- in a framework -----------------------------------------------------------------------------


async def test_a_framework_finds_the_hold_in_its_scope_and_stops_a_stream_nobody_reads(
    sqlite_kit: CreditsKit, stage: Stage
) -> None:
    await sqlite_kit.engine.create_user("ada", credits=50)

    async def chat(request: Request) -> Response:
        hold: Hold = request.scope["credits"]

        async def parts() -> AsyncIterator[bytes]:
            for number in range(1, 3):
                hold.used(amount=number)
                yield b"part"
                await stage.go.wait()

        body = await request.body()
        return StreamingResponse(parts()) if body == b"stream" else PlainTextResponse(body)

    app = Starlette(
        routes=[Route("/chat", chat, methods=["POST"])],
        middleware=[
            Middleware(HoldMiddleware, credits=lambda _: sqlite_kit.engine, hold_for=hold_for)
        ],
    )
    async with served(app, stage) as client:
        keyed = {"Idempotency-Key": "k-1"}
        whole = await client.post("/chat", content=b"hello", headers=keyed)
        assert await stage.end() is None
        async with client.stream("POST", "/chat", content=b"stream") as response:
            assert b"part" == await anext(response.aiter_bytes())
        assert await stage.end() is None

    assert (200, b"hello") == (whole.status_code, whole.content)
    assert (29, 0) == await account(sqlite_kit)
    await sqlite_kit.assert_balanced()


# --- cancelled by the server --------------------------------------------------------------------


async def cut_after(
    kit: CreditsKit, turns: int, app: Callable[[Scope, Receive, Send], Awaitable[None]]
) -> bool:
    """Whether a request that is cancelled after so many turns of the loop was."""
    around = HoldMiddleware(app, credits=lambda _: kit.engine, hold_for=hold_for)
    scope: Scope = {"type": "http", "method": "POST", "path": "/chat", "headers": []}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(_: Any) -> None:
        for _ in range(TURNS_OF_A_PART):
            await asyncio.sleep(0)

    task = asyncio.ensure_future(around(scope, receive, send))
    for _ in range(turns):
        if task.done():
            break
        await asyncio.sleep(0)
    was_cancelled = task.cancel()
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    assert was_cancelled == isinstance(outcome, asyncio.CancelledError), outcome
    return was_cancelled


async def test_a_request_that_is_cancelled_at_any_turn_is_charged_what_was_said_and_holds_nothing(
    sqlite_kit: CreditsKit,
) -> None:
    credits: CreditsEngine = sqlite_kit.engine
    await credits.create_user("ada", credits=1_000)
    spent = Decimal(0)
    costs: list[Decimal] = []
    for turns in range(TURNS_MAX):
        said = [0]

        async def app(scope: Scope, _: Receive, send: Send, said: list[int] = said) -> None:
            await send(begin())
            for number in (1, 2, 3):
                scope["credits"].used(amount=number)
                said[0] = number
                await send(part(b"x"))
            await send(part(b"", more=False))

        was_cancelled = await cut_after(sqlite_kit, turns, app)
        balance, reserved = await account(sqlite_kit)
        cost = 1_000 - balance - spent
        assert (said[0], 0) == (cost, reserved), turns
        spent += cost
        costs.append(cost)
        if not was_cancelled:
            break
    else:
        pytest.fail("the request never came to its end")

    assert {0, 1, 2, 3} == {*costs}
    await sqlite_kit.assert_balanced()
