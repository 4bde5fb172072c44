"""A primary that a real Sentinel watches: named at every connection, left when it is one no more."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis.asyncio.sentinel import Sentinel
from sqlalchemy.ext.asyncio import AsyncEngine

from credits_fast import RedisUnavailableError, UnavailableError
from credits_fast.servers.endpoints import endpoint_from_url
from credits_fast.servers.lane import Endpoint, Lane
from credits_fast.testing import kit_on
from tests.cluster_servers import Node, Watched, until
from tests.integration.conftest import CONFIG as SINGLE
from tests.integration.test_cluster import until_replicated

CONFIG = {
    **SINGLE,
    "retry": {"initial_delay": 5, "max_delay": 50, "max_attempts": 100, "deadline_ms": 20_000},
}


@pytest.fixture(scope="module")
def shared_watched() -> Iterator[Watched]:
    watched = asyncio.run(Watched.start())
    yield watched
    watched.stop()


@pytest.fixture
async def watched(shared_watched: Watched) -> Watched:
    """A primary, a replica and a Sentinel; the primary is empty."""
    await shared_watched.primary.ask("FLUSHALL")
    return shared_watched


@pytest.fixture
async def own_watched() -> AsyncIterator[Watched]:
    """The same, whose servers may be ended."""
    watched = await Watched.start()
    yield watched
    watched.stop()


@pytest.mark.parametrize("given", ["url", "client"])
async def test_the_named_primary_is_charged(
    watched: Watched, sqlite_database: AsyncEngine, given: str
) -> None:
    made: Any = Sentinel
    sentinel = made([("127.0.0.1", watched.sentinel.port)])
    client = sentinel.master_for(watched.service, decode_responses=True)
    redis = client if given == "client" else endpoint_from_url(watched.url)
    async with kit_on(CONFIG, redis, sqlite_database, None) as kit:
        await kit.engine.create_user("ada", credits=100)
        await kit.engine.charge("ada", "image")
        await kit.assert_balanced()
        lane = await kit.engine.lane()
        assert (await watched.primary.fields("INFO", "server"))["run_id"] == lane.run
        assert f"{watched.primary.address} (credits)" == lane.address
    await client.aclose()
    await sentinel.aclose()


async def test_a_service_nobody_watches_is_told_in_one_line(watched: Watched) -> None:
    endpoint = endpoint_from_url(f"redis+sentinel://:secret@{watched.sentinel.address}/nobody")

    assert isinstance(endpoint, Endpoint)
    with pytest.raises(RedisUnavailableError, match="does not know 'nobody'") as refused:
        await endpoint.connect()
    assert "secret" not in refused.value.message
    assert "\n" not in refused.value.message


async def test_without_a_sentinel_the_primary_cannot_be_reached() -> None:
    endpoint = endpoint_from_url("redis+sentinel://127.0.0.1:1,127.0.0.1:2/credits")

    assert isinstance(endpoint, Endpoint)
    with pytest.raises(RedisUnavailableError, match="primary of 'credits' cannot be reached"):
        await endpoint.connect()


async def test_a_sentinel_that_is_away_is_passed_over(watched: Watched) -> None:
    url = watched.url.replace("127.0.0.1", "127.0.0.1:1,127.0.0.1", 1)
    endpoint = endpoint_from_url(url)

    assert isinstance(endpoint, Endpoint)
    lane = await Lane.open(endpoint)
    assert b"PONG" == await lane.execute(b"PING")
    await lane.close()


async def test_when_the_primary_dies_charges_go_on_at_the_one_named_next(
    own_watched: Watched, sqlite_database: AsyncEngine
) -> None:
    endpoint = endpoint_from_url(own_watched.url)
    async with kit_on(CONFIG, endpoint, sqlite_database, None) as kit:
        await kit.engine.create_user("ada", credits=100)
        first = await kit.engine.charge("ada", "image", idempotency_key="k")
        await kit.sync()
        await until_replicated(own_watched.primary, own_watched.replica)

        own_watched.primary.stop(signal.SIGKILL)
        again = await kit.engine.charge("ada", "image", idempotency_key="k")

        assert (True, first.transaction_id) == (again.replayed, again.transaction_id)
        assert 60 == (await kit.engine.charge("ada", "image")).balance_after
        await until(own_watched.is_over, "the Sentinel names the replica")
        lane = await kit.engine.lane()
        assert (await own_watched.replica.fields("INFO", "server"))["run_id"] == lane.run
        await kit.assert_balanced()


async def test_a_primary_that_was_demoted_is_left(
    own_watched: Watched, sqlite_database: AsyncEngine
) -> None:
    """It answers READONLY, and until a Sentinel names another one nothing is charged."""
    config = {**CONFIG, "retry": {"initial_delay": 1, "max_attempts": 2}}
    endpoint = endpoint_from_url(own_watched.url)
    assert isinstance(endpoint, Endpoint)
    async with kit_on(config, endpoint, sqlite_database, None) as kit:
        await kit.engine.create_user("ada", credits=100)
        await kit.engine.charge("ada", "image")
        await until_replicated(own_watched.primary, own_watched.replica)
        before = await kit.engine.lane()
        await demote(own_watched.primary, to=own_watched.replica)

        with pytest.raises(RedisUnavailableError, match="is not a primary now"):
            await endpoint.connect()
        with pytest.raises(RedisUnavailableError, match=r"read only|not a primary"):
            await kit.engine.charge("ada", "image")
        own_watched.primary.stop(signal.SIGKILL)

        async def charged() -> bool:
            try:
                await kit.engine.charge("ada", "image", idempotency_key="k")
            except UnavailableError:
                return False
            return True

        await until(charged, "the charge is decided by the next primary")
        assert before is not await kit.engine.lane()
        assert 60 == await kit.engine.query_balance("ada")


async def demote(primary: Node, *, to: Node) -> None:
    """The primary follows its replica; nobody has told the Sentinel."""
    await primary.ask("REPLICAOF", "127.0.0.1", to.port)
