"""The worker: exactly once, whatever ends it and wherever; and what it will not carry."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from credits_fast import CreditsEngine, SyncConfig
from credits_fast.servers.lane import Endpoint
from credits_fast.sync.ledger import Ledger, PositionLostError
from credits_fast.sync.recovery import set_aside
from credits_fast.sync.tables import (
    audit_logs,
    dead_letters,
    idempotency_records,
    sync_partitions,
    sync_workers,
    transactions,
    users,
)
from credits_fast.sync.worker import SyncWorker
from credits_fast.testing import CreditsKit, kit_on
from tests.integration.conftest import CONFIG

QUICK = SyncConfig(lease_ms=2_000, retain_ms=0)


class KilledError(BaseException):
    """What a process that is killed at this point would not survive."""


def new_worker(kit: CreditsKit, config: SyncConfig = QUICK) -> SyncWorker:
    return SyncWorker(kit.engine.endpoint, kit.database, kit.engine.partitions, config)


async def vanish(kit: CreditsKit, worker: SyncWorker) -> None:
    """The worker is gone without a word, and its leases have ended."""
    await worker.router.close()
    async with kit.database.begin() as connection:
        await connection.execute(update(sync_partitions).values(lease_until_ms=1))
        await connection.execute(update(sync_workers).values(alive_until_ms=1))


async def count(kit: CreditsKit, table: Any) -> int:
    async with kit.database.connect() as connection:
        return int(await connection.scalar(select(func.count()).select_from(table)) or 0)


@pytest.fixture
async def busy_kit(kit: CreditsKit) -> CreditsKit:
    """Six users in four partitions, each with a history that is not recorded yet."""
    names = [f"user-{number}" for number in range(6)]
    await asyncio.gather(*(kit.engine.create_user(name, credits=100) for name in names))
    for turn in range(3):
        await asyncio.gather(
            *(kit.engine.charge(name, "image", idempotency_key=f"k{turn}") for name in names),
            kit.engine.grant(names[turn], 5, "bonus"),
            *(kit.engine.charge(name, "image", amount=10_000) for name in names),
            return_exceptions=True,
        )
    return kit


POINTS: dict[str, tuple[Any, str, bool]] = {
    "after reading": (SyncWorker, "_read", True),
    "before writing": (Ledger, "write", False),
    "after moving the users": (Ledger, "_update_users", True),
    "after the rows": (Ledger, "_insert", True),
    "before the commit": (Ledger, "_remember", True),
    "after the commit": (Ledger, "write", True),
    "before trimming": (SyncWorker, "_trim", False),
    "after trimming": (SyncWorker, "_trim", True),
}


@pytest.mark.parametrize("point", POINTS)
async def test_a_worker_killed_between_any_two_steps_leaves_nothing_lost_or_doubled(
    busy_kit: CreditsKit,
    monkeypatch: pytest.MonkeyPatch,
    point: str,
) -> None:
    owner, name, is_after = POINTS[point]
    original: Callable[..., Any] = getattr(owner, name)

    async def killed(*arguments: Any) -> Any:
        if is_after:
            await original(*arguments)
        raise KilledError

    victim = new_worker(busy_kit)
    monkeypatch.setattr(owner, name, killed)
    with pytest.raises(KilledError):
        await victim.step()
    monkeypatch.undo()
    await vanish(busy_kit, victim)

    await busy_kit.engine.charge("user-0", "image", idempotency_key="after")
    await busy_kit.assert_balanced()
    assert 6 + 6 * 3 + 3 + 1 == await count(busy_kit, transactions)
    assert 6 * 3 + 1 == await count(busy_kit, idempotency_records)
    assert 6 + 6 * 3 + 3 + 1 + 6 * 3 == await count(busy_kit, audit_logs)


async def test_a_batch_delivered_twice_is_written_once(busy_kit: CreditsKit) -> None:
    first = new_worker(busy_kit)
    await first._keep_leases()
    batches = await first._read()
    await first._ledger.write(batches)

    with pytest.raises(PositionLostError):
        await first._ledger.write(batches)

    assert 6 + 6 * 3 + 3 == await count(busy_kit, transactions)
    await vanish(busy_kit, first)
    await busy_kit.assert_balanced()


async def test_a_worker_that_slept_through_its_lease_writes_nothing(busy_kit: CreditsKit) -> None:
    zombie = new_worker(busy_kit)
    await zombie._keep_leases()
    stale = await zombie._read()
    await vanish(busy_kit, zombie)
    await busy_kit.sync()
    rows = await count(busy_kit, transactions)

    assert [] == await zombie._write(stale)

    assert rows == await count(busy_kit, transactions)
    assert not zombie.owned
    await busy_kit.assert_balanced()


async def test_a_batch_is_written_only_under_the_claim_it_was_read_under(
    busy_kit: CreditsKit,
) -> None:
    worker = new_worker(busy_kit)
    await worker._keep_leases()
    stale = await worker._read()
    async with busy_kit.database.begin() as connection:  # whoever opens a partition does this
        await connection.execute(update(sync_partitions).values(fence=sync_partitions.c.fence + 1))
    worker._owned.clear()
    worker._renew_at = 0.0
    await worker._keep_leases()
    rows = await count(busy_kit, transactions)

    assert stale
    assert {batch.partition for batch in stale} <= worker.owned
    assert [] == worker._still_following(stale)
    assert [] == await worker._write(stale)

    assert rows == await count(busy_kit, transactions)
    await vanish(busy_kit, worker)
    await busy_kit.assert_balanced()


async def test_two_workers_share_the_partitions_and_the_work(busy_kit: CreditsKit) -> None:
    config = SyncConfig(retain_ms=0)
    one, two = new_worker(busy_kit, config), new_worker(busy_kit, config)
    await one.step()
    assert {0, 1, 2, 3} == one.owned
    await two.step()
    one._renew_at = 0
    await one.step()
    two._renew_at = 0
    await two.step()

    assert (2, 2) == (len(one.owned), len(two.owned))
    assert not one.owned & two.owned
    names = [f"user-{number}" for number in range(6)]
    await asyncio.gather(*(busy_kit.engine.charge(name, "free") for name in names))
    carried = [await one.step(), await two.step()]
    assert 6 == sum(carried)
    assert all(carried)

    await two.close()
    one._renew_at = 0
    await one.step()
    assert {0, 1, 2, 3} == one.owned
    await one.close()
    await busy_kit.assert_balanced()


async def test_two_workers_at_once_under_load_record_everything_once(kit: CreditsKit) -> None:
    rng = random.Random(7)
    names = [f"user-{number}" for number in range(20)]
    await asyncio.gather(*(kit.engine.create_user(name, credits=1_000) for name in names))
    stop = asyncio.Event()
    workers = [
        new_worker(kit, SyncConfig(lease_ms=2_000, poll_ms=1, retain_ms=0)) for _ in range(2)
    ]
    running = [asyncio.create_task(worker.run(stop)) for worker in workers]

    for _ in range(30):
        await asyncio.gather(
            *(kit.engine.charge(rng.choice(names), "free", amount=1) for _ in range(20)),
        )
    stop.set()
    await asyncio.gather(*running)
    for worker in workers:
        assert {} == worker.set_aside
        await worker.close()

    await kit.assert_balanced()
    assert 20 + 600 == await count(kit, transactions)
    assert 0 == await count(kit, sync_workers) - 1  # the kit's own, which worked at the end


async def test_leases_are_released_when_a_worker_is_told_to_stop(sqlite_kit: CreditsKit) -> None:
    worker = new_worker(sqlite_kit)
    stop = asyncio.Event()
    running = asyncio.create_task(worker.run(stop))
    while not worker.owned:
        await asyncio.sleep(0.001)

    stop.set()
    await running
    await worker.close()

    owners = await worker._leases.owners()
    assert {None} == {*owners.values()}
    assert 0 == await count(sqlite_kit, sync_workers)


@pytest.mark.parametrize(
    ("poison", "problem"),
    [
        (b'{"a":"\\u0000"}', "NUL"),
        (b'{"a":1e-20000}', "more decimal places"),
        (b'{"a":0.' + b"1" * 17_000 + b"}", "more decimal places"),
        (b'{"a":' + b"[" * 200 + b"]" * 200 + b"}", "deep"),
    ],
    ids=["NUL", "a tiny number", "a long number", "a tower"],
)
async def test_unreadable_metadata_is_set_aside_and_its_amount_booked(
    kit: CreditsKit, poison: bytes, problem: str
) -> None:
    await kit.engine.create_user("ada", credits=100)
    lane = await kit.engine.lane()
    keys = kit.engine.partitions.of(b"ada")
    await kit.engine.charge("ada", "free", amount=1)
    item = b"charge\0tx-poison\x003\0-5000000\x0094000000\0-\x0060000\x002\0\0\0ada\0free\0\0\0"
    words = (b"v", b"1", b"t", b"1768478400000000", b"i", item + poison)
    await lane.execute(b"XADD", keys.journal, b"1-*", *words)
    await lane.execute(b"SET", keys.account(b"ada"), b"1-0 94000000 0 3  ")
    await kit.engine.charge("ada", "free", amount=1, metadata={"fine": True})

    await kit.assert_balanced()

    rows = await kit.transactions("ada")
    assert [{}, {"fine": True}] == [row.metadata for row in rows[2:]]
    async with kit.database.connect() as connection:
        letter = (await connection.execute(select(dead_letters))).one()
    assert (poison, "tx-poison", "ada") == (letter.raw, letter.transaction_id, letter.user_id)
    assert problem in letter.error


async def set_aside_by(kit: CreditsKit, sabotage: Callable[[Any, Any], Any]) -> str:
    """The reason for which a partition is set aside after a sabotage, while another goes on."""
    engine: CreditsEngine = kit.engine
    of = engine.partitions.of
    ours = "ada"
    other = next(name for name in "bcdefgh" if of(name.encode()) != of(b"ada"))
    for name in (ours, other):
        await engine.create_user(name, credits=100)
        await engine.charge(name, "free", amount=1)
    await kit.sync()
    await sabotage(await engine.lane(), engine.partitions.of(b"ada"))
    for name in (ours, other):
        await engine.charge(name, "free", amount=1)
    rows = len(await kit.transactions(ours))

    assert 3 == len(await kit.transactions(other))
    assert 2 == rows
    assert {engine.partitions.of(b"ada").number} == {*kit.worker.set_aside}
    return kit.worker.set_aside[engine.partitions.of(b"ada").number]


async def test_a_balance_that_was_changed_by_hand_stops_its_partition(kit: CreditsKit) -> None:
    async def sabotage(_lane: Any, _keys: Any) -> None:
        async with kit.database.begin() as connection:
            changed = update(users).where(users.c.id == "ada").values(credits=98)
            await connection.execute(changed)

    reason = await set_aside_by(kit, sabotage)

    assert reason.startswith("ChainBrokenError: user 'ada' is at (2, Decimal('98.000000'))")


async def test_a_balance_that_was_changed_in_redis_stops_its_partition(kit: CreditsKit) -> None:
    async def sabotage(lane: Any, keys: Any) -> None:
        await lane.execute(b"SET", keys.account(b"ada"), b"1-0 999000000 0 2  ")

    assert "ChainBrokenError" in await set_aside_by(kit, sabotage)


async def test_an_entry_nobody_of_us_wrote_stops_its_partition(kit: CreditsKit) -> None:
    async def sabotage(lane: Any, keys: Any) -> None:
        await lane.execute(b"XADD", keys.journal, b"1-*", b"v", b"1", b"t", b"1", b"i", b"what\0")

    assert "unknown kind 'what'" in await set_aside_by(kit, sabotage)


async def test_an_entry_in_another_format_stops_its_partition_and_is_told_by_whom(
    kit: CreditsKit,
) -> None:
    async def sabotage(lane: Any, keys: Any) -> None:
        await lane.execute(b"XADD", keys.journal, b"1-*", b"v", b"2", b"t", b"1", b"i", b"x")
        await lane.execute(b"HSET", keys.meta, b"library", b"9.9.9")

    reason = await set_aside_by(kit, sabotage)

    assert "was written in format 2 by credits-fast 9.9.9; this version reads format 1" in reason


async def test_a_partition_that_was_opened_anew_is_set_aside_where_everybody_sees_it(
    kit: CreditsKit,
) -> None:
    """Whoever opens a partition takes it from its worker, which has carried nothing of it since."""
    keys = kit.engine.partitions.of(b"ada")
    await kit.engine.create_user("ada", credits=100)
    await kit.engine.charge("ada", "free", amount=1)
    await kit.sync()
    lane = await kit.engine.lane()
    await lane.execute(b"UNLINK", keys.gate)  # as for a server that was restarted
    await kit.engine.charge("ada", "free", amount=1)
    await lane.execute(b"XADD", keys.journal, b"1-*", b"v", b"1", b"t", b"1", b"i", b"what\0")

    await kit.sync()

    assert {keys.number: kit.worker.set_aside[keys.number]} == await set_aside(kit.database)


async def test_an_operation_id_that_is_recorded_already_stops_its_partition(
    kit: CreditsKit,
) -> None:
    async def sabotage(lane: Any, keys: Any) -> None:
        (known,) = [row.id for row in await kit.transactions("ada")][1:]
        item = f"charge\0{known}\x003\x000\x0099000000\0-\x0060000\x002\0\0\0ada\0free\0\0\0"
        words = (b"v", b"1", b"t", b"1768478400000000", b"i", item.encode())
        await lane.execute(b"XADD", keys.journal, b"1-*", *words)
        await lane.execute(b"SET", keys.account(b"ada"), b"1-0 99000000 0 3  ")

    assert "LedgerRefusedError" in await set_aside_by(kit, sabotage)


async def test_synced_entries_are_trimmed_but_the_last_one_stays(sqlite_kit: CreditsKit) -> None:
    kit = sqlite_kit
    worker = new_worker(kit)
    await kit.engine.create_user("ada", credits=100)
    lane = await kit.engine.lane()
    keys = kit.engine.partitions.of(b"ada")
    for _ in range(5):
        await kit.engine.charge("ada", "free")
        await worker.drain()

    assert 1 == await lane.execute(b"XLEN", keys.journal)
    (entry,) = await lane.execute(b"XRANGE", keys.journal, b"-", b"+")
    assert entry[0] == await lane.execute(b"HGET", keys.meta, b"synced")
    await worker.close()


@pytest.mark.parametrize(
    ("config", "kept"),
    [(SyncConfig(retain_ms=3_600_000), 5), (SyncConfig(retain_ms=3_600_000, retain_max=2), 2)],
)
async def test_synced_entries_are_retained_for_a_while_within_a_bound(
    sqlite_kit: CreditsKit,
    config: SyncConfig,
    kept: int,
) -> None:
    kit = sqlite_kit
    worker = new_worker(kit, config)
    await kit.engine.create_user("ada", credits=100)
    lane = await kit.engine.lane()
    for _ in range(5):
        await kit.engine.charge("ada", "free")
        await worker.drain()

    assert kept == await lane.execute(b"XLEN", kit.engine.partitions.of(b"ada").journal)
    await worker.close()


async def test_more_expired_records_than_are_deleted_at_once_are_deleted_one_after_the_other(
    kit: CreditsKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the table would grow for ever under more than so many keys in a pause."""
    for module in ("ledger", "worker"):
        monkeypatch.setattr(f"credits_fast.sync.{module}.EXPIRED_MAX", 2)
    await kit.engine.create_user("ada", credits=100)
    for number in range(5):
        await kit.engine.charge("ada", "free", idempotency_key=f"k{number}")
    await kit.sync()
    async with kit.database.begin() as connection:
        await connection.execute(
            update(idempotency_records).values(expires_at=datetime.now(UTC) - timedelta(days=1))
        )
    worker = kit.worker
    worker._clean_at = 0.0

    left: list[int] = []
    for _ in range(4):
        await worker.step()
        left.append(await count(kit, idempotency_records))

    assert [3, 1, 0, 0] == left
    assert worker._clean_at > 0


