"""Starting: what is refused at the door, in one line that says which, where and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from credits_fast import (
    ConfigurationError,
    CreditsEngine,
    CreditsError,
    DatabaseUnavailableError,
    EngineClosedError,
    IncompatibleFormatError,
    RedisUnavailableError,
    SchemaMismatchError,
    UnsuitableServerError,
)
from credits_fast.ledger.database import connect
from credits_fast.protocol.keys import Partitions
from credits_fast.servers.lane import Endpoint, Lane
from credits_fast.sync.tables import sync_partitions
from credits_fast.testing import kit_on
from tests.integration.conftest import CONFIG
from tests.servers import Servers


async def refusal_of(engine: CreditsEngine) -> CreditsError:
    with pytest.raises(CreditsError) as refused:
        await engine.start()
    return refused.value


async def test_an_engine_without_servers_or_configuration_is_a_mistake(
    redis_endpoint: Endpoint,
    sqlite_database: AsyncEngine,
) -> None:
    with pytest.raises(ConfigurationError, match="redis: is required"):
        CreditsEngine(CONFIG, redis=None, database=sqlite_database)
    with pytest.raises(ConfigurationError, match="database: is required"):
        CreditsEngine(CONFIG, redis=redis_endpoint, database=None)
    with pytest.raises(ConfigurationError, match="a configuration is required"):
        CreditsEngine(None, redis=redis_endpoint, database=sqlite_database)


@pytest.mark.parametrize("url", ["nonsense", "oracle://h/d", "mysql+nodriver://h"])
def test_a_database_url_that_cannot_be_used_is_a_mistake(url: str) -> None:
    with pytest.raises(ConfigurationError, match="database_url: cannot be used"):
        CreditsEngine.from_url("redis://h", url, CONFIG)


async def test_a_redis_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/credits.db"
    error = await refusal_of(
        CreditsEngine.from_url("redis://:secret@127.0.0.1:1", database, CONFIG)
    )

    assert isinstance(error, RedisUnavailableError)
    assert error.message.startswith("Redis at 127.0.0.1:1 cannot be reached")
    assert "start the server" in error.message
    assert not {"secret", "\n"} & {*error.message.split()}


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_database_that_does_not_answer_is_one_line(servers: Servers, driver: str) -> None:
    url = f"postgresql+{driver}://me:secret@127.0.0.1:1/ledger"
    error = await refusal_of(CreditsEngine.from_url(servers.redis_url, url, CONFIG))

    assert isinstance(error, DatabaseUnavailableError)
    assert f"postgresql+{driver}://me:***@127.0.0.1:1/ledger" in error.message
    assert "secret" not in error.message


async def test_a_database_that_was_not_migrated_says_what_to_run(
    servers: Servers,
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path}/credits.db"
    error = await refusal_of(CreditsEngine.from_url(servers.redis_url, url, CONFIG))

    assert isinstance(error, SchemaMismatchError)
    assert error.message.endswith("run: credits-fast migrate")


@pytest.mark.parametrize("policy", [b"allkeys-lru", b"volatile-ttl", b"allkeys-random"])
async def test_a_server_that_evicts_is_refused(
    redis_endpoint: Endpoint,
    sqlite_database: AsyncEngine,
    policy: bytes,
) -> None:
    lane = await Lane.open(redis_endpoint)
    await lane.execute(b"CONFIG", b"SET", b"maxmemory-policy", policy)
    try:
        engine = CreditsEngine(CONFIG, redis=redis_endpoint, database=sqlite_database)
        error = await refusal_of(engine)
    finally:
        await lane.execute(b"CONFIG", b"SET", b"maxmemory-policy", b"noeviction")
        await lane.close()

    assert isinstance(error, UnsuitableServerError)
    assert policy.decode() in error.message
    assert "set it to noeviction" in error.message


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"partitions": 8}, "belongs to namespace 'credits' with 4 partitions"),
        ({"namespace": "other"}, "belongs to namespace 'credits' with 4 partitions"),
    ],
)
async def test_a_ledger_of_another_set_up_is_not_touched(
    redis_endpoint: Endpoint,
    sqlite_database: AsyncEngine,
    changed: dict[str, Any],
    message: str,
) -> None:
    async with kit_on(CONFIG, redis_endpoint, sqlite_database, None):
        pass

    config = {**CONFIG, **changed}
    error = await refusal_of(CreditsEngine(config, redis=redis_endpoint, database=sqlite_database))

    assert isinstance(error, SchemaMismatchError)
    assert message in error.message


async def test_a_redis_with_another_number_of_partitions_is_not_touched(
    redis_endpoint: Endpoint,
    sqlite_database: AsyncEngine,
) -> None:
    async with kit_on(CONFIG, redis_endpoint, sqlite_database, None) as kit:
        lane = await kit.engine.lane()
        keys = kit.engine.partitions[0]
        await lane.execute(b"SET", keys.gate, b"1 other 1 0.1.0")
        await lane.execute(b"HSET", keys.meta, b"partitions", b"9")

    engine = CreditsEngine(CONFIG, redis=redis_endpoint, database=sqlite_database)
    error = await refusal_of(engine)

    assert isinstance(error, SchemaMismatchError)
    assert "Redis holds 9 partitions" in error.message


async def test_keys_in_another_format_are_not_touched_and_told_by_whom(
    redis_endpoint: Endpoint,
    sqlite_database: AsyncEngine,
) -> None:
    async with kit_on(CONFIG, redis_endpoint, sqlite_database, None) as kit:
        lane = await kit.engine.lane()
        keys = kit.engine.partitions[0]
        await lane.execute(b"DEL", keys.gate)
        await lane.execute(b"HSET", keys.meta, b"format", b"2", b"library", b"9.9.9")

    engine = CreditsEngine(CONFIG, redis=redis_endpoint, database=sqlite_database)
    error = await refusal_of(engine)

    assert isinstance(error, IncompatibleFormatError)
    assert ("2", "9.9.9") == (error.found, error.written_by)


async def test_keys_that_changed_their_format_meanwhile_refuse_charges(
    redis_endpoint: Endpoint,
    sqlite_database: AsyncEngine,
) -> None:
    async with kit_on(CONFIG, redis_endpoint, sqlite_database, None) as kit:
        await kit.engine.create_user("ada", credits=100)
        lane = await kit.engine.lane()
        gate = kit.engine.partitions.of(b"ada").gate
        await lane.execute(b"SET", gate, b"2 %b 1 9.9.9" % lane.run.encode())

        with pytest.raises(IncompatibleFormatError, match=r"by credits-fast 9\.9\.9"):
            await kit.engine.charge("ada", "image")


async def test_a_ledger_in_another_format_is_not_touched(
    redis_endpoint: Endpoint,
    sqlite_database: AsyncEngine,
) -> None:
    async with kit_on(CONFIG, redis_endpoint, sqlite_database, None):
        pass
    async with sqlite_database.begin() as connection:
        await connection.execute(update(sync_partitions).values(format="2"))

    engine = CreditsEngine(CONFIG, redis=redis_endpoint, database=sqlite_database)

    assert isinstance(await refusal_of(engine), IncompatibleFormatError)


async def test_several_programs_may_start_at_the_same_moment(
    redis_endpoint: Endpoint,
    database: AsyncEngine,
) -> None:
    import asyncio

    engines = [CreditsEngine(CONFIG, redis=redis_endpoint, database=database) for _ in range(4)]

    await asyncio.gather(*(engine.start() for engine in engines))

    await engines[0].create_user("ada", credits=100)
    await asyncio.gather(*(engine.charge("ada", "image") for engine in engines))
    assert 20 == await engines[1].query_balance("ada")
    for engine in engines:
        await engine.close()


async def test_an_engine_that_is_not_open_says_so(
    redis_endpoint: Endpoint,
    sqlite_database: AsyncEngine,
) -> None:
    engine = CreditsEngine(CONFIG, redis=redis_endpoint, database=sqlite_database)
    for call in (engine.charge("ada", "image"), engine.get_user("ada"), engine.wait_recorded()):
        with pytest.raises(EngineClosedError, match="enter it with `async with`"):
            await call
    await engine.start()
    await engine.create_user("ada")
    await engine.close()
    with pytest.raises(EngineClosedError):
        await engine.query_balance("ada")


@pytest.mark.usefixtures("redis_endpoint")
async def test_an_engine_can_be_made_around_a_client_and_leaves_it_open(
    servers: Servers,
    sqlite_database: AsyncEngine,
) -> None:
    from redis.asyncio import Redis

    client = Redis.from_url(servers.redis_url, decode_responses=True)
    async with kit_on(CONFIG, client, sqlite_database, None) as kit:
        await kit.engine.create_user("ada", credits=100)
        assert 80 == (await kit.engine.charge("ada", "image")).balance_after

    assert await client.exists(Partitions("credits", 4).of(b"ada").account(b"ada"))
    await client.aclose()
    async with sqlite_database.connect():
        pass


async def test_a_url_names_every_supported_database(postgresql_url: str, tmp_path: Path) -> None:
    names = {
        "postgres://h/d": "postgresql+asyncpg",
        "postgresql://h/d": "postgresql+asyncpg",
        "postgresql+psycopg://h/d": "postgresql+psycopg",
        f"sqlite:///{tmp_path}/x.db": "sqlite+aiosqlite",
        postgresql_url: "postgresql+asyncpg",
    }
    for url, name in names.items():
        engine = connect(url)
        assert name == engine.url.drivername
        await engine.dispose()
