"""The protocol, explored: what each ingredient is for, and the traces that `docs/model.md` tells.

`CREDITS_TEST_MODEL=wide` explores every row in every world of its, and the whole design in the larger
worlds; it takes some minutes.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from tests.model import explorer, failing, report
from tests.model.__main__ import main
from tests.model.design import INGREDIENTS, TODAY, WHOLE, Design
from tests.model.explorer import TooManyStatesError, explore
from tests.model.invariants import Violation
from tests.model.state import Bounds, Faults, Transaction, first_state
from tests.model.steps import on_primary
from tests.model.table import HIDDEN, ROWS, Row, examined, explored
from tests.model.worlds import BRANCHES, DEEP_WORLDS, ROOMY_WORLDS, WORLDS

IS_WIDE: Final = os.environ.get("CREDITS_TEST_MODEL") == "wide"
ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs" / "model.md").read_text(encoding="utf-8")
PROCESS: Final = replace(WHOLE, identity="process")
SMALLER_WORLDS: Final = (
    "failover, record gone, key again",
    "restart and failover, two workers",
    "two older copies",
)
TOLD: Final[dict[str, tuple[Design, Bounds, Violation]]] = {
    "there and back": (PROCESS, WORLDS["there and back"], "overdrawn"),
    "batch in hand": (WHOLE.without("opening_fences"), WORLDS["failover"], "overdrawn"),
    "created twice": (
        WHOLE.without("opening_creates_absent"),
        WORLDS["slow opening"],
        "overdrawn",
    ),
    "generation": (WHOLE.without("generation_is_new"), WORLDS["wipe, evictions"], "apart"),
    "another server": (
        WHOLE.without("repair_on_one_server"),
        WORLDS["there and back"],
        "apart",
    ),
    "key again": (WHOLE.without("reversal"), WORLDS["record gone, key again"], "twice"),
    "watermark": (
        WHOLE.without("overlap_read", "opening_compares"),
        WORLDS["failover"],
        "missing",
    ),
    "stamp": (
        HIDDEN.without("whole_stamp"),
        ROOMY_WORLDS["failover, three callers repeat"],
        "missing",
    ),
    "two branches": (WHOLE, BRANCHES, "overdrawn"),
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_leaving_it_out_violates_what_the_table_says(row: Row) -> None:
    found = examined(row, row.worlds if IS_WIDE else row.shown_in)

    assert row.violations == found.violations
    if IS_WIDE:
        assert report.table([found])[2] in PAGE


@pytest.mark.parametrize("world", DEEP_WORLDS if IS_WIDE else SMALLER_WORLDS)
def test_the_whole_design_violates_nothing_in_the_larger_worlds(world: str) -> None:
    found = explored(WHOLE, DEEP_WORLDS[world])

    assert frozenset() == found.violations
    assert f"| {world} | {found.states:,} |" in PAGE


def test_every_ingredient_is_left_out_once() -> None:
    alone = {row.design for row in ROWS}

    assert [] == [name for name in INGREDIENTS if WHOLE.without(name) not in alone]


def test_every_violation_is_caught_somewhere() -> None:
    caught = {violation for row in ROWS for violation in row.violations}

    assert {"twice", "missing", "apart", "overdrawn", "backwards", "gap"} == caught


def test_the_page_has_the_table() -> None:
    rows = re.findall(r"^\| (.+?) \| (.+?) \| [\d,]+ \|$", PAGE, flags=re.MULTILINE)
    expected = [
        (row.name, report.named(row.violations) + (f"; {row.backed_by}" if row.backed_by else ""))
        for row in ROWS
    ]

    assert expected == rows


@pytest.mark.parametrize("name", TOLD)
def test_the_page_tells_the_shortest_trace(name: str) -> None:
    design, bounds, violation = TOLD[name]
    steps = explored(design, bounds).traces[violation]
    told = "\n".join(f"{number}. {words}" for number, words in enumerate(steps, 1))

    assert f"```\n{told}\n```" in PAGE


@pytest.mark.parametrize("design", [TODAY, TODAY.without("repairs")])
def test_there_and_back_passes_the_fence_of_a_process(design: Design) -> None:
    """Whether the partition is repaired, closed or left alone when it is noticed: that is too late."""
    found = explored(design, WORLDS["there and back"])

    assert "overdrawn" in found.violations


def test_there_and_back_does_not_pass_the_fence_of_a_promotion() -> None:
    promoted = explored(WHOLE, WORLDS["there and back"])

    assert frozenset() == promoted.violations


def test_a_trace_is_a_shortest_one() -> None:
    """Steps are counted in the world with fewer faults too: more of them find nothing shorter."""
    design = WHOLE.without("opening_fences")
    small = explored(design, WORLDS["failover"])
    large = explored(design, WORLDS["failover, two workers"])

    assert len(small.traces["overdrawn"]) == len(large.traces["overdrawn"])


def test_records_go_in_the_same_order_in_every_run() -> None:
    """Python's order of a set of texts changes from run to run, and with it which trace is the first."""
    state = first_state(Bounds(faults=Faults(expiries=1)))
    records = frozenset(Transaction("charge", key, 0) for key in range(10))
    remembering = on_primary(state, state.primary.data._replace(records=records))
    words = [step.words for step in failing.steps(remembering)]

    assert [f"the record of caller {key}'s charge is gone from Redis" for key in range(10)] == words


def test_more_states_than_may_be_explored_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explorer, "STATES_MAX", 10)

    with pytest.raises(TooManyStatesError, match="more than 10 states"):
        explore(WHOLE, Bounds())


def test_a_counterexample_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    words = ("--without", "load_once", "--world", "evictions", "--json", str(file))

    assert 0 == main(words)
    told = capsys.readouterr().out
    assert "evictions (2 evictions" in told
    assert "apart: Redis and the ledger do not agree" in told
    assert re.search(r"^ +\d+\. the slow load loads \d credits$", told, flags=re.MULTILINE)
    assert '"world": "evictions"' in file.read_text(encoding="utf-8")
