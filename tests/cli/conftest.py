"""The command line as tests use it: in this process, on the real server and a ledger of its own."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from credits_fast.cli import main
from credits_fast.config import load_config
from credits_fast.ledger.database import connect
from credits_fast.ledger.schema import upgrade
from credits_fast.protocol.keys import Partitions
from credits_fast.servers.lane import Endpoint
from credits_fast.sync.worker import SyncWorker
from tests.servers import Servers

_numbers = count()

CONFIG = """\
namespace = "{namespace}"
partitions = 2

[costs.chat]
default = "{{tokens}} * 0.01"
pro = "{{tokens}} * 0.005"

[costs.report]
default = 7.5

[membership.tiers]
free = 0
pro = 1
team = 2

[membership.credits_caps]
free = 100
pro = 1000
team = 5000

[membership.requirements]
report = "pro"
"""


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The document on stdout."""
        document: dict[str, Any] = json.loads(self.out)
        return document


@dataclass(frozen=True)
class Program:
    """The command line."""

    capsys: pytest.CaptureFixture[str]

    def __call__(self, *words: str) -> Ended:
        """Run it."""
        self.capsys.readouterr()
        code = main(words)
        captured = self.capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return Ended(code, captured.out, captured.err)

    def document(self, *words: str) -> dict[str, Any]:
        """What it writes to stdout with `--json`, where it ends well."""
        ended = self(*words, "--json")
        assert (0, "") == (ended.code, ended.err)
        return ended.json


@dataclass(frozen=True)
class Shop:
    """Servers, a configuration and a migrated ledger, all named by the environment."""

    redis_url: str
    database_url: str
    config: Path

    def sync(self) -> None:
        """Carry everything into the ledger."""
        asyncio.run(self._sync())

    async def _sync(self) -> None:
        config = load_config(self.config)
        database = connect(self.database_url)
        partitions = Partitions(config.namespace, config.partitions)
        worker = SyncWorker(Endpoint.from_url(self.redis_url), database, partitions, config.sync)
        await worker.start()
        await worker.drain()
        await worker.close()
        await database.dispose()


@pytest.fixture(autouse=True)
def _clean_surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No setting from outside, and the log as it was."""
    for name in os.environ:
        if name.startswith("CREDITS_") and not name.startswith("CREDITS_TEST_"):
            monkeypatch.delenv(name)
    root, own = logging.getLogger(), logging.getLogger("credits_fast")
    handlers, level = root.handlers, own.level
    yield
    root.handlers = handlers
    own.setLevel(level)


@pytest.fixture
def program(capsys: pytest.CaptureFixture[str]) -> Program:
    return Program(capsys)


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    return _write_config(tmp_path)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty ledger, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "credits.db"

    async def migrate() -> None:
        database = connect(f"sqlite:///{path}")
        await upgrade(database)
        await database.dispose()

    asyncio.run(migrate())
    return path


@pytest.fixture
def shop(
    servers: Servers,
    tmp_path: Path,
    migrated: Path,
    config_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Shop:
    shop = _open_shop(servers, tmp_path, migrated, config_file)
    _name(shop, monkeypatch)
    return shop


@pytest.fixture(scope="module")
def shared_shop(servers: Servers, tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Shop:
    """A shop for tests that change nothing, with the user `ada`, tier free, 100 credits."""
    folder = tmp_path_factory.mktemp("shop")
    shop = _open_shop(servers, folder, migrated, _write_config(folder))
    with pytest.MonkeyPatch.context() as patch:
        _name(shop, patch)
        main(["user", "create", "ada", "--credits", "100", "--tier", "free"])
    return shop


@pytest.fixture
def in_shared_shop(shared_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Shop:
    _name(shared_shop, monkeypatch)
    return shared_shop


def _write_config(folder: Path) -> Path:
    path = folder / "credits.toml"
    path.write_text(CONFIG.format(namespace=f"cli-{os.getpid()}-{next(_numbers)}"))
    return path


def _open_shop(servers: Servers, folder: Path, migrated: Path, config: Path) -> Shop:
    shutil.copy(migrated, folder / "credits.db")
    return Shop(servers.redis_url, f"sqlite:///{folder}/credits.db", config)


def _name(shop: Shop, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("CREDITS_REDIS_URL", shop.redis_url)
    patch.setenv("CREDITS_DATABASE_URL", shop.database_url)
    patch.setenv("CREDITS_CONFIG", str(shop.config))
