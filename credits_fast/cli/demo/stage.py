"""Where the demo plays: an embedded Valkey and SQLite, or servers that run already.

On existing servers the demo is a guest: it takes a namespace of its own in Redis, wants a database
without users, and runs the worker inside this program. What it wrote stays, to be looked at.
"""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import func, select, text

from credits_fast.cli.demo.scenario import config_text
from credits_fast.engine import CreditsEngine
from credits_fast.errors import ConfigurationError, Problem
from credits_fast.ledger import schema
from credits_fast.ledger.database import address, connect, reading
from credits_fast.servers.endpoints import endpoint_from_url
from credits_fast.servers.lane import info_fields
from credits_fast.sync.tables import users
from credits_fast.sync.worker import SyncWorker

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from credits_fast.settings import Settings

__all__ = ["Stage", "open_stage"]

_NAMESPACE: Final = "demo"


@dataclass(frozen=True, slots=True)
class Stage:
    """An engine that is open, and what is around it.

    Attributes:
        engine: The engine; a worker records what it decides.
        database: The ledger, to be looked at.
        folder: Where the configuration is, and the data of embedded servers.
        is_embedded: Whether the servers are the demo's own.
        server: Name and version of the Redis or Valkey server.
        database_server: Name and version of the database.
    """

    engine: CreditsEngine
    database: AsyncEngine
    folder: Path
    is_embedded: bool
    server: str
    database_server: str

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.folder / "credits.toml"

    @property
    def ledger(self) -> str:
        """Where the ledger is, for people: a file or a URL without password."""
        return self.database.url.database or "" if self.is_embedded else address(self.database)


@asynccontextmanager
async def open_stage(folder: Path | None, servers: Settings) -> AsyncGenerator[Stage, None]:
    """The stage, empty and ready.

    Args:
        folder: Where data and configuration go; a new one in the system's temporary folder where
            none is named.
        servers: Existing servers; embedded ones where none is named.

    Raises:
        ConfigurationError: The folder or the database is in use already, or a server is not named.
        CreditsError: As `CreditsEngine.start`.
    """
    place = _empty(folder).absolute()
    embedded = servers.redis_url is None and servers.database_url is None
    name = _NAMESPACE if embedded else f"{_NAMESPACE}-{secrets.token_hex(4)}"
    config = place / "credits.toml"
    config.write_text(config_text(name), encoding="utf-8")
    opened = _embedded(place, config) if embedded else _on_servers(servers, config)
    async with opened as (engine, database):
        yield Stage(
            engine, database, place, embedded, await _server(engine), await _database(database)
        )


def _empty(folder: Path | None) -> Path:
    if folder is None:
        return Path(tempfile.mkdtemp(prefix="credits-fast-demo-"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        in_use = next(folder.iterdir(), None) is not None
    except OSError as error:
        problem = f"{folder} cannot be used: {error.strerror}"
        raise ConfigurationError(Problem("folder", problem, "folder")) from error
    if in_use:
        problem = f"{folder} is not empty; name a new folder"
        raise ConfigurationError(Problem("folder", problem, "folder"))
    return folder


@asynccontextmanager
async def _embedded(
    folder: Path, config: Path
) -> AsyncGenerator[tuple[CreditsEngine, AsyncEngine], None]:
    database = connect(f"sqlite:///{folder / 'credits.db'}")
    try:
        async with CreditsEngine.embedded(folder, config) as engine:
            yield engine, database
    finally:
        await database.dispose()


@asynccontextmanager
async def _on_servers(
    servers: Settings, config: Path
) -> AsyncGenerator[tuple[CreditsEngine, AsyncEngine], None]:
    endpoint = endpoint_from_url(servers.need_redis_url())
    database = connect(servers.need_database_url())
    try:
        await _refuse_users(database)
        await schema.upgrade(database)
        async with (
            CreditsEngine(config, redis=endpoint, database=database) as engine,
            _working(engine, database),
        ):
            yield engine, database
    finally:
        await database.dispose()


@asynccontextmanager
async def _working(engine: CreditsEngine, database: AsyncEngine) -> AsyncGenerator[None, None]:
    """A worker in this program."""
    worker = SyncWorker(engine.endpoint, database, engine.partitions, engine.config.sync)
    stop = asyncio.Event()
    running = asyncio.create_task(worker.run(stop))
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(running, return_exceptions=True)
        await worker.close()


async def _refuse_users(database: AsyncEngine) -> None:
    if await schema.revision(database) is None:
        return
    async with reading(database) as connection:
        number = await connection.scalar(select(func.count()).select_from(users))
    if number:
        problem = f"{address(database)} has {number:,} users; the demo wants a database of its own"
        raise ConfigurationError(Problem("database_url", problem, "in_use"))


async def _server(engine: CreditsEngine) -> str:
    lane = await engine.lane()
    facts = info_fields(await lane.execute(b"INFO", b"server"))
    if "valkey_version" in facts:
        return f"Valkey {facts['valkey_version']}"
    return f"Redis {facts.get('redis_version', 'of unknown version')}"


async def _database(database: AsyncEngine) -> str:
    if database.dialect.name == "sqlite":
        return f"SQLite {sqlite3.sqlite_version}"
    async with reading(database) as connection:
        version = await connection.scalar(text("SHOW server_version"))
    return f"PostgreSQL {str(version).split()[0]}"
