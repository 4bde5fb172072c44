"""The next batch is read while one is written: whatever happens then, nothing is lost, nothing twice."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any, Final

import pytest
from sqlalchemy import event, func, select, update

from credits_fast import DatabaseUnavailableError, RedisUnavailableError, SyncConfig
from credits_fast.sync import bulk, on_postgresql
from credits_fast.sync.journal import Journal
from credits_fast.sync.ledger import Ledger
from credits_fast.sync.rows import Batch
from credits_fast.sync.tables import (
    audit_logs,
    idempotency_records,
    sync_partitions,
    sync_workers,
    transactions,
    users,
)
from credits_fast.sync.worker import SyncWorker
from credits_fast.testing import CreditsKit

NAMES: Final = [f"user-{number}" for number in range(8)]
TURNS: Final = 12
DECISIONS: Final = len(NAMES) * TURNS
SMALL: Final = SyncConfig(batch_max=4, lease_ms=60_000, retain_ms=0)
WITHIN_S: Final = 60


@pytest.fixture
async def late_kit(kit: CreditsKit) -> CreditsKit:
    """Eight users whose charges wait in the journal, many more than a small batch takes."""
    await charge(kit, TURNS)
    return kit


async def charge(kit: CreditsKit, turns: int, *, prefix: str = "k") -> None:
    async with kit.database.connect() as connection:
        known = (await connection.scalars(select(users.c.id))).all()
    for name in {*NAMES} - {*known}:
        await kit.engine.create_user(name, credits=10_000)
    for turn in range(turns):
        charges = (
            kit.engine.charge(name, "image", idempotency_key=f"{prefix}{turn}") for name in NAMES
        )
        await asyncio.gather(*charges)


def new_worker(kit: CreditsKit, config: SyncConfig = SMALL) -> SyncWorker:
    return SyncWorker(kit.engine.endpoint, kit.database, kit.engine.partitions, config)


async def count(kit: CreditsKit, table: Any) -> int:
    async with kit.database.connect() as connection:
        return int(await connection.scalar(select(func.count()).select_from(table)) or 0)


async def assert_recorded_once(kit: CreditsKit, decisions: int = DECISIONS) -> None:
    await kit.assert_balanced()
    assert len(NAMES) + decisions == await count(kit, transactions)
    assert len(NAMES) + decisions == await count(kit, audit_logs)
    assert decisions == await count(kit, idempotency_records)


async def vanish(kit: CreditsKit, worker: SyncWorker) -> None:
    """The worker is gone without a word, and its leases have ended."""
    await worker.router.close()
    await end_leases(kit)


async def end_leases(kit: CreditsKit) -> None:
    async with kit.database.begin() as connection:
        await connection.execute(update(sync_partitions).values(lease_until_ms=1))
        await connection.execute(update(sync_workers).values(alive_until_ms=1))


class Gate:
    """Lets the second write begin only when what comes after it has been read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.has_read_ahead = asyncio.Event()
        self._read = SyncWorker._read
        self._write = Ledger.write
        self.writes = 0
        self.decisions = 0
        self.instead: Callable[[], Any] | None = None
        gate = self

        async def read(worker: SyncWorker, *under_way: Any) -> list[Batch]:
            batches = await gate._read(worker, *under_way)
            gate.decisions += sum(batch.items for batch in batches)
            if under_way:
                assert batches
                gate.has_read_ahead.set()
            return batches

        async def write(ledger: Ledger, work: Any) -> None:
            gate.writes += 1
            if gate.writes == 2:
                async with asyncio.timeout(WITHIN_S):  # for ever, if nothing is read meanwhile
                    await gate.has_read_ahead.wait()
                if gate.instead is not None:
                    await gate.instead()
            await gate._write(ledger, work)

        monkeypatch.setattr(SyncWorker, "_read", read)
        monkeypatch.setattr(Ledger, "write", write)


