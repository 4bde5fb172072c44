"""A ledger restored from too old a backup: somebody says who is right, and the partition goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from credits_fast import HoldFinishedError, PartitionFencedError
from credits_fast.protocol.entries import MalformedEntryError
from credits_fast.servers.lane import Endpoint
from credits_fast.sync.recovery import NotSetAsideError, Recovery, Trusted
from credits_fast.sync.recovery import set_aside as told_aside
from credits_fast.sync.repair import Repair
from credits_fast.sync.settlement import RECOVERED
from credits_fast.sync.tables import metadata, sync_partitions, users
from credits_fast.testing import CreditsKit, kit_on
from tests.integration.conftest import CONFIG

CONFIGURED: dict[str, Any] = {
    **CONFIG,
    "sync": {"retain_ms": 0, "retain_max": 1, "idle_ms": 0},
    "partitions": 1,
    "retry": {"deadline_ms": 200},
}


class Backup(NamedTuple):
    """Everything in the ledger, to be put back later."""

    rows: dict[str, list[dict[str, Any]]]

    @classmethod
    async def take(cls, database: AsyncEngine) -> Backup:
        async with database.connect() as connection:
            return cls(
                {
                    table.name: [
                        dict(row._mapping) for row in await connection.execute(select(table))
                    ]
                    for table in metadata.sorted_tables
                }
            )

    async def put_back(self, database: AsyncEngine) -> None:
        async with database.begin() as connection:
            for table in reversed(metadata.sorted_tables):
                await connection.execute(delete(table))
            for table in metadata.sorted_tables:
                if self.rows[table.name]:
                    await connection.execute(insert(table), self.rows[table.name])


@pytest.fixture
async def kit(database: AsyncEngine, redis_endpoint: Endpoint) -> AsyncIterator[CreditsKit]:
    async with kit_on(CONFIGURED, redis_endpoint, database, None) as opened:
        yield opened


@pytest.fixture
async def gap(kit: CreditsKit) -> CreditsKit:
    """A ledger that lacks what was recorded after a backup, and a journal that has only the last of it.

    ada is there with 1,000 credits and a hold. After the backup she is charged three times, has the hold
    captured and another one made, and changes her tier; bob and eve are created, who is never charged. The
    journal has only charges of ada and bob that came after all that.
    """
    credits = kit.engine
    await credits.create_user("ada", credits=1_000, tier="basic")
    before = await credits.reserve("ada", "image", amount=50)
    await kit.sync()
    backup = await Backup.take(kit.database)
    await credits.create_user("bob", credits=500)
    await credits.create_user("eve", credits=7)
    await credits.query_balance("eve")
    for _ in range(3):
        await credits.charge("ada", "image")
        await kit.sync()
    await credits.capture("ada", "image", before.hold_id, amount=30)
    await kit.sync()
    await credits.reserve("ada", "image", amount=11)
    await kit.sync()
    await credits.upgrade_tier("ada", "pro")
    await kit.sync()
    await credits.charge("ada", "image", idempotency_key="seen")
    await credits.charge("bob", "image")
    await kit.sync()
    await credits.charge("ada", "image", idempotency_key="unseen")
    await backup.put_back(kit.database)
    return kit


async def set_aside(kit: CreditsKit) -> str:
    """Why a worker that finds it so cannot carry the partition."""
    for _ in range(3):
        await kit.worker.step()
    (reason,) = kit.worker.set_aside.values()
    return reason


def recovery(kit: CreditsKit) -> Recovery:
    return Recovery(kit.engine.partitions, kit.engine.router, kit.database)


async def go_on(kit: CreditsKit) -> None:
    """The worker takes the partition back, and everything agrees."""
    kit.worker._renew_at = 0.0
    await kit.sync()
    assert {} == kit.worker.set_aside
    await kit.assert_balanced()


async def test_the_gap_is_told_and_what_mends_it(gap: CreditsKit) -> None:
    assert "`credits-fast recover`" in await set_aside(gap)


async def test_redis_is_right_and_the_ledger_gets_the_difference(gap: CreditsKit) -> None:
    users_before = {name: await gap.engine.get_user(name) for name in ("ada", "bob", "eve")}
    await set_aside(gap)

    recovered = await recovery(gap).recover(0, "redis")
    await go_on(gap)

    for name, before in users_before.items():
        after = await gap.engine.get_user(name)
        assert before.credits == after.credits
        assert (before.membership_tier, before.reserved) == (after.membership_tier, after.reserved)
    assert ("redis", 2, 3) == (recovered.trusted, recovered.created, recovered.settled)
    assert {"pro"} == {(await gap.engine.get_user("ada")).membership_tier}
    rows = {name: await gap.transactions(name) for name in users_before}
    assert dict.fromkeys(rows, 1) == {
        name: sum(row.action == RECOVERED for row in of_user) for name, of_user in rows.items()
    }
    told = rows["bob"][-1]
    assert (480, 480 - (500 - 520)) == (told.metadata["recoveredGap"]["balance"], told.amount)
    replayed = await gap.engine.charge("ada", "image", idempotency_key="unseen")
    assert replayed.replayed


async def test_the_ledger_is_right_and_the_gap_is_undone(gap: CreditsKit) -> None:
    await set_aside(gap)

    recovered = await recovery(gap).recover(0, "ledger")
    await go_on(gap)

    # What the journal still has was charged, what stood between is not: of ada's charges the last ones.
    adopted = await gap.transactions("ada")
    assert recovered.adopted == len(adopted) - 1 + 1  # the first credits; and bob's
    assert (0, 0, 0) == (recovered.settled, recovered.added, recovered.taken)
    ada, bob = [await gap.engine.get_user(name) for name in ("ada", "bob")]
    assert 1_000 + sum(row.amount for row in adopted[1:]) == ada.credits
    assert ("basic", 50) == (ada.membership_tier, ada.reserved)
    assert -20 == bob.credits
    assert recovered.created == 1


async def test_it_may_end_anywhere_and_is_begun_again(
    gap: CreditsKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await gap.engine.get_user("ada")
    await set_aside(gap)

    async def dies(*_: Any) -> Any:
        raise ConnectionError("here")

    for step in ("adopt", "record", "remember", "begin"):
        with monkeypatch.context() as patch:
            patch.setattr(Repair, step, dies)
            with pytest.raises(ConnectionError):
                await recovery(gap).recover(0, "redis")
        with pytest.raises(PartitionFencedError):
            await gap.engine.charge("ada", "image")
    await recovery(gap).recover(0, "redis")
    await go_on(gap)

    after = await gap.engine.get_user("ada")
    assert (before.credits, before.reserved) == (after.credits, after.reserved)
    assert 1 == sum(row.action == RECOVERED for row in await gap.transactions("ada"))


@pytest.mark.parametrize("step", ["adopt", "record", "remember", "begin"])
async def test_one_that_ended_in_between_is_left_to_whoever_began_it(
    kit: CreditsKit, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """However late: a worker would go on from the ledger, and what was right in Redis would be gone."""
    await kit.engine.create_user("ada", credits=100)
    await kit.engine.charge("ada", "image")
    await kit.sync()
    async with kit.database.begin() as connection:
        await connection.execute(update(users).values(credits=590))
    await kit.engine.charge("ada", "image")
    await set_aside(kit)

    async def dies(*_: Any) -> Any:
        raise ConnectionError("here")

    with monkeypatch.context() as patch:
        patch.setattr(Repair, step, dies)
        with pytest.raises(ConnectionError):
            await recovery(kit).recover(0, "redis")
    async with kit.database.begin() as connection:
        await connection.execute(update(sync_partitions).values(lease_until_ms=1))
    kit.worker._renew_at = 0.0
    await kit.sync()

    assert "recovery" in (await told_aside(kit.database))[0]
    await recovery(kit).recover(0, "redis")
    kit.worker._renew_at = 0.0
    await kit.sync()
    assert {} == await told_aside(kit.database)
    assert 60 == await kit.engine.query_balance("ada")


async def test_a_balance_that_was_changed_by_hand_stays_or_is_set_back(kit: CreditsKit) -> None:
    await kit.engine.create_user("ada", credits=100)
    await kit.engine.charge("ada", "image")
    await kit.sync()
    sides: tuple[tuple[Trusted, int], ...] = (("redis", 60), ("ledger", 570))
    for trusted, expected in sides:
        async with kit.database.begin() as connection:
            await connection.execute(update(users).values(credits=590))
        await kit.engine.charge("ada", "image")
        assert "ChainBrokenError" in await set_aside(kit)

        await recovery(kit).recover(0, trusted)
        kit.worker._renew_at = 0.0
        await kit.sync()

        assert expected == await kit.engine.query_balance("ada")


async def test_nobody_opens_the_partition_meanwhile(
    kit: CreditsKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where only a balance is wrong, the journal is what was recorded: any engine would open it."""
    await kit.engine.create_user("ada", credits=100)
    await kit.engine.charge("ada", "image")
    await kit.sync()
    async with kit.database.begin() as connection:
        await connection.execute(update(users).values(credits=590))
    await kit.engine.charge("ada", "image")
    await set_aside(kit)
    adopt = Repair.adopt

    async def asked_meanwhile(*arguments: Any) -> None:
        with pytest.raises(PartitionFencedError):
            await kit.engine.charge("ada", "image")
        await adopt(*arguments)

    monkeypatch.setattr(Repair, "adopt", asked_meanwhile)
    await recovery(kit).recover(0, "redis")
    assert 60 == await kit.engine.query_balance("ada")


