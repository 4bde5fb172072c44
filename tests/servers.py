"""The real servers of a test run: Valkey and PostgreSQL from wheels, started once, ended with the run.

Other servers can be named: `CREDITS_TEST_REDIS_URL`, `CREDITS_TEST_DATABASE_URL` (a PostgreSQL URL of
a user who may create databases). Where a platform has no wheel, what is on PATH is used. Never is a
real server silently replaced by a fake one.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from credits_fast.ledger.schema import upgrade
from credits_fast.servers.lane import Endpoint, Lane, info_fields
from credits_fast.servers.postgresql import start_postgresql
from credits_fast.servers.processes import ServerProcess, start_valkey
from credits_fast.sync.tables import metadata

_SPEED_BEFORE_SAFETY = ("fsync=off", "full_page_writes=off", "synchronous_commit=off")


@dataclass
class Servers:
    """Both servers, and where they are."""

    redis_url: str
    redis_version: str
    database_url: URL
    database_version: str
    administrated: URL
    folder: Path
    processes: list[ServerProcess] = field(default_factory=list[ServerProcess])

    @property
    def source(self) -> str:
        """Where they come from, for the header of the run."""
        return f"{len(self.processes)} of 2 started for this run, under {self.folder}"

    @classmethod
    def start(cls) -> Servers:
        """Start what is not named by the environment."""
        return asyncio.run(_start())

    def stop(self) -> None:
        """Drop the run's database and end what was started."""
        drop = f"DROP DATABASE {self.database_url.database} WITH (FORCE)"
        asyncio.run(_administer(self.administrated, drop))
        for process in reversed(self.processes):
            process.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    async def empty_database(self, driver: str) -> URL:
        """The run's migrated PostgreSQL database, emptied."""
        engine = create_async_engine(self.database_url, poolclass=NullPool)
        names = ", ".join(metadata.tables)
        async with engine.begin() as connection:
            await connection.execute(text(f"TRUNCATE {names} RESTART IDENTITY CASCADE"))
        await engine.dispose()
        return self.database_url.set(drivername=f"postgresql+{driver}")


async def _start() -> Servers:
    folder = Path(tempfile.mkdtemp(prefix="cf-test-"))
    folder.chmod(0o755)
    processes: list[ServerProcess] = []
    try:
        redis_url = os.environ.get("CREDITS_TEST_REDIS_URL") or await _valkey(folder, processes)
        named = os.environ.get("CREDITS_TEST_DATABASE_URL")
        database_url = make_url(named) if named else await _postgresql(folder, processes)
        database_url = database_url.set(drivername="postgresql+asyncpg")
        name = f"credits_test_{os.getpid()}"
        await _administer(database_url, f"CREATE DATABASE {name}")
        administrated, database_url = database_url, database_url.set(database=name)
        engine = create_async_engine(database_url, poolclass=NullPool)
        await upgrade(engine)
        await engine.dispose()
        return Servers(
            redis_url=redis_url,
            redis_version=await _redis_version(redis_url),
            database_url=database_url,
            database_version=await _database_version(database_url),
            administrated=administrated,
            folder=folder,
            processes=processes,
        )
    except BaseException:
        for process in processes:
            process.stop()
        raise


async def _valkey(folder: Path, processes: list[ServerProcess]) -> str:
    data = folder / "valkey"
    data.mkdir()
    socket = folder / "valkey.sock"
    processes.append(await start_valkey(data, socket, persistent=False))
    return f"unix://{socket}"


async def _postgresql(folder: Path, processes: list[ServerProcess]) -> URL:
    server, url = await start_postgresql(folder, (*_SPEED_BEFORE_SAFETY, "max_connections=200"))
    processes.append(server)
    return url


async def _administer(database_url: URL, statement: str) -> None:
    engine = create_async_engine(database_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(text(statement))
    await engine.dispose()


async def _redis_version(url: str) -> str:
    lane = await Lane.open(Endpoint.from_url(url))
    fields = info_fields(await lane.execute(b"INFO", b"server"))
    await lane.close()
    if "valkey_version" in fields:
        return f"Valkey {fields['valkey_version']}"
    return f"Redis {fields.get('redis_version', 'of unknown version')}"


async def _database_version(url: URL) -> str:
    engine: AsyncEngine = create_async_engine(url, poolclass=NullPool)
    async with engine.connect() as connection:
        version = await connection.scalar(text("SHOW server_version"))
    await engine.dispose()
    return f"PostgreSQL {str(version).split()[0]}"
