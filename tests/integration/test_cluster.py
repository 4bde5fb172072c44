"""A real cluster: three primaries and a replica; charges on all, slots that move, nodes that die."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import pytest
from redis.asyncio import RedisCluster
from sqlalchemy.ext.asyncio import AsyncEngine

from credits_fast import (
    Charge,
    ChargeResult,
    CreditsEngine,
    MisconfiguredError,
    PartitionFencedError,
    RedisUnavailableError,
    UnavailableError,
    UnsuitableServerError,
)
from credits_fast.ledger.recording import lag_ms
from credits_fast.protocol.keys import PartitionKeys
from credits_fast.servers.endpoints import endpoint_from_url
from credits_fast.servers.lane import Endpoint
from credits_fast.testing import CreditsKit, kit_on
from tests.cluster_servers import WAIT_S, Cluster, Node, until
from tests.integration.conftest import CONFIG as SINGLE
from tests.integration.test_least_privilege import PASSWORD, USER, documented_commands

CONFIG: dict[str, Any] = {
    **SINGLE,
    "partitions": 12,  # four on each of three nodes
    "retry": {"initial_delay": 5, "max_delay": 50, "max_attempts": 100, "deadline_ms": 20_000},
}
HASTY: dict[str, Any] = {**CONFIG, "retry": {"initial_delay": 1, "max_attempts": 2}}
PER_NODE = 4


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[Cluster]:
    """For tests that end no node: on a machine that stands still for a second nobody takes over."""
    cluster = asyncio.run(Cluster.start(patience_ms=15_000))
    yield cluster
    cluster.stop()


@pytest.fixture
async def cluster(shared_cluster: Cluster) -> Cluster:
    """The cluster, empty."""
    await shared_cluster.empty()
    return shared_cluster


@pytest.fixture
async def own_cluster() -> AsyncIterator[Cluster]:
    """A cluster whose nodes may be ended."""
    cluster = await Cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture
async def kit(cluster: Cluster, sqlite_database: AsyncEngine) -> AsyncIterator[CreditsKit]:
    async with kit_on(CONFIG, cluster.endpoint, sqlite_database, None) as opened:
        yield opened


@pytest.fixture
async def own_kit(own_cluster: Cluster, sqlite_database: AsyncEngine) -> AsyncIterator[CreditsKit]:
    async with kit_on(CONFIG, own_cluster.endpoint, sqlite_database, None) as opened:
        yield opened


def users_by_node(engine: CreditsEngine, per_partition: int = 1) -> list[list[str]]:
    """For each node, users of every partition that is on it in the beginning."""
    found: list[list[str]] = [[] for _ in engine.partitions]
    number = 0
    while any(len(users) < per_partition for users in found):
        number += 1
        user = f"user-{number}"
        users = found[engine.partitions.of(user.encode()).number]
        if len(users) < per_partition:
            users.append(user)
    return [
        [user for users in found[start : start + PER_NODE] for user in users]
        for start in range(0, len(found), PER_NODE)
    ]


async def create(engine: CreditsEngine, users: list[list[str]], balance: int = 1_000) -> None:
    await asyncio.gather(
        *(engine.create_user(user, credits=balance) for group in users for user in group)
    )


def partition_of(engine: CreditsEngine, user: str) -> PartitionKeys:
    return engine.partitions.of(user.encode())


async def run_id(node: Node) -> str:
    return (await node.fields("INFO", "server"))["run_id"]


# --- charges on all nodes -------------------------------------------------------------------------


async def test_charges_are_decided_on_every_node_over_one_connection_each(
    cluster: Cluster, kit: CreditsKit
) -> None:
    users = users_by_node(kit.engine, per_partition=2)
    await create(kit.engine, users)

    charges = [
        Charge(user_id=user, action="free", amount=3) for group in users for user in group
    ] * 10
    results = await kit.engine.charge_many(charges)

    assert len(charges) == sum(isinstance(result, ChargeResult) for result in results)
    for number, node in enumerate(cluster.nodes[:3]):
        journals = [
            await node.ask("XLEN", kit.engine.partitions[number * PER_NODE + at].journal)
            for at in range(PER_NODE)
        ]
        assert 0 < min(journals)
        clients = (await node.ask("CLIENT", "LIST")).decode()
        assert 1 == clients.count(" name=credits-fast ")
    await kit.assert_balanced()
    assert {970} == {await kit.engine.query_balance(user) for group in users for user in group}


@pytest.mark.parametrize("given", ["url", "client"])
async def test_every_operation_works(
    cluster: Cluster, sqlite_database: AsyncEngine, given: str
) -> None:
    client = RedisCluster(host="127.0.0.1", port=cluster.nodes[1].port, decode_responses=True)
    redis = client if given == "client" else cluster.endpoint
    config = {**CONFIG, "refunds": {"above_charge": "refuse"}}
    async with kit_on(config, redis, sqlite_database, None) as kit:
        credits = kit.engine
        for user, *_ in users_by_node(credits):
            await credits.create_user(user, credits=100, tier="basic", idempotency_key="signup")
            assert await credits.validate_access(user, "chat")
            charge = await credits.charge(user, "image", idempotency_key="k")
            assert (await credits.charge(user, "image", idempotency_key="k")).replayed
            await kit.sync()
            lane = await credits.lane(partition_of(credits, user))
            await lane.execute(
                b"DEL", partition_of(credits, user).refunded(charge.transaction_id.encode())
            )
            await credits.refund(user, 5, "image", transaction_id=charge.transaction_id)
            await credits.grant(user, 15, "bonus")
            await credits.upgrade_tier(user, "pro")
            await credits.downgrade_tier(user, "basic")
            await credits.renew_membership(user, datetime.now(UTC) + timedelta(days=30))
            assert await credits.query_balance(user) == (await credits.get_user(user)).credits
        await kit.sync()
        await credits.wait_recorded()
        assert 0 == await lag_ms(credits.router, kit.database, credits.partitions)
        for user, *_ in users_by_node(credits):
            assert 7 == len((await credits.get_history(user)).transactions)
            assert 7 == len(await credits.get_audit_log(user))
        await kit.assert_balanced()
    await client.aclose()


async def test_a_user_with_the_documented_permissions_can_do_everything(
    cluster: Cluster, sqlite_database: AsyncEngine
) -> None:
    """The user's name and password go to every node."""
    await grant_permissions(cluster, documented_commands())
    endpoint = endpoint_from_url(cluster.url.replace("://", f"://{USER}:{PASSWORD}@"))

    async with kit_on(CONFIG, endpoint, sqlite_database, None) as kit:
        users = users_by_node(kit.engine)
        await create(kit.engine, users)
        await kit.engine.charge_many([Charge(user_id=group[0], action="image") for group in users])
        await kit.assert_balanced()


