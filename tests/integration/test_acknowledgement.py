"""What a caller is told of a decision's durability, on real servers: what is so, and never more."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from credits_fast import InsufficientCreditsError, InvalidArgumentError, UnsuitableServerError
from credits_fast.calls.commits import Commits
from credits_fast.ledger.records import Records
from credits_fast.servers.lane import Endpoint
from credits_fast.testing import CreditsKit, kit_on
from tests.cluster_servers import Node, free_port, until
from tests.integration.conftest import CONFIG

SHORT_MS = 30
"""For what is not going to be confirmed."""
LONG_MS = 60_000
"""For what is: no test waits so long."""


@dataclass
class Pair:
    """A primary that writes an append-only file, and its replica."""

    folder: Path
    primary: Node
    replica: Node

    @classmethod
    async def start(cls) -> Pair:
        folder = Path(tempfile.mkdtemp(prefix="cf-pair-"))
        option = ("--repl-diskless-sync-delay", "0")
        primary = Node(folder / "0", free_port(), option)
        follow = ("--replicaof", f"127.0.0.1 {primary.port}", *option)
        pair = cls(folder, primary, Node(folder / "1", free_port(), follow))
        try:
            await primary.start()
            await pair.replica.start()
            await primary.ask("CONFIG", "SET", "appendonly", "yes")
            await until(pair.is_whole, "the replica follows and the append-only file is written")
        except BaseException:
            pair.stop()
            raise
        return pair

    async def is_whole(self) -> bool:
        link = await self.replica.fields("INFO", "replication")
        file = await self.primary.fields("INFO", "persistence")
        return (link.get("master_link_status"), file["aof_rewrite_in_progress"]) == ("up", "0")

    def tell_replica(self, how: signal.Signals) -> None:
        self.replica.process.process.send_signal(how)

    def stop(self) -> None:
        for node in (self.replica, self.primary):
            if hasattr(node, "process"):
                node.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def shared_pair() -> Iterator[Pair]:
    pair = asyncio.run(Pair.start())
    yield pair
    pair.stop()


@pytest.fixture
async def pair(shared_pair: Pair) -> AsyncIterator[Pair]:
    await shared_pair.primary.ask("FLUSHALL")
    await shared_pair.primary.ask("CONFIG", "SET", "appendfsync", "everysec")
    yield shared_pair
    shared_pair.tell_replica(signal.SIGCONT)


@asynccontextmanager
async def kit_of(
    pair: Pair, database: AsyncEngine, timeout_ms: int, **settings: Any
) -> AsyncGenerator[CreditsKit, None]:
    config = {**CONFIG, "acknowledge": {"timeout_ms": timeout_ms, **settings}}
    endpoint = Endpoint.from_url(f"redis://{pair.primary.address}")
    async with kit_on(config, endpoint, database, None) as kit:
        await kit.engine.create_user("ada", credits=1_000)
        yield kit


async def test_every_operation_says_that_its_replica_has_it(
    pair: Pair, sqlite_database: AsyncEngine
) -> None:
    async with kit_of(pair, sqlite_database, LONG_MS, level="replicated") as kit:
        credits = kit.engine
        charge = await credits.charge("ada", "image")
        results: list[Any] = [
            charge,
            await credits.refund("ada", 5, "image", transaction_id=charge.transaction_id),
            await credits.grant("ada", 5, "bonus"),
            await credits.upgrade_tier("ada", "pro"),
            *await asyncio.gather(*(credits.charge("ada", "image") for _ in range(20))),
        ]

        assert {"replicated"} == {one.acknowledged for one in results}
        less = await credits.charge("ada", "image", acknowledge="memory")
        assert "memory" == less.acknowledged
        await kit.assert_balanced()


async def test_a_frozen_replica_is_a_shortfall_and_no_failure(
    pair: Pair, sqlite_database: AsyncEngine
) -> None:
    async with kit_of(pair, sqlite_database, SHORT_MS, level="replicated") as kit:
        pair.tell_replica(signal.SIGSTOP)
        results = await asyncio.gather(*(kit.engine.charge("ada", "image") for _ in range(5)))

        assert {("memory", False)} == {(one.acknowledged, one.replayed) for one in results}
        assert 900 == await kit.engine.query_balance("ada")
        await kit.assert_balanced()


async def test_who_asks_for_less_does_not_wait_for_who_asks_for_more(
    pair: Pair, sqlite_database: AsyncEngine
) -> None:
    async with kit_of(pair, sqlite_database, LONG_MS) as kit:
        await kit.engine.charge("ada", "free", acknowledge="replicated")
        pair.tell_replica(signal.SIGSTOP)
        more = asyncio.create_task(kit.engine.charge("ada", "image", acknowledge="replicated"))

        async def is_charged() -> bool:
            return await kit.engine.query_balance("ada") == 980

        await until(is_charged, "the charge that waits for its replica is decided")
        less = await asyncio.gather(*(kit.engine.charge("ada", "image") for _ in range(5)))

        assert not more.done()
        assert {"memory"} == {one.acknowledged for one in less}
        pair.tell_replica(signal.SIGCONT)
        assert "replicated" == (await more).acknowledged


async def test_a_refusal_has_nothing_to_wait_for(pair: Pair, sqlite_database: AsyncEngine) -> None:
    async with kit_of(pair, sqlite_database, LONG_MS, level="replicated") as kit:
        pair.tell_replica(signal.SIGSTOP)
        with pytest.raises(InsufficientCreditsError):
            async with asyncio.timeout(LONG_MS / 2_000):
                await kit.engine.charge("ada", "image", amount=5_000)
        pair.tell_replica(signal.SIGCONT)


async def test_a_repeated_call_says_how_far_the_first_one_has_come(
    pair: Pair, sqlite_database: AsyncEngine
) -> None:
    """The repeated one writes nothing, and was decided on another connection."""
    async with kit_of(pair, sqlite_database, SHORT_MS) as kit:
        ask: dict[str, Any] = {"idempotency_key": "k"}
        await kit.engine.charge("ada", "free", acknowledge="replicated")
        pair.tell_replica(signal.SIGSTOP)
        await kit.engine.charge("ada", "image", **ask)
        frozen = await kit.engine.charge("ada", "image", acknowledge="replicated", **ask)
        assert (True, "memory") == (frozen.replayed, frozen.acknowledged)

        pair.tell_replica(signal.SIGCONT)

        async def has_it() -> bool:
            again = await kit.engine.charge("ada", "image", acknowledge="replicated", **ask)
            assert again.replayed
            return again.acknowledged == "replicated"

        await until(has_it, "the replica has the first charge")


@pytest.mark.parametrize(
    ("fsync", "replicas", "timeout_ms", "level"),
    [
        ("everysec", 0, LONG_MS, "fsynced"),
        ("always", 0, LONG_MS, "fsynced"),
        ("no", 0, SHORT_MS, "memory"),
        ("always", 1, SHORT_MS, "memory"),  # the replica writes no append-only file
    ],
)
async def test_the_disk_confirms_what_the_server_is_set_to_bring_there(
    pair: Pair,
    sqlite_database: AsyncEngine,
    fsync: str,
    replicas: int,
    timeout_ms: int,
    level: str,
) -> None:
    await pair.primary.ask("CONFIG", "SET", "appendfsync", fsync)
    settings = {"level": "fsynced", "fsynced_replicas": replicas}
    async with kit_of(pair, sqlite_database, timeout_ms, **settings) as kit:
        assert level == (await kit.engine.charge("ada", "image")).acknowledged
        assert 980 == await kit.engine.query_balance("ada")


async def test_a_server_without_a_file_is_refused_where_it_is_to_be_on_disk(
    redis_endpoint: Endpoint, sqlite_database: AsyncEngine
) -> None:
    config = {**CONFIG, "acknowledge": {"level": "fsynced"}}
    with pytest.raises(UnsuitableServerError, match=r"'fsynced'.*appendonly"):
        async with kit_on(config, redis_endpoint, sqlite_database, None):
            pytest.fail("it must not open")

    async with kit_on(CONFIG, redis_endpoint, sqlite_database, None) as kit:
        await kit.engine.create_user("ada", credits=100)
        with pytest.raises(UnsuitableServerError):
            await kit.engine.charge("ada", "image", acknowledge="fsynced")
        assert 100 == await kit.engine.query_balance("ada")


async def test_too_few_replicas_are_told_before_callers_wait_in_vain(
    sqlite_kit: CreditsKit, caplog: pytest.LogCaptureFixture
) -> None:
    await sqlite_kit.engine._levels.way("replicated")

    assert "has 0 replicas now, acknowledgement level 'replicated' needs 1" in caplog.text


async def test_an_unknown_level_is_refused_before_anything_is_sent(sqlite_kit: CreditsKit) -> None:
    await sqlite_kit.engine.create_user("ada", credits=100)
    level: Any = "engraved"
    with pytest.raises(InvalidArgumentError, match="memory, replicated, fsynced, committed"):
        await sqlite_kit.engine.charge("ada", "image", acknowledge=level)

    assert 100 == await sqlite_kit.engine.query_balance("ada")


async def test_committed_is_in_the_ledger_when_it_is_said(kit: CreditsKit) -> None:
    await kit.engine.create_user("ada", credits=1_000)
    stop = asyncio.Event()
    working = asyncio.create_task(kit.worker.run(stop))
    ask: dict[str, Any] = {"acknowledge": "committed", "idempotency_key": "k"}
    charge = await kit.engine.charge("ada", "image", **ask)
    again = await kit.engine.charge("ada", "image", **ask)
    known = {one.id for one in await kit.engine.get_history("ada")}
    stop.set()
    await working

    assert charge.transaction_id in known
    assert ("committed", "committed") == (charge.acknowledged, again.acknowledged)
    assert again.replayed


async def test_without_a_worker_committed_is_a_shortfall_and_no_failure(
    redis_endpoint: Endpoint, sqlite_database: AsyncEngine
) -> None:
    config = {**CONFIG, "acknowledge": {"level": "committed", "timeout_ms": SHORT_MS}}
    async with kit_on(config, redis_endpoint, sqlite_database, None) as kit:
        await kit.engine.create_user("ada", credits=100)
        assert "memory" == (await kit.engine.charge("ada", "image")).acknowledged
        assert 80 == await kit.engine.query_balance("ada")
        await kit.assert_balanced()


async def test_many_who_wait_for_the_ledger_share_its_queries(
    sqlite_kit: CreditsKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    credits, asked = sqlite_kit.engine, 0
    await credits.create_user("ada", credits=10_000)
    known = Records.known

    async def counted(records: Records, transaction_ids: set[str]) -> set[str]:
        nonlocal asked
        asked += 1
        return await known(records, transaction_ids)

    monkeypatch.setattr(Records, "known", counted)
    callers = [
        asyncio.create_task(credits.charge("ada", "image", acknowledge="committed"))
        for _ in range(200)
    ]

    async def all_wait() -> bool:
        return len(credits._commits._awaited) == 200

    await until(all_wait, "every caller waits for the ledger")
    await sqlite_kit.sync()

    assert {"committed"} == {one.acknowledged for one in await asyncio.gather(*callers)}
    assert asked <= 20


async def test_a_position_that_moves_past_what_was_lost_confirms_nothing(
    sqlite_kit: CreditsKit,
) -> None:
    await sqlite_kit.engine.create_user("ada", credits=100)
    commits = Commits(sqlite_kit.database, Records(sqlite_kit.database))
    number = sqlite_kit.engine.partitions.of(b"ada").number
    lost = asyncio.create_task(commits.wait(number, "0" * 32, 300))
    await sqlite_kit.engine.charge("ada", "image")
    await sqlite_kit.sync()

    assert not await lost
    await commits.close()
