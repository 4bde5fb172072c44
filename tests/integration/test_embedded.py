"""The embedded default: no server anywhere, data that is found again, one program at a time."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from credits_fast import ConfigurationError, CreditsEngine, EngineClosedError
from credits_fast.checks.balance_sheet import balance_sheet, compare_redis
from credits_fast.embedded import EmbeddedEngine
from credits_fast.sync.listening import listening
from tests.integration.conftest import CONFIG


async def test_data_is_found_again_when_opened_a_second_time(tmp_path: Path) -> None:
    for opened in (1, 2):
        async with CreditsEngine.embedded(tmp_path / "data", CONFIG) as credits:
            if opened == 1:
                await credits.create_user("ada", credits=100)
            await credits.charge("ada", "image", idempotency_key="k")
            await credits.charge("ada", "free", amount=1)
            await credits.wait_recorded()
            assert 2 + opened == len(await credits.get_history("ada"))
            assert 80 - opened == await credits.query_balance("ada")
            redis = await compare_redis(credits._database, credits.router, credits.partitions)
            assert {} == redis.differing


async def test_closing_records_what_was_not_recorded_yet(tmp_path: Path) -> None:
    async with CreditsEngine.embedded(tmp_path, CONFIG) as credits:
        await credits.create_user("ada", credits=1_000)
        await asyncio.gather(*(credits.charge("ada", "free", amount=1) for _ in range(500)))

    from credits_fast.ledger.database import connect

    database = connect(f"sqlite:///{tmp_path}/credits.db")
    sheet = await balance_sheet(database)
    await database.dispose()
    assert (501, 500, True) == (sheet.transactions, sheet.balances, sheet.conserves)


async def test_the_worker_inside_can_be_watched(tmp_path: Path) -> None:
    engine = CreditsEngine.embedded(tmp_path, CONFIG)
    with pytest.raises(EngineClosedError):
        str(engine.worker.id)
    async with engine as credits, listening(engine.worker, "127.0.0.1:0") as where:
        await credits.create_user("ada", credits=100)
        await credits.charge("ada", "free", amount=1)
        await credits.wait_recorded()
        reader, writer = await asyncio.open_connection(where.host, where.port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n")
        page = await reader.read()
        writer.close()
        await writer.wait_closed()

    assert b"\ncredits_fast_transactions_recorded_total 1.0\n" in page


async def test_a_second_program_is_refused(tmp_path: Path) -> None:
    async with CreditsEngine.embedded(tmp_path, CONFIG):
        with pytest.raises(ConfigurationError, match="is open in another program"):
            async with CreditsEngine.embedded(tmp_path, CONFIG):
                pass


async def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")

    with pytest.raises(ConfigurationError, match="cannot be used"):
        await CreditsEngine.embedded(tmp_path / "file" / "data", CONFIG).start()


async def test_nothing_is_left_behind_but_the_folder(tmp_path: Path) -> None:
    async with CreditsEngine.embedded(tmp_path, CONFIG) as credits:
        assert isinstance(credits, EmbeddedEngine)
        server = credits._server
        run_folder = credits._run_folder
        assert server is not None
        assert run_folder.exists()

    assert not server.is_running
    assert not run_folder.exists()
    assert {"credits.db", "valkey", "lock"} == {path.name for path in tmp_path.iterdir()}


PROGRAM = """
import asyncio, sys
from credits_fast import CreditsEngine
from tests.integration.conftest import CONFIG

async def main():
    async with CreditsEngine.embedded(sys.argv[1], CONFIG) as credits:
        await credits.create_user("ada", credits=100)
        await credits.charge("ada", "image")
        await credits.wait_recorded()
        print(credits._server.process.pid, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Only Linux ends a child with its parent.")
async def test_a_killed_program_takes_its_server_along_and_its_data_survives(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        pid = int(program.stdout.readline())
        program.kill()
        program.wait()
    while _is_alive(pid):
        await asyncio.sleep(0.001)

    async with CreditsEngine.embedded(tmp_path, CONFIG) as credits:
        assert 60 == (await credits.charge("ada", "image")).balance_after


def _is_alive(pid: int) -> bool:
    """Whether the process runs; one that ended and was not waited for does not."""
    try:
        os.kill(pid, signal.SIGCONT)
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"


async def test_the_ledger_can_be_read_by_a_person(tmp_path: Path) -> None:
    async with CreditsEngine.embedded(tmp_path, CONFIG) as credits:
        await credits.create_user("ada", credits="33.5")
        await credits.charge("ada", "image")
        await credits.wait_recorded()
        async with credits._database.connect() as connection:
            query = "SELECT amount, balance_after FROM transactions ORDER BY sequence"
            rows = (await connection.execute(text(query))).all()

    assert [("33.500000", "33.500000"), ("-20.000000", "13.500000")] == [tuple(row) for row in rows]
