"""The smoke set on real servers keeps every promise; a library that breaks one is found out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from credits_fast.chaos import catalogue
from credits_fast.chaos.arena import Arena, Size
from credits_fast.chaos.checker import INVARIANTS
from credits_fast.chaos.history import from_line, operations
from credits_fast.chaos.scenario import Scenario
from credits_fast.chaos.scenarios.connections import REPLY_EATER
from credits_fast.cli import main
from credits_fast.engine import CreditsEngine

ROOT = Path(__file__).parents[2]
SMALL = Size(rounds=1, calls=60)


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(catalogue.SIZES, "smoke", SMALL)


def chaos(tmp_path: Path, *words: str) -> tuple[int, dict[str, Any]]:
    """The exit code of a run, and its document."""
    file = tmp_path / "chaos.json"
    code = main(["chaos", "--set", "smoke", "--seed", "1", "--json", str(file), *words])
    return code, json.loads(file.read_text())


def rows(heading: str) -> list[str]:
    """The members in a table of the page about the command line."""
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    section = page.split("### `credits-fast chaos`")[1].split("\n### ")[0]
    table = section.split(heading)[1].split("| member |")[1].split("\n\n")[0]
    first = re.findall(r"^\| (`.*?) \|", table, flags=re.MULTILINE)
    return [name for row in first for name in re.findall(r"`(\w+)`", row)]


def test_the_smoke_set_keeps_every_promise(tmp_path: Path) -> None:
    code, document = chaos(tmp_path, "--history", str(tmp_path / "calls"))

    assert (0, [], True) == (code, document["problems"], document["kept"])
    totals = document["totals"]
    played = [one.name for one in catalogue.SETS["smoke"]]
    assert played == [one["name"] for one in document["scenarios"]]
    assert (len(played), len(played)) == (totals["scenarios"], totals["kept"])
    assert (0, 0, 0, 0) == tuple(
        totals[name] for name in ("lost", "duplicated", "below_floor", "drift")
    )
    for one in document["scenarios"]:
        ended = ("acknowledged", "refused", "unavailable", "ambiguous")
        assert one["attempted"] == sum(one[name] for name in ended)
        assert INVARIANTS.keys() == one["invariants"].keys()
        assert sum(one["faults"].values()) > 0
        assert 0 < one["acknowledged_held"] < one["acknowledged"]
        calls = (tmp_path / "calls" / f"{one['name']}-1.jsonl").read_text().splitlines()
        assert one["attempts"] == len(calls)
        assert one["attempted"] == len(operations(map(from_line, calls)))
    assert {*document} == {*rows("(`-` is stdout")}
    assert {*document["scenarios"][0]} == {*rows("Of each scenario")}


@pytest.mark.usefixtures("_small")
def test_a_library_that_charges_twice_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    charge = CreditsEngine.charge

    async def charges_twice(self: CreditsEngine, *words: Any, **options: Any) -> Any:
        result = await charge(self, *words, **options)
        if options["metadata"]["operation"] % 10 == 0:
            await charge(self, *words, **{**options, "idempotency_key": None})
        return result

    monkeypatch.setattr(CreditsEngine, "charge", charges_twice)
    code, document = chaos(tmp_path, "--scenario", "script-flush")

    assert (7, False) == (code, document["kept"])
    (one,) = document["scenarios"]
    assert one["duplicated"] > 0
    assert one["invariants"]["I3"]["broken"] > 0


@pytest.mark.usefixtures("_small")
def test_a_scenario_that_breaks_nothing_proves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def breaks_nothing(arena: Arena) -> None:
        async with arena.load.asking():
            await arena.calls()

    nothing = Scenario(name="nothing", promise="Nothing is broken.", play=breaks_nothing)
    monkeypatch.setitem(catalogue.SCENARIOS, "nothing", nothing)
    code, document = chaos(tmp_path, "--scenario", "nothing")

    assert 7 == code
    assert ["nothing (seed 1): expected: something was broken"] == document["problems"]


@pytest.mark.usefixtures("_small")
def test_an_error_nobody_documents_is_a_broken_promise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def falls_over(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(CreditsEngine, "refund", falls_over)
    code, document = chaos(tmp_path, "--scenario", "script-flush")

    assert 7 == code
    assert any("ZeroDivisionError: a bug" in problem for problem in document["problems"])


def test_a_scenario_nobody_knows_is_told_with_those_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = main(["chaos", "--scenario", "earthquake"])

    assert 2 == code
    assert f"'earthquake' is not one of {REPLY_EATER.name}, " in capsys.readouterr().err
