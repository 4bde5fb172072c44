"""The whole harness at its smallest size, on real servers: its figures, its proof, and nothing left."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from credits_fast.benchmarks import run as harness
from credits_fast.benchmarks.figures import FIGURES
from credits_fast.benchmarks.plan import PLANS, Plan
from credits_fast.benchmarks.stage import open_stage
from credits_fast.cli import main
from credits_fast.settings import Settings
from tests.benchmarks.outcomes import SMALLEST, outcome
from tests.servers import Servers

_ENDS_WITHIN_S = 60
PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
NOT_MEASURED = {"ratio_vs_redis_py_1024", "ratio_million_users"}


@pytest.fixture
def _smallest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PLANS, "quick", SMALLEST)


def servers_words(servers: Servers) -> tuple[str, ...]:
    url = servers.database_url.render_as_string(hide_password=False)
    return ("--redis-url", servers.redis_url, "--database-url", url)


async def databases(servers: Servers) -> list[str]:
    engine = create_async_engine(servers.administrated, poolclass=NullPool)
    async with engine.connect() as connection:
        query = text("SELECT datname FROM pg_database WHERE datname LIKE 'bench%'")
        found = [*await connection.scalars(query)]
    await engine.dispose()
    return found


def assert_nothing_is_left(servers: Servers) -> None:
    client = Redis.from_url(servers.redis_url)
    assert [] == [*client.scan_iter("{bench*")]
    client.close()
    assert [] == asyncio.run(databases(servers))


def documented() -> set[str]:
    section = PAGE.read_text(encoding="utf-8").split("### `credits-fast bench`")[1]
    table = re.findall(r"^\| (`.*?`) \|", section.split("\n### ")[0], flags=re.MULTILINE)
    return {name for row in table for name in re.findall(r"`(\w+)`", row)}


@pytest.mark.usefixtures("_smallest")
def test_the_smallest_run_has_every_figure_proves_its_sums_and_leaves_nothing(
    servers: Servers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace, page = tmp_path / "trace.csv", tmp_path / "report.html"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n1,900,350\n2,10,20\n")
    words = ("bench", "--set", "quick", "--json", "-", "--html", str(page), "--trace", str(trace))
    code = main((*words, *servers_words(servers)))
    captured = capsys.readouterr()
    made: dict[str, Any] = json.loads(captured.out)
    proof = made["proof"]

    assert (0, True, []) == (code, made["verified"], made["problems"])
    assert documented() == made.keys()
    assert NOT_MEASURED == {name for name in FIGURES if made["spread"][name] is None} - {
        name for name in FIGURES if name.startswith("cpu_s_per_million")
    }
    assert {2} == {len(one["rounds"]) for one in made["spread"].values() if one}
    assert proof["charges_acknowledged"] == proof["charges_in_the_ledger"] > 0
    assert proof["reservations_acknowledged"] > 0
    assert (
        proof["charges_in_the_ledger"] + proof["reservations_acknowledged"]
        == proof["successes_audited"]
    )
    assert proof["refusals_answered"] == proof["refusals_audited"] > 0
    assert proof["replays_answered"] > 0
    assert proof["keys_remembered"] == proof["keys_used"] < proof["charges_acknowledged"]
    assert (40, 40) == (proof["users"], proof["redis_users_compared"])
    assert {0} == {*proof["baselines_off_by"].values()}
    assert "All sums agree" in page.read_text(encoding="utf-8")
    assert "✓" in captured.err
    assert servers.redis_url not in captured.out + page.read_text(encoding="utf-8")

    assert_nothing_is_left(servers)


@pytest.mark.usefixtures("_smallest")
def test_sums_that_do_not_agree_are_an_exit_code_of_their_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def run(plan: Plan, *_: object) -> harness.Outcome:
        assert plan is SMALLEST
        return outcome("a credit is missing")

    monkeypatch.setattr(harness, "run", run)
    code = main(("bench", "--set", "quick", "--json", "-"))
    captured = capsys.readouterr()

    assert (7, False) == (code, json.loads(captured.out)["verified"])
    assert "✗ a credit is missing" in captured.err


async def test_servers_of_its_own_are_ended_and_their_folder_is_gone() -> None:
    async with open_stage(Settings()) as stage:
        server, folder = stage.postgresql, stage.folder
        assert server is not None
        assert "PostgreSQL" in stage.facts["database"]
        assert stage.facts["redis_append_only_file"]
        assert (stage.sql_cpu_s() or 1) > 0

    assert not server.is_running
    assert not folder.exists()


async def test_a_stage_is_taken_down_when_the_work_on_it_fails(servers: Servers) -> None:
    url = servers.database_url.render_as_string(hide_password=False)
    settings = Settings(redis_url=servers.redis_url, database_url=url)
    folders: list[Path] = []

    async def fail() -> None:
        async with open_stage(settings) as stage:
            folders.append(stage.folder)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()

    assert [False] == [folder.exists() for folder in folders]
    assert [] == await databases(servers)


@pytest.mark.parametrize("url", ["sqlite:///x.db", "nonsense", "mysql://localhost/x"])
def test_only_postgresql_can_be_compared_with(
    url: str, capsys: pytest.CaptureFixture[str], servers: Servers
) -> None:
    words = ("--redis-url", servers.redis_url, "--database-url", url)
    code = main(("bench", "--set", "quick", *words))

    assert 3 == code
    assert "is no URL of a PostgreSQL" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_a_report_that_cannot_be_written_is_told_before_anything_is_measured(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(("bench", option, str(tmp_path / "nowhere" / "file")))

    assert 2 == code
    assert option in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_stop_leaves_nothing(
    number: signal.Signals, servers: Servers
) -> None:
    words = (sys.executable, "-m", "credits_fast.cli", "bench", "--set", "quick")
    process = subprocess.Popen(
        (*words, *servers_words(servers)),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    first = process.stderr.readline()
    process.send_signal(number)
    _, err = process.communicate(timeout=_ENDS_WITHIN_S)

    assert (130, "interrupted\n") == (process.returncode, err[-len("interrupted\n") :])
    assert first.startswith("benchmark: 0 of ")
    assert_nothing_is_left(servers)
