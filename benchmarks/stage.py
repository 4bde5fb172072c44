"""Where a benchmark runs: servers of its own, or a guest on servers that are named; nothing stays.

Its own servers are a Valkey and a PostgreSQL on Unix sockets in a temporary folder, both set to lose at
most about a second with the machine: an append-only file synced every second on one side, commits that
do not wait for the disk on the other. As a guest it takes a namespace of its own in Redis and makes
a database of its own in PostgreSQL; both are gone afterwards, however the run ends.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, ProgrammingError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from credits_fast.benchmarks.cpu import children_s, process_s
from credits_fast.benchmarks.workload import PRICES
from credits_fast.config import CreditsConfig, load_config
from credits_fast.engine import CreditsEngine
from credits_fast.errors import ConfigurationError, Problem
from credits_fast.ledger import schema
from credits_fast.ledger.database import connect, reading
from credits_fast.servers.lane import Endpoint, Lane, info_fields
from credits_fast.servers.postgresql import start_postgresql
from credits_fast.servers.processes import ServerProcess, start_server, start_valkey

if TYPE_CHECKING:
    from sqlalchemy.engine import URL
    from sqlalchemy.ext.asyncio import AsyncEngine

    from credits_fast.settings import Settings

__all__ = ["Stage", "open_stage"]

_PARTITIONS: Final = 16
_VALKEY: Final = ("--auto-aof-rewrite-percentage", "0")
"""A rewrite of the append-only file would fork in the middle of a round."""
_POSTGRESQL: Final = (
    "synchronous_commit=off",
    "shared_buffers=512MB",
    "max_wal_size=8GB",
    "max_connections=100",
)
_SHOWN: Final = ("fsync", "synchronous_commit", "full_page_writes", "shared_buffers")
_SCAN: Final = 5_000


@dataclass(frozen=True, slots=True)
class Stage:
    """Servers, an open engine, and what is around it.

    Attributes:
        engine: The engine, without a worker.
        config: Its configuration.
        database: The ledger.
        redis_url: Where Redis is.
        folder: Temporary; for configuration, logs, requests.
        facts: What both servers say of themselves, for the report.
        postgresql: The process of our own PostgreSQL, None where it is somebody else's.
    """

    engine: CreditsEngine
    config: CreditsConfig
    database: AsyncEngine
    redis_url: str
    folder: Path
    facts: dict[str, Any]
    postgresql: ServerProcess | None

    @asynccontextmanager
    async def worker(self) -> AsyncGenerator[ServerProcess, None]:
        """A worker process, started; ended when the work inside is done."""
        environment = {
            "CREDITS_REDIS_URL": self.redis_url,
            "CREDITS_DATABASE_URL": self.database.url.render_as_string(hide_password=False),
            "CREDITS_CONFIG": str(self.folder / "credits.json"),
            "CREDITS_LOG_LEVEL": "warning",
        }
        command = [sys.executable, "-m", "credits_fast.sync"]
        worker = start_server(command, self.folder / "worker.log", environment=environment)
        try:
            yield worker
        finally:
            await asyncio.to_thread(worker.stop)

    async def redis_cpu_s(self) -> float:
        """CPU seconds of the server so far, as it says itself."""
        lane = await self.engine.lane()
        used = info_fields(await lane.execute(b"INFO", b"cpu"))
        return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])

    def sql_cpu_s(self) -> float | None:
        """CPU seconds of the database so far, None where it is not ours to look at."""
        return None if self.postgresql is None else children_s(self.postgresql.process.pid)

    @staticmethod
    def worker_cpu_s(worker: ServerProcess) -> float | None:
        """CPU seconds of a worker so far."""
        return process_s(worker.process.pid)


@asynccontextmanager
async def open_stage(servers: Settings) -> AsyncGenerator[Stage, None]:
    """A stage, taken down when the work inside is done.

    Args:
        servers: The servers' URLs; those of our own where none is named.

    Raises:
        ConfigurationError: A server cannot be used, or none is installed.
        CreditsError: As `CreditsEngine.start`.
    """
    async with AsyncExitStack() as stack:
        folder = _new_folder()
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        namespace = f"bench-{secrets.token_hex(4)}"
        redis_url = servers.redis_url or await _own_valkey(folder, stack)
        endpoint = Endpoint.from_url(redis_url)
        postgresql, named = None, servers.database_url
        if named is None:
            postgresql, administrated = await _own_postgresql(folder, stack)
        else:
            administrated = _postgresql_url(named)
        url = await _own_database(administrated, namespace, stack)
        file = folder / "credits.json"
        file.write_text(json.dumps(_config(namespace)), encoding="utf-8")
        config = load_config(file)
        database = connect(url.render_as_string(hide_password=False))
        stack.push_async_callback(database.dispose)
        await schema.upgrade(database)
        stack.push_async_callback(_clear, endpoint, namespace)
        engine = CreditsEngine(config, redis=endpoint, database=database)
        await stack.enter_async_context(engine)
        facts = await _facts(engine, database)
        yield Stage(engine, config, database, redis_url, folder, facts, postgresql)


def _new_folder() -> Path:
    """A temporary folder that another user may pass, as PostgreSQL has to where we are root."""
    folder = Path(tempfile.mkdtemp(prefix="cf-bench-"))
    folder.chmod(0o755)
    return folder


def _config(namespace: str) -> dict[str, Any]:
    return {
        "namespace": namespace,
        "partitions": _PARTITIONS,
        "costs": PRICES,
        "membership": {"tiers": {}},
    }


async def _own_valkey(folder: Path, stack: AsyncExitStack) -> str:
    data, socket = folder / "valkey", folder / "valkey.sock"
    data.mkdir()
    server = await start_valkey(data, socket, persistent=True, options=_VALKEY)
    stack.push_async_callback(asyncio.to_thread, server.stop)
    return f"unix://{socket}"


async def _own_postgresql(folder: Path, stack: AsyncExitStack) -> tuple[ServerProcess, URL]:
    server, url = await start_postgresql(folder, _POSTGRESQL)
    stack.push_async_callback(asyncio.to_thread, server.stop)
    return server, url


def _postgresql_url(named: str) -> URL:
    try:
        url = make_url(named)
    except (ArgumentError, ValueError):
        url = None
    if url is None or not url.drivername.startswith("postgres"):
        problem = "is no URL of a PostgreSQL, which the benchmark needs to compare with"
        raise ConfigurationError(Problem("database_url", problem, "database_url"))
    return url.set(drivername="postgresql+asyncpg")


async def _own_database(administrated: URL, namespace: str, stack: AsyncExitStack) -> URL:
    """A new database on the server, dropped in the end."""
    name = namespace.replace("-", "_")
    await _administer(administrated, f"CREATE DATABASE {name}")
    drop = f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"
    stack.push_async_callback(_administer, administrated, drop)
    return administrated.set(database=name)


async def _administer(url: URL, statement: str) -> None:
    engine = create_async_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    try:
        async with reading(engine) as connection:
            await connection.execute(text(statement))
    except ProgrammingError as error:
        problem = f"does not let the benchmark {statement}: {error.orig}"
        raise ConfigurationError(Problem("database_url", problem, "database_url")) from error
    finally:
        await engine.dispose()


async def _clear(endpoint: Endpoint, namespace: str) -> None:
    """Delete every key of ours: the product's and those of the baselines."""
    lane = await Lane.open(endpoint)
    pattern, cursor = b"{%b*" % namespace.encode(), b"0"
    try:
        while True:
            cursor, keys = await lane.execute(
                b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"%d" % _SCAN
            )
            if keys:
                await lane.execute(b"UNLINK", *keys)
            if cursor == b"0":
                return
    finally:
        await lane.close()


async def _facts(engine: CreditsEngine, database: AsyncEngine) -> dict[str, Any]:
    """Names, versions and what matters of the settings of both servers."""
    lane = await engine.lane()
    server = info_fields(await lane.execute(b"INFO", b"server"))
    memory = info_fields(await lane.execute(b"INFO", b"persistence"))
    name, version = "Redis", server.get("redis_version", "of unknown version")
    if "valkey_version" in server:
        name, version = "Valkey", server["valkey_version"]
    async with reading(database) as connection:
        number = await connection.scalar(text("SHOW server_version"))
        shown = {one: await connection.scalar(text(f"SHOW {one}")) for one in _SHOWN}
    return {
        "redis": f"{name} {version}",
        "redis_append_only_file": memory.get("aof_enabled") == "1",
        "database": f"PostgreSQL {str(number).split()[0]}",
        "database_settings": shown,
    }
