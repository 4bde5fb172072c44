"""`verify` says how much it compared, names what differs, and its exit code says whether anything does."""

from __future__ import annotations

import asyncio

import pytest

from credits_fast.config import load_config
from credits_fast.protocol.keys import Partitions
from credits_fast.servers.lane import Endpoint, Lane
from tests.cli.conftest import Program, Shop


@pytest.fixture
def busy(program: Program, shop: Shop) -> Shop:
    """A shop with two users, one charge that is recorded and one that is not."""
    for user in ("ada", "grace"):
        program.document("user", "create", user, "--credits", "100")
    program.document("charge", "ada", "chat", "--amount", "1")
    shop.sync()
    program.document("charge", "ada", "chat", "--amount", "2")
    return shop


def plant(shop: Shop, user: bytes, balance: bytes) -> None:
    """Another balance in Redis."""
    config = load_config(shop.config)

    async def planted() -> None:
        lane = await Lane.open(Endpoint.from_url(shop.redis_url))
        key = Partitions(config.namespace, config.partitions).of(user).account(user)
        entry, _, rest = (await lane.execute(b"GET", key)).split(b" ", 2)
        await lane.execute(b"SET", key, b"%b %b %b" % (entry, balance, rest))
        await lane.close()

    asyncio.run(planted())


@pytest.mark.usefixtures("busy")
def test_where_all_agrees_it_says_how_much_was_compared(program: Program) -> None:
    found = program.document("verify")

    assert (True, 2, 2, 1, 2, 1, 3) == (
        found["verified"],
        found["users"],
        found["users_compared"],
        found["second_looks"],
        found["entries"],
        found["transactions_waiting"],
        found["transactions"],
    )
    assert ("200.000000", "1.000000", "199.000000") == (
        found["granted"],
        found["charged"],
        found["balances"],
    )
    assert program("verify").out.endswith("everything agrees\n")


def test_a_difference_is_named_and_ends_with_7(program: Program, busy: Shop) -> None:
    plant(busy, b"grace", b"99500000")
    spoken, document = program("verify"), program("verify", "--json")

    assert (7, 7) == (spoken.code, document.code)
    problem = "Redis has 99.500000 at sequence 1, the ledger has 100.000000 there"
    assert {"grace": problem} == document.json["differing"]
    assert (False, "0.500000") == (document.json["verified"], document.json["redis_drift"])
    assert f"Redis, journal and ledger: grace: {problem}\n" in spoken.out
    assert spoken.out.endswith("NOT VERIFIED: drift of the ledger 0.00, of Redis 0.50 credits\n")


def test_a_ledger_that_was_not_migrated_is_told(
    program: Program, busy: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDITS_DATABASE_URL", f"sqlite:///{busy.config.parent}/other.db")

    assert 3 == program("verify").code


@pytest.mark.parametrize("words", [("verify",), ("partitions",), ("doctor",)])
def test_a_folder_in_the_environment_is_told_not_to_be_served(
    program: Program, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CREDITS_EMBEDDED", "folder")
    ended = program(*words)

    assert 3 == ended.code
    assert "served only by the program that has them open" in ended.err
