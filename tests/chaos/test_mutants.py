"""Every mutant can still be made and is on the page; a few are caught here, the rest by `--mutants`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from credits_fast.chaos import mutation
from credits_fast.chaos.catalogue import SETS, SIZES
from credits_fast.chaos.checker import INVARIANTS
from credits_fast.chaos.document import mutant_document
from credits_fast.chaos.mutants import MUTANTS, Edit, Mutant
from credits_fast.chaos.mutating import EditError, changed
from credits_fast.chaos.mutation import MutantPlay
from credits_fast.cli import main

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "credits_fast"
PAGE = (ROOT / "docs" / "chaos.md").read_text(encoding="utf-8")
ENOUGH = 15
FEW = ("no-fingerprint", "foreign-reply", "repair-forgets-keys")
"""A script, the library and the worker: each way of changing one."""


def played(tmp_path: Path, *names: str) -> tuple[int, dict[str, Any]]:
    """The exit code of a run of mutants, and its document."""
    file = tmp_path / "mutants.json"
    named = [word for name in names for word in ("--mutant", name)]
    code = main(["chaos", "--seed", "1", "--json", str(file), *named])
    return code, json.loads(file.read_text())


def test_a_few_mutants_are_caught_and_their_scenarios_keep_their_promise(tmp_path: Path) -> None:
    code, document = played(tmp_path, *FEW)

    assert [(name, True, None) for name in FEW] == [
        (one["name"], one["caught"], one["failure"]) for one in document["mutants"]
    ]
    assert [(MUTANTS[name].scenario, True) for name in FEW] == [
        (one["scenario"], one["kept"]) for one in document["unchanged"]
    ]
    assert (0, True, len(FEW)) == (code, document["kept"], document["caught"])
    for one in document["mutants"]:
        assert one["breaks"] in one["broken"]
    section = (ROOT / "docs" / "cli.md").read_text().split("With `--mutants` it has")[1]
    table = section.split("\n### ")[0].split("| member |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| (`.*?) \|", table, flags=re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert {*document} == named


def test_a_mutant_that_breaks_something_else_is_not_caught() -> None:
    mutant = MUTANTS["no-fingerprint"]
    caught = MutantPlay(mutant=mutant, scenario="script-flush", broken={"I4": "", "I11": ""})
    elsewhere = MutantPlay(mutant=mutant, scenario="script-flush", broken={"I4": ""})
    unbroken = MutantPlay(mutant=None, scenario="script-flush")
    broken = MutantPlay(mutant=None, scenario="script-flush", problems=("I11: broken",))
    stopped = MutantPlay(mutant=None, scenario="script-flush", failure="it ended with 1")

    document = mutant_document([unbroken, caught, elsewhere], 1.0, {})
    assert [True, False] == [one["caught"] for one in document["mutants"]]
    assert (False, 1) == (document["kept"], document["caught"])
    assert mutant_document([unbroken, caught], 1.0, {})["kept"]
    assert not mutant_document([broken, caught], 1.0, {})["kept"]
    assert not mutant_document([stopped, caught], 1.0, {})["kept"]


async def test_a_defect_that_cannot_be_made_is_not_taken_for_one_that_is_caught() -> None:
    gone = Mutant(
        name="no-fingerprint",
        defect="What it changes is not there any more.",
        scenario="script-flush",
        breaks="I11",
        edits=(Edit("calls/retry.py", "what is not there", "anything"),),
    )
    played = await mutation._play(gone, gone.scenario, SIZES["smoke"], seed=1)

    assert not played.is_as_it_should_be
    assert "has 0 times what is to be changed: 'what is not there'" in played.failure


def test_a_mutant_nobody_knows_is_told_with_those_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert 2 == main(["chaos", "--mutant", "gremlin"])
    assert f"'gremlin' is not one of {next(iter(MUTANTS))}, " in capsys.readouterr().err


@pytest.mark.parametrize("name", MUTANTS)
def test_what_a_mutant_changes_stands_there_once(name: str) -> None:
    by_file: dict[str, list[tuple[str, str]]] = {}
    for edit in MUTANTS[name].edits:
        by_file.setdefault(edit.file, []).append((edit.old, edit.new))
    scripts = [path.read_text(encoding="utf-8") for path in (PACKAGE / "lua").rglob("*.lua")]

    for file, edits in by_file.items():
        text = (PACKAGE / file).read_text(encoding="utf-8")
        assert text != changed(text, edits, file)
        if file.endswith(".lua"):  # scripts are changed with their includes pasted in
            assert all(1 == sum(old in script for script in scripts) for old, _ in edits)
        else:
            compile(changed(text, edits, file), file, "exec")


def test_what_stands_there_twice_is_not_changed() -> None:
    with pytest.raises(EditError, match="x has 2 times what is to be changed: 'a'"):
        changed("a b a", [("a", "c")], "x")


def test_every_mutant_has_a_scenario_of_the_standard_set_and_an_invariant() -> None:
    names = {one.name for one in SETS["standard"]}

    assert len(MUTANTS) >= ENOUGH
    assert set() == {one.scenario for one in MUTANTS.values()} - names
    assert set() == {one.breaks for one in MUTANTS.values()} - INVARIANTS.keys()


def test_the_page_has_every_mutant() -> None:
    section = PAGE.split("## Is the kit blind?\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([\w-]+)` \| (.*) \| `([\w-]+)` \| (I\d+) \|$", section, re.MULTILINE)

    assert [(one.name, one.defect, one.scenario, one.breaks) for one in MUTANTS.values()] == rows
