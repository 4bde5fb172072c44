"""A FastAPI application that charges: once a request, after the body was checked, and told as HTTP."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Annotated, Any

import httpx
import pytest
from fastapi import (
    APIRouter,
    Body,
    Depends,
    FastAPI,
    Form,
    Header,
    HTTPException,
    Request,
    UploadFile,
    WebSocket,
)
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncEngine

from credits_fast import (
    Charge,
    ChargeResult,
    CreditsEngine,
    IdempotencyKeyConflictError,
    InsufficientCreditsError,
    RedisUnavailableError,
)
from credits_fast.servers.lane import Endpoint
from credits_fast.testing import CreditsKit
from credits_fast.web.on_asgi import HoldFor, HoldMiddleware, Scope
from credits_fast.web.on_fastapi import (
    Charged,
    Credits,
    Held,
    Meter,
    charged,
    credits_lifespan,
    install,
    metered,
)
from tests.integration.conftest import CONFIG


class Chat(BaseModel):
    tokens: int
    fails: bool = False


class UpstreamError(Exception):
    """The model did not answer."""


def payer(x_user: Annotated[str, Header()]) -> str:
    return x_user


def tokens_of(body: Chat) -> dict[str, int]:
    return {"tokens": body.tokens}


router = APIRouter()
image_price = charged("image", user=payer)
chat_price = charged("chat", user=payer, variables=tokens_of, refund_on=(UpstreamError,))
keyed_price = charged("image", user=payer, keys="required", repeats="serve")
flaky_price = charged("image", user=payer, repeats="serve", refund_on=(UpstreamError,))
upload_price = charged("image", user=payer, repeats="serve")


@router.post("/image")
async def image(request: Request, charge: Annotated[Charged, Depends(image_price)]) -> str:
    request.app.state.served.append("image")
    return str(charge.result.balance_after)


@router.post("/image/checked")
async def image_checked(
    request: Request, body: Chat, charge: Annotated[Charged, Depends(image_price)]
) -> str:
    request.app.state.served.append("checked")
    return f"{body.tokens} {charge.action}"


@router.post("/chat")
async def chat(
    request: Request, body: Chat, charge: Annotated[Charged, Depends(chat_price)]
) -> str:
    request.app.state.served.append("chat")
    if body.fails:
        raise UpstreamError
    return str(charge.result.cost)


@router.post("/metered")
async def by_meter(body: Chat, meter: Annotated[Meter, Depends(metered(user=payer))]) -> str:
    charge = await meter.charge("chat", variables={"tokens": body.tokens})
    if body.fails:
        await charge.refund()
        await charge.refund()
        raise HTTPException(502, "the model failed")
    return str(charge.result.cost)


@router.post("/keyed")
async def keyed(charge: Annotated[Charged, Depends(keyed_price)]) -> PlainTextResponse:
    return PlainTextResponse("again" if charge.replayed else "new", headers=charge.headers)


@router.post("/flaky")
async def flaky(request: Request, charge: Annotated[Charged, Depends(flaky_price)]) -> str:
    request.app.state.served.append(charge.action)
    if charge.replayed:
        raise UpstreamError
    return "served"


@router.post("/upload")
async def upload(
    name: Annotated[str, Form()],
    file: UploadFile,
    charge: Annotated[Charged, Depends(upload_price)],
) -> str:
    return f"{name} {(await file.read()).decode()} {charge.replayed}"


@router.post("/upload/read")
async def upload_that_was_read(
    file: UploadFile,
    meter: Annotated[Meter, Depends(metered(user=payer, repeats="serve"))],
) -> str:
    begin = await file.read(2)
    charge = await meter.charge("image")
    return f"{begin.decode()} {(await file.read()).decode()} {charge.replayed}"


@router.post("/streamed")
async def streamed(
    request: Request, meter: Annotated[Meter, Depends(metered(user=payer, repeats="serve"))]
) -> str:
    size = sum([len(chunk) async for chunk in request.stream()])
    charge = await meter.charge("image")
    return f"{size} {charge.replayed}"


@router.post("/members")
async def members(_: Annotated[Charged, Depends(charged("members", user=payer))]) -> str:
    return "welcome"


@router.post("/free")
async def free(charge: Annotated[Charged, Depends(charged("free", user=payer))]) -> str:
    return str(await charge.refund())


@router.post("/given")
async def given(
    amount: Annotated[str, Body()], meter: Annotated[Meter, Depends(metered(user=payer))]
) -> str:
    return str((await meter.charge("anything", amount=amount)).result.cost)


@router.get("/balance")
async def balance(credits: Credits, user: Annotated[str, Depends(payer)]) -> str:
    return str(await credits.query_balance(user))


def application(kit: CreditsKit, **settings: Any) -> FastAPI:
    app = FastAPI()
    app.state.credits = kit.engine
    app.state.served = list[str]()
    app.include_router(router)
    install(app, **settings)
    return app


def client_of(app: FastAPI) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test", headers={"X-User": "ada"})


@pytest.fixture
async def app(sqlite_kit: CreditsKit) -> FastAPI:
    await sqlite_kit.engine.create_user("ada", credits=50)
    return application(sqlite_kit)


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app) as opened:
        yield opened


def credits_headers(response: httpx.Response) -> dict[str, str]:
    return {
        name: value
        for name, value in response.headers.items()
        if name.startswith("x-credits-") and name != "x-credits-transaction"
    }


async def test_a_request_is_charged_before_its_handler_and_says_so(
    client: httpx.AsyncClient, sqlite_kit: CreditsKit
) -> None:
    response = await client.post("/image")

    assert (200, "30.000000") == (response.status_code, response.json())
    assert {
        "x-credits-charged": "20.000000",
        "x-credits-remaining": "30.000000",
    } == credits_headers(response)
    ledger = await sqlite_kit.transactions("ada")
    assert ledger[-1].id == response.headers["X-Credits-Transaction"]
    assert "30.000000" == (await client.get("/balance")).json()


async def test_a_refusal_is_a_problem_and_the_handler_does_not_run(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    for _ in range(2):
        await client.post("/image")
    response = await client.post("/image")

    assert 402 == response.status_code
    assert "application/problem+json" == response.headers["content-type"]
    assert ("20.000000", "10.000000") == (
        response.json()["required"],
        response.json()["available"],
    )
    assert 2 == len(app.state.served)


async def test_each_refusal_has_its_status(client: httpx.AsyncClient) -> None:
    members = await client.post("/members")
    unknown = await client.post("/image", headers={"X-User": "nobody"})
    malformed = await client.post("/given", json="1.5e3 credits")

    assert (403, "MEMBERSHIP_REQUIRED") == (members.status_code, members.json()["code"])
    assert (404, "USER_NOT_FOUND") == (unknown.status_code, unknown.json()["code"])
    assert (400, "INVALID_AMOUNT") == (malformed.status_code, malformed.json()["code"])


async def test_a_request_that_comes_again_is_refused_and_not_charged(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    first = await client.post("/image", headers={"Idempotency-Key": '"k-1"'})
    second = await client.post("/image", headers={"Idempotency-Key": "k-1"})

    assert (200, 409) == (first.status_code, second.status_code)
    assert first.headers["X-Credits-Transaction"] == second.json()["transaction_id"]
    assert ["image"] == app.state.served
    assert "30.000000" == (await client.get("/balance")).json()


async def test_a_request_that_comes_again_can_be_served_and_is_not_charged(
    client: httpx.AsyncClient,
) -> None:
    first, second = [
        await client.post("/keyed", headers={"Idempotency-Key": "k-1"}) for _ in range(2)
    ]

    assert ("new", "again") == (first.text, second.text)
    assert "true" == second.headers["X-Credits-Replayed"]
    assert first.headers["X-Credits-Transaction"] == second.headers["X-Credits-Transaction"]
    assert "30.000000" == (await client.get("/balance")).json()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/chat", {"tokens": 1_001}),
        ("/chat", {"tokens": 1_000, "fails": False}),
        ("/chat?a=b", {"tokens": 1_000}),
        ("/metered", {"tokens": 1_000}),
    ],
)
async def test_a_key_stands_for_one_request(
    client: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    key = {"Idempotency-Key": "k-1"}
    assert 200 == (await client.post("/chat", json={"tokens": 1_000}, headers=key)).status_code

    other = await client.post(path, json=body, headers=key)

    assert (422, "IDEMPOTENCY_KEY_CONFLICT") == (other.status_code, other.json()["code"])
    assert "39.000000" == (await client.get("/balance")).json()


async def test_a_form_with_another_boundary_is_the_same_request(client: httpx.AsyncClient) -> None:
    async def sent(content: bytes, name: str) -> httpx.Response:
        return await client.post(
            "/upload",
            data={"name": "a"},
            files={"file": (name, content)},
            headers={"Idempotency-Key": "k-1"},
        )

    first, again = await sent(b"one", "f"), await sent(b"one", "f")

    assert ("a one False", "a one True") == (first.json(), again.json())
    assert {422} == {(await sent(b"two", "f")).status_code, (await sent(b"one", "g")).status_code}


async def test_a_key_stands_for_a_whole_file_however_much_of_it_was_read_before_the_charge(
    client: httpx.AsyncClient,
) -> None:
    async def sent(content: bytes) -> httpx.Response:
        return await client.post(
            "/upload/read", files={"file": ("f", content)}, headers={"Idempotency-Key": "k-1"}
        )

    first, again, other = await sent(b"to do"), await sent(b"to do"), await sent(b"we do")

    assert ("to  do False", "to  do True") == (first.json(), again.json())
    assert (422, "IDEMPOTENCY_KEY_CONFLICT") == (other.status_code, other.json().get("code"))


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded"])
async def test_a_key_cannot_stand_for_a_body_that_the_handler_has_taken(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    async def sent(**headers: str) -> httpx.Response:
        headers |= {"Content-Type": kind}
        return await client.post("/streamed", content=b"a=1", headers=headers)

    without, keyed = await sent(), await sent(**{"Idempotency-Key": "k-1"})

    assert (200, "3 False") == (without.status_code, without.json())
    assert (500, "MISCONFIGURED") == (keyed.status_code, keyed.json()["code"])
    assert "before Meter.charge" in caplog.text
    assert "30.000000" == (await client.get("/balance")).json()


async def test_a_key_is_missing_or_malformed(client: httpx.AsyncClient) -> None:
    missing = await client.post("/keyed")
    malformed = await client.post("/image", headers={"Idempotency-Key": '"half'})

    for response in (missing, malformed):
        assert (400, "INVALID_ARGUMENT") == (response.status_code, response.json()["code"])
        assert "Idempotency-Key" == response.json()["argument"]
    assert "50.000000" == (await client.get("/balance")).json()


async def test_keys_of_two_users_and_of_the_application_do_not_meet(
    client: httpx.AsyncClient, sqlite_kit: CreditsKit
) -> None:
    await sqlite_kit.engine.create_user("bob", credits=20)
    await sqlite_kit.engine.grant("ada", 5, "purchase", idempotency_key="k-1")

    for user in ("ada", "bob"):
        headers = {"Idempotency-Key": "k-1", "X-User": user}
        assert 200 == (await client.post("/image", headers=headers)).status_code


async def test_a_body_that_the_price_depends_on_is_checked_before_anything_is_charged(
    app: FastAPI, client: httpx.AsyncClient, sqlite_kit: CreditsKit
) -> None:
    for path in ("/chat", "/metered"):
        assert 422 == (await client.post(path, json={"tokens": "many"})).status_code

    assert [] == app.state.served
    assert ["grant"] == [row.kind for row in await sqlite_kit.transactions("ada")]


async def test_a_fixed_price_of_an_invalid_request_is_given_back(
    app: FastAPI, client: httpx.AsyncClient, sqlite_kit: CreditsKit
) -> None:
    assert 422 == (await client.post("/image/checked", json={"tokens": "many"})).status_code

    assert [] == app.state.served
    ledger = await sqlite_kit.transactions("ada")
    assert ["grant", "charge", "refund"] == [row.kind for row in ledger]
    assert (ledger[1].id, "RequestValidationError") == (
        ledger[2].related_id,
        ledger[2].metadata["reason"],
    )
    await sqlite_kit.assert_balanced()


async def test_a_named_failure_of_the_handler_is_given_back_and_its_key_stays_used(
    client: httpx.AsyncClient, sqlite_kit: CreditsKit
) -> None:
    request = {"json": {"tokens": 1_000, "fails": True}, "headers": {"Idempotency-Key": "k-1"}}

    first, second = [await client.post("/chat", **request) for _ in range(2)]  # type: ignore[arg-type]

    assert (500, 409) == (first.status_code, second.status_code)
    kinds = [row.kind for row in await sqlite_kit.transactions("ada")]
    assert ["grant", "charge", "refund"] == kinds
    assert Decimal(50) == await sqlite_kit.engine.query_balance("ada")


async def test_a_request_that_was_served_is_not_given_back_because_its_repetition_failed(
    client: httpx.AsyncClient, sqlite_kit: CreditsKit
) -> None:
    headers = {"Idempotency-Key": "k-1"}

    statuses = [(await client.post("/flaky", headers=headers)).status_code for _ in range(2)]

    assert [200, 500] == statuses
    assert Decimal(30) == await sqlite_kit.engine.query_balance("ada")


async def test_a_handler_gives_back_once_however_often_it_says_so(
    client: httpx.AsyncClient, sqlite_kit: CreditsKit
) -> None:
    response = await client.post("/metered", json={"tokens": 1_000, "fails": True})

    assert 502 == response.status_code
    assert Decimal(50) == await sqlite_kit.engine.query_balance("ada")


async def test_what_costs_nothing_has_nothing_to_give_back(client: httpx.AsyncClient) -> None:
    assert "None" == (await client.post("/free")).json()


async def test_a_failed_refund_is_told_to_the_operator_and_the_client_hears_the_first_error(
    client: httpx.AsyncClient,
    sqlite_kit: CreditsKit,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def unreachable(*_: Any, **__: Any) -> None:
        raise RedisUnavailableError("gone")

    monkeypatch.setattr(sqlite_kit.engine, "refund", unreachable)

    response = await client.post("/image/checked", json={"tokens": "many"})

    assert 422 == response.status_code
    (record,) = [one for one in caplog.records if one.name == "credits_fast.web.on_fastapi"]
    assert (logging.ERROR, True) == (record.levelno, "is not given back" in record.message)


async def test_an_outage_is_503_with_a_time_to_wait_and_a_line_in_the_log(
    client: httpx.AsyncClient,
    sqlite_kit: CreditsKit,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def unreachable(*_: Any, **__: Any) -> None:
        raise RedisUnavailableError("secret-host does not answer")

    monkeypatch.setattr(sqlite_kit.engine, "charge", unreachable)

    response = await client.post("/image")

    assert (503, "1") == (response.status_code, response.headers["Retry-After"])
    assert "secret-host" not in response.text
    assert [("credits_fast.web.on_fastapi", logging.WARNING)] == [
        (one.name, one.levelno) for one in caplog.records if one.levelno >= logging.WARNING
    ]


async def test_an_application_without_the_lifespan_answers_500_and_logs_why(
    app: FastAPI, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    del app.state.credits

    response = await client.post("/image")

    assert (500, "ENGINE_CLOSED") == (response.status_code, response.json()["code"])
    assert "credits_lifespan" not in response.text
    assert any("credits_lifespan" in one.message and one.exc_info for one in caplog.records)


async def test_an_error_on_a_websocket_goes_on_as_it_is(
    app: FastAPI, sqlite_kit: CreditsKit
) -> None:
    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        await sqlite_kit.engine.charge("ada", "image", amount=60)

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    sent: list[str] = []
    app.websocket("/talk")(talk)
    scope: dict[str, Any] = {
        "type": "websocket",
        "path": "/talk",
        "query_string": b"",
        "headers": [],
    }
    with pytest.raises(InsufficientCreditsError):
        await app(scope, receive, send)

    assert ["websocket.accept"] == sent


async def test_types_and_headers_can_be_the_applications_own(sqlite_kit: CreditsKit) -> None:
    await sqlite_kit.engine.create_user("ada", credits=30)
    app = application(sqlite_kit, types="https://example.com/problems/", header_prefix=None)
    async with client_of(app) as client:
        charged_for, refused = [await client.post("/image") for _ in range(2)]

    assert {} == credits_headers(charged_for)
    assert "https://example.com/problems/insufficient-credits" == refused.json()["type"]


async def test_a_handler_says_what_its_hold_is_charged(
    app: FastAPI, sqlite_kit: CreditsKit, caplog: pytest.LogCaptureFixture
) -> None:
    async def hold_for(scope: Scope) -> HoldFor | None:
        return HoldFor("ada", "chat", amount=20) if scope["path"] == "/held" else None

    async def held(hold: Held, body: Chat) -> str:
        hold.used(variables=tokens_of(body))
        return str(hold.amount)

    app.add_middleware(
        HoldMiddleware, credits=lambda scope: scope["app"].state.credits, hold_for=hold_for
    )
    app.post("/held")(held)
    app.post("/not-held")(held)
    async with client_of(app) as client:
        served = await client.post("/held", json={"tokens": 1_000})
        invalid = await client.post("/held", json={"tokens": "many"})
        unmetered = await client.post("/not-held", json={"tokens": 1_000})

    assert (422, 500) == (invalid.status_code, unmetered.status_code)
    assert "needs HoldMiddleware" in caplog.text
    assert (200, "20.000000", "30.000000") == (
        served.status_code,
        served.json(),
        served.headers["X-Credits-Remaining"],
    )
    user = await sqlite_kit.engine.get_user("ada")
    assert (39, 0) == (user.credits, user.reserved)
    await sqlite_kit.assert_balanced()


async def test_the_engine_is_open_as_long_as_the_application_runs(
    redis_endpoint: Endpoint, sqlite_database: AsyncEngine
) -> None:
    def make() -> CreditsEngine:
        return CreditsEngine(CONFIG, redis=redis_endpoint, database=sqlite_database)

    app = FastAPI(lifespan=credits_lifespan(make))
    app.include_router(router)
    install(app)
    for _ in range(2):  # started anew, it has a new engine
        async with app.router.lifespan_context(app), client_of(app) as client:
            assert 404 == (await client.get("/balance")).status_code
        assert not hasattr(app.state, "credits")
        async with client_of(app) as client:
            assert 500 == (await client.get("/balance")).status_code


async def test_the_fingerprint_is_part_of_what_a_key_stands_for(sqlite_kit: CreditsKit) -> None:
    credits = sqlite_kit.engine
    await credits.create_user("ada", credits=50)
    first = await credits.charge("ada", "image", idempotency_key="k", fingerprint="a")

    assert (first.transaction_id, True) == (
        (again := await credits.charge("ada", "image", idempotency_key="k", fingerprint="a"))[0],
        again.replayed,
    )
    for other in ("b", None):
        with pytest.raises(IdempotencyKeyConflictError):
            await credits.charge("ada", "image", idempotency_key="k", fingerprint=other)


async def test_many_charges_have_each_its_fingerprint(sqlite_kit: CreditsKit) -> None:
    credits = sqlite_kit.engine
    await credits.create_user("ada", credits=50)
    await credits.charge("ada", "image", idempotency_key="k", fingerprint="a")
    charges = [
        Charge(user_id="ada", action="image", idempotency_key="k", fingerprint=one) for one in "ab"
    ]

    same, other = await credits.charge_many(charges)

    assert isinstance(same, ChargeResult)
    assert same.replayed
    assert isinstance(other, IdempotencyKeyConflictError)
