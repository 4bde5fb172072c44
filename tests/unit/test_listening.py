"""A worker's endpoints: what they say, when they refuse, and how little they let a caller do."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from credits_fast import ConfigurationError, InsufficientCreditsError, RedisUnavailableError
from credits_fast.checks.partition_states import partition_states
from credits_fast.sync import listening as module
from credits_fast.sync.listening import Listening, listening
from credits_fast.sync.metrics import exposed
from credits_fast.sync.tally import Tally
from credits_fast.testing import CreditsKit, open_kit
from tests.unit.test_findings import STATE

CONFIG: dict[str, Any] = {
    "costs": {"request": {"default": 1}},
    "membership": {"tiers": {}},
    "partitions": 2,
}


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.body)
        return document


@pytest.fixture
async def kit() -> AsyncIterator[CreditsKit]:
    async with open_kit(CONFIG) as opened:
        yield opened


@pytest.fixture
async def door(kit: CreditsKit) -> AsyncIterator[Listening]:
    async with listening(kit.worker, "127.0.0.1:0") as where:
        yield where


async def said(where: Listening, raw: bytes) -> bytes:
    """Everything that is answered until the connection is closed."""
    reader, writer = await asyncio.open_connection(where.host, where.port)
    writer.write(raw)
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def ask(where: Listening, path: str, method: str = "GET") -> Answer:
    raw = await said(where, f"{method} {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return Answer(int(first.split()[1]), headers, body)


async def metrics_of(where: Listening) -> dict[str, float]:
    """Every sample by its name and labels, as Prometheus' own parser reads it."""
    page = (await ask(where, "/metrics")).body.decode()
    return {
        ",".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


@asynccontextmanager
async def running(kit: CreditsKit) -> AsyncGenerator[None, None]:
    """The worker at work, at least one step of it done."""
    stop = asyncio.Event()
    task = asyncio.create_task(kit.worker.run(stop))
    async with asyncio.timeout(20):
        while kit.worker.tally.turned_s is None:
            await asyncio.sleep(0)
    try:
        yield
    finally:
        stop.set()
        await task


async def test_a_worker_is_ready_after_its_first_step(kit: CreditsKit, door: Listening) -> None:
    before = await ask(door, "/readyz")
    async with running(kit):
        after = await ask(door, "/readyz")

    assert (503, "starting") == (before.status, before.json["status"])
    assert (200, "ready", [0, 1]) == (after.status, after.json["status"], after.json["owned"])
    assert kit.worker.id == after.json["worker"]


async def test_a_worker_that_waits_for_a_server_is_healthy_and_not_ready(
    kit: CreditsKit, door: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> Any:
        raise RedisUnavailableError("Redis is away")

    monkeypatch.setattr(kit.worker._journal, "read", away)
    async with running(kit):
        ready, healthy, metrics = (
            await ask(door, "/readyz"),
            await ask(door, "/healthz"),
            await metrics_of(door),
        )

    assert (503, "waiting") == (ready.status, ready.json["status"])
    assert "Redis is away" == ready.json["last_error"]
    assert 200 == healthy.status
    assert metrics["credits_fast_failing"] == 1
    assert metrics["credits_fast_errors_total"] >= 1
    assert metrics["credits_fast_last_error_timestamp_seconds"] > 1_700_000_000


async def test_a_worker_whose_steps_do_not_end_is_not_healthy(
    kit: CreditsKit, door: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 200 == (await ask(door, "/healthz")).status
    monkeypatch.setattr(module, "STUCK_S", -1.0)
    stuck = await ask(door, "/healthz")
    kit.worker.tally.turn()

    assert (503, "stuck") == (stuck.status, stuck.json["status"])


async def test_the_metrics_are_what_was_recorded(kit: CreditsKit, door: Listening) -> None:
    await kit.engine.create_user("ada", credits=10)
    for _ in range(3):
        await kit.engine.charge("ada", "request")
    with pytest.raises(InsufficientCreditsError):
        await kit.engine.charge("ada", "request", amount=100)
    number = kit.engine.partitions.of(b"ada").number
    before = await metrics_of(door)
    await kit.sync()
    after = await metrics_of(door)

    assert (0, 0, 0) == tuple(
        before[f"credits_fast_{name}"]
        for name in ("entries_recorded_total", "commits_total", "partitions_owned")
    )
    assert 4 == before[f"credits_fast_journal_entries,{number}"]
    assert 0 == before[f"credits_fast_journal_entries,{1 - number}"]
    assert before["credits_fast_sync_lag_seconds"] > 0
    assert 1 == before["credits_fast_servers_answer"]
    assert [1, 1] == [before[f"credits_fast_partition_open,{one}"] for one in (0, 1)]
    assert {
        "entries_recorded_total": 4,
        "transactions_recorded_total": 3,
        "refusals_recorded_total,INSUFFICIENT_CREDITS": 1,
        "batches_recorded_total": 1,
        "commits_total": 1,
        "batch_decisions_bucket,1.0": 0,
        "batch_decisions_bucket,4.0": 1,
        "batch_decisions_bucket,+Inf": 1,
        "batch_decisions_count": 1,
        "batch_decisions_sum": 4,
        "forks_total": 0,
        "drift_adopted_total": 0,
        "drift_restored_total": 0,
        "stood_in_total": 0,
        "errors_total": 0,
        "partitions_owned": 2,
        "partitions_set_aside": 0,
        "failing": 0,
    }.items() <= {name.removeprefix("credits_fast_"): one for name, one in after.items()}.items()
    assert "credits_fast_last_error_timestamp_seconds" not in after


async def test_one_look_at_the_servers_serves_all_who_ask_at_once(
    door: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    look = partition_states

    async def counted(*arguments: Any) -> Any:
        nonlocal looks
        looks += 1
        return await look(*arguments)

    monkeypatch.setattr(module, "partition_states", counted)
    monkeypatch.setattr(module, "_LOOK_KEPT_S", 3_600.0)
    await asyncio.gather(*(ask(door, "/metrics") for _ in range(8)))

    assert 1 == looks


async def test_what_the_worker_counted_is_told_though_no_server_answers(
    kit: CreditsKit, door: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> Any:
        raise RedisUnavailableError("away")

    await kit.engine.create_user("ada", credits=10)
    await kit.engine.charge("ada", "request")
    await kit.sync()
    monkeypatch.setattr(module, "partition_states", away)
    found = await metrics_of(door)

    assert (1, 0) == (
        found["credits_fast_entries_recorded_total"],
        found["credits_fast_servers_answer"],
    )
    assert not [name for name in found if "partition_" in name or "lag" in name]


async def test_a_partition_that_is_set_aside_is_counted_and_the_worker_stays_ready(
    kit: CreditsKit, door: Listening
) -> None:
    await kit.engine.create_user("ada", credits=10)
    await kit.engine.charge("ada", "request")
    await kit.sync()
    lane = await kit.engine.lane()
    await lane.execute(b"SET", kit.engine.partitions.of(b"ada").account(b"ada"), b"1-0 5 0 9  ")
    await kit.engine.charge("ada", "request", amount=0)
    async with running(kit):
        async with asyncio.timeout(20):
            while not kit.worker.set_aside:
                await asyncio.sleep(0)
        ready, metrics = await ask(door, "/readyz"), await metrics_of(door)

    assert (200, 1) == (ready.status, len(ready.json["set_aside"]))
    assert (1, 0) == (
        metrics["credits_fast_partitions_set_aside"],
        metrics["credits_fast_forks_total"],
    )


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_head_is_get_without_the_body(door: Listening, path: str) -> None:
    get, head = await ask(door, path), await ask(door, path, "HEAD")

    assert (get.status, b"") == (head.status, head.body)
    assert str(len(get.body)) == get.headers["content-length"]
    assert head.headers["content-length"].isdecimal()
    assert "close" == head.headers["connection"]


@pytest.mark.parametrize(
    ("status", "path", "method"),
    [
        (404, "/", "GET"),
        (404, "/metrics/", "GET"),
        (404, "/secret", "POST"),
        (405, "/metrics", "POST"),
        (405, "/healthz", "DELETE"),
        (200, "/metrics?name=x", "GET"),
    ],
)
async def test_nothing_else_is_there_and_nothing_else_is_done(
    door: Listening, status: int, path: str, method: str
) -> None:
    answer = await ask(door, path, method)

    assert status == answer.status
    assert (status == 405) == (answer.headers.get("allow") == "get, head")


@pytest.mark.parametrize(
    ("status", "raw"),
    [
        (b"400", b"nonsense\r\n\r\n"),
        (b"400", b"GET /metrics HTTP/1.1\r\n\r\n"),  # no Host
        (b"400", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),  # TLS
        (b"431", b"GET /metrics HTTP/1.1\r\nHost: here\r\nX: " + b"x" * 20_000),
    ],
)
async def test_what_is_no_request_is_refused(door: Listening, status: bytes, raw: bytes) -> None:
    assert status == (await said(door, raw)).split()[1]
    assert 200 == (await ask(door, "/healthz")).status


async def test_a_caller_that_says_nothing_is_left(
    door: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REQUEST_S", 0.01)

    assert b"" == await said(door, b"GET /metr")


async def test_more_callers_than_are_let_in_are_turned_away(
    door: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CONNECTIONS_MAX", 0)
    turned_away = await said(door, b"")
    monkeypatch.undo()

    assert b"" == turned_away
    assert 200 == (await ask(door, "/healthz")).status


async def test_callers_that_hang_do_not_keep_it_from_ending(
    kit: CreditsKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REQUEST_S", 3_600.0)
    async with asyncio.timeout(20), listening(kit.worker, "127.0.0.1:0") as where:
        reader, writer = await asyncio.open_connection(where.host, where.port)
        writer.write(b"GET /metr")
        await ask(where, "/healthz")
    assert b"" == await reader.read()
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    "listen", ["", "9464", "127.0.0.1", "127.0.0.1:", ":9464", "::1:9464", "h:x", "h:65536"]
)
async def test_what_is_no_address_is_a_mistake(kit: CreditsKit, listen: str) -> None:
    with pytest.raises(ConfigurationError, match="is not host:port"):
        async with listening(kit.worker, listen):
            pass


async def test_an_address_in_use_is_a_mistake(kit: CreditsKit) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigurationError, match="cannot be listened on"):
            async with listening(kit.worker, address):
                pass


def test_every_metric_is_in_the_guide_and_no_other() -> None:
    tally = Tally()
    tally.turn(RedisUnavailableError("away"))
    page = exposed(tally, owned=0, set_aside={}, states=[STATE]).decode()
    ours = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in text_string_to_metric_families(page)
    }
    guide = (Path(__file__).parents[2] / "docs" / "operating.md").read_text(encoding="utf-8")

    assert ours == set(re.findall(r"`(credits_fast_[a-z_]+)(?:\{\w+\})?`", guide))
