"""History that was lost on either side: the worker gives a partition one history again, and opens it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from credits_fast import PartitionFencedError, RedisUnavailableError
from credits_fast.servers.lane import Endpoint, Lane
from credits_fast.sync.ledger import Ledger
from credits_fast.sync.repair import Repair
from credits_fast.sync.tables import sync_partitions
from credits_fast.sync.worker import SyncWorker
from credits_fast.testing import CreditsKit, kit_on
from tests.integration.conftest import CONFIG

USERS = [f"user-{number}" for number in range(12)]


class Snapshot(NamedTuple):
    """Everything a server holds, to be put back later: a replica that lagged, an old backup."""

    values: dict[bytes, tuple[bytes, int]]

    @classmethod
    async def take(cls, lane: Lane) -> Snapshot:
        keys = await lane.execute(b"KEYS", b"*")
        return cls(
            {
                key: (
                    await lane.execute(b"DUMP", key),
                    max(0, await lane.execute(b"PTTL", key)),
                )
                for key in keys
            }
        )

    async def put_back(self, lane: Lane) -> None:
        await lane.execute(b"FLUSHALL")
        for key, (value, ttl_ms) in self.values.items():
            await lane.execute(b"RESTORE", key, b"%d" % ttl_ms, value)


async def charge_all(kit: CreditsKit, key: str) -> list[Any]:
    """A charge of every user, under a key that names the round."""
    return await asyncio.gather(
        *(kit.engine.charge(user, "image", idempotency_key=f"{key}-{user}") for user in USERS)
    )


async def balances(kit: CreditsKit) -> set[int]:
    return {int(await kit.engine.query_balance(user)) for user in USERS}


@pytest.fixture
async def charged(kit: CreditsKit) -> CreditsKit:
    """Twelve users with 1,000 credits and one recorded charge of 20 each."""
    for user in USERS:
        await kit.engine.create_user(user, credits=1_000)
    await charge_all(kit, "first")
    await kit.sync()
    return kit


async def test_after_a_wipe_charges_are_refused_until_redis_is_as_the_ledger(
    charged: CreditsKit,
) -> None:
    lane = await charged.engine.lane()
    await lane.execute(b"FLUSHALL")
    for user in USERS:
        with pytest.raises(PartitionFencedError):
            await charged.engine.charge(user, "image")
    assert 0 == await lane.execute(b"DBSIZE")

    await charged.worker.step()

    assert {980} == await balances(charged)
    (again,) = {one.replayed for one in await charge_all(charged, "first")}
    assert again
    assert {960} == {int(one.balance_after) for one in await charge_all(charged, "second")}
    await charged.assert_balanced()
    assert 12 == sum(one.restored for one in charged.worker.repaired)
    assert 12 == sum(one.remembered for one in charged.worker.repaired)
    assert {2} == {one.epoch for one in charged.worker.repaired}


async def test_what_a_lagging_replica_lacked_comes_back_from_the_ledger(
    charged: CreditsKit,
) -> None:
    lane = await charged.engine.lane()
    snapshot = await Snapshot.take(lane)
    await charge_all(charged, "second")
    await charged.sync()
    await snapshot.put_back(lane)

    await charged.worker.step()

    assert {960} == await balances(charged)
    assert all(one.replayed for one in await charge_all(charged, "second"))
    await charged.assert_balanced()
    assert (0, 12) == (charged.worker.tally.adopted, charged.worker.tally.restored)


async def test_two_histories_become_one_that_has_every_charge_of_both(charged: CreditsKit) -> None:
    """A server that hides its identity: the charges after the failover are accepted as well."""
    lane = await charged.engine.lane()
    snapshot = await Snapshot.take(lane)
    await charge_all(charged, "second")
    await charged.sync()
    await snapshot.put_back(lane)
    third = await charge_all(charged, "third")
    assert {960} == {int(one.balance_after) for one in third}

    await charged.worker.step()

    assert {940} == await balances(charged)
    for key in ("first", "second", "third"):
        assert all(one.replayed for one in await charge_all(charged, key)), key
    rows = await charged.transactions(USERS[0])
    assert [1, 2, 3, 4] == [row.sequence for row in rows]
    told = rows[-1].metadata["adoptedFrom"]
    assert (3, 960) == (told["sequence"], told["balanceAfter"])
    assert third[0].transaction_id == rows[-1].id
    await charged.assert_balanced()
    assert 12 == charged.worker.tally.adopted


async def test_what_a_worker_has_in_hand_is_thrown_away_when_another_server_is_opened(
    charged: CreditsKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a replica had not received, and nobody had recorded, is not recorded after its promotion."""
    lane = await charged.engine.lane()
    snapshot = await Snapshot.take(lane)
    gates = [partition.gate for partition in charged.engine.partitions]
    original, writes = Ledger.write, 0

    async def charge_nearly_all(key: str) -> set[int]:
        charges = (
            charged.engine.charge(user, "image", amount=900, idempotency_key=f"{key}-{user}")
            for user in USERS
        )
        return {int(one.balance_after) for one in await asyncio.gather(*charges)}

    async def failover_and_write(ledger: Ledger, batches: Any) -> None:
        nonlocal writes
        writes += 1
        if writes == 1:
            await snapshot.put_back(lane)
            await lane.execute(b"UNLINK", *gates)  # as for a server with another identity
            assert {80} == await charge_nearly_all("third")
        await original(ledger, batches)

    assert {80} == await charge_nearly_all("second")
    monkeypatch.setattr(Ledger, "write", failover_and_write)
    await charged.sync()

    assert {80} == await balances(charged)
    rows = await charged.transactions(USERS[0])
    assert [None, f"first-{USERS[0]}", f"third-{USERS[0]}"] == [row.idempotency_key for row in rows]
    assert [] == charged.worker.repaired
    await charged.assert_balanced()