async def test_what_one_worker_retained_the_next_one_retains(sqlite_kit: CreditsKit) -> None:
    """A worker that is started anew does not cut a journal that a restored database may need."""
    kit = sqlite_kit
    await kit.engine.create_user("ada", credits=100)
    lane = await kit.engine.lane()
    for _ in range(3):
        worker = new_worker(kit, SyncConfig(retain_ms=3_600_000))
        await kit.engine.charge("ada", "free")
        await worker.drain()
        await worker.close()

    assert 3 == await lane.execute(b"XLEN", kit.engine.partitions.of(b"ada").journal)


async def test_retained_entries_are_counted_and_not_their_batches(sqlite_kit: CreditsKit) -> None:
    kit = sqlite_kit
    worker = new_worker(kit, SyncConfig(retain_ms=3_600_000, retain_max=10))
    await kit.engine.create_user("ada", credits=100)
    lane = await kit.engine.lane()
    for _ in range(5):
        for _ in range(4):
            await kit.engine.charge("ada", "free")
        await worker.drain()

    assert 9 == await lane.execute(b"XLEN", kit.engine.partitions.of(b"ada").journal)
    await worker.close()


async def test_batches_are_bounded_in_decisions(sqlite_kit: CreditsKit) -> None:
    kit = sqlite_kit
    worker = new_worker(kit, SyncConfig(batch_max=10))
    await kit.engine.create_user("ada", credits=100)
    for _ in range(25):
        await kit.engine.charge("ada", "free")

    carried: list[int] = []
    while number := await worker.step():
        carried.append(number)

    assert 25 == sum(carried)
    assert max(carried) <= 10
    await worker.close()


