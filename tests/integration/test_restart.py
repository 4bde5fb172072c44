"""A server that was restarted, wiped or set back: charges wait until the journal was compared."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from credits_fast import PartitionFencedError, UnavailableError
from credits_fast.servers.lane import Endpoint
from credits_fast.servers.processes import ServerProcess, start_valkey
from credits_fast.testing import CreditsKit, kit_on
from tests.integration.conftest import CONFIG


@dataclass
class OwnServer:
    """A Valkey that writes an append-only file, and can be ended and started again."""

    folder: Path
    socket: Path
    process: ServerProcess

    async def restart(self, how: signal.Signals) -> None:
        self.process.stop(how)
        await self.start()

    async def start(self) -> None:
        options = ("--appendfsync", "always")
        self.process = await start_valkey(
            self.folder, self.socket, persistent=True, options=options
        )


@pytest.fixture
async def own_server(tmp_path: Path) -> AsyncIterator[OwnServer]:
    folder = tmp_path / "valkey"
    folder.mkdir()
    short = Path(tempfile.mkdtemp(prefix="cf-"))
    socket = short / "s"
    process = await start_valkey(
        folder, socket, persistent=True, options=("--appendfsync", "always")
    )
    server = OwnServer(folder, socket, process)
    yield server
    server.process.stop(signal.SIGKILL)
    shutil.rmtree(short)


@pytest.fixture
async def own_kit(own_server: OwnServer, database: AsyncEngine) -> AsyncIterator[CreditsKit]:
    endpoint = Endpoint.from_url(f"unix://{own_server.socket}")
    config: dict[str, Any] = {**CONFIG, "retry": {"max_attempts": 5, "initial_delay": 10}}
    async with kit_on(config, endpoint, database, None) as kit:
        await kit.engine.create_user("ada", credits=100)
        yield kit


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_after_a_restart_with_its_data_charges_go_on(
    own_server: OwnServer,
    own_kit: CreditsKit,
    how: signal.Signals,
) -> None:
    charged = await own_kit.engine.charge("ada", "image", idempotency_key="k")
    await own_kit.sync()
    await own_kit.engine.charge("ada", "image")

    await own_server.restart(how)

    again = await own_kit.engine.charge("ada", "image", idempotency_key="k")
    assert charged.transaction_id == again.transaction_id
    assert 40 == (await own_kit.engine.charge("ada", "image")).balance_after
    await own_kit.assert_balanced()


async def test_without_the_comparison_a_restarted_server_refuses(
    own_server: OwnServer,
    own_kit: CreditsKit,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The fence itself: the text compiled for the old process is gone, the new one is refused."""
    await own_kit.engine.charge("ada", "image")
    await own_server.restart(signal.SIGKILL)

    async def never(_partition: Any) -> None:
        raise PartitionFencedError(0, "not compared")

    monkeypatch.setattr(own_kit.engine._admission, "open", never)
    with pytest.raises(PartitionFencedError):
        await own_kit.engine.charge("ada", "image")
    monkeypatch.undo()
    assert 60 == (await own_kit.engine.charge("ada", "image")).balance_after


async def test_a_server_that_was_wiped_refuses_what_the_ledger_knows(
    own_kit: CreditsKit,
) -> None:
    await own_kit.engine.charge("ada", "image")
    await own_kit.sync()
    lane = await own_kit.engine.lane()
    await lane.execute(b"FLUSHALL")

    with pytest.raises(PartitionFencedError, match="Redis has lost history"):
        await own_kit.engine.charge("ada", "image")
    with pytest.raises(PartitionFencedError):
        await own_kit.engine.query_balance("ada")
    assert 0 == await lane.execute(b"DBSIZE")


async def test_a_server_that_was_wiped_before_anything_was_recorded_starts_anew(
    own_kit: CreditsKit,
) -> None:
    lane = await own_kit.engine.lane()
    await lane.execute(b"FLUSHALL")

    assert 80 == (await own_kit.engine.charge("ada", "image")).balance_after
    await own_kit.assert_balanced()


async def test_an_opening_that_a_wipe_overtakes_creates_nothing(
    own_kit: CreditsKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = own_kit.engine
    lane, partition = await engine.lane(), engine.partitions.of(b"ada")
    position = await engine._admission.position(partition)
    await engine.charge("ada", "image")
    await lane.execute(b"DEL", partition.gate)
    run_script = lane.run_script

    async def overtaken(*arguments: Any) -> Any:
        await lane.execute(b"FLUSHALL")
        return await run_script(*arguments)

    monkeypatch.setattr(lane, "run_script", overtaken)

    assert not await engine._admission._open_by(lane, partition, position)
    assert 0 == await lane.execute(b"DBSIZE")


async def test_a_server_that_was_set_back_refuses_until_it_is_repaired(
    own_server: OwnServer,
    own_kit: CreditsKit,
    tmp_path: Path,
) -> None:
    """Yesterday's copy: the entry up to which the ledger is recorded is not there."""
    await own_kit.engine.charge("ada", "image")
    await own_kit.sync()
    shutil.copytree(own_server.folder, tmp_path / "yesterday")
    await own_kit.engine.charge("ada", "image")
    await own_kit.sync()
    own_server.process.stop(signal.SIGKILL)
    shutil.rmtree(own_server.folder)
    shutil.copytree(tmp_path / "yesterday", own_server.folder)
    await own_server.start()

    with pytest.raises(PartitionFencedError, match="no longer holds entry 1-1"):
        await own_kit.engine.charge("ada", "image")
    rows = len(await own_kit.transactions("ada"))
    assert 3 == rows


async def test_charges_under_load_survive_kills_of_the_server(
    own_server: OwnServer,
    own_kit: CreditsKit,
) -> None:
    """Synced to disk at every write: whatever was acknowledged is there, and nothing twice."""
    engine = own_kit.engine
    await engine.grant("ada", 100_000, "load")
    acknowledged: set[str] = set()
    stop = asyncio.Event()

    async def caller(number: int) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            key = f"{number}-{turn}"
            for _ in range(50):
                try:
                    result = await engine.charge("ada", "free", amount=1, idempotency_key=key)
                except UnavailableError:
                    await asyncio.sleep(0.005)
                else:
                    acknowledged.add(result.transaction_id)
                    break

    callers = [asyncio.create_task(caller(number)) for number in range(8)]
    for _ in range(3):
        target = len(acknowledged) + 40
        while len(acknowledged) < target:
            await asyncio.sleep(0.001)
        await own_server.restart(signal.SIGKILL)
    target = len(acknowledged) + 40
    while len(acknowledged) < target:
        await asyncio.sleep(0.001)
    stop.set()
    await asyncio.gather(*callers)

    await own_kit.assert_balanced()
    recorded = [row.id for row in await own_kit.transactions("ada") if row.kind == "charge"]
    assert len(recorded) == len(set(recorded))
    assert acknowledged == set(recorded)
