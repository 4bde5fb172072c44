"""Where a scenario plays: servers of its own, a proxy before each of them for everybody, engines, workers.

    engines ──▶ proxy ──▶ Valkey ◀── proxy ◀── workers
       └──────▶ proxy ──▶ PostgreSQL ◀── proxy ◀──┘

A cluster takes the place of the Valkey where a scenario wants one; its nodes name themselves, so there
is no proxy before them.

Nothing of it is shared with another scenario but the PostgreSQL server, on which each has a database of
its own. What the kit itself looks at, it looks at past the proxies.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from credits_fast.amounts import to_credits
from credits_fast.chaos.cluster import ValkeyCluster
from credits_fast.chaos.proxy import FaultProxy
from credits_fast.chaos.servers import ValkeyServer
from credits_fast.engine import CreditsEngine
from credits_fast.ledger import schema
from credits_fast.ledger.database import connect, reading, writing
from credits_fast.servers.postgresql import PostgreSQLServer
from credits_fast.servers.processes import ServerProcess, start_server
from credits_fast.sync.tables import users

if TYPE_CHECKING:
    from sqlalchemy.engine import URL
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["WORKER", "Hops", "Ledgers", "Stage", "WorkerProcess", "open_ledgers", "open_stage"]

WORKER: Final = (sys.executable, "-m", "credits_fast.sync")
"""The worker's program, as it is."""
_TEMPLATE: Final = "chaos_template"
_POSTGRESQL: Final = ("max_connections=100", "deadlock_timeout=100ms")
"""Durability as it comes; deadlocks are found sooner, so that a run has more of them."""
_SUPERVISED_S: Final = 0.2
"""Seconds between two looks whether a worker has ended."""
_CONFIG: Final[dict[str, Any]] = {
    "costs": {"chaos": {"default": 1}},
    "membership": {"tiers": {}},
    "namespace": "chaos",
    "partitions": 4,
    # Attempts that end within an outage now and then, so that callers meet its errors too.
    "retry": {"max_attempts": 4, "initial_delay": 10, "max_delay": 100, "deadline_ms": 3_000},
    # Small batches and short leases: many steps to be interrupted in, and soon followed by another.
    "sync": {"batch_max": 100, "poll_ms": 5, "lease_ms": 1_000, "retain_ms": 500},
}


