"""The programs as they are really run: as processes of their own, ended by signals and closed pipes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pytest

from credits_fast.config import load_config
from credits_fast.engine import CreditsEngine
from credits_fast.ledger.database import connect
from credits_fast.sync.__main__ import main as worker_of_the_environment
from credits_fast.sync.lease import Leases
from tests.cli.conftest import Program, Shop
from tests.servers import Servers

COMMAND_LINE = (sys.executable, "-m", "credits_fast.cli")
WORKER = (sys.executable, "-m", "credits_fast.sync")
_ENDS_WITHIN_S = 60


def surroundings(**variables: str) -> dict[str, str]:
    """The environment of a program: nothing of ours but what is given."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("CREDITS_")}
    return {**own, "PYTHONWARNINGS": "", **variables}


def start(*words: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words,
        env=environment or surroundings(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Its code, stdout and stderr; there is never a traceback."""
    out, err = process.communicate(timeout=_ENDS_WITHIN_S)
    assert "Traceback" not in out + err
    return process.returncode, out, err


@pytest.mark.usefixtures("redis_endpoint")
@pytest.mark.parametrize(
    ("words", "number"),
    [((*COMMAND_LINE, "worker", "--json"), signal.SIGTERM), (WORKER, signal.SIGINT)],
)
async def test_a_worker_told_to_stop_has_carried_everything_and_releases_its_leases(
    servers: Servers,
    postgresql_url: str,
    config_file: Path,
    words: tuple[str, ...],
    number: signal.Signals,
) -> None:
    environment = surroundings(
        CREDITS_REDIS_URL=servers.redis_url,
        CREDITS_DATABASE_URL=postgresql_url,
        CREDITS_CONFIG=str(config_file),
    )
    async with CreditsEngine.from_url(servers.redis_url, postgresql_url, config_file) as engine:
        await engine.create_user("ada", credits=100)
        await asyncio.gather(*(engine.charge("ada", "chat", amount=1) for _ in range(50)))
        process = start(*words, environment=environment)
        await engine.wait_recorded(timeout_ms=_ENDS_WITHIN_S * 1_000)
        process.send_signal(number)
        code, out, err = await asyncio.to_thread(ended, process)
        history = await engine.get_history("ada", limit=100)
    database = connect(postgresql_url)
    owners = await Leases(database, "nobody", 1_000).owners()
    await database.dispose()

    assert (0, 51) == (code, len(history))
    assert {0: None, 1: None} == owners
    assert "it carried 50 decisions" in err
    assert not out or 50 == json.loads(out)["carried"]


@pytest.mark.parametrize("words", [(*COMMAND_LINE, "worker", "--listen", "127.0.0.1:0"), WORKER])
def test_a_worker_that_listens_answers_until_it_is_told_to_stop(
    shop: Shop, words: tuple[str, ...]
) -> None:
    environment = surroundings(
        CREDITS_REDIS_URL=shop.redis_url,
        CREDITS_DATABASE_URL=shop.database_url,
        CREDITS_CONFIG=str(shop.config),
        CREDITS_LISTEN="" if "--listen" in words else "127.0.0.1:0",
    )
    process = start(*words, environment=environment)
    assert process.stderr is not None
    told = (re.search(r"answers at (127\.0\.0\.1:\d+)", line) for line in process.stderr)
    where = next(found[1] for found in told if found)
    with urllib.request.urlopen(f"http://{where}/metrics", timeout=_ENDS_WITHIN_S) as page:
        text = page.read().decode()
    process.send_signal(signal.SIGTERM)
    code, *_ = ended(process)

    assert (0, True) == (code, "\ncredits_fast_entries_recorded_total 0.0\n" in text)


def test_a_worker_that_is_to_listen_without_the_extra_says_what_to_install(shop: Shop) -> None:
    program = (
        "import sys; sys.modules['h11'] = None; "
        "from credits_fast.cli import main; sys.exit(main(['worker', '--listen', '127.0.0.1:0']))"
    )
    environment = surroundings(
        CREDITS_REDIS_URL=shop.redis_url, CREDITS_DATABASE_URL=shop.database_url
    )
    code, _, err = ended(start(sys.executable, "-c", program, environment=environment))

    assert 3 == code
    assert "listen: needs h11: pip install 'credits-fast[metrics]'" in err


@pytest.mark.parametrize(
    ("expected", "environment"),
    [
        ("redis_url: is not named: give --redis-url or CREDITS_REDIS_URL", {}),
        ("CREDITS_PARTITIONS: 'many' is not a number", {"CREDITS_PARTITIONS": "many"}),
        ("CREDITS_LOG_LEVEL: 'loud' is none of", {"CREDITS_LOG_LEVEL": "loud"}),
        ("namespace: ", {"CREDITS_NAMESPACE": "{x}"}),
        ("nowhere.toml: cannot be read", {"CREDITS_CONFIG": "nowhere.toml"}),
    ],
)
def test_the_worker_of_the_environment_says_what_is_wrong_with_it(
    capsys: pytest.CaptureFixture[str], expected: str, environment: dict[str, str]
) -> None:
    code = worker_of_the_environment(environment)
    err = capsys.readouterr().err

    assert (3, 1) == (code, err.count("\n"))
    assert err.startswith(f"error: CONFIGURATION_ERROR: {expected}")


def test_a_reader_that_goes_early_is_no_traceback(config_file: Path) -> None:
    process = start(*COMMAND_LINE, "check-config", str(config_file))
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()

    assert (141, "") == (process.wait(_ENDS_WITHIN_S), err)


def test_an_error_for_a_reader_that_has_gone_is_no_traceback() -> None:
    process = start(*COMMAND_LINE, "balance", "--json")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()

    assert (141, 1) == (process.wait(_ENDS_WITHIN_S), err.count("\n"))


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_the_entry_point_says_what_to_install(missing: str) -> None:
    program = (
        f"import sys; sys.modules[{missing!r}] = None; "
        "from credits_fast.cli import main; sys.exit(main(['version']))"
    )
    code, out, err = ended(start(sys.executable, "-c", program))

    expected = f"error: USAGE: the command line needs {missing}: pip install 'credits-fast[cli]'\n"
    assert (2, "", expected) == (code, out, err)


def test_the_light_commands_do_not_load_the_database_library() -> None:
    program = (
        "import sys; from credits_fast.cli import main; main(['version']); "
        "sys.exit(any(name in sys.modules for name in ('sqlalchemy', 'alembic', 'rich.progress')))"
    )
    code, *_ = ended(start(sys.executable, "-c", program))

    assert 0 == code


def test_a_small_demo_on_servers_of_its_own_loses_nothing(tmp_path: Path) -> None:
    figures, folder = tmp_path / "figures.json", tmp_path / "data"
    sizes = ("--users", "20", "--requests", "300", "--callers", "16")
    code, out, err = ended(
        start(*COMMAND_LINE, "demo", *sizes, "--folder", str(folder), "--json", str(figures))
    )
    found = json.loads(figures.read_text())

    assert (0, True, 0, 0, 0) == (
        code,
        found["verified"],
        found["lost"],
        found["duplicated"],
        found["drift"],
    )
    kinds = ("charges", "grants", "refunds", "tier_changes")
    assert found["ledger_rows"] == sum(found[kind] for kind in kinds)
    assert found["audit_rows"] == found["ledger_rows"] + found["refusals"]
    assert (20, 20, 0) == (
        found["users"],
        found["redis_users_compared"],
        found["redis_users_differing"],
    )
    assert "0 operations lost, 0 duplicated" in out
    assert "steps: " in err
    user = out.partition("The last rows of ")[2].partition("\n")[0]
    looked = ended(start(*COMMAND_LINE, "history", user, "--embedded", str(folder), "--json"))
    assert 0 == looked[0]


def test_an_interrupted_demo_ends_with_130(tmp_path: Path) -> None:
    folder = ("--folder", str(tmp_path / "data"))
    process = start(*COMMAND_LINE, "demo", "--requests", "100000", *folder)
    assert process.stderr is not None
    process.stderr.readline()
    process.send_signal(signal.SIGINT)
    code, _, err = ended(process)

    assert 130 == code
    assert err.endswith("interrupted\n")


def test_a_demo_on_existing_servers_wants_a_database_without_users(
    program: Program, shop: Shop, tmp_path: Path
) -> None:
    words = ("demo", "--redis-url", shop.redis_url, "--database-url", shop.database_url)
    sizes = ("--users", "5", "--requests", "20", "--json", "-")
    first = program(*words, *sizes, "--folder", str(tmp_path / "first"))
    second = program(*words, *sizes, "--folder", str(tmp_path / "second"))

    assert (0, True) == (first.code, first.json["verified"])
    assert (3, True) == (second.code, "has 5 users" in second.err)
    assert load_config(tmp_path / "first" / "credits.toml").namespace.startswith("demo-")
