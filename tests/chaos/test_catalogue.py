"""The page about the proof kit has every scenario, every invariant and both sets, and no other."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from credits_fast.chaos.catalogue import SCENARIOS, SETS, chosen
from credits_fast.chaos.checker import INVARIANTS
from credits_fast.chaos.wishes import Mix, Wishes
from credits_fast.cli import main

PAGE = (Path(__file__).parents[2] / "docs" / "chaos.md").read_text(encoding="utf-8")
_ROW = re.compile(r"^\| `?([\w-]+)`? \| (.*) \|$", flags=re.MULTILINE)


def table(heading: str) -> dict[str, str]:
    """The rows of the first table under a heading, without its head."""
    section = PAGE.split(f"{heading}\n")[1].split("\n#")[0]
    found = dict(_ROW.findall(section))
    found.pop("scenario", None)
    return found


def test_the_page_has_the_promise_of_every_scenario() -> None:
    assert {one.name: one.promise for one in SCENARIOS.values()} == table("## The scenarios")


def test_the_page_has_every_invariant() -> None:
    assert INVARIANTS == table("## What is examined after each")


def test_the_page_names_the_smoke_set() -> None:
    (sentence,) = re.findall(r"Those in the smoke set are (.*?)\.\n", PAGE, flags=re.DOTALL)

    assert [one.name for one in SETS["smoke"]] == re.findall(r"`([\w-]+)`", sentence)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_promise_is_one_sentence(name: str) -> None:
    assert re.fullmatch(r"[A-Z][^.]*\.", SCENARIOS[name].promise)


def test_named_scenarios_are_played_once_each_in_their_order() -> None:
    names = ["oom-noeviction", "reply-eater", "oom-noeviction"]

    assert ["oom-noeviction", "reply-eater"] == [one.name for one in chosen("smoke", names)]


def test_the_list_shows_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main(["chaos", "--list", "--json", "-"])
    listed = json.loads(capsys.readouterr().out)["scenarios"]

    assert [*SCENARIOS] == [one["name"] for one in listed]


def test_the_same_seed_asks_for_the_same() -> None:
    first, again, other = (Wishes(seed, Mix()) for seed in ("7", "7", "8"))
    asked = [first.next() for _ in range(200)]

    assert asked == [again.next() for _ in range(200)]
    assert asked != [other.next() for _ in range(200)]
    assert {"charge", "grant", "refund"} == {one.verb for one in asked}
    assert {True, False} == {one.key is None for one in asked}


def test_whatever_is_asked_for_under_a_taken_key_is_something_else_each_time() -> None:
    wishes = Wishes("7", Mix(keyed=1.0))
    first = wishes.next()
    second = wishes.under_the_same_key(first)
    others = [wishes.under_the_same_key(other) for other in (first, second, first, second)]

    alike = Counter(asked.micros for asked in (first, second, *others))
    assert {first.key} == {asked.key for asked in others}
    assert {1} == set(alike.values())