@pytest.fixture
async def aged_kit(redis_endpoint: Endpoint, database: AsyncEngine) -> AsyncIterator[CreditsKit]:
    config = {**CONFIG, "idempotency": {"ttl": 1}}
    async with kit_on(config, redis_endpoint, database, None) as opened:
        yield opened


async def test_expired_idempotency_records_are_cleaned_up(aged_kit: CreditsKit) -> None:
    kit = aged_kit
    await kit.engine.create_user("ada", credits=100)
    for number in range(3):
        await kit.engine.charge("ada", "free", idempotency_key=f"k{number}")
    await kit.sync()
    assert 3 == await count(kit, idempotency_records)

    later = datetime.now(UTC) + timedelta(seconds=2)
    assert 3 == await kit.worker._ledger.forget_expired(later)
    assert 0 == await count(kit, idempotency_records)


async def test_an_expired_key_can_be_used_again(aged_kit: CreditsKit) -> None:
    kit = aged_kit
    await kit.engine.create_user("ada", credits=100)
    first = await kit.engine.charge("ada", "image", idempotency_key="k")
    await kit.sync()
    lane = await kit.engine.lane()
    keys = kit.engine.partitions.of(b"ada")
    await lane.execute(b"DEL", keys.record(b"ada", b"key:k"))
    async with kit.database.begin() as connection:
        old = update(idempotency_records).values(expires_at=datetime(2026, 1, 1, tzinfo=UTC))
        await connection.execute(old)

    second = await kit.engine.charge("ada", "image", idempotency_key="k")

    await kit.assert_balanced()
    assert first.transaction_id != second.transaction_id
    async with kit.database.connect() as connection:
        remembered = await connection.scalar(select(idempotency_records.c.transaction_id))
    assert second.transaction_id == remembered


