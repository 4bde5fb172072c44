"""Bring a database to this version's schema, and say whether it is there.

Three ways: `credits-fast migrate`, `await engine.migrate()`, or the application's own Alembic, which
adds `credits_fast:migrations/versions` to its `version_locations` and upgrades `credits_fast@head`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import String, inspect, select, table
from sqlalchemy.sql import column

from credits_fast.errors import SchemaMismatchError
from credits_fast.ledger.database import address, reading, writing

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["HEAD_LABEL", "check", "head", "revision", "upgrade"]

HEAD_LABEL: Final = "credits_fast@head"
"""The newest revision, as an application's own Alembic names it."""

_OWN_TABLE: Final = "credits_fast_alembic_version"
_locks: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock]] = WeakKeyDictionary()
"""Alembic keeps the migration under way in module variables: one at a time in a program. Programs wait
for each other in the database (`migrations/env.py`)."""

_PREFIX: Final = "credits_fast_"
_APPLICATION_TABLE: Final = "alembic_version"


async def upgrade(database: AsyncEngine) -> str:
    """Apply what is missing, in one transaction where the database can; the revision it is at now.

    Raises:
        SchemaMismatchError: A later version, or the application's own Alembic, keeps this schema.
        DatabaseUnavailableError: The database cannot be reached.
    """
    one_at_a_time = _locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())
    try:
        async with one_at_a_time, writing(database) as connection:
            await connection.run_sync(_upgrade)
    except CommandError as error:
        raise SchemaMismatchError(
            f"the database {address(database)} cannot be migrated by this version: {error}",
        ) from error
    return head()


async def revision(database: AsyncEngine) -> str | None:
    """The revision the database is at, None where it has no schema of ours.

    Raises:
        DatabaseUnavailableError: The database cannot be reached.
    """
    async with reading(database) as connection:
        revisions = await connection.run_sync(_revisions)
    if head() in revisions:
        return head()
    return ", ".join(sorted(name for name in revisions if name.startswith(_PREFIX))) or None


async def check(database: AsyncEngine) -> None:
    """Nothing, where the database is at this version's schema.

    Raises:
        SchemaMismatchError: It is not.
        DatabaseUnavailableError: The database cannot be reached.
    """
    at = await revision(database)
    if at == head():
        return
    found = f"is at {at}" if at else "has no credits-fast schema"
    raise SchemaMismatchError(
        f"the database {address(database)} {found}, {head()} is needed; run: credits-fast migrate",
    )


def head() -> str:
    """The newest revision."""
    newest = ScriptDirectory.from_config(_config()).get_current_head()
    if newest is None:
        raise AssertionError("the package has no revisions")
    return newest


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "credits_fast:migrations")
    config.set_main_option("path_separator", "os")
    return config


def _upgrade(connection: Connection) -> None:
    if _OWN_TABLE not in inspect(connection).get_table_names():
        kept = {name for name in _revisions(connection) if name.startswith(_PREFIX)}
        if head() in kept:
            return
        if kept:
            raise SchemaMismatchError(
                f"the application's own Alembic keeps this schema, at {', '.join(sorted(kept))}; "
                f"upgrade it there to {HEAD_LABEL}",
            )
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _revisions(connection: Connection) -> set[str]:
    """The revisions in our own version table, and in the application's where it keeps ours."""
    context = MigrationContext.configure(connection, opts={"version_table": _OWN_TABLE})
    revisions = set(context.get_current_heads())
    if _APPLICATION_TABLE in inspect(connection).get_table_names():
        version = column("version_num", String())
        query = select(version).select_from(table(_APPLICATION_TABLE, version))
        revisions |= set(connection.scalars(query))
    return revisions
