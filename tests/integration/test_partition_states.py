"""Every partition's state as an operator sees it: open, fenced, unopened, away; its lag, owner, reason."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from credits_fast.checks.partition_states import PartitionState, partition_states
from credits_fast.ledger.database import reading, writing
from credits_fast.protocol.entries import EntryId
from credits_fast.protocol.keys import Partitions
from credits_fast.servers.lane import Endpoint
from credits_fast.servers.routing import Router
from credits_fast.sync.tables import sync_partitions, users
from credits_fast.sync.worker import SyncWorker
from credits_fast.testing import CreditsKit
from tests.integration.test_worker import QUICK, new_worker, vanish


async def states_of(kit: CreditsKit) -> list[PartitionState]:
    return await partition_states(kit.engine.router, kit.database, kit.engine.partitions)


async def state_of(kit: CreditsKit, user: str = "ada") -> PartitionState:
    return (await states_of(kit))[kit.engine.partitions.of(user.encode()).number]


async def test_what_waits_is_seen_and_what_is_recorded_is_not(kit: CreditsKit) -> None:
    await kit.engine.create_user("ada", credits=100)
    await kit.engine.charge("ada", "image")
    before = await state_of(kit)
    await kit.sync()
    after = await state_of(kit)
    lane = await kit.engine.lane()

    assert {lane.address} == {state.node for state in await states_of(kit)}
    assert ("open", 1, 1) == (before.state, before.epoch, before.journal_length)
    assert (EntryId((1, 0)), EntryId((0, 0))) == (before.last, before.synced)
    assert before.last == after.last == after.synced
    assert (None, kit.worker.id) == (before.owner, after.owner)
    assert (False, True) == (before.is_owned, after.is_owned)
    assert after.lease_left_ms is not None
    assert 0 < after.lease_left_ms <= kit.engine.config.sync.lease_ms
    assert 0 == after.lag_ms


async def test_the_lag_of_a_partition_is_its_own(sqlite_kit: CreditsKit) -> None:
    await sqlite_kit.engine.create_user("ada", credits=100)
    lane = await sqlite_kit.engine.lane()
    journal = sqlite_kit.engine.partitions.of(b"ada").journal
    await lane.execute(b"XADD", journal, b"1-*", b"v", b"1", b"t", b"0", b"i", b"")

    busy = await state_of(sqlite_kit)
    others = [state.lag_ms for state in await states_of(sqlite_kit) if state != busy]

    assert busy.lag_ms is not None
    assert busy.lag_ms > 1_000_000_000
    assert [0, 0, 0] == [lag for lag in others if lag is not None and lag < 1_000]


async def test_a_partition_nobody_opened_is_unopened(
    redis_endpoint: Endpoint, sqlite_database: AsyncEngine
) -> None:
    router = Router(redis_endpoint)
    router.open()
    states = await partition_states(router, sqlite_database, Partitions("credits", 2))
    await router.close()

    expected = [("unopened", None, 0, None, None, None)] * 2
    assert expected == [
        (one.state, one.epoch, one.journal_length, one.synced, one.lag_ms, one.owner)
        for one in states
    ]


@pytest.mark.parametrize("words", [("SET", "1 another 1 0.1.0"), ("DEL",)], ids=["other", "wiped"])
async def test_a_partition_of_another_server_or_without_a_gate_is_fenced(
    sqlite_kit: CreditsKit, words: tuple[str, ...]
) -> None:
    lane = await sqlite_kit.engine.lane()
    command, *rest = (word.encode() for word in words)
    await lane.execute(command, sqlite_kit.engine.partitions[2].gate, *rest)

    states = [state.state for state in await states_of(sqlite_kit)]

    assert ["open", "open", "fenced", "open"] == states


async def test_a_server_that_does_not_answer_is_away(sqlite_kit: CreditsKit) -> None:
    router = Router(Endpoint.from_url("redis://127.0.0.1:1"))
    router.open()
    states = await partition_states(router, sqlite_kit.database, sqlite_kit.engine.partitions)
    await router.close()

    assert [("away", "", None, None)] * 4 == [
        (one.state, one.node, one.journal_length, one.lag_ms) for one in states
    ]
    assert all("cannot be reached" in one.problem for one in states)
    assert all(one.synced is not None for one in states)


async def test_why_a_partition_is_set_aside_is_told_until_it_is_taken_over(kit: CreditsKit) -> None:
    await kit.engine.create_user("ada", credits=100)
    await kit.engine.charge("ada", "image")
    await _set(kit, 99)
    victim = new_worker(kit)
    await victim.step()
    told = await state_of(kit)
    await victim.step()

    number = kit.engine.partitions.of(b"ada").number
    assert {number: told.set_aside} == victim.set_aside
    assert told.set_aside.startswith("ChainBrokenError: user 'ada' is at")
    assert [""] * 3 == [one.set_aside for one in await states_of(kit) if one.number != number]
    assert (1, 0, 1) == (victim.tally.errors, victim.tally.forks, len(victim.set_aside))

    await vanish(kit, victim)
    await _set(kit, 100)
    follower = SyncWorker(kit.engine.endpoint, kit.database, kit.engine.partitions, QUICK)
    await follower.step()

    assert ("", follower.id) == ((found := await state_of(kit)).set_aside, found.owner)
    await follower.close()


async def test_a_worker_that_lost_a_partition_says_nothing_about_it(kit: CreditsKit) -> None:
    await kit.engine.create_user("ada", credits=100)
    victim = new_worker(kit)
    await victim.step()
    number = kit.engine.partitions.of(b"ada").number
    async with writing(kit.database) as connection:
        await connection.execute(update(sync_partitions).values(fence=sync_partitions.c.fence + 1))
    await victim._leases.set_aside(number, victim._owned[number].claim.fence, "why")

    async with reading(kit.database) as connection:
        assert {None} == {*await connection.scalars(select(sync_partitions.c.set_aside))}
    await victim.close()


async def test_a_worker_counts_what_it_records_and_what_was_refused(kit: CreditsKit) -> None:
    from credits_fast import InsufficientCreditsError

    await kit.engine.create_user("ada", credits=100)
    await kit.engine.charge("ada", "image")
    for _ in range(2):
        with pytest.raises(InsufficientCreditsError):
            await kit.engine.charge("ada", "image", amount=10_000)
    await kit.sync()
    tally = kit.worker.tally

    assert (3, 1, 1, 1) == (tally.entries, tally.transactions, tally.batches, tally.commits)
    assert {"INSUFFICIENT_CREDITS": 2} == dict(tally.refusals)
    assert [0, 1, 0, 0, 0, 0, 0, 0] == tally.batch_sizes
    assert 3 == kit.worker.carried


async def test_a_journal_that_does_not_continue_the_ledger_is_counted_as_a_fork_and_a_repair(
    kit: CreditsKit,
) -> None:
    await kit.engine.create_user("ada", credits=100)
    await kit.engine.charge("ada", "image")
    await kit.sync()
    lane = await kit.engine.lane()
    await lane.execute(b"DEL", kit.engine.partitions.of(b"ada").journal)
    await kit.sync()

    assert (1, 1) == (kit.worker.tally.forks, kit.worker.tally.repairs)
    assert "entry 1-0 is recorded" in kit.worker.tally.last_error
    assert kit.worker.tally.last_error_s > 0
    state = await state_of(kit)
    assert ("open", 2, "") == (state.state, state.epoch, state.set_aside)


async def _set(kit: CreditsKit, credits_: Any) -> None:
    async with writing(kit.database) as connection:
        await connection.execute(update(users).where(users.c.id == "ada").values(credits=credits_))
