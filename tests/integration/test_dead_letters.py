"""Metadata no database takes is kept as it came, and can be put back where it belongs."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select

from credits_fast.sync import rows
from credits_fast.sync.dead_letters import letters, replay
from credits_fast.sync.tables import dead_letters, holds
from credits_fast.testing import CreditsKit

POISON = b'{"a":"\\u0000","cost":9}'


async def poisoned(kit: CreditsKit, raw: bytes) -> None:
    """A charge of 5 credits and a refusal, with metadata that this library would not have sent."""
    await kit.engine.create_user("ada", credits=100)
    await kit.engine.charge("ada", "free", amount=1)
    lane = await kit.engine.lane()
    keys = kit.engine.partitions.of(b"ada")
    charge = b"charge\0tx-poison\x003\0-5000000\x0094000000\0-\x0060000\x002\0\0\0ada\0free\0\0\0"
    refused = b"refused\0charge\0insufficient_credits\x0099\x001\0\0\0ada\0free\0\0\0"
    words = (b"v", b"1", b"t", b"1768478400000000", b"i")
    await lane.execute(b"XADD", keys.journal, b"1-*", *words, charge + raw)
    if raw == POISON:
        await lane.execute(b"XADD", keys.journal, b"1-*", *words, refused + raw)
    await lane.execute(b"SET", keys.account(b"ada"), b"1-0 94000000 0 3  ")
    await kit.sync()


async def count(kit: CreditsKit) -> int:
    async with kit.database.connect() as connection:
        return int(await connection.scalar(select(func.count()).select_from(dead_letters)) or 0)


async def test_what_still_cannot_be_read_stays_unless_it_is_put_back_as_text(
    kit: CreditsKit,
) -> None:
    await poisoned(kit, POISON)
    found = await letters(kit.database, limit=10)
    assert [("ada", "tx-poison", POISON), ("ada", None, POISON)] == [
        (one.user_id, one.transaction_id, one.raw) for one in found
    ]

    stays = await replay(kit.database, found)
    assert all("contains NUL" in one.problem for one in stays)
    assert 2 == await count(kit)

    assert {""} == {one.problem for one in await replay(kit.database, found, as_text=True)}
    assert 0 == await count(kit)
    row = (await kit.transactions("ada"))[-1]
    assert {"unreadable": POISON.decode()} == row.metadata
    by_status = {one.status: one.metadata for one in await kit.audit("ada")}
    assert POISON.decode() == by_status["failed"]["unreadable"]
    assert POISON.decode() == by_status["success"]["unreadable"]
    await kit.assert_balanced()


async def test_what_a_later_version_reads_is_put_back_as_it_is(
    kit: CreditsKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strict(_raw: bytes) -> Any:
        raise ValueError("this version cannot")

    readable = rows._json_object
    monkeypatch.setattr(rows, "_json_object", strict)
    await poisoned(kit, b'{"model":"m","cost":9,"deep":{"exact":0.10000000000000000001}}')
    monkeypatch.setattr(rows, "_json_object", readable)

    done = await replay(kit.database, await letters(kit.database, limit=10))

    assert {""} == {one.problem for one in done}
    row = (await kit.transactions("ada"))[-1]
    assert "m" == row.metadata["model"]
    assert 9 == row.metadata["cost"]
    booked = next(one for one in await kit.audit("ada") if one.metadata.get("model") == "m")
    assert 5 == booked.metadata["cost"]  # what the library wrote there itself
    assert 0 == await count(kit)


async def test_metadata_of_a_reservation_is_put_back_with_its_hold(
    kit: CreditsKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strict(_raw: bytes) -> Any:
        raise ValueError("this version cannot")

    await kit.engine.create_user("ada", credits=100)
    other = await kit.engine.reserve("ada", "free", amount=1)
    await kit.sync()
    monkeypatch.setattr(rows, "_json_object", strict)
    held = await kit.engine.reserve("ada", "free", amount=5, metadata={"model": "m"})
    await kit.sync()
    monkeypatch.undo()

    done = await replay(kit.database, await letters(kit.database, limit=10))

    assert {""} == {one.problem for one in done}
    async with kit.database.connect() as connection:
        query = select(holds.c.id, holds.c["metadata"])
        found = {name: given.get("model") for name, given in await connection.execute(query)}
    assert {held.hold_id: "m", other.hold_id: None} == found
    assert ["m"] == [
        one.metadata["model"] for one in await kit.audit("ada") if "model" in one.metadata
    ]
    assert 0 == await count(kit)


async def test_bytes_that_are_no_text_are_made_visible(sqlite_kit: CreditsKit) -> None:
    await poisoned(sqlite_kit, b"\xff not json")
    found = await letters(sqlite_kit.database, limit=1)
    await replay(sqlite_kit.database, found, as_text=True)

    assert {"unreadable": "\\xff not json"} == (await sqlite_kit.transactions("ada"))[-1].metadata


async def test_a_letter_of_one_among_many_of_a_moment_stays(sqlite_kit: CreditsKit) -> None:
    """Two refusals of a user in one entry: nobody can tell which row of the log is meant."""
    await poisoned(sqlite_kit, POISON)
    lane = await sqlite_kit.engine.lane()
    keys = sqlite_kit.engine.partitions.of(b"ada")
    refused = b"refused\0charge\0insufficient_credits\x0099\x001\0\0\0ada\0free\0\0\0" + POISON
    words = (b"v", b"1", b"t", b"1768478400000099", b"i", refused + b"\0" + refused)
    await lane.execute(b"XADD", keys.journal, b"1-*", *words)
    await sqlite_kit.sync()

    done = await replay(
        sqlite_kit.database, await letters(sqlite_kit.database, limit=10), as_text=True
    )

    assert ["", "", True, True] == [one.problem and "not to be told" in one.problem for one in done]
    assert 2 == await count(sqlite_kit)