async def test_a_hold_that_ended_in_the_gap_is_not_open_again(gap: CreditsKit) -> None:
    async with gap.database.connect() as connection:
        columns = metadata.tables["holds"].c
        (hold_id,) = await connection.scalars(select(columns.id))
    await set_aside(gap)
    await recovery(gap).recover(0, "redis")
    await go_on(gap)

    with pytest.raises(HoldFinishedError):
        await gap.engine.capture("ada", "image", hold_id)


async def test_only_what_is_set_aside_is_recovered(kit: CreditsKit) -> None:
    await kit.engine.create_user("ada", credits=100)
    await kit.sync()

    with pytest.raises(NotSetAsideError):
        await recovery(kit).recover(0, "redis")
    await kit.engine.charge("ada", "image")
    await go_on(kit)


async def test_a_journal_that_cannot_be_read_is_left_as_it_is(gap: CreditsKit) -> None:
    await set_aside(gap)
    keys = gap.engine.partitions[0]
    lane = await gap.engine.lane()
    await lane.execute(b"XADD", keys.journal, b"1-*", b"v", b"1", b"t", b"1", b"i", b"what\0is\0it")

    with pytest.raises(MalformedEntryError):
        await recovery(gap).recover(0, "ledger")
    await gap.engine.charge("ada", "image")  # the partition is as open as it was
    async with gap.database.connect() as connection:
        assert (await connection.scalars(select(sync_partitions.c.set_aside))).one()


async def test_a_worker_that_takes_the_partition_back_ends_it(
    gap: CreditsKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    await set_aside(gap)
    adopt = Repair.adopt

    async def overtaken(*arguments: Any) -> None:
        await adopt(*arguments)
        columns = sync_partitions.c
        async with gap.database.begin() as connection:
            await connection.execute(update(sync_partitions).values(fence=columns.fence + 1))

    monkeypatch.setattr(Repair, "adopt", overtaken)
    with pytest.raises(Exception, match="taken from this worker"):
        await recovery(gap).recover(0, "redis")
