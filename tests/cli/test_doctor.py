"""`doctor` shows every finding with its remedy, and its exit code says whether one is an error."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Program, Shop


@pytest.fixture
def sick(program: Program, shop: Shop) -> Shop:
    """A shop without a worker, on a server without a file."""
    program.document("user", "create", "ada")
    return shop


@pytest.mark.usefixtures("sick")
def test_errors_end_with_3_and_stand_in_the_document(program: Program) -> None:
    ended = program("doctor", "--json")
    by_check = {finding["check"]: finding for finding in ended.json["findings"]}

    assert (3, False) == (ended.code, ended.json["healthy"])
    assert {"persistence", "workers"} == {
        check for check, finding in by_check.items() if finding["severity"] == "error"
    }
    assert "start credits-fast worker" == by_check["workers"]["remedy"]
    assert len(ended.json["findings"]) == sum(ended.json["counts"].values())


@pytest.mark.usefixtures("sick")
def test_people_see_the_remedy_below_and_with_quiet_only_what_is_bad(program: Program) -> None:
    everything, quiet = program("doctor").out, program("doctor", "--quiet").out

    assert "error   workers: none is alive" in quiet
    assert "        -> start credits-fast worker\n" in quiet
    assert "ok      memory_policy: noeviction" in everything
    assert "\nok " not in quiet
    assert everything.splitlines()[-1] == quiet.splitlines()[-1]


def test_servers_that_are_not_there_are_findings_and_not_an_error_of_the_program(
    program: Program, sick: Shop
) -> None:
    ended = program(
        *("doctor", "--json", "--redis-url", "redis://127.0.0.1:1"),
        *("--database-url", sick.database_url),
    )

    assert (3, "") == (ended.code, ended.err)
    assert "error" == ended.json["findings"][0]["severity"]
    assert "redis" == ended.json["findings"][0]["check"]
