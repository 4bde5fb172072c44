"""What an operator is told of a cluster: each partition's node, each node's fitness, one that is away."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from credits_fast import RedisUnavailableError
from credits_fast.checks.doctor import examine
from credits_fast.checks.partition_states import partition_states
from credits_fast.checks.verification import verify
from credits_fast.testing import CreditsKit, kit_on
from tests.cluster_servers import Cluster
from tests.integration.test_cluster import HASTY, PER_NODE, create, users_by_node


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    cluster = await Cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture
async def kit(cluster: Cluster, sqlite_database: AsyncEngine) -> AsyncIterator[CreditsKit]:
    async with kit_on(HASTY, cluster.endpoint, sqlite_database, None) as opened:
        yield opened


async def test_a_cluster_is_looked_at_node_by_node(cluster: Cluster, kit: CreditsKit) -> None:
    users = users_by_node(kit.engine)
    await create(kit.engine, users)
    await asyncio.gather(*(kit.engine.charge(user, "image") for group in users for user in group))
    everything = kit.engine.router, kit.database, kit.engine.partitions
    states, found, findings = (
        await partition_states(*everything),
        await verify(*everything),
        await examine(*everything),
    )

    nodes = [f"127.0.0.1:{node.port}" for node in cluster.nodes[:3]]
    assert dict.fromkeys(nodes, PER_NODE) == Counter(state.node for state in states)
    assert {("open", 1)} == {(state.state, state.journal_length) for state in states}
    assert (True, 12, 12, 12) == (
        found.is_verified,
        found.compared,
        found.second_looks,
        found.transactions_waiting,
    )
    fit = {"scripts", "mode", "role", "memory_policy"}
    assert {(node, check) for node in nodes for check in fit} == {
        (one.where, one.check) for one in findings if one.check in fit and one.severity == "ok"
    }


async def test_a_node_that_is_away_is_told_for_its_partitions_alone(
    cluster: Cluster, kit: CreditsKit
) -> None:
    everything = kit.engine.router, kit.database, kit.engine.partitions
    cluster.nodes[1].stop()
    states, findings = await partition_states(*everything), await examine(*everything)

    number = Counter(state.state for state in states)
    assert {"open": 2 * PER_NODE, "away": PER_NODE} == number
    assert {f"partition {number}" for number in range(PER_NODE, 2 * PER_NODE)} == {
        one.where for one in findings if one.check == "partition_open"
    }
    with pytest.raises(RedisUnavailableError):
        await verify(*everything)
