"""`dead-letters` shows what could not be read, and puts it back or says why it stays."""

from __future__ import annotations

import asyncio

import pytest

from credits_fast.config import load_config
from credits_fast.protocol.keys import Partitions
from credits_fast.servers.lane import Endpoint, Lane
from tests.cli.conftest import Program, Shop

_POISON = b'{"a":"\\u0000\x1b[2J"}'


@pytest.fixture
def poisoned(program: Program, shop: Shop) -> Shop:
    """A shop whose journal has metadata that no database takes."""
    program.document("user", "create", "ada", "--credits", "100")

    async def write() -> None:
        keys = Partitions(load_config(shop.config).namespace, 2).of(b"ada")
        item = b"charge\0tx-poison\x002\0-5000000\x0095000000\0-\x0060000\x002\0\0\0ada\0chat\0\0\0"
        words = (b"v", b"1", b"t", b"1768478400000000", b"i", item + _POISON)
        lane = await Lane.open(Endpoint.from_url(shop.redis_url))
        await lane.execute(b"XADD", keys.journal, b"1-*", *words)
        await lane.close()

    asyncio.run(write())
    shop.sync()
    return shop


@pytest.mark.usefixtures("poisoned")
def test_a_letter_is_shown_without_its_control_characters(program: Program) -> None:
    (letter,) = program.document("dead-letters", "list")["dead_letters"]
    out = program("dead-letters", "list").out

    assert ("ada", "tx-poison", _POISON.decode()) == (
        letter["user_id"],
        letter["transaction_id"],
        letter["raw"],
    )
    assert "tx-poison" in out
    assert "\x1b" not in out


@pytest.mark.usefixtures("poisoned")
def test_a_letter_stays_until_it_is_put_back_as_text(program: Program) -> None:
    (letter,) = program.document("dead-letters", "list")["dead_letters"]
    name = str(letter["id"])

    refused = program("dead-letters", "replay", "--letter", name, "--json")
    assert (4, []) == (refused.code, refused.json["replayed"])
    assert "still cannot be read" in refused.json["problems"][0]["problem"]

    expected = {"replayed": [letter["id"]], "problems": [], "unknown": []}
    assert expected == program.document("dead-letters", "replay", "--all", "--as-text")
    assert "there are none\n" == program("dead-letters", "list").out
    (row, *_) = program.document("history", "ada")["transactions"]
    assert "unreadable" in row["metadata"]


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("words", [(), ("--all", "--letter", "1")])
def test_which_letters_is_said_and_said_once(program: Program, words: tuple[str, ...]) -> None:
    assert 2 == program("dead-letters", "replay", *words).code


@pytest.mark.usefixtures("poisoned")
def test_a_letter_that_is_not_there_is_named(program: Program) -> None:
    ended = program("dead-letters", "replay", "--letter", "987")

    assert 4 == ended.code
    assert "987 is not there" in ended.out
