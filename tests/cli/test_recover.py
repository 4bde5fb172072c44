"""`recover` has a partition go on that was set aside, and says what that came to."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import update

from credits_fast.config import load_config
from credits_fast.ledger.database import connect
from credits_fast.protocol.keys import Partitions
from credits_fast.sync.tables import users
from tests.cli.conftest import Program, Shop


@pytest.fixture
def changed_by_hand(program: Program, shop: Shop) -> int:
    """A shop where somebody gave ada 50 credits in SQL; the number of her partition."""
    program.document("user", "create", "ada", "--credits", "100", "--tier", "free")
    shop.sync()

    async def change() -> None:
        database = connect(shop.database_url)
        async with database.begin() as connection:
            await connection.execute(update(users).values(credits=150))
        await database.dispose()

    program.document("charge", "ada", "chat", "--amount", "10")
    asyncio.run(change())
    shop.sync()
    return Partitions(load_config(shop.config).namespace, 2).of(b"ada").number


@pytest.mark.usefixtures("shop")
def test_where_nothing_is_set_aside_nothing_is_done(program: Program) -> None:
    assert {"recovered": [], "problems": []} == program.document("recover", "--trust", "redis")
    assert "no partition is set aside\n" == program("recover", "--trust", "ledger").out


def test_trusting_redis_takes_what_was_given_by_hand(
    program: Program, shop: Shop, changed_by_hand: int
) -> None:
    (one,) = program("recover", "--trust", "redis", "--json").json["recovered"]

    expected = {
        "partition": changed_by_hand,
        "trusted": "redis",
        "epoch": 3,
        "entries": 1,
        "adopted": 1,
        "created": 0,
        "settled": 1,
        "added": "0.000000",
        "taken": "50.000000",
    }
    assert expected == one
    assert "90.000000" == program.document("balance", "ada")["credits"]
    charged = program.document("charge", "ada", "chat", "--amount", "1")
    assert "89.000000" == charged["balance_after"]
    shop.sync()
    assert "no partition is set aside\n" == program("recover", "--trust", "redis").out


@pytest.mark.usefixtures("changed_by_hand")
def test_trusting_the_ledger_keeps_it(program: Program) -> None:
    out = program("recover", "--trust", "ledger").out

    assert "goes on in epoch 3: 1 entries read, 1 transactions adopted, 0 users created\n" in out
    assert "140.000000" == program.document("balance", "ada")["credits"]


def test_a_partition_that_is_carried_is_refused_and_the_other_goes_on(
    program: Program, changed_by_hand: int
) -> None:
    words = ("--partition", str(changed_by_hand), "--partition", str(1 - changed_by_hand))
    ended = program("recover", "--trust", "redis", *words, "--json")

    assert 4 == ended.code
    assert [changed_by_hand] == [one["partition"] for one in ended.json["recovered"]]
    problem = f"partition {1 - changed_by_hand} is not set aside"
    assert [{"partition": 1 - changed_by_hand, "problem": problem}] == ended.json["problems"]


@pytest.mark.usefixtures("shop")
def test_a_partition_that_does_not_exist_is_no_partition(program: Program) -> None:
    ended = program("recover", "--trust", "redis", "--partition", "2")

    assert (2, True) == (ended.code, "there is no partition 2; they are 0 to 1" in ended.err)


@pytest.mark.usefixtures("shop")
def test_a_side_has_to_be_named(program: Program) -> None:
    assert "--trust" in program("recover").err
