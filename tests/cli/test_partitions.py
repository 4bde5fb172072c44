"""`partitions` is a table for people and a list for machines, one row for each partition."""

from __future__ import annotations

import asyncio
import re

import pytest
from sqlalchemy import update

from credits_fast.ledger.database import connect, writing
from credits_fast.sync.tables import sync_partitions
from tests.cli.conftest import Program, Shop


@pytest.fixture
def busy(program: Program, shop: Shop) -> Shop:
    """A shop with a user and a charge that is recorded."""
    program.document("user", "create", "ada", "--credits", "100")
    program.document("charge", "ada", "chat", "--amount", "1")
    shop.sync()
    return shop


@pytest.mark.usefixtures("busy")
def test_each_partition_is_one_line(program: Program) -> None:
    rows = program.document("partitions")["partitions"]
    lines = program("partitions").out.splitlines()

    assert [0, 1] == [row["partition"] for row in rows]
    assert {"open"} == {row["state"] for row in rows}
    assert {0, 1} == {row["journal_length"] for row in rows}
    assert 2 == sum(bool(re.match(r" *[01] +\d+ ", line)) for line in lines)


def test_a_reason_stands_below_the_table_and_in_the_document(program: Program, busy: Shop) -> None:
    async def set_aside() -> None:
        database = connect(busy.database_url)
        async with writing(database) as connection:
            columns = sync_partitions.c
            await connection.execute(
                update(sync_partitions).where(columns.partition == 1).values(set_aside="why\x1b[2J")
            )
        await database.dispose()

    asyncio.run(set_aside())
    rows = program.document("partitions")["partitions"]
    out = program("partitions").out

    assert [None, "why\x1b[2J"] == [row["set_aside"] for row in rows]
    assert "partition 1 is set aside: why\\x1b[2J\n" in out
    assert "\x1b[2J" not in out
