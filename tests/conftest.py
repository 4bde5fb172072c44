"""What every test may ask for: servers, databases, engines, a settable clock."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from credits_fast.ledger.database import connect
from credits_fast.ledger.schema import upgrade
from credits_fast.servers.lane import Endpoint, Lane
from tests.servers import Servers

_started: list[Servers] = []
_PROCESSES_MAX = 4
"""Beyond that starting servers costs more than it saves."""


def _servers() -> Servers:
    if not _started:
        _started.append(Servers.start())
    return _started[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """As many processes as cores, each with servers of its own; one where a server is named to all."""
    if "CREDITS_TEST_REDIS_URL" in os.environ:
        return 0
    return min(os.cpu_count() or 1, _PROCESSES_MAX)


def pytest_configure() -> None:
    """A shell starts what it runs in the background deaf to Ctrl-C, and programs inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header(config: pytest.Config) -> str:
    if config.getoption("numprocesses", None):
        return "servers: a Valkey and a PostgreSQL for every process, as far as none is named"
    servers = _servers()
    return f"servers: {servers.redis_version} and {servers.database_version}, {servers.source}"


def pytest_unconfigure() -> None:
    for servers in _started:
        servers.stop()


@pytest.fixture(autouse=True)
def log_as_it_was() -> Iterator[None]:
    """A program that a test runs in this process may set up the log; the next test has it as before."""
    root, ours = logging.getLogger(), logging.getLogger("credits_fast")
    handlers, level = [*root.handlers], ours.level
    yield
    root.handlers = [handler for handler in root.handlers if handler in handlers]
    ours.setLevel(level)


@pytest.fixture(scope="session")
def servers() -> Servers:
    return _servers()


@pytest.fixture
async def redis_endpoint(servers: Servers) -> Endpoint:
    """The real server, empty."""
    endpoint = Endpoint.from_url(servers.redis_url)
    lane = await Lane.open(endpoint)
    await lane.execute(b"FLUSHALL")
    await lane.close()
    return endpoint


@pytest.fixture
async def sqlite_database(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    """An empty, migrated ledger in SQLite."""
    engine = connect(f"sqlite:///{tmp_path}/credits.db")
    await upgrade(engine)
    yield engine
    await engine.dispose()


@pytest.fixture
async def postgresql_url(servers: Servers) -> str:
    """The URL of an empty, migrated ledger in PostgreSQL."""
    url = await servers.empty_database("asyncpg")
    return url.render_as_string(hide_password=False)


@pytest.fixture(params=["sqlite", "asyncpg", "psycopg"])
async def database(
    request: pytest.FixtureRequest,
    servers: Servers,
    tmp_path: Path,
) -> AsyncIterator[AsyncEngine]:
    """An empty, migrated ledger: SQLite, and PostgreSQL through both drivers."""
    driver: str = request.param
    if driver == "sqlite":
        engine = connect(f"sqlite:///{tmp_path}/credits.db")
        await upgrade(engine)
        yield engine
        await engine.dispose()
        return
    url = await servers.empty_database(driver)
    engine = connect(url.render_as_string(hide_password=False))
    yield engine
    await engine.dispose()
