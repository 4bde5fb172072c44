"""The examples are programs that run, twice on the same folder, and the web APIs answer a real client."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from credits_fast.ledger.database import connect
from tests.contracts.test_docs import run
from tests.servers import Servers

EXAMPLES = Path(__file__).parents[2] / "examples"
_ENDS_WITHIN_S = 60
_LISTENING = re.compile(r"Uvicorn running on (http://127\.0\.0\.1:\d+)")


def lines_of(name: str, folder: Path) -> list[str]:
    return run(str(EXAMPLES / name), str(folder / "data"), folder=folder).splitlines()


def test_background_jobs_are_charged_once_however_often_they_are_delivered(tmp_path: Path) -> None:
    first, second = [lines_of("background_jobs.py", tmp_path) for _ in range(2)]

    assert "job-1: done, 5.00 charged now" == first[0]
    assert "job-3: not done, it costs 200.00" in first[2]
    assert "job-1: done, 5.00 charged before" == first[4]
    assert ["ada has 12.00, 2 jobs were charged", "bob has 18.00, 1 jobs were charged"] == first[5:]
    assert "job-1: done, 5.00 charged before" == second[0]
    assert first[5:] == second[5:]


def test_a_payment_that_is_delivered_again_is_granted_once(tmp_path: Path) -> None:
    first, second = [lines_of("purchase_webhook.py", tmp_path) for _ in range(2)]

    at_once = ["  200 granted", "  200 known already", "  200 known already"]
    assert ["three at once:", *at_once, "once more:     200 known already"] == first[:5]
    assert [
        "forged:        401 the signature is not the provider's",
        "another sum:   422 IDEMPOTENCY_KEY_CONFLICT",
        "unknown user:  404 USER_NOT_FOUND",
        "ada has 1005.00, 1 purchase",
    ] == first[5:]
    assert ["  200 known already"] * 3 == second[1:4]
    assert first[5:] == second[5:]


def test_an_applications_own_users_become_users_with_their_own_commit(tmp_path: Path) -> None:
    first, second = [lines_of("existing_user_table.py", tmp_path) for _ in range(2)]
    statement = [
        "Eve's first image: 4.00, 6.00 left",
        "Ada     30.00 after 1 transactions",
        "Bob     10.00 after 0 transactions",
        "Eve      6.00 after 1 transactions",
    ]

    assert ["taken over: 2 then 0", "Eve: signed up"] == first[:2]
    assert "Eve again: the mail address is taken" == first[2]
    assert ["taken over: 0 then 0", "Eve: the mail address is taken"] == second[:2]
    assert statement == first[3:] == second[3:]


@pytest.mark.usefixtures("redis_endpoint")
def test_a_report_is_written_and_charged_or_neither(
    servers: Servers, postgresql_url: str, tmp_path: Path
) -> None:
    example = str(EXAMPLES / "own_transaction.py")
    try:
        said = run(example, servers.redis_url, postgresql_url, folder=tmp_path)
    finally:
        asyncio.run(drop(postgresql_url, "own_transaction_reports"))

    assert [
        "'first': bought",
        "'': not bought, ValueError",
        "'second': bought",
        "'third': not bought, InsufficientCreditsError",
        "ada has 2.00 and 2 reports",
    ] == said.splitlines()


async def drop(url: str, table: str) -> None:
    database = connect(url)
    async with database.begin() as connection:
        await connection.execute(text(f"DROP TABLE IF EXISTS {table}"))
    await database.dispose()


@contextmanager
def served(name: str, folder: Path) -> Generator[httpx.Client, None, None]:
    """A client of an example, which runs as the program it is."""
    example = (sys.executable, str(EXAMPLES / name), str(folder / "data"), "0")
    program = subprocess.Popen(example, cwd=folder, stderr=subprocess.PIPE, text=True)
    deadline = threading.Timer(
        _ENDS_WITHIN_S, program.kill
    )  # then reading ends, and the test fails
    deadline.start()
    try:
        assert program.stderr is not None
        found = (_LISTENING.search(line) for line in program.stderr)
        url = next(match[1] for match in found if match)
        with httpx.Client(base_url=url, headers={"Authorization": "Bearer ada-secret"}) as client:
            yield client
        program.send_signal(signal.SIGTERM)
        program.stderr.read()
        assert program.wait(_ENDS_WITHIN_S) in {0, -signal.SIGTERM}
    finally:
        deadline.cancel()
        program.kill()
        program.wait()
        if program.stderr is not None:
            program.stderr.close()


@pytest.fixture
def web_api(tmp_path: Path) -> Iterator[httpx.Client]:
    with served("fastapi_app.py", tmp_path) as client:
        yield client


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[httpx.Client]:
    with served("streaming_proxy.py", tmp_path) as client:
        yield client


def settled(proxy: httpx.Client) -> Decimal:
    """What ada has when nothing is held any more; a server that never settles ends with its deadline."""
    while True:
        found = proxy.get("/account").json()
        if not Decimal(found["reserved"]):
            return Decimal(found["credits"])


def test_the_streaming_proxy_charges_the_tokens_it_has_passed_on(proxy: httpx.Client) -> None:
    def asked(max_tokens: int) -> dict[str, object]:
        return {"prompt": "count to it", "max_tokens": max_tokens}

    chat = "/v1/chat/completions"
    whole = proxy.post(chat, json=asked(10))
    after_whole = settled(proxy)
    with proxy.stream("POST", chat, json=asked(2_000)) as response:
        events = (line for line in response.iter_lines() if line.startswith("data: "))
        first = json.loads(next(events).removeprefix("data: "))
    left = settled(proxy)
    refused = proxy.post(chat, json=asked(2_500))

    assert (200, "data: [DONE]") == (whole.status_code, whole.text.strip().splitlines()[-1])
    assert Decimal("49.77") == after_whole  # three tokens read, ten written
    assert "1 " == first["choices"][0]["delta"]["content"]
    assert (
        Decimal(30) < left <= after_whole - Decimal("0.05")
    )  # less than was held, and not nothing
    assert (402, "application/problem+json", "50.030000") == (
        refused.status_code,
        refused.headers["Content-Type"],
        refused.json()["required"],
    )


@pytest.fixture
def litellm_proxy(tmp_path: Path) -> Iterator[httpx.Client]:
    if find_spec("litellm") is None or find_spec("apscheduler") is None:
        pytest.skip("without `litellm[proxy]`")
    (tmp_path / "data").mkdir()
    with served("litellm_proxy.py", tmp_path) as client:
        yield client


def test_litellms_own_proxy_charges_the_owner_of_the_key(
    litellm_proxy: httpx.Client, tmp_path: Path
) -> None:
    chat = "/v1/chat/completions"
    asked = {"model": "small", "messages": [{"role": "user", "content": "hi"}], "user": "bob"}
    whole = litellm_proxy.post(chat, json=asked)
    streamed = litellm_proxy.post(chat, json={**asked, "stream": True})
    bobs = {"Authorization": "Bearer bob-secret"}
    refused = litellm_proxy.post(chat, json=asked, headers=bobs)
    stranger = litellm_proxy.post(chat, json=asked, headers={"Authorization": "Bearer nobody"})
    ledger = sqlite3.connect(tmp_path / "data" / "credits.db")
    rows = charges_of(ledger, 2)
    ledger.close()

    assert [200, 200, 402, 401] == [
        answer.status_code for answer in (whole, streamed, refused, stranger)
    ]
    assert "1.000000 are available" in refused.json()["error"]["message"]
    used = whole.json()["usage"]
    price = Decimal(used["prompt_tokens"]) / 100 + Decimal(used["completion_tokens"]) / 50
    assert ("ada", -price) == (rows[0][0], Decimal(rows[0][1]))
    assert {"ada"} == {user for user, _ in rows}


def charges_of(ledger: sqlite3.Connection, number: int) -> list[tuple[str, str]]:
    """So many charges, once they are there: LiteLLM tells its callbacks after the answer."""
    deadline = time.monotonic() + _ENDS_WITHIN_S
    while time.monotonic() < deadline:
        query = "SELECT user_id, amount FROM transactions WHERE kind = 'charge' ORDER BY sequence"
        rows: list[tuple[str, str]] = ledger.execute(query).fetchall()
        if len(rows) == number:
            return rows
        time.sleep(0.02)
    raise AssertionError(f"there are no {number} charges")


def test_the_web_api_charges_over_http_and_its_statement_shows_it_all(
    web_api: httpx.Client,
) -> None:
    def chat(key: str | None, prompt: str, **headers: str) -> httpx.Response:
        keyed = {} if key is None else {"Idempotency-Key": key}
        return web_api.post("/chat", json={"prompt": prompt}, headers=keyed | headers)

    first, again = chat('"key-1"', "twenty characters ok"), chat("key-1", "twenty characters ok")
    other = chat("key-1", "another prompt here!")
    refused = chat("key-2", "x" * 100)
    problems = [
        chat(None, "no key").status_code,
        chat('"half', "bad key").status_code,
        chat("key-3", "").status_code,
        chat("key-4", "a stranger", Authorization="Bearer nobody").status_code,
    ]
    statement = web_api.get("/statement").json()

    assert (200, {"text": "ko sretcarahc ytnewt", "cost": "3.000000"}) == (
        first.status_code,
        first.json(),
    )
    assert ("3.000000", "7.000000") == (
        first.headers["X-Credits-Charged"],
        first.headers["X-Credits-Remaining"],
    )
    assert (200, first.json(), "true") == (
        again.status_code,
        again.json(),
        again.headers["X-Credits-Replayed"],
    )
    assert first.headers["X-Credits-Transaction"] == again.headers["X-Credits-Transaction"]
    assert (422, "IDEMPOTENCY_KEY_CONFLICT") == (other.status_code, other.json()["code"])
    assert (402, "application/problem+json") == (
        refused.status_code,
        refused.headers["Content-Type"],
    )
    assert {
        "type": "urn:credits-fast:insufficient-credits",
        "title": "Not enough credits",
        "status": 402,
        "code": "INSUFFICIENT_CREDITS",
        "detail": "11.000000 credits are required, 7.000000 are available.",
        "required": "11.000000",
        "available": "7.000000",
        "reserved": "0.000000",
    } == refused.json()
    assert [400, 400, 422, 401] == problems
    assert [
        ("charge", "chat", "-3.000000", "7.000000", "http:key-1"),
        ("grant", "create-user", "10.000000", "10.000000", "signup:ada"),
    ] == [tuple(row.values()) for row in statement]
