"""A worker that stands still in a commit keeps the next one from its rows no longer than its lease."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from importlib import import_module
from typing import Any

import pytest
from sqlalchemy import make_url, text

from credits_fast import DatabaseUnavailableError
from credits_fast.ledger.database import connect, writing
from credits_fast.servers.lane import Endpoint
from credits_fast.sync.lease import Leases
from credits_fast.testing import kit_on
from tests.integration.conftest import CONFIG

_WAIT_S = 10


async def test_a_copy_whose_program_stands_still_is_ended_by_who_takes_over(
    redis_endpoint: Endpoint, postgresql_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    database = connect(postgresql_url)
    plain = make_url(postgresql_url).set(drivername="postgresql")
    async with kit_on(CONFIG, redis_endpoint, database, None) as kit:
        numbers = set(range(len(kit.engine.partitions)))
        gone = Leases(database, "gone", 60_000)
        assert numbers == {claim.partition for claim in (await gone.balance(()))[1]}
        async with writing(database) as connection:
            await connection.execute(text("UPDATE sync_partitions SET lease_until_ms = 1"))
            await connection.execute(text("UPDATE sync_workers SET alive_until_ms = 1"))
        asyncpg: Any = import_module("asyncpg")  # it has no types
        standing = await asyncpg.connect(plain.render_as_string(hide_password=False))
        await standing.execute("BEGIN; UPDATE sync_partitions SET updated_at = now()")
        copying: asyncio.Task[Any] = asyncio.create_task(
            standing.copy_to_table("transactions", source=nothing())
        )
        another, held = Leases(database, "another", 500), set[int]()
        deadline = time.monotonic() + _WAIT_S
        while held < numbers and time.monotonic() < deadline:
            _, claims = await another.balance(held)
            held.update(claim.partition for claim in claims)
        copying.cancel()
        await asyncio.gather(copying, return_exceptions=True)
        standing.terminate()
        assert numbers == held
        assert "ended 1 commits of workers that stand still" in caplog.text
    await database.dispose()


async def nothing() -> AsyncIterator[bytes]:
    """The rows of a program that stands still."""
    await asyncio.Event().wait()
    yield b""


async def test_rows_locked_by_a_worker_that_stands_still_are_let_go(
    redis_endpoint: Endpoint, postgresql_url: str
) -> None:
    database = connect(postgresql_url)
    touch = text("UPDATE sync_partitions SET updated_at = now()")
    async with kit_on(CONFIG, redis_endpoint, database, None) as kit:
        another, held = Leases(database, "another", 60_000), set[int]()

        async def stand_still() -> None:
            async with writing(database, idle_ms=100) as connection:
                await connection.execute(touch)
                deadline = time.monotonic() + _WAIT_S
                while len(held) < len(kit.engine.partitions) and time.monotonic() < deadline:
                    _, claims = await another.balance(held)
                    held.update(claim.partition for claim in claims)
                await connection.execute(touch)

        with pytest.raises(DatabaseUnavailableError):
            await stand_still()
        assert len(kit.engine.partitions) == len(held)
    await database.dispose()
