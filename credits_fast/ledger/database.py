"""The SQL database: URLs, engines, the boundary where its errors are translated, its clock."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import BigInteger, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    InvalidRequestError,
    NoSuchModuleError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.pool import AsyncAdaptedQueuePool
from sqlalchemy.sql.functions import GenericFunction

from credits_fast.errors import ConfigurationError, DatabaseUnavailableError, Problem

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection
    from sqlalchemy.sql.compiler import SQLCompiler

__all__ = ["address", "connect", "database_now_ms", "reading", "snapshot", "writing"]

_DRIVERS: Final = {
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+psycopg": "postgresql+psycopg",
    "sqlite": "sqlite+aiosqlite",
}
_EXTRAS: Final = {"aiosqlite": "sqlite", "psycopg": "psycopg"}
_SQLITE_BUSY_MS: Final = 10_000
_READS_ONLY: Final = "credits_fast_reads_only"


def connect(url: str) -> AsyncEngine:
    """An engine for a PostgreSQL or SQLite URL; the asynchronous driver is filled in.

    Raises:
        ConfigurationError: It is no such URL, or its driver is not installed.
    """
    try:
        parsed = make_url(url)
        parsed = parsed.set(drivername=_DRIVERS.get(parsed.drivername, parsed.drivername))
        match parsed.get_backend_name():
            case "sqlite":
                return _sqlite(parsed)
            case "postgresql":
                return create_async_engine(parsed, pool_pre_ping=True)
            case name:
                raise _unusable(f"{name} is not supported; PostgreSQL and SQLite are")
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(error.name or "", "")
        hint = f": pip install 'credits-fast[{extra}]'" if extra else ""
        raise _unusable(f"its driver {error.name} is not installed{hint}") from error
    except (ArgumentError, InvalidRequestError, NoSuchModuleError) as error:
        raise _unusable(str(error)) from error
    except ValueError:  # it quotes what should have been the port, perhaps a piece of a password
        raise _unusable("its port is not a number") from None


def _unusable(problem: str) -> ConfigurationError:
    return ConfigurationError(
        Problem("database_url", f"cannot be used: {problem}", "database_url"),
    )


def address(database: AsyncEngine) -> str:
    """Where the database is, for people and logs; never with a password."""
    query = {
        name: "***" if "password" in name else value for name, value in database.url.query.items()
    }
    return database.url.set(query=query).render_as_string(hide_password=True)


@asynccontextmanager
async def reading(database: AsyncEngine) -> AsyncGenerator[AsyncConnection, None]:
    """A connection that only reads, and so never waits for a writer.

    Raises:
        DatabaseUnavailableError: The database cannot be reached, or cannot serve this now.
    """
    with _translating(database):
        async with database.connect() as connection:
            yield await connection.execution_options(**{_READS_ONLY: True})


@asynccontextmanager
async def snapshot(database: AsyncEngine) -> AsyncGenerator[AsyncConnection, None]:
    """A connection that only reads, and all of it as of one moment, whatever is written meanwhile.

    PostgreSQL otherwise gives every statement a moment of its own; SQLite never does.

    Raises:
        DatabaseUnavailableError: The database cannot be reached, or cannot serve this now.
    """
    options = {} if database.dialect.name == "sqlite" else {"isolation_level": "REPEATABLE READ"}
    with _translating(database):
        async with database.connect() as connection:
            yield await connection.execution_options(**{_READS_ONLY: True}, **options)


@asynccontextmanager
async def writing(
    database: AsyncEngine, *, idle_ms: int | None = None
) -> AsyncGenerator[AsyncConnection, None]:
    """A connection in one transaction, committed at the end, rolled back by any error.

    Args:
        database: The database.
        idle_ms: Milliseconds PostgreSQL waits for the next statement before it ends the transaction;
            else a program that stands still, or whose machine has gone, would keep its rows locked
            until the connection is found to be dead, which takes hours. None for no bound.

    Raises:
        DatabaseUnavailableError: The database cannot be reached, or cannot serve this now.
    """
    with _translating(database):
        async with database.begin() as connection:
            if idle_ms is not None and database.dialect.name == "postgresql":
                bound = f"SET LOCAL idle_in_transaction_session_timeout = {idle_ms:d}"
                await connection.exec_driver_sql(bound)
            yield connection


@contextmanager
def _translating(database: AsyncEngine) -> Generator[None, None, None]:
    """Whatever fails for want of the database becomes one error, with its cause."""
    try:
        yield
    except (DataError, IntegrityError, ProgrammingError):
        raise  # about what was asked, not about the database
    except (DBAPIError, PoolTimeoutError, OSError) as error:
        cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
        what = " ".join(str(cause).split())
        raise DatabaseUnavailableError(
            f"the database {address(database)} cannot be used now ({type(cause).__name__}: {what}); "
            "start the server or correct the database URL",
        ) from error


class database_now_ms(GenericFunction[int]):  # noqa: N801  # an SQL function is written like this
    """The database's own time, in milliseconds since 1970: what leases are measured by."""

    type = BigInteger()
    inherit_cache = True


@compiles(database_now_ms, "postgresql")
def _postgresql_now_ms(_element: database_now_ms, _compiler: SQLCompiler, **_: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"


@compiles(database_now_ms, "sqlite")
def _sqlite_now_ms(_element: database_now_ms, _compiler: SQLCompiler, **_: Any) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"


def _sqlite(url: URL) -> AsyncEngine:
    """SQLite with its traps closed: foreign keys on, writers queue, transactions really begin.

    The driver's own transaction handling begins too late for reads and not at all for DDL (source:
    SQLAlchemy's documentation of the SQLite dialect), so it is switched off and BEGIN is sent here.
    """
    memory = url.database in {None, "", ":memory:"}
    # In memory there is one connection, which is the database; whoever uses it has it alone.
    alone = {"poolclass": AsyncAdaptedQueuePool, "pool_size": 1, "max_overflow": 0}
    options: dict[str, Any] = alone if memory else {}
    engine = create_async_engine(url, **options)

    @event.listens_for(engine.sync_engine, "do_connect")
    def connecting(*_: object) -> None:
        # A file that cannot be opened is found out here: the driver would start a thread for it, which
        # may outlive the event loop and end in a traceback of its own.
        if not memory:
            sqlite3.connect(url.database or "", uri=url.query.get("uri") == "true").close()

    @event.listens_for(engine.sync_engine, "connect")
    def connected(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute(f"PRAGMA busy_timeout = {_SQLITE_BUSY_MS}")
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begun(connection: Connection) -> None:
        reads_only = connection.get_execution_options().get(_READS_ONLY)
        connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")

    return engine
