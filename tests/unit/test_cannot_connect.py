"""Where a server cannot be reached or named, one error says which and where, never the password."""

import sys
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from credits_fast import (
    ConfigurationError,
    CreditsError,
    DatabaseUnavailableError,
    SchemaMismatchError,
)
from credits_fast.ledger.database import address, connect, writing
from credits_fast.ledger.schema import check, head, revision, upgrade
from credits_fast.servers.lane import Endpoint

SECRET = "hunter2"  # opens nothing


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ada:{SECRET}@127.0.0.1:1/ledger",
        f"postgresql+psycopg://ada:{SECRET}@127.0.0.1:1/ledger",
        "sqlite:////nowhere/credits.db",
    ],
)
@pytest.mark.parametrize("ask", [check, revision, upgrade])
async def test_a_database_that_cannot_be_reached_is_named_without_its_password(
    url: str, ask: Callable[[AsyncEngine], Awaitable[object]]
) -> None:
    database = connect(url)

    with pytest.raises(DatabaseUnavailableError) as caught:
        await ask(database)

    await database.dispose()
    assert SECRET not in str(caught.value)
    assert url.rpartition("/")[2] in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "ledger",
        f"postgresql://ada:{SECRET}@host:{SECRET}/ledger",
        f"postgresql+psycopg2://ada:{SECRET}@host/ledger",
        f"mysql://ada:{SECRET}@host/ledger",
        f"nosuch://ada:{SECRET}@host/ledger",
    ],
)
def test_a_database_url_that_cannot_be_used_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^database_url: cannot be used") as caught:
        connect(url)

    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("expected", "url", "driver"),
    [
        ("credits-fast[sqlite]", "sqlite:///credits.db", "aiosqlite"),
        ("credits-fast[psycopg]", "postgresql+psycopg://host/ledger", "psycopg"),
        ("its driver asyncpg is not installed", "postgresql://host/ledger", "asyncpg"),
    ],
)
def test_a_driver_that_is_not_installed_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, expected: str, url: str, driver: str
) -> None:
    monkeypatch.setitem(sys.modules, driver, None)

    with pytest.raises(ConfigurationError) as caught:
        connect(url)

    assert expected in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis",
        f"http://:{SECRET}@host",
        f"redis+cluster://:{SECRET}@host",
        f"redis://:{SECRET}/more@host",
        f"redis://:{SECRET}#more@host",
        f"redis://host:{SECRET}",
    ],
)
def test_a_redis_url_that_cannot_be_used_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^redis_url: cannot be used") as caught:
        Endpoint.from_url(url)

    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ada:{SECRET}@host/ledger",
        f"postgresql://ada@host/ledger?password={SECRET}",
    ],
)
def test_an_address_shows_no_password(url: str) -> None:
    shown = address(connect(url))

    assert "host/ledger" in shown
    assert SECRET not in shown


async def test_a_database_of_a_later_version_is_not_touched() -> None:
    database = connect("sqlite://")
    await upgrade(database)
    async with writing(database) as connection:
        await connection.execute(
            text("UPDATE credits_fast_alembic_version SET version_num = 'credits_fast_9999'")
        )

    errors: list[CreditsError] = []
    for ask in (check, upgrade):
        with pytest.raises(SchemaMismatchError, match="credits_fast_9999") as caught:
            await ask(database)
        errors.append(caught.value)

    await database.dispose()
    assert ["SCHEMA_MISMATCH", "SCHEMA_MISMATCH"] == [error.code for error in errors]


async def test_the_revision_is_none_before_a_database_is_migrated_and_the_head_after() -> None:
    database = connect("sqlite://")
    before = await revision(database)
    await upgrade(database)
    after = await revision(database)
    await database.dispose()

    assert (None, head()) == (before, after)
