"""A worker process killed with SIGKILL again and again, while charges go on: nothing lost, nothing twice.

`CREDITS_TEST_KILLS` and `CREDITS_TEST_SEED` make it longer, or another one; `--log-cli-level=info` shows
the figures.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from credits_fast import CreditsEngine
from credits_fast.checks.balance_sheet import balance_sheet, compare_redis
from credits_fast.ledger.database import connect
from credits_fast.sync.tables import transactions
from tests.servers import Servers

_log = logging.getLogger(__name__)

KILLS: Final = int(os.environ.get("CREDITS_TEST_KILLS", "6"))
SEED: Final = int(os.environ.get("CREDITS_TEST_SEED", "20260101"))
CHARGES_PER_LIFE: Final = 1_000
USERS: Final = 50
_WAVE: Final = 100
_ENDS_WITHIN_S: Final = 60

CONFIG: Final[dict[str, Any]] = {
    "costs": {"chat": {"default": 1}},
    "membership": {"tiers": {}},
    "partitions": 4,
    # Small batches, so that a life has many steps to be killed in, and leases that end soon.
    "sync": {"batch_max": 40, "lease_ms": 200, "retain_ms": 0, "poll_ms": 2},
}


class Lives:
    """One worker process after another; each is ended by SIGKILL, somewhere in its work."""

    def __init__(
        self, environment: dict[str, str], database: AsyncEngine, chance: random.Random
    ) -> None:
        self._environment = environment
        self._database = database
        self._chance = chance

    async def live(self) -> int:
        """Start a worker and kill it after a random amount of its work; how many rows it wrote."""
        before = await self.rows()
        process = subprocess.Popen(
            (sys.executable, "-m", "credits_fast.sync"), env=self._environment
        )
        try:
            await self._until(before + self._chance.randint(1, CHARGES_PER_LIFE), process)
            # A row is seen just after its commit; the looks at the ledger spread the kill over the step.
            for _ in range(self._chance.randint(0, 12)):
                await self.rows()
        finally:
            process.kill()
            process.wait(_ENDS_WITHIN_S)
        return await self.rows() - before

    async def rows(self) -> int:
        """How many transactions the ledger has."""
        async with self._database.connect() as connection:
            return await connection.scalar(select(func.count()).select_from(transactions)) or 0

    async def _until(self, rows: int, process: subprocess.Popen[bytes]) -> None:
        async with asyncio.timeout(_ENDS_WITHIN_S):
            while await self.rows() < rows:
                assert process.poll() is None, "the worker ended by itself"


async def charges(engine: CreditsEngine, life: int) -> list[str]:
    """One life's charges, in waves, each with a key; the ids of what was acknowledged."""
    acknowledged: list[str] = []
    for wave in range(0, CHARGES_PER_LIFE, _WAVE):
        results = await asyncio.gather(
            *(
                engine.charge(f"user-{number % USERS}", "chat", idempotency_key=f"{life}-{number}")
                for number in range(wave, wave + _WAVE)
            )
        )
        acknowledged += [result.transaction_id for result in results]
    return acknowledged


@pytest.mark.usefixtures("redis_endpoint")
async def test_charges_are_recorded_once_each_however_often_the_worker_is_killed(
    servers: Servers, postgresql_url: str, tmp_path: Path
) -> None:
    config_file = tmp_path / "credits.json"
    config_file.write_text(json.dumps(CONFIG))
    environment = {
        **os.environ,
        "CREDITS_REDIS_URL": servers.redis_url,
        "CREDITS_DATABASE_URL": postgresql_url,
        "CREDITS_CONFIG": str(config_file),
        "CREDITS_LOG_LEVEL": "error",
    }
    database = connect(postgresql_url)
    lives = Lives(environment, database, random.Random(SEED))
    async with CreditsEngine.from_url(servers.redis_url, postgresql_url, config_file) as engine:
        names = [f"user-{number}" for number in range(USERS)]
        await asyncio.gather(*(engine.create_user(name, credits=1_000_000) for name in names))
        acknowledged: list[str] = []
        wrote: list[int] = []
        for life in range(KILLS):
            of_this_life, rows = await asyncio.gather(charges(engine, life), lives.live())
            acknowledged += of_this_life
            wrote.append(rows)
        last = subprocess.Popen((sys.executable, "-m", "credits_fast.sync"), env=environment)
        try:
            await engine.wait_recorded(timeout_ms=_ENDS_WITHIN_S * 1_000)
        finally:
            last.terminate()
            last.wait(_ENDS_WITHIN_S)
        in_redis = await compare_redis(database, engine.router, engine.partitions)
    sheet = await balance_sheet(database)
    async with database.connect() as connection:
        rows_of = select(transactions.c.id).where(transactions.c.kind == "charge")
        recorded = Counter((await connection.scalars(rows_of)).all())
    await database.dispose()

    lost = set(acknowledged) - recorded.keys()
    duplicated = recorded.total() - len(recorded) + len(recorded.keys() - set(acknowledged))
    _log.info(
        "%d kills (seed %d), after %s rows: %d acknowledged, %d recorded, %d lost, %d duplicated, drift %s",
        *(KILLS, SEED, wrote, len(acknowledged), recorded.total()),
        *(len(lost), duplicated, in_redis.drift),
    )
    assert KILLS * CHARGES_PER_LIFE == len(acknowledged) == len(set(acknowledged))
    assert (set(), 0) == (lost, duplicated)
    assert sheet.conserves
    assert (USERS, {}) == (in_redis.compared, in_redis.differing)
