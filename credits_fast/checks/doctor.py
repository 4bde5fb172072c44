"""Looks at everything a set-up depends on; `findings` says what is good and what is bad about it.

Whatever cannot be reached is a finding, never the end of the examination. Nothing is changed by it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError

from credits_fast.checks.findings import (
    ClockFacts,
    Finding,
    LedgerFacts,
    PoolerFacts,
    PostgresqlFacts,
    ServerFacts,
    SqliteFacts,
    of_clock,
    of_ledger,
    of_partitions,
    of_pooler,
    of_postgresql,
    of_server,
    of_sqlite,
    of_workers,
)
from credits_fast.checks.partition_states import partition_states
from credits_fast.errors import CreditsError, DatabaseUnavailableError
from credits_fast.ledger import schema
from credits_fast.ledger.database import address, database_now_ms, reading
from credits_fast.protocol.keys import FORMAT
from credits_fast.servers.lane import HIDDEN_IDENTITY, Lane, info_fields
from credits_fast.servers.preflight import probe
from credits_fast.sync.tables import dead_letters, sync_partitions, sync_workers

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from credits_fast.protocol.keys import PartitionKeys, Partitions
    from credits_fast.servers.routing import Router

__all__ = ["examine"]

_SECTIONS: Final = (b"server", b"memory", b"persistence", b"replication")
_SETTINGS: Final = (
    *("server_version", "server_encoding", "fsync", "full_page_writes"),
    *("synchronous_commit", "default_transaction_read_only"),
)
_UNTIL_PREPARED: Final = 6
"""How often a driver executes a statement before it prepares it, at most (psycopg: five times)."""


async def examine(router: Router, database: AsyncEngine, partitions: Partitions) -> list[Finding]:
    """Everything that was looked at, in the order Redis, database, ledger, partitions.

    Args:
        router: The way to Redis; one that is open.
        database: The ledger, migrated or not.
        partitions: The partitions as configured.

    Example:
        >>> [one for one in await examine(router, database, partitions) if one.severity == "error"]
        []
    """
    found = [one async for one in _redis(router, partitions)]
    where = address(database)
    try:
        found += [one async for one in _database(database, where)]
        found += [one async for one in _ledger(database, where, partitions)]
        if _is_migrated(found):
            found += of_partitions(await partition_states(router, database, partitions))
    except DatabaseUnavailableError as error:
        found.append(Finding("database", "error", where, error.message, "start the server"))
    return found


def _is_migrated(found: Iterable[Finding]) -> bool:
    return any(one.check == "migrations" and one.severity == "ok" for one in found)


# --- Redis ----------------------------------------------------------------------------------------


async def _redis(router: Router, partitions: Partitions) -> AsyncGenerator[Finding, None]:
    try:
        reached = await router.reached(partitions)
    except CreditsError as error:
        remedy = "start the server, or correct the URL or the access rules"
        yield Finding("redis", "error", "Redis", error.message, remedy)
        return
    for lane, served in reached.items():
        try:
            facts = await _server(lane, served[0], in_cluster=router.is_cluster)
            clock = await _redis_clock(lane)
        except CreditsError as error:
            yield Finding("redis", "error", lane.address, error.message, "see whether it runs")
            continue
        for finding in of_server(facts):
            yield finding
        yield of_clock(clock)


async def _server(lane: Lane, partition: PartitionKeys, *, in_cluster: bool) -> ServerFacts:
    refused = ""
    try:
        await probe(lane, partition, in_cluster=in_cluster)
    except CreditsError as error:
        if not lane.is_open:
            raise
        refused = error.message
    information: dict[str, str] = {}
    for section in _SECTIONS:
        answer = await _answer(lane, b"INFO", section)
        information |= {} if answer is None else info_fields(answer)
    setting = await _answer(lane, b"CONFIG", b"GET", b"appendfsync")
    return ServerFacts(
        lane.address,
        information,
        in_cluster=in_cluster,
        appendfsync=setting[1].decode() if setting else "",
        refused=refused,
        identity_hidden=lane.run == HIDDEN_IDENTITY,
    )


async def _answer(lane: Lane, *parts: bytes) -> Any:
    """What the server answers, None where it does not want to."""
    try:
        return await lane.execute(*parts)
    except CreditsError:
        if not lane.is_open:
            raise
        return None


async def _redis_clock(lane: Lane) -> ClockFacts:
    asked = time.time()
    seconds, microseconds = await lane.execute(b"TIME")
    there_ms = int(seconds) * 1_000 + int(microseconds) // 1_000
    return _clock(f"the clock of {lane.address}", asked, there_ms)


def _clock(where: str, asked: float, there_ms: int) -> ClockFacts:
    now = time.time()
    here_ms = round((asked + now) * 500)
    return ClockFacts(where, there_ms - here_ms, round((now - asked) * 1_000))


# --- the database ---------------------------------------------------------------------------------


async def _database(database: AsyncEngine, where: str) -> AsyncGenerator[Finding, None]:
    async with reading(database) as connection:
        if database.dialect.name == "sqlite":
            findings = of_sqlite(await _sqlite(connection, where))
        else:
            findings = of_postgresql(await _postgresql(connection, where))
        for finding in findings:
            yield finding
        asked = time.time()
        there_ms = await connection.scalar(select(database_now_ms()))
        yield of_clock(_clock(f"the clock of {where}", asked, int(there_ms or 0)))
    if database.dialect.name == "postgresql":
        yield of_pooler(await _pooler(database, where))


async def _postgresql(connection: AsyncConnection, where: str) -> PostgresqlFacts:
    settings = {
        name: str(await connection.scalar(select(func.current_setting(name)))) for name in _SETTINGS
    }
    in_recovery = await connection.scalar(select(func.pg_is_in_recovery()))
    return PostgresqlFacts(where, settings, bool(in_recovery))


async def _sqlite(connection: AsyncConnection, where: str) -> SqliteFacts:
    mode = await connection.scalar(text("PRAGMA journal_mode"))
    synchronous = await connection.scalar(text("PRAGMA synchronous"))
    in_memory = connection.engine.url.database in {None, "", ":memory:"}
    return SqliteFacts(where, str(mode), int(synchronous or 0), in_memory)


async def _pooler(database: AsyncEngine, where: str) -> PoolerFacts:
    """Two connections: one is left, the other takes its turn, and the first one is used again.

    A pooler by transaction gives the second what the first has left, and the first another process,
    which does not know what the first has prepared.
    """
    query = select(func.pg_backend_pid())
    async with reading(database) as first, database.connect() as second:
        raw: Any = (await first.get_raw_connection()).driver_connection
        greeted: Callable[[], int] = getattr(raw, "get_server_pid", lambda: raw.info.backend_pid)
        try:
            answered = [await first.scalar(query) for _ in range(_UNTIL_PREPARED)]
            await first.commit()  # after a rollback psycopg forgets what it has prepared
            await second.scalar(query)
            answered.append(await first.scalar(query))
        except DBAPIError as error:
            cause = " ".join(str(error.orig).split())
            return PoolerFacts(where, is_between=True, moves=True, failure=cause)
        is_between = greeted() != answered[0]
        return PoolerFacts(where, is_between=is_between, moves=answered[0] != answered[-1])


# --- the ledger -----------------------------------------------------------------------------------


async def _ledger(
    database: AsyncEngine, where: str, partitions: Partitions
) -> AsyncGenerator[Finding, None]:
    revision, head = await schema.revision(database), schema.head()
    expected = (partitions.namespace, len(partitions), FORMAT)
    if revision != head:
        for finding in of_ledger(LedgerFacts(where, revision, head, (), expected)):
            yield finding
        return
    columns = sync_partitions.c
    set_ups = select(columns.namespace, columns.partitions, columns.format).distinct()
    letters = select(func.count()).select_from(dead_letters)
    workers = select(func.count()).where(sync_workers.c.alive_until_ms >= database_now_ms())
    async with reading(database) as connection:
        found = tuple(tuple(row) for row in await connection.execute(set_ups))
        dead = int(await connection.scalar(letters) or 0)
        alive = int(await connection.scalar(workers) or 0)
    for finding in of_ledger(LedgerFacts(where, revision, head, found, expected, dead)):
        yield finding
    yield of_workers(where, alive)