@pytest.mark.parametrize("missing", ["CLUSTER|SLOTS", "ASKING"])
async def test_a_permission_of_a_cluster_that_is_missing_is_told_at_the_start(
    cluster: Cluster, sqlite_database: AsyncEngine, missing: str
) -> None:
    await grant_permissions(cluster, [one for one in documented_commands() if one != missing])
    endpoint = endpoint_from_url(cluster.url.replace("://", f"://{USER}:{PASSWORD}@"))

    with pytest.raises(MisconfiguredError, match=f"(?i)permission.*'{re.escape(missing)}'"):
        async with kit_on(CONFIG, endpoint, sqlite_database, None):
            pass


async def grant_permissions(cluster: Cluster, commands: list[str]) -> None:
    rules = [f"+{command}" for command in commands]
    for node in cluster.nodes:
        words = ("SETUSER", USER, "reset", "on", f">{PASSWORD}", "~{credits:*", *rules)
        await node.ask("ACL", *words)


async def test_a_node_of_a_cluster_is_not_taken_for_a_single_server(
    cluster: Cluster, sqlite_database: AsyncEngine
) -> None:
    endpoint = Endpoint.from_url(f"redis://{cluster.nodes[0].address}")

    with pytest.raises(UnsuitableServerError, match=r"redis\+cluster://"):
        async with kit_on(CONFIG, endpoint, sqlite_database, None):
            pass


