"""A worker that stands still in a commit keeps the next one from its rows no longer than its lease."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import text

from credits_fast import DatabaseUnavailableError
from credits_fast.database import connect, writing
from credits_fast.lane import Endpoint
from credits_fast.sync.lease import Leases
from credits_fast.testing import kit_on
from tests.integration.conftest import CONFIG

_WAIT_S = 10


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
