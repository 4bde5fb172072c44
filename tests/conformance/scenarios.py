"""The cases told in words: what happens inside SQL transactions of the application.

A charge is decided in Redis, so an SQL transaction around it has no part in it. What the reference
could only describe can be done here: open one on a real PostgreSQL, charge inside, roll it back.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from credits_fast import ChargeResult
from credits_fast.ledger.database import reading
from credits_fast.sync.tables import users
from tests.conformance.cases import Case
from tests.conformance.operations import NoCounterpartError
from tests.conformance.world import World

__all__ = ["OuterTransaction", "outer_transaction", "play", "rolled_back"]

_USER: Final = "u1"
_BYSTANDER: Final = "somebody written inside the transaction"
_PRICE: Final = 10
_ENOUGH: Final = 100
_ROLLED_BACK: Final = re.compile(
    r"charge\((\d+)\) for a user with (\d+) inside an outer transaction"
)
_TWO_WITH_ONE_KEY: Final = re.compile(r"waits on the unique key of the first")


class OuterTransaction(NamedTuple):
    """A charge inside an SQL transaction that is rolled back."""

    cost: int
    balance: int


def outer_transaction(case: Case) -> OuterTransaction | None:
    """The story of a case, where it is one of a charge that is rolled back."""
    match = _ROLLED_BACK.search(str(case.given.get("scenario", "")))
    return OuterTransaction(*map(int, match.groups())) if match else None


async def play(world: World, attempt: Callable[[Awaitable[Any]], Awaitable[Any]]) -> list[Any]:
    """What came of each call of the story.

    Args:
        world: Where it is played.
        attempt: Makes an outcome of a call, whether it succeeds or not.

    Raises:
        NoCounterpartError: The story is not one of those we know to play.
    """
    case: Case = world.case
    story = str(case.given.get("scenario", ""))
    charge = outer_transaction(case)
    if charge is not None:
        return [await _charge_rolled_back(world, attempt, charge)]
    if _TWO_WITH_ONE_KEY.search(story):
        return await _two_with_one_key(world, attempt)
    raise NoCounterpartError(f"the story is told in words: {story}")


@asynccontextmanager
async def rolled_back(database: AsyncEngine) -> AsyncGenerator[None, None]:
    """Inside an SQL transaction of the application, which writes a row and is rolled back.

    Raises:
        AssertionError: The row is still there: it was no rollback.
    """
    async with database.connect() as connection:
        transaction = await connection.begin()
        await connection.execute(insert(users), {"id": _BYSTANDER})
        yield
        await transaction.rollback()
    async with reading(database) as connection:
        found = await connection.scalar(select(users.c.id).where(users.c.id == _BYSTANDER))
    if found is not None:
        raise AssertionError("the application's transaction was not rolled back")


async def _charge_rolled_back(
    world: World,
    attempt: Callable[[Awaitable[Any]], Awaitable[Any]],
    charge: OuterTransaction,
) -> Any:
    await _insert_user(world, charge.balance)
    async with rolled_back(world.kit.database):
        return await attempt(world.kit.engine.charge(_USER, "act", amount=charge.cost))


async def _two_with_one_key(
    world: World, attempt: Callable[[Awaitable[Any]], Awaitable[Any]]
) -> list[Any]:
    await _insert_user(world, _ENOUGH)

    async def charge() -> ChargeResult:
        async with world.kit.database.begin():
            engine = world.kit.engine
            return await engine.charge(_USER, "act", amount=_PRICE, idempotency_key="k")

    return [*await asyncio.gather(attempt(charge()), attempt(charge()))]


async def _insert_user(world: World, balance: int) -> None:
    async with world.kit.database.begin() as connection:
        await connection.execute(insert(users), {"id": _USER, "credits": balance})