async def test_the_worker_program_and_a_command_reach_the_cluster_by_its_url(
    cluster: Cluster, kit: CreditsKit, tmp_path: Path
) -> None:
    environment = {
        **os.environ,
        "CREDITS_REDIS_URL": cluster.url,
        "CREDITS_DATABASE_URL": f"sqlite:///{tmp_path}/credits.db",
        "CREDITS_PARTITIONS": str(len(kit.engine.partitions)),
    }
    users = users_by_node(kit.engine)
    await create(kit.engine, users)
    await kit.engine.charge_many([Charge(user_id=group[0], action="image") for group in users])
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "credits_fast.sync"), env=environment, stderr=subprocess.PIPE
    )
    await kit.engine.wait_recorded(timeout_ms=20_000)
    config = tmp_path / "credits.json"
    config.write_text(json.dumps(SINGLE | {"partitions": 12}))
    command = (sys.executable, "-m", "credits_fast.cli", "balance", users[1][0], "--json")
    asked = await asyncio.create_subprocess_exec(
        *command, env={**environment, "CREDITS_CONFIG": str(config)}, stdout=subprocess.PIPE
    )
    answer, _ = await asked.communicate()
    worker.send_signal(signal.SIGTERM)
    _, log = await worker.communicate()

    assert (0, 0) == (asked.returncode, worker.returncode), log.decode()
    assert b"980" in answer
    for group in users:
        rows = await kit.engine.get_history(group[0])
        assert 2 == len(rows.transactions)


# --- slots that move ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["key by key", "atomically"])
async def test_after_a_slot_has_moved_its_partition_goes_on_at_the_other_node(
    cluster: Cluster, kit: CreditsKit, how: str
) -> None:
    """There and back: MOVED each time, the fence each time, the same journal."""
    user = users_by_node(kit.engine)[0][0]
    partition = partition_of(kit.engine, user)
    await kit.engine.create_user(user, credits=1_000)
    first = await kit.engine.charge(user, "image", idempotency_key="k")
    await kit.sync()
    home = await cluster.owner(partition.slot)

    for target in (cluster.nodes[1], home):
        if how == "atomically":
            await cluster.move_atomically(partition.slot, target)
        else:
            migration = await cluster.move(partition.slot, target)
            assert 0 < await migration.move_keys()
            await migration.finish()

        again = await kit.engine.charge(user, "image", idempotency_key="k")
        assert (True, first.transaction_id) == (again.replayed, again.transaction_id)
        await kit.engine.charge(user, "image")
        gate: bytes = await target.ask("GET", partition.gate)
        assert (await run_id(target)).encode() in gate.split(b" ")

    assert 1_000 - 3 * 20 == await kit.engine.query_balance(user)
    await kit.assert_balanced()


async def test_while_a_slot_moves_what_has_moved_is_answered_and_the_rest_waits(
    cluster: Cluster, kit: CreditsKit
) -> None:
    """ASK: every key of a repeated charge is at the target. TRYAGAIN: a new key is nowhere yet."""
    user = users_by_node(kit.engine)[1][0]
    partition = partition_of(kit.engine, user)
    await kit.engine.create_user(user, credits=100)
    first = await kit.engine.charge(user, "image", idempotency_key="k")
    home = await cluster.owner(partition.slot)
    migration = await cluster.move(partition.slot, cluster.nodes[2])
    await migration.move_keys()

    again = await kit.engine.charge(user, "image", idempotency_key="k")
    assert (True, first.transaction_id) == (again.replayed, again.transaction_id)
    assert 80 == await kit.engine.query_balance(user)
    assert home is await cluster.owner(partition.slot)
    await kit.sync()
    assert 2 == len(await kit.transactions(user))
    waiting = asyncio.create_task(kit.engine.charge(user, "image", idempotency_key="new"))

    async def refused() -> bool:
        errors = await cluster.nodes[2].fields("INFO", "errorstats")
        return "errorstat_TRYAGAIN" in errors

    await until(refused, "the new charge is told to try again")
    assert not waiting.done()
    await migration.finish()

    assert 60 == (await waiting).balance_after
    await kit.assert_balanced()
    await (await cluster.move(partition.slot, home)).move_keys()
    await cluster_settled(cluster, partition.slot, home)


