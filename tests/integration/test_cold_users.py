"""Users Redis does not know: read once, whoever asks; and those nobody knows."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import insert

from credits_fast import EngineClosedError, UserNotFoundError
from credits_fast.sync.tables import users
from credits_fast.testing import CreditsKit


class CountedReads:
    """Counts how often the ledger is asked for an account."""

    def __init__(self, kit: CreditsKit, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        original = kit.engine._records.account

        async def counted(user_id: str) -> Any:
            self.count += 1
            return await original(user_id)

        monkeypatch.setattr(kit.engine._records, "account", counted)


async def test_a_user_of_the_application_is_loaded_once_whoever_asks(
    kit: CreditsKit,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads = CountedReads(kit, monkeypatch)
    async with kit.database.begin() as connection:
        row = {"id": "ada", "credits": 200, "membership_tier": "pro"}
        await connection.execute(insert(users), row)

    results = await asyncio.gather(*(kit.engine.charge("ada", "image") for _ in range(10)))

    assert 1 == reads.count
    assert {15} == {one.cost for one in results}
    assert 50 == await kit.engine.query_balance("ada")
    await kit.assert_balanced()


async def test_two_engines_that_load_one_user_do_not_double_the_balance(kit: CreditsKit) -> None:
    from credits_fast import CreditsEngine

    async with kit.database.begin() as connection:
        await connection.execute(insert(users), {"id": "ada", "credits": 200})
    engine = CreditsEngine(kit.engine.config, redis=kit.engine.endpoint, database=kit.database)
    async with engine as other:
        await asyncio.gather(
            *(one.charge("ada", "image") for one in (kit.engine, other) for _ in range(5))
        )

    assert 0 == await kit.engine.query_balance("ada")
    await kit.assert_balanced()


async def test_asking_again_and_again_for_a_user_nobody_knows_does_not_hammer_the_ledger(
    kit: CreditsKit,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads = CountedReads(kit, monkeypatch)

    for _ in range(3):
        outcomes = await asyncio.gather(
            *(kit.engine.charge("nobody", "image") for _ in range(20)),
            return_exceptions=True,
        )
        assert 20 == sum(isinstance(one, UserNotFoundError) for one in outcomes)
    for ask in (kit.engine.get_user, kit.engine.query_balance):
        with pytest.raises(UserNotFoundError):
            await ask("nobody")

    assert 1 == reads.count


async def test_a_user_created_after_that_is_known_at_once(kit: CreditsKit) -> None:
    from credits_fast import CreditsEngine

    async with CreditsEngine(
        kit.engine.config,
        redis=kit.engine.endpoint,
        database=kit.database,
    ) as other:
        for engine in (kit.engine, other):
            with pytest.raises(UserNotFoundError):
                await engine.charge("ada", "image")

        await kit.engine.create_user("ada", credits=100)

        assert 80 == (await other.charge("ada", "image")).balance_after


async def test_the_memory_of_unknown_users_is_bounded(
    sqlite_kit: CreditsKit,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("credits_fast.calls.accounts._UNKNOWN_MAX", 3)

    for number in range(10):
        with pytest.raises(UserNotFoundError):
            await sqlite_kit.engine.query_balance(f"nobody-{number}")

    assert 3 == len(sqlite_kit.engine._accounts._unknown)


async def test_a_read_that_an_eviction_made_old_is_repeated(
    kit: CreditsKit,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with kit.database.begin() as connection:
        await connection.execute(insert(users), {"id": "ada", "credits": 200})
    records = kit.engine._records
    original, reads = records.account, 0
    lane = await kit.engine.lane()
    meta = kit.engine.partitions.of(b"ada").meta

    async def raced(user_id: str) -> Any:
        nonlocal reads
        reads += 1
        row = await original(user_id)
        if reads == 1:
            await lane.execute(b"HINCRBY", meta, b"generation", b"1")
        return row

    monkeypatch.setattr(records, "account", raced)

    assert 180 == (await kit.engine.charge("ada", "image")).balance_after
    assert 2 == reads


async def test_a_caller_that_gives_up_does_not_stop_the_load_for_the_others(
    kit: CreditsKit,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with kit.database.begin() as connection:
        await connection.execute(insert(users), {"id": "ada", "credits": 200})
    records = kit.engine._records
    original = records.account
    reading, go_on = asyncio.Event(), asyncio.Event()

    async def slow(user_id: str) -> Any:
        reading.set()
        await go_on.wait()
        return await original(user_id)

    monkeypatch.setattr(records, "account", slow)
    impatient = asyncio.create_task(kit.engine.charge("ada", "image"))
    await reading.wait()
    patient = asyncio.create_task(kit.engine.charge("ada", "image"))
    await asyncio.sleep(0)
    impatient.cancel()
    go_on.set()

    with pytest.raises(asyncio.CancelledError):
        await impatient
    assert 180 == (await patient).balance_after
    await kit.assert_balanced()


async def test_closing_is_not_a_cancellation_of_who_waits_for_an_account(
    sqlite_kit: CreditsKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    credits, asked = sqlite_kit.engine, asyncio.Event()

    async def never(_user_id: str) -> None:
        asked.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(credits._records, "account", never)
    waiting = asyncio.create_task(credits.charge("ada", "image"))
    await asked.wait()
    await credits.close()

    with pytest.raises(EngineClosedError, match="closed"):
        await asyncio.wait_for(waiting, 1)
