"""The blocking engine is the engine: the same operations, arguments, results and words."""

from __future__ import annotations

import inspect
from typing import Any, get_type_hints

import pytest

from credits_fast import CreditsEngine
from credits_fast.blocking import BlockingCreditsEngine

NOT_HANDED_OVER = {
    "in_transaction",  # The application's own session, which is an asynchronous one.
    "lane",  # A connection that belongs to the event loop.
}
OWN = {"start", "close", "migrate"}
"""Written out, because the thread and the loop are made and ended there."""


def public(kind: type[Any]) -> set[str]:
    found = inspect.getmembers(kind, inspect.isfunction)
    return {name for name, _ in found if not name.startswith("_")}


def test_every_operation_of_the_engine_is_there_and_no_other() -> None:
    assert public(CreditsEngine) - NOT_HANDED_OVER == public(BlockingCreditsEngine)


def test_nothing_there_is_awaited() -> None:
    for name in public(BlockingCreditsEngine):
        function = getattr(BlockingCreditsEngine, name)
        assert not inspect.iscoroutinefunction(inspect.unwrap(function)) or (
            function.__wrapped__ is getattr(CreditsEngine, name)
        )


@pytest.mark.parametrize("name", sorted(public(BlockingCreditsEngine)))
def test_arguments_and_results_are_those_of_the_engine(name: str) -> None:
    mine, theirs = getattr(BlockingCreditsEngine, name), getattr(CreditsEngine, name)

    assert inspect.signature(theirs) == inspect.signature(mine)
    assert name in OWN or inspect.getdoc(theirs) == inspect.getdoc(mine)


@pytest.mark.parametrize("name", ["from_url", "embedded"])
def test_it_is_made_like_the_engine(name: str) -> None:
    mine, theirs = getattr(BlockingCreditsEngine, name), getattr(CreditsEngine, name)

    parameters = [[*inspect.signature(one).parameters.values()] for one in (theirs, mine)]
    assert parameters[0] == parameters[1]


def test_its_own_methods_say_what_they_give() -> None:
    for name in OWN | {"from_url", "embedded"}:
        assert inspect.getdoc(getattr(BlockingCreditsEngine, name))
    assert get_type_hints(BlockingCreditsEngine.migrate)["return"] is str