async def cluster_settled(cluster: Cluster, slot: int, node: Node) -> None:
    """Bring a slot back to where the next test expects it."""
    for other in cluster.nodes[:3]:
        await other.ask("CLUSTER", "SETSLOT", slot, "NODE", await node.id())


# --- nodes that die -------------------------------------------------------------------------------


@pytest.fixture
async def hasty_kit(
    own_cluster: Cluster, sqlite_database: AsyncEngine
) -> AsyncIterator[CreditsKit]:
    """Callers see what a patient engine keeps to itself."""
    async with kit_on(HASTY, own_cluster.endpoint, sqlite_database, None) as opened:
        yield opened


async def test_a_primary_is_killed_under_load_and_its_replica_takes_over(
    own_cluster: Cluster, hasty_kit: CreditsKit
) -> None:
    engine, lost, replica = hasty_kit.engine, own_cluster.nodes[0], own_cluster.replica
    users = users_by_node(engine)
    await create(engine, users, balance=100_000)
    load = Load(engine, users)
    async with load:
        await load.progress(40)
        assert 0 < await hasty_kit.worker.step()
        await until_replicated(lost, replica)
        await load.progress(40)
        lost.stop(signal.SIGKILL)
        acknowledged = {user: set(ids) for user, ids in load.acknowledged.items()}
        await load.progress(40, nodes=(1, 2))
        await replica.ask("CLUSTER", "FAILOVER", "TAKEOVER")
        await load.progress(40)

    assert load.errors
    assert all(isinstance(error, UnavailableError) for error in load.errors)
    await hasty_kit.assert_balanced()
    for group, names in enumerate(users):
        for user in names:
            rows = [row for row in await hasty_kit.transactions(user) if row.kind == "charge"]
            recorded = {row.id for row in rows}
            assert len(rows) == len(recorded)
            assert recorded <= load.acknowledged[user]
            missing = load.acknowledged[user] - recorded
            allowed = acknowledged[user] if group == 0 else set[str]()
            assert missing <= allowed  # not replicated when its primary was killed


async def test_a_partition_whose_replica_lacks_what_is_recorded_is_closed_until_it_is_repaired(
    own_cluster: Cluster, own_kit: CreditsKit
) -> None:
    engine, lost, replica = own_kit.engine, own_cluster.nodes[0], own_cluster.replica
    users = users_by_node(engine)
    await create(engine, users)
    await engine.charge_many(
        [Charge(user_id=user, action="image") for group in users for user in group]
    )
    await own_kit.sync()
    await until_replicated(lost, replica)
    await cut_off(replica)
    lagging, current = users[0][0], users[0][1]
    await engine.charge(lagging, "image")
    await own_kit.sync()

    lost.stop(signal.SIGKILL)
    await replica.ask("CLUSTER", "FAILOVER", "TAKEOVER")

    assert 960 == (await engine.charge(current, "image")).balance_after
    assert 960 == (await engine.charge(users[1][0], "image")).balance_after
    async with AsyncExitStack() as stack:
        hasty = await stack.enter_async_context(
            kit_on(HASTY, own_cluster.endpoint, own_kit.database, None)
        )
        with pytest.raises(PartitionFencedError, match="Redis has lost history"):
            await hasty.engine.charge(lagging, "image")
    await own_kit.sync()
    repaired = [one.partition for one in own_kit.worker.repaired]
    assert [partition_of(engine, lagging).number] == repaired
    assert 940 == (await engine.charge(lagging, "image")).balance_after
    assert 3 == len(await own_kit.transactions(current))
    assert 4 == len(await own_kit.transactions(lagging))
    await own_kit.assert_balanced()