async def test_nobody_charges_while_a_repair_is_under_way(
    charged: CreditsKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the fence would let them: the server is the same process as before."""
    lane = await charged.engine.lane()
    snapshot = await Snapshot.take(lane)
    await charge_all(charged, "second")
    await charged.sync()
    await snapshot.put_back(lane)
    refused: list[BaseException] = []
    original = Repair.adopt

    async def meanwhile(*arguments: Any) -> None:
        await original(*arguments)
        calls = (charged.engine.charge(user, "image") for user in USERS)
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        refused.extend(one for one in outcomes if isinstance(one, PartitionFencedError))

    monkeypatch.setattr(Repair, "adopt", meanwhile)
    await charged.worker.step()

    numbers = [charged.engine.partitions.of(user.encode()).number for user in USERS]
    repairs = [one.partition for one in charged.worker.repaired]
    closed_at_least = sum(
        numbers.count(partition) for at in range(len(repairs)) for partition in repairs[: at + 1]
    )
    assert closed_at_least == len(refused)
    await charged.assert_balanced()


async def test_what_was_not_recorded_yet_is_adopted_and_refusals_with_it(
    charged: CreditsKit,
) -> None:
    """The entry the ledger knows was executed at another moment; what follows it is new."""
    await charge_all(charged, "second")
    with pytest.raises(Exception, match="credits"):
        await charged.engine.charge(USERS[0], "image", amount=5_000)
    lane = await charged.engine.lane()
    for keys in charged.engine.partitions:
        (first, *entries) = await lane.execute(b"XRANGE", keys.journal, b"-", b"+")
        await lane.execute(b"DEL", keys.journal)
        first[1][3] = b"%d" % (int(first[1][3]) + 1)
        for entry_id, fields in (first, *entries):
            await lane.execute(b"XADD", keys.journal, entry_id, *fields)

    await charged.worker.step()

    assert {960} == await balances(charged)
    failed = [row for row in await charged.audit(USERS[0]) if row.status == "failed"]
    assert ["INSUFFICIENT_CREDITS"] == [row.error_code for row in failed]
    await charged.assert_balanced()


STEPS: list[tuple[str, Callable[[Any], Any]]] = [
    ("the gate is closed", lambda repair: repair.close),
    ("the journal is adopted", lambda repair: repair.adopt),
    ("a page is adopted", lambda repair: repair._record),
    ("keys are remembered", lambda repair: repair.remember),
    ("the position is moved", lambda repair: repair.move),
    ("the epoch is begun", lambda repair: repair.begin),
]


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("step", [name for name, _ in STEPS])
async def test_a_worker_that_dies_within_a_repair_leaves_it_to_the_next_one(
    charged: CreditsKit, monkeypatch: pytest.MonkeyPatch, step: str, moment: str
) -> None:
    lane = await charged.engine.lane()
    snapshot = await Snapshot.take(lane)
    await charge_all(charged, "second")
    await charged.sync()
    await snapshot.put_back(lane)
    await charge_all(charged, "third")
    name = dict(STEPS)[step](Repair).__name__
    original = getattr(Repair, name)

    async def dying(*arguments: Any) -> Any:
        if moment == "after":
            await original(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(Repair, name, dying)
    with pytest.raises(KeyboardInterrupt):
        await charged.worker.step()
    monkeypatch.undo()
    await charged.worker.close()
    other = SyncWorker(
        charged.engine.endpoint,
        charged.database,
        charged.engine.partitions,
        charged.engine.config.sync,
    )
    kit = CreditsKit(charged.engine, other, charged.database, None)

    await other.step()

    assert {940} == await balances(kit)
    assert all(one.replayed for one in await charge_all(kit, "third"))
    await kit.assert_balanced()
    await other.close()


async def test_a_repair_whose_server_goes_away_is_done_another_time(
    charged: CreditsKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = await charged.engine.lane()
    await lane.execute(b"FLUSHALL")
    original = Repair.begin

    async def away(*_arguments: Any) -> Any:
        raise RedisUnavailableError("it went away")

    monkeypatch.setattr(Repair, "begin", away)
    await charged.worker.step()
    assert [] == charged.worker.repaired
    monkeypatch.setattr(Repair, "begin", original)
    await charged.worker.step()

    assert {980} == await balances(charged)
    assert not charged.worker.set_aside
    await charged.assert_balanced()


async def test_a_worker_that_lost_the_partition_within_a_repair_changes_nothing(
    charged: CreditsKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = await charged.engine.lane()
    await lane.execute(b"FLUSHALL")
    original = Repair.remember

    async def overtaken(*arguments: Any) -> None:
        await original(*arguments)
        columns = sync_partitions.c
        async with charged.database.begin() as connection:
            await connection.execute(update(sync_partitions).values(fence=columns.fence + 1))

    monkeypatch.setattr(Repair, "remember", overtaken)
    await charged.worker.step()

    assert frozenset() == charged.worker.owned
    assert [] == charged.worker.repaired
    with pytest.raises(PartitionFencedError):
        await charged.engine.charge(USERS[0], "image")


async def test_a_repair_that_ends_late_takes_no_charge_with_it(
    charged: CreditsKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker stands still before it begins the new epoch; another one repairs as it goes on."""
    lane = await charged.engine.lane()
    await lane.execute(b"FLUSHALL")
    late: list[tuple[Lane, tuple[Any, ...]]] = []
    accepted: list[str] = []
    run_script, remember = Lane.run_script, Repair.remember

    async def standing_still(lane: Lane, name: str, *arguments: Any) -> Any:
        if name != "begin":
            return await run_script(lane, name, *arguments)
        late.append((lane, arguments))
        raise RedisUnavailableError("it stands still")

    async def meanwhile(*arguments: Any) -> None:
        await remember(*arguments)
        while late:
            lane_of_first, words = late.pop()
            assert b"begun" == await run_script(lane_of_first, "begin", *words)
            for user in USERS:
                if charged.engine.partitions.of(user.encode()).gate == words[0][0]:
                    await charged.engine.charge(user, "image", idempotency_key=f"late-{user}")
                    accepted.append(user)

    monkeypatch.setattr(Lane, "run_script", standing_still)
    await charged.worker.step()
    monkeypatch.setattr(Lane, "run_script", run_script)
    monkeypatch.setattr(Repair, "remember", meanwhile)
    await charged.worker._leases.release(charged.worker.owned)  # its leases have ended
    other = SyncWorker(
        charged.engine.endpoint,
        charged.database,
        charged.engine.partitions,
        charged.engine.config.sync,
    )
    kit = CreditsKit(charged.engine, other, charged.database, None)

    for _ in range(3):
        await other.step()

    again = dict(zip(USERS, await charge_all(kit, "late"), strict=True))
    assert accepted
    assert all(again[user].replayed for user in accepted)
    assert {960} == await balances(kit)
    await kit.assert_balanced()
    await other.close()


async def test_a_ledger_that_was_set_back_is_not_repaired_by_guessing(
    redis_endpoint: Endpoint, sqlite_database: AsyncEngine
) -> None:
    """What stood between the ledger's position and the journal's first entry is in neither."""
    config: dict[str, Any] = {**CONFIG, "sync": {"retain_ms": 0, "retain_max": 1}, "partitions": 1}
    async with kit_on(config, redis_endpoint, sqlite_database, None) as kit:
        await kit.engine.create_user("ada", credits=1_000)
        await kit.engine.charge("ada", "image")
        await kit.sync()
        async with kit.database.connect() as connection:
            old = (await connection.execute(sync_partitions.select())).one()
        for _ in range(5):
            await kit.engine.charge("ada", "image")
            await kit.sync()
        async with kit.database.begin() as connection:
            values = {"last_id": old.last_id, "last_stamp": old.last_stamp}
            await connection.execute(update(sync_partitions).values(values))
        worker = kit.worker
        worker._owned[0].claim.last_id, worker._owned[0].claim.last_stamp = (
            old.last_id,
            old.last_stamp,
        )

        await worker.step()

        assert "LedgerBehindError" in worker.set_aside[0]
        assert [] == worker.repaired
        lane = await kit.engine.lane()
        assert 1 == await lane.execute(b"EXISTS", kit.engine.partitions[0].gate)
