"""The schema is what the migrations make, on every database, forwards and back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncEngine

from credits_fast import SchemaMismatchError
from credits_fast.ledger import schema
from credits_fast.ledger.database import connect
from credits_fast.sync.tables import metadata
from tests.servers import Servers

VERSIONS = Path(__file__).parents[2] / "migrations" / "versions"


@pytest.fixture(params=["sqlite", "asyncpg"])
async def empty(request: pytest.FixtureRequest, servers: Servers, tmp_path: Path) -> Any:
    """A database without any schema."""
    if request.param == "sqlite":
        engine = connect(f"sqlite:///{tmp_path}/empty.db")
    else:
        url = await servers.empty_database("asyncpg")
        engine = connect(url.render_as_string(hide_password=False))
        async with engine.begin() as connection:
            await connection.execute(text("DROP SCHEMA public CASCADE"))
            await connection.execute(text("CREATE SCHEMA public"))
    yield engine
    if request.param != "sqlite":
        await schema.upgrade(engine)
    await engine.dispose()


def differences(connection: Connection) -> list[Any]:
    options = {"version_table": "credits_fast_alembic_version", "compare_type": True}
    context = MigrationContext.configure(connection, opts=options)
    found: list[Any] = compare_metadata(context, metadata)
    if connection.dialect.name == "sqlite":  # it reports no identity of a rowid
        found = [one for one in found if not (isinstance(one, list) and one[0][3] == "id")]
    return found


async def test_the_migrations_make_the_schema(empty: AsyncEngine) -> None:
    await schema.upgrade(empty)

    async with empty.connect() as connection:
        assert [] == await connection.run_sync(differences)


async def test_every_revision_goes_up_down_and_up_again(empty: AsyncEngine) -> None:
    revisions = [one.revision for one in ScriptDirectory.from_config(_config()).walk_revisions()]

    def stairway(connection: Connection) -> None:
        config = _config(connection)
        for revision in reversed(revisions):
            command.upgrade(config, revision)
            command.downgrade(config, "-1")
            command.upgrade(config, revision)

    async with empty.begin() as connection:
        await connection.run_sync(stairway)
    async with empty.connect() as connection:
        assert [] == await connection.run_sync(differences)
    async with empty.begin() as connection:
        await connection.run_sync(lambda one: command.downgrade(_config(one), "base"))
    async with empty.connect() as connection:
        tables = await connection.run_sync(lambda one: inspect(one).get_table_names())
    assert ["credits_fast_alembic_version"] == tables


async def test_migrating_twice_is_migrating_once(empty: AsyncEngine) -> None:
    with pytest.raises(SchemaMismatchError, match="has no credits-fast schema"):
        await schema.check(empty)

    assert schema.head() == await schema.upgrade(empty) == await schema.upgrade(empty)
    await schema.check(empty)


async def test_programs_that_migrate_at_once_wait_for_each_other(empty: AsyncEngine) -> None:
    import asyncio

    assert 1 == len(set(await asyncio.gather(*(schema.upgrade(empty) for _ in range(3)))))


async def test_an_applications_own_alembic_may_keep_the_schema(
    empty: AsyncEngine,
    tmp_path: Path,
) -> None:
    (tmp_path / "own" / "versions").mkdir(parents=True)
    environment = (
        "from alembic import context\n"
        "context.configure(connection=context.config.attributes['connection'])\n"
        "with context.begin_transaction():\n"
        "    context.run_migrations()\n"
    )
    (tmp_path / "own" / "env.py").write_text(environment, encoding="utf-8")

    def upgrade(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(tmp_path / "own"))
        config.set_main_option("path_separator", "os")
        config.set_main_option("version_path_separator", "os")  # its name before Alembic 1.16
        ours = os.pathsep.join((str(tmp_path / "own" / "versions"), str(VERSIONS)))
        config.set_main_option("version_locations", ours)
        config.attributes["connection"] = connection
        command.upgrade(config, schema.HEAD_LABEL)

    async with empty.begin() as connection:
        await connection.run_sync(upgrade)

    await schema.check(empty)
    await schema.upgrade(empty)
    async with empty.connect() as connection:
        assert [] == [
            one
            for one in await connection.run_sync(differences)
            if not (one[0] == "remove_table" and one[1].name == "alembic_version")
        ]
    async with empty.begin() as connection:
        await connection.execute(
            text("UPDATE alembic_version SET version_num = 'credits_fast_0000'")
        )
    with pytest.raises(SchemaMismatchError, match="own Alembic keeps this schema"):
        await schema.upgrade(empty)
    if empty.dialect.name == "postgresql":
        async with empty.begin() as connection:
            await connection.execute(text("DROP SCHEMA public CASCADE"))
            await connection.execute(text("CREATE SCHEMA public"))


def test_revisions_import_nothing_of_the_library_and_are_named_by_number() -> None:
    for path in VERSIONS.glob("*.py"):
        content = path.read_text(encoding="utf-8")
        assert "credits_fast." not in content.replace("credits_fast_", "")
        assert f'revision = "credits_fast_{path.stem[:4]}"' in content


def test_every_constraint_has_a_name() -> None:
    for table in metadata.tables.values():
        assert all(one.name for one in table.constraints | table.indexes)


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", "credits_fast:migrations")
    config.set_main_option("path_separator", "os")
    if connection is not None:
        config.attributes["connection"] = connection
    return config
