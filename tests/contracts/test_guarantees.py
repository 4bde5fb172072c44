"""The page of guarantees names what shows them: every scenario, and tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

from credits_fast.chaos.catalogue import SCENARIOS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
SHOWN_BY = re.findall(r"^\|.*\|.*\|.*\| (.*) \|$", PAGE.split("what shows it\n")[1], re.MULTILINE)


def named() -> set[str]:
    return {word for cell in SHOWN_BY[1:] for word in re.findall(r"`([^`]+)`", cell)}


def test_every_scenario_shows_something_that_is_promised() -> None:
    assert {*SCENARIOS} == {word for word in named() if "/" not in word}


def test_every_test_that_is_named_is_there() -> None:
    files = {word for word in named() if "/" in word}

    assert files
    assert set() == {name for name in files if not (ROOT / name).is_file()}


def test_every_promise_has_something_that_shows_it() -> None:
    assert all("`" in cell for cell in SHOWN_BY[1:])
    assert len(SHOWN_BY) > 15