async def test_a_node_that_is_gone_stops_nobody_elses_partitions(
    own_cluster: Cluster, sqlite_database: AsyncEngine
) -> None:
    """The last node has no replica. Engines and workers that start meanwhile serve the others."""
    gone = own_cluster.nodes[2]
    async with kit_on(HASTY, own_cluster.endpoint, sqlite_database, None) as kit:
        users = users_by_node(kit.engine)
        await create(kit.engine, users)
        gone.stop(signal.SIGKILL)

        with pytest.raises(UnavailableError):
            await kit.engine.charge(users[2][0], "image")
        for group in users[:2]:
            await kit.engine.charge(group[0], "image")
        with pytest.raises(RedisUnavailableError):
            await kit.engine.wait_recorded()
        await kit.sync()
        assert 2 == len(await kit.transactions(users[1][0]))

    async with kit_on(HASTY, own_cluster.endpoint, sqlite_database, None) as kit:
        await kit.engine.charge(users[0][0], "image")
        await kit.sync()
        assert 3 == len(await kit.transactions(users[0][0]))
        with pytest.raises(RedisUnavailableError):
            await kit.engine.charge(users[2][0], "image")


class Load:
    """Callers that charge one user each, over and over, each charge until it is acknowledged."""

    def __init__(self, engine: CreditsEngine, users: list[list[str]]) -> None:
        self.acknowledged: dict[str, set[str]] = {user: set() for group in users for user in group}
        self.errors: list[Exception] = []
        self._engine = engine
        self._users = users
        self._stop = False
        self._callers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._callers = [asyncio.create_task(self._call(user)) for user in self.acknowledged]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop = True
        await asyncio.wait_for(asyncio.gather(*self._callers), WAIT_S)

    async def progress(self, charges: int, nodes: tuple[int, ...] = (0, 1, 2)) -> None:
        """Wait until every user of these nodes has been charged so often from now on."""
        names = [user for number in nodes for user in self._users[number]]
        targets = {user: len(self.acknowledged[user]) + charges for user in names}

        async def reached() -> bool:
            if any(caller.done() for caller in self._callers):
                await asyncio.gather(*self._callers)
            return all(len(self.acknowledged[user]) >= targets[user] for user in names)

        await until(reached, f"{charges} more charges on nodes {nodes}")

    async def _call(self, user: str) -> None:
        number = 0
        while not self._stop:
            number += 1
            while True:
                try:
                    result = await self._engine.charge(
                        user, "free", amount=1, idempotency_key=f"{number}"
                    )
                except UnavailableError as error:
                    self.errors.append(error)
                    await asyncio.sleep(0.01)
                else:
                    self.acknowledged[user].add(result.transaction_id)
                    break


async def until_replicated(primary: Node, replica: Node) -> None:
    """Until the replica has what the primary has now."""
    target = int((await primary.fields("INFO", "replication"))["master_repl_offset"])

    async def caught_up() -> bool:
        facts = await replica.fields("INFO", "replication")
        return int(facts["slave_repl_offset"]) >= target

    await until(caught_up, "the replica has caught up")


async def cut_off(replica: Node) -> None:
    """The replica hears nothing of its primary any more."""
    await replica.ask("CONFIG", "SET", "masteruser", "nobody", "masterauth", "wrong")
    await replica.ask("CLIENT", "KILL", "TYPE", "master")

    async def is_down() -> bool:
        facts = await replica.fields("INFO", "replication")
        return facts["master_link_status"] == "down"

    await until(is_down, "the replica is cut off")