async def test_while_it_is_behind_the_next_batch_is_read_before_one_is_written(
    late_kit: CreditsKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    worker = new_worker(late_kit)

    assert DECISIONS == await worker.drain()
    assert DECISIONS == gate.decisions  # nothing that was read ahead had to be read again

    await worker.close()
    await assert_recorded_once(late_kit)


async def test_a_step_reads_nothing_ahead(late_kit: CreditsKit) -> None:
    worker = new_worker(late_kit)
    carried: list[int] = []
    while number := await worker.step():
        carried.append(number)
        assert [] == worker._ahead

    assert DECISIONS == sum(carried)
    await worker.close()
    await assert_recorded_once(late_kit)


async def test_what_was_read_ahead_of_a_failed_write_is_read_again(
    late_kit: CreditsKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        raise DatabaseUnavailableError("it is away")

    gate = Gate(monkeypatch)
    gate.instead = fail
    worker = new_worker(late_kit)
    with pytest.raises(DatabaseUnavailableError):
        await worker.drain()
    monkeypatch.undo()

    assert [] == worker._ahead
    await worker.drain()
    await worker.close()
    await assert_recorded_once(late_kit)


async def test_what_is_being_written_is_written_though_reading_ahead_fails(
    late_kit: CreditsKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = new_worker(late_kit)
    original = Journal.read
    reads = 0

    async def read(journal: Journal, looks: Any) -> Any:
        nonlocal reads
        reads += 1
        if reads == 2:
            raise RedisUnavailableError("it is away")
        return await original(journal, looks)

    monkeypatch.setattr(Journal, "read", read)
    with pytest.raises(RedisUnavailableError):
        await worker.drain()
    monkeypatch.undo()

    assert 0 < worker.carried == await count(late_kit, transactions) - len(NAMES)
    await worker.drain()
    await worker.close()
    await assert_recorded_once(late_kit)


async def test_a_cancelled_worker_leaves_nothing_running_and_nothing_twice(
    late_kit: CreditsKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wait_for_ever() -> None:
        is_waiting.set()
        await asyncio.Event().wait()

    is_waiting = asyncio.Event()
    gate = Gate(monkeypatch)
    gate.instead = wait_for_ever
    worker = new_worker(late_kit)
    working = asyncio.create_task(worker.run(asyncio.Event()))
    async with asyncio.timeout(WITHIN_S):
        await is_waiting.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    monkeypatch.undo()

    assert [] == [task for task in asyncio.all_tasks() if "ahead" in task.get_name()]
    await worker.close()
    await assert_recorded_once(late_kit)


async def test_cancelled_in_the_middle_of_reading_ahead_it_reads_again(
    late_kit: CreditsKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wait_for_ever(_worker: SyncWorker, look: Any, _entries: Any) -> Batch:
        if look.last_id == "0-0":
            return await original(worker, look, _entries)
        is_reading.set()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    original = SyncWorker._batch
    is_reading = asyncio.Event()
    monkeypatch.setattr(SyncWorker, "_batch", wait_for_ever)
    worker = new_worker(late_kit)
    working = asyncio.create_task(worker.drain())
    async with asyncio.timeout(WITHIN_S):
        await is_reading.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    monkeypatch.undo()

    await vanish(late_kit, worker)
    await assert_recorded_once(late_kit)


async def test_partitions_lost_while_a_batch_was_read_ahead_are_left_to_their_new_owner(
    late_kit: CreditsKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = new_worker(late_kit)
    heir = new_worker(late_kit)

    async def take_over() -> None:
        await end_leases(late_kit)
        await heir.step()
        worker._renew_at = heir._renew_at = float("inf")

    gate = Gate(monkeypatch)
    gate.instead = take_over
    first = await worker._carry()
    await worker._carry()
    carried = worker.carried
    monkeypatch.undo()

    assert 0 < first == carried
    assert frozenset() == worker.owned
    assert 0 == await worker._carry()
    await heir.drain()
    await heir.close()
    await worker.close()
    await assert_recorded_once(late_kit)


async def test_only_what_follows_the_ledger_is_written_of_what_was_read_ahead(
    late_kit: CreditsKit,
) -> None:
    worker = new_worker(late_kit)
    await worker._carry()
    ahead = worker._ahead = [*await worker._read()]
    for batch, fault in zip(ahead, ("place", "digest", "aside", None), strict=False):
        owned = worker._owned[batch.partition]
        match fault:
            case "place":
                owned.claim.last_id = "1-999"
            case "digest":
                owned.claim.last_stamp = "another"
            case "aside":
                owned.set_aside = "for a reason"
            case None:
                pass

    assert ahead[3:] == worker._still_following(ahead)
    worker._owned.clear()
    assert [] == worker._still_following(ahead)
    await vanish(late_kit, worker)
    await assert_recorded_once(late_kit)


class KilledError(BaseException):
    """What a process that is killed at this point would not survive."""


POINTS: dict[str, tuple[Any, str, bool]] = {
    "after reading": (SyncWorker, "_read", True),
    "before writing": (Ledger, "write", False),
    "after moving the positions": (Ledger, "_move", True),
    "after moving the users": (Ledger, "_update_users", True),
    "after the rows": (Ledger, "_insert", True),
    "before the commit": (Ledger, "_remember", True),
    "after the commit": (Ledger, "write", True),
    "before trimming": (SyncWorker, "_trim", False),
    "after trimming": (SyncWorker, "_trim", True),
}


@pytest.mark.parametrize("point", POINTS)
async def test_a_worker_killed_while_it_reads_ahead_leaves_nothing_lost_or_doubled(
    late_kit: CreditsKit, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    owner, name, is_after = POINTS[point]
    original: Callable[..., Any] = getattr(owner, name)
    times = 0

    async def killed(*arguments: Any) -> Any:
        nonlocal times
        times += 1
        if times == 1:  # by the second time there is something that was read ahead
            return await original(*arguments)
        if is_after:
            await original(*arguments)
        raise KilledError

    victim = new_worker(late_kit)
    monkeypatch.setattr(owner, name, killed)
    with pytest.raises(KilledError):
        await victim.drain()
    monkeypatch.undo()
    await vanish(late_kit, victim)

    await assert_recorded_once(late_kit)


async def test_a_position_whose_commit_was_not_heard_of_is_claimed_anew_at_once(
    late_kit: CreditsKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Ledger.write

    async def write(ledger: Ledger, work: Any) -> None:
        await original(ledger, work)
        raise DatabaseUnavailableError("the reply to COMMIT was lost")

    worker = new_worker(late_kit)
    monkeypatch.setattr(Ledger, "write", write)
    with pytest.raises(DatabaseUnavailableError):
        await worker.step()
    monkeypatch.undo()

    assert 0 == await worker.step()
    assert frozenset() == worker.owned
    assert 0 < await worker.step()
    assert {0, 1, 2, 3} == worker.owned
    await worker.drain()
    await worker.close()
    await assert_recorded_once(late_kit)


async def test_two_batches_are_in_memory_at_most(
    sqlite_kit: CreditsKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    await charge(sqlite_kit, TURNS)
    worker = new_worker(sqlite_kit)
    original = Ledger.write
    in_memory: list[int] = []

    async def write(ledger: Ledger, work: Any) -> None:
        await original(ledger, work)
        of_partition = [o.partition for o in gc.get_objects() if isinstance(o, Batch)]
        in_memory.append(max(of_partition.count(number) for number in of_partition))
        assert all(batch.items <= SMALL.batch_max for batch in work)

    monkeypatch.setattr(Ledger, "write", write)
    await worker.drain()

    assert 2 == max(in_memory)
    await worker.close()
    await assert_recorded_once(sqlite_kit)


async def test_entries_larger_than_any_before_do_not_make_a_batch_larger(
    sqlite_kit: CreditsKit,
) -> None:
    kit = sqlite_kit
    worker = new_worker(kit, SyncConfig(batch_max=10, retain_ms=0))
    await kit.engine.create_user("ada", credits=1_000)
    for _ in range(20):
        await kit.engine.charge("ada", "free")
    while await worker.step():
        pass
    for _ in range(20):
        await asyncio.gather(*(kit.engine.charge("ada", "free") for _ in range(8)))

    carried: list[int] = []
    while number := await worker.step():
        carried.append(number)

    assert 160 == sum(carried)
    assert max(carried) <= 10
    await worker.close()


async def test_others_have_their_turn_while_a_large_batch_is_made_ready(
    sqlite_kit: CreditsKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("credits_fast.sync.worker._SLICE_ITEMS", 10)
    await charge(sqlite_kit, 50)
    worker = new_worker(sqlite_kit, SyncConfig(retain_ms=0))
    await worker.step()
    await charge(sqlite_kit, 50, prefix="l")
    turns: list[int] = []

    async def others() -> None:
        while True:
            turns.append(1)
            await asyncio.sleep(0)

    looks = worker._looks({})
    found = await worker._journal.read(looks)
    pairs = [(look, raw or []) for look, raw in zip(looks, found, strict=True)]
    look, entries = max(pairs, key=lambda pair: len(pair[1]))
    running = asyncio.create_task(others())
    batch = await worker._batch(look, entries[1:])
    running.cancel()

    assert 100 <= batch.items <= 20 * len(turns)
    await worker.close()


async def statements_of_a_commit(kit: CreditsKit, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a step sends to the database in its commit, COPY included."""
    worker = new_worker(kit, SyncConfig(retain_ms=0))
    await worker._keep_leases()
    batches = await worker._read()
    sent: list[str] = []

    def executed(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        sent.append(" ".join(statement.split())[:40])

    original = bulk.copy_rows

    async def copy_rows(connection: Any, table: str, *rest: Any) -> None:
        sent.append(f"COPY {table}")
        await original(connection, table, *rest)

    monkeypatch.setattr(on_postgresql, "copy_rows", copy_rows)
    event.listen(kit.database.sync_engine, "before_cursor_execute", executed)
    written = await worker._write(batches)
    event.remove(kit.database.sync_engine, "before_cursor_execute", executed)
    monkeypatch.undo()
    assert batches == written
    await worker._trim(written)
    await worker.close()
    return sent


async def test_a_commit_has_as_many_statements_whatever_it_writes(
    kit: CreditsKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def decide(number: int, prefix: str) -> None:
        names = NAMES[:number]
        for turn in range(number):
            key = f"{prefix}{turn}"
            await asyncio.gather(
                *(kit.engine.charge(name, "image", idempotency_key=key) for name in names)
            )
        tier = "pro" if number == 1 else "max"
        await asyncio.gather(*(kit.engine.upgrade_tier(name, tier) for name in names))

    await charge(kit, 0)
    await decide(1, "few")
    few = await statements_of_a_commit(kit, monkeypatch)
    await decide(8, "many")
    many = await statements_of_a_commit(kit, monkeypatch)

    assert few == many
    await kit.assert_balanced()


async def test_a_key_the_ledger_still_remembers_keeps_its_record_beside_new_ones(
    kit: CreditsKit, caplog: pytest.LogCaptureFixture
) -> None:
    await kit.engine.create_user("ada", credits=1_000)
    first = await kit.engine.charge("ada", "image", idempotency_key="k")
    await kit.sync()
    lane = await kit.engine.lane()
    await lane.execute(b"DEL", kit.engine.partitions.of(b"ada").record(b"ada", b"key:k"))

    await kit.engine.charge("ada", "image", idempotency_key="k")
    await kit.engine.charge("ada", "image", idempotency_key="l")
    await kit.assert_balanced()

    columns = idempotency_records.c
    async with kit.database.connect() as connection:
        query = select(columns.key, columns.transaction_id).order_by(columns.key)
        records = [tuple(row) for row in await connection.execute(query)]
    assert ["k", "l"] == [key for key, _ in records]
    assert first.transaction_id == records[0][1]
    assert 4 == await count(kit, transactions)
    assert "1 idempotency keys were used again" in caplog.text


async def test_whatever_a_caller_writes_is_recorded_as_it_was(kit: CreditsKit) -> None:
    nasty = 'a\tb\nc\rd\\e\\N\\.é\u2028"{}'
    metadata = {nasty: nasty, "cost": 1, "number": 1.5}
    await kit.engine.create_user(nasty, credits=1_000)

    await kit.engine.grant(nasty, "0.000001", nasty, metadata=metadata, idempotency_key=nasty)
    await kit.assert_balanced()

    (row,) = [row for row in await kit.transactions(nasty) if row.action == nasty]
    assert (nasty, nasty, metadata) == (row.user_id, row.action, row.metadata)
    assert nasty == row.idempotency_key
    (audit,) = [entry for entry in await kit.audit(nasty) if nasty in (entry.metadata or {})]
    assert (nasty, nasty) == (audit.metadata["operation"], audit.metadata[nasty])
    async with kit.database.connect() as connection:
        assert nasty in (await connection.scalars(select(idempotency_records.c.key))).all()