async def test_the_worker_waits_out_a_database_that_is_away(
    postgresql_url: str,
    redis_endpoint: Endpoint,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from credits_fast.ledger.database import connect

    database = connect(postgresql_url)
    async with kit_on(CONFIG, redis_endpoint, database, None) as kit:
        await kit.engine.create_user("ada", credits=100)
        worker = new_worker(kit)
        stop = asyncio.Event()
        running = asyncio.create_task(worker.run(stop))
        while not worker.owned:
            await asyncio.sleep(0.001)
        real = worker._ledger._database
        worker._ledger._database = connect("postgresql://nobody@127.0.0.1:1/none")
        await kit.engine.charge("ada", "image")
        while "the worker waits" not in caplog.text:
            await asyncio.sleep(0.001)
        await worker._ledger._database.dispose()
        worker._ledger._database = real
        await kit.engine.wait_recorded()
        stop.set()
        await running
        await worker.close()
        await kit.assert_balanced()
    await database.dispose()


async def test_the_database_itself_refuses_a_ledger_that_does_not_chain(
    database: AsyncEngine,
) -> None:
    from sqlalchemy.exc import IntegrityError

    row = "'t1', 'ada', 1, 'charge', 'a', '-1.000000', '5.000000', '{}', '{{}}', '2026-01-01'"
    columns = "id, user_id, sequence, kind, action, amount, balance_before, balance_after, metadata"
    async with database.begin() as connection:
        await connection.execute(text("INSERT INTO users (id) VALUES ('ada')"))
    insert = f"INSERT INTO transactions ({columns}, created_at) VALUES ({row})"
    with pytest.raises(IntegrityError, match="balances_chain"):
        async with database.begin() as connection:
            await connection.execute(text(insert.format("4.000001")))
    async with database.begin() as connection:
        await connection.execute(text(insert.format("4.000000")))
