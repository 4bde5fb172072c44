"""The doctor on real servers: a good set-up is good, and every bad one is found with its remedy."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from credits_fast.checks.doctor import examine
from credits_fast.checks.findings import Finding
from credits_fast.ledger.database import connect, writing
from credits_fast.protocol.keys import Partitions
from credits_fast.servers.endpoints import AnyEndpoint
from credits_fast.servers.lane import Endpoint, Lane
from credits_fast.servers.processes import start_valkey
from credits_fast.servers.routing import router_to
from credits_fast.sync.tables import sync_workers
from credits_fast.testing import CreditsKit, kit_on
from tests.integration.conftest import CONFIG
from tests.integration.test_least_privilege import documented_commands, endpoint_of
from tests.servers import Servers
from tests.transaction_pooler import TransactionPooler

PARTITIONS = Partitions("credits", 4)


async def found(
    endpoint: AnyEndpoint, database: AsyncEngine, partitions: Partitions = PARTITIONS
) -> dict[str, Finding]:
    """The worst finding of each check."""
    worst = ("ok", "advice", "warning", "error").index
    router = router_to(endpoint)
    router.open()
    findings = await examine(router, database, partitions)
    await router.close()
    return {one.check: one for one in sorted(findings, key=lambda one: worst(one.severity))}


def bad(findings: Mapping[str, Finding]) -> dict[str, str]:
    return {check: one.severity for check, one in findings.items() if one.severity != "ok"}


@asynccontextmanager
async def valkey(folder: Path, *options: str) -> AsyncGenerator[Endpoint, None]:
    """A server of its own that writes an append-only file, with these options."""
    short = Path(tempfile.mkdtemp(prefix="cf-"))
    process = await start_valkey(folder, short / "s", persistent=True, options=options)
    try:
        yield Endpoint.from_url(f"unix://{short}/s")
    finally:
        process.stop(signal.SIGKILL)
        shutil.rmtree(short)


@pytest.fixture
async def good(tmp_path: Path, sqlite_database: AsyncEngine) -> AsyncIterator[CreditsKit]:
    """A set-up with which nothing is wrong: a limit, a file, a worker that has carried everything."""
    async with (
        valkey(tmp_path, "--maxmemory", "100mb") as endpoint,
        kit_on(CONFIG, endpoint, sqlite_database, None) as kit,
    ):
        await kit.engine.create_user("ada", credits=100)
        await kit.engine.charge("ada", "image")
        await kit.sync()
        yield kit


async def of(kit: CreditsKit) -> dict[str, Finding]:
    return await found(kit.engine.endpoint, kit.database)


async def test_with_a_good_set_up_nothing_is_wrong(good: CreditsKit) -> None:
    findings = await of(good)

    assert {"database": "advice", "replicas": "advice"} == bad(findings)
    assert {"scripts", "memory_policy", "persistence", "clock", "lag", "leases"} <= findings.keys()
    assert "1 alive" == findings["workers"].found
    assert "namespace credits, 4 partitions, format 1" == findings["set_up"].found


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        ({"memory_policy": "error"}, ("maxmemory-policy", "allkeys-lru")),
        ({"memory_limit": "advice"}, ("maxmemory", "0")),
        ({"persistence": "error"}, ("appendonly", "no")),
        ({"appendfsync": "warning"}, ("appendfsync", "no")),
    ],
)
async def test_a_bad_setting_of_the_server_is_found(
    good: CreditsKit, expected: dict[str, str], words: tuple[str, str]
) -> None:
    lane = await good.engine.lane()
    await lane.execute(b"CONFIG", b"SET", *(word.encode() for word in words))

    assert {"database": "advice", "replicas": "advice", **expected} == bad(await of(good))


async def test_a_worker_that_is_gone_is_found(good: CreditsKit) -> None:
    async with writing(good.database) as connection:
        await connection.execute(update(sync_workers).values(alive_until_ms=1))
    assert "error" == bad(await of(good))["workers"]

    await good.worker.close()
    findings = bad(await of(good))
    assert ("error", "warning") == (findings["workers"], findings["leases"])


async def test_a_partition_that_is_fenced_is_found(good: CreditsKit) -> None:
    lane = await good.engine.lane()
    await lane.execute(b"SET", good.engine.partitions[2].gate, b"1 another 1 0.1.0")
    finding = (await of(good))["partition_open"]

    assert ("error", "partition 2") == (finding.severity, finding.where)


async def test_another_number_of_partitions_is_found(good: CreditsKit) -> None:
    findings = await found(good.engine.endpoint, good.database, Partitions("credits", 8))

    assert "error" == findings["set_up"].severity
    assert "belongs to namespace credits, 4 partitions" in findings["set_up"].found


async def test_a_database_that_was_not_migrated_is_found(
    redis_endpoint: Endpoint, tmp_path: Path
) -> None:
    database = connect(f"sqlite:///{tmp_path}/empty.db")
    findings = await found(redis_endpoint, database)
    await database.dispose()

    assert "no credits-fast schema" == findings["migrations"].found
    assert "credits-fast migrate" in findings["migrations"].remedy
    assert not {"workers", "lag", "set_up"} & findings.keys()


async def test_servers_that_do_not_answer_are_findings() -> None:
    endpoint = Endpoint.from_url("redis://127.0.0.1:1")
    database = connect("postgresql+asyncpg://me:secret@127.0.0.1:1/ledger")
    findings = await found(endpoint, database)
    await database.dispose()

    assert {"redis": "error", "database": "error"} == bad(findings)
    assert "secret" not in str(findings)


@pytest.mark.usefixtures("redis_endpoint")
async def test_a_permission_that_is_missing_is_named(
    servers: Servers, sqlite_database: AsyncEngine
) -> None:
    commands = [command for command in documented_commands() if command != "XTRIM"]
    findings = await found(await endpoint_of(servers, commands), sqlite_database)

    assert "error" == findings["scripts"].severity
    assert "xtrim" in findings["scripts"].found.lower()


@pytest.mark.usefixtures("redis_endpoint")
async def test_a_user_with_the_documented_permissions_can_be_examined(
    servers: Servers, sqlite_database: AsyncEngine
) -> None:
    endpoint = await endpoint_of(servers, documented_commands())
    findings = bad(await found(endpoint, sqlite_database))

    assert not {"scripts", "server_information"} & findings.keys()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_the_settings_of_postgresql_are_those_of_our_connections(
    redis_endpoint: Endpoint, servers: Servers, driver: str
) -> None:
    """The servers of a test run are set up for speed, which is found; and there is no pooler."""
    url = await servers.empty_database(driver)
    database = connect(url.render_as_string(hide_password=False))
    findings = await found(redis_endpoint, database)
    await database.dispose()

    assert ("error", "warning", "warning") == tuple(
        findings[name].severity for name in ("fsync", "full_page_writes", "synchronous_commit")
    )
    assert "none is seen" == findings["pooler"].found
    assert findings["database"].found.startswith("PostgreSQL 1")


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_pooler_that_loses_prepared_statements_is_found(
    redis_endpoint: Endpoint, servers: Servers, driver: str
) -> None:
    url = await servers.empty_database(driver)
    folder = Path(tempfile.mkdtemp(prefix="cf-"))
    async with TransactionPooler(folder, str(url.query["host"])):
        through = url.update_query_dict({"host": str(folder)})
        database = connect(through.render_as_string(hide_password=False))
        async with asyncio.timeout(30):
            findings = await found(redis_endpoint, database)
        await database.dispose()
    shutil.rmtree(folder)

    assert "error" == findings["pooler"].severity
    assert "prepared statement" in findings["pooler"].found


async def test_a_pooler_through_which_statements_need_not_be_prepared_is_good(
    redis_endpoint: Endpoint, servers: Servers
) -> None:
    url = await servers.empty_database("asyncpg")
    folder = Path(tempfile.mkdtemp(prefix="cf-"))
    async with TransactionPooler(folder, str(url.query["host"])):
        words = {"host": str(folder), "prepared_statement_cache_size": "0"}
        database = connect(url.update_query_dict(words).render_as_string(hide_password=False))
        async with asyncio.timeout(30):
            findings = await found(redis_endpoint, database)
        await database.dispose()
    shutil.rmtree(folder)

    assert "ok" == findings["pooler"].severity
    assert findings["pooler"].found.startswith("one that pools by transaction")


async def test_looking_changes_nothing(good: CreditsKit) -> None:
    lane = await Lane.open(good.engine.endpoint)  # type: ignore[arg-type]
    before = await lane.execute(b"DBSIZE")
    await of(good)

    assert before == await lane.execute(b"DBSIZE")
    await lane.close()
    await good.assert_balanced()