@dataclass(frozen=True, slots=True)
class Ledgers:
    """A PostgreSQL of our own, and a migrated database to copy."""

    server: PostgreSQLServer

    async def new(self, name: str) -> URL:
        """The URL of a new, migrated, empty database, past every proxy."""
        await self.administer(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
        return self.server.url.set(database=name)

    async def administer(self, statement: str) -> None:
        """Carry out a statement as the superuser, outside a transaction."""
        engine = create_async_engine(
            self.server.url, poolclass=NullPool, isolation_level="AUTOCOMMIT"
        )
        try:
            async with reading(engine) as connection:
                await connection.execute(text(statement))
        finally:
            await engine.dispose()


@dataclass(frozen=True, slots=True)
class Hops:
    """A proxy for every way to a server."""

    engine_redis: FaultProxy
    worker_redis: FaultProxy
    engine_sql: FaultProxy
    worker_sql: FaultProxy

    @property
    def all(self) -> tuple[FaultProxy, ...]:
        """Every proxy."""
        return (self.engine_redis, self.worker_redis, self.engine_sql, self.worker_sql)

    @property
    def faults(self) -> Counter[str]:
        """What all of them have done, by hop and fault."""
        named = {
            "engine-redis": self.engine_redis,
            "worker-redis": self.worker_redis,
            "engine-sql": self.engine_sql,
            "worker-sql": self.worker_sql,
        }
        return Counter(
            {
                f"{hop}: {fault}": n
                for hop, proxy in named.items()
                for fault, n in proxy.faults.items()
            }
        )

    def clear(self) -> None:
        """Nothing happens on any hop from now on."""
        for hop in self.all:
            hop.clear()

    def lead_to(self, valkey: ValkeyServer) -> None:
        """Have new connections go to another server, as when an address moves."""
        for hop in (self.engine_redis, self.worker_redis):
            hop.upstream = valkey.socket
            hop.reset()


@dataclass(slots=True)
class WorkerProcess:
    """A worker as a process of its own: killed, put to sleep, woken."""

    command: Sequence[str]
    log: Path
    environment: Mapping[str, str]
    process: ServerProcess
    is_wanted: bool = True

    @property
    def has_ended(self) -> bool:
        """Whether it has ended by itself."""
        return self.is_wanted and not self.process.is_running

    def restart(self) -> None:
        """Start it anew, where it was killed or has ended."""
        self.process = start_server(self.command, self.log, environment=self.environment)
        self.is_wanted = True

    async def kill(self) -> None:
        """End it without a warning, and leave it so."""
        self.is_wanted = False
        await asyncio.to_thread(self.process.stop, signal.SIGKILL)

    def pause(self) -> None:
        """Have it stand still."""
        self.process.process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        """Have it go on."""
        self.process.process.send_signal(signal.SIGCONT)

    def said(self, words: str) -> int:
        """How often its log has these words."""
        return self.log.read_text(encoding="utf-8", errors="replace").count(words)


@dataclass(slots=True)
class Stage:
    """Servers, proxies, engines and workers of one scenario.

    Attributes:
        folder: Temporary; for data, sockets, logs.
        valkey: The server that decides.
        postgresql: The server that records, shared by all scenarios of a run.
        hops: The proxies.
        engines: What callers ask.
        database: The ledger, past the proxies.
        config: The configuration of engines and workers.
        program: What a worker process runs.
        cluster: The cluster whose first node `valkey` is, None for a single server.
        workers: The worker processes that were started.
    """

    folder: Path
    valkey: ValkeyServer
    postgresql: PostgreSQLServer
    hops: Hops
    engines: list[CreditsEngine]
    database: AsyncEngine
    config: Mapping[str, Any]
    program: Sequence[str]
    cluster: ValkeyCluster | None = None
    workers: list[WorkerProcess] = field(default_factory=list[WorkerProcess])

    @property
    def engine(self) -> CreditsEngine:
        """The first of the engines."""
        return self.engines[0]

    async def start_worker(self) -> WorkerProcess:
        """Another worker process."""
        environment = {
            "CREDITS_REDIS_URL": self._redis_url(self.hops.worker_redis),
            "CREDITS_DATABASE_URL": _through(self.hops.worker_sql, self.database.url),
            "CREDITS_CONFIG": str(self.folder / "credits.json"),
            "CREDITS_LOG_LEVEL": "info",
        }
        log = self.folder / f"worker-{len(self.workers)}.log"
        process = start_server(self.program, log, environment=environment)
        worker = WorkerProcess(self.program, log, environment, process)
        self.workers.append(worker)
        return worker

    def new_engine(self, credentials: str = "") -> CreditsEngine:
        """Another engine on the same servers, through the proxies; to be opened.

        Args:
            credentials: Name and password for Redis, as `name:password@`.
        """
        return CreditsEngine.from_url(
            self._redis_url(self.hops.engine_redis, credentials),
            _through(self.hops.engine_sql, self.database.url),
            dict(self.config),
        )

    def _redis_url(self, hop: FaultProxy, credentials: str = "") -> str:
        if self.cluster is not None:
            return self.cluster.url
        return f"redis://{credentials}127.0.0.1:{hop.port}"

    async def create_users(self, openings: Mapping[str, int]) -> None:
        """Insert users as an application does, each with a balance in micro-credits."""
        rows = [{"id": user, "credits": to_credits(micros)} for user, micros in openings.items()]
        async with writing(self.database) as connection:
            await connection.execute(insert(users), rows)

    async def versions(self) -> dict[str, str]:
        """Name and version of both servers."""
        fields = await self.valkey.fields("server")
        async with reading(self.database) as connection:
            database = str(await connection.scalar(text("SHOW server_version")))
        is_valkey = "valkey_version" in fields
        redis = (
            f"Valkey {fields['valkey_version']}"
            if is_valkey
            else f"Redis {fields['redis_version']}"
        )
        return {"redis": redis, "database": f"PostgreSQL {database.split(maxsplit=1)[0]}"}

    @asynccontextmanager
    async def supervised(self, seen: Counter[str]) -> AsyncGenerator[None, None]:
        """Workers that end by themselves are started anew, as a supervisor does, and counted."""
        task = asyncio.create_task(self._supervise(seen))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _supervise(self, seen: Counter[str]) -> None:
        while True:
            await asyncio.sleep(_SUPERVISED_S)
            for worker in self.workers:
                if worker.has_ended:
                    seen["workers that ended by themselves"] += 1
                    worker.restart()

    async def end(self) -> None:
        """End the workers and the server, and close the engines, whatever state they are in."""
        for worker in self.workers:
            await worker.kill()
        await asyncio.gather(*(engine.close() for engine in self.engines), return_exceptions=True)
        await self.database.dispose()
        await self.valkey.stop(signal.SIGKILL)


@asynccontextmanager
async def open_ledgers() -> AsyncGenerator[Ledgers, None]:
    """A PostgreSQL server for a run, ended when the work inside is done.

    Raises:
        ConfigurationError: No PostgreSQL is installed.
        RedisUnavailableError: It does not start.
    """
    folder = _new_folder()
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        server = await PostgreSQLServer.create(folder, _POSTGRESQL)
        stack.callback(lambda: server.stop(signal.SIGQUIT))
        ledgers = Ledgers(server)
        await ledgers.administer(f"CREATE DATABASE {_TEMPLATE}")
        template = connect(_text(server.url.set(database=_TEMPLATE)))
        await schema.upgrade(template)
        await template.dispose()
        yield ledgers


@asynccontextmanager
async def open_stage(
    ledgers: Ledgers,
    name: str,
    *,
    seed: str,
    is_clustered: bool = False,
    valkey_options: Sequence[str] = (),
    persistent: bool = True,
    config: Mapping[str, Any] | None = None,
    engines: int = 1,
    program: Sequence[str] = WORKER,
) -> AsyncGenerator[Stage, None]:
    """A stage, taken down when the work inside is done; its engines are open.

    Args:
        ledgers: Where its database is made.
        name: A word for the database.
        seed: For the proxies.
        is_clustered: Whether there is a cluster instead of a server; then the next two are its own.
        valkey_options: More words for the server's command line.
        persistent: Whether the server writes an append-only file.
        config: What differs of the configuration, section by section.
        engines: How many engines there are.
        program: What a worker process runs.

    Raises:
        CreditsError: A server or an engine does not start.
    """
    folder = _new_folder()
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        cluster = await ValkeyCluster.start(folder) if is_clustered else None
        if cluster is not None:
            stack.push_async_callback(cluster.stop)
            valkey = cluster.nodes[0].server
        else:
            place = folder / "valkey"
            valkey = ValkeyServer(
                place, folder / "v.sock", persistent=persistent, options=valkey_options
            )
            await valkey.start()
            stack.push_async_callback(valkey.stop, signal.SIGKILL)
        hops = Hops(
            *[
                await stack.enter_async_context(FaultProxy(upstream, seed=f"{seed}/{hop}"))
                for hop, upstream in (
                    ("engine-redis", valkey.socket),
                    ("worker-redis", valkey.socket),
                    ("engine-sql", ledgers.server.socket),
                    ("worker-sql", ledgers.server.socket),
                )
            ]
        )
        database = connect(_text(await ledgers.new(name)))
        whole = _merged(_CONFIG, config or {})
        (folder / "credits.json").write_text(json.dumps(whole), encoding="utf-8")
        stage = Stage(folder, valkey, ledgers.server, hops, [], database, whole, program, cluster)
        stack.push_async_callback(stage.end)
        for _ in range(engines):
            stage.engines.append(stage.new_engine())
            await stage.engines[-1].start()
        yield stage


def _new_folder() -> Path:
    """A temporary folder that another user may pass, as PostgreSQL has to where we are root."""
    folder = Path(tempfile.mkdtemp(prefix="cf-chaos-"))
    folder.chmod(0o755)
    return folder


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with some of it set anew: sections value by value."""
    anew: dict[str, Any] = {
        name: {**base.get(name, {}), **value} if isinstance(value, dict) else value
        for name, value in over.items()
    }
    return {**base, **anew}


def _through(proxy: FaultProxy, url: URL) -> str:
    """The same database by way of a proxy; without TLS, which would hide a commit from it."""
    here = url.set(host="127.0.0.1", port=proxy.port, query={"ssl": "disable"})
    return _text(here)


def _text(url: URL) -> str:
    return url.render_as_string(hide_password=False)
