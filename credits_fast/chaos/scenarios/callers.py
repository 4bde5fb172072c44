"""Scenarios that break nothing but ask for trouble: one hot user, cold users, poisonous metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import func, select

from credits_fast.chaos.history import Outcome
from credits_fast.chaos.load import Manners
from credits_fast.chaos.proxy import Weather
from credits_fast.chaos.scenario import Scenario
from credits_fast.chaos.wishes import CREDIT, Mix
from credits_fast.ledger.database import reading
from credits_fast.sync.tables import dead_letters

if TYPE_CHECKING:
    from credits_fast.chaos.arena import Arena

__all__ = ["HOT_ACCOUNT", "HYDRATE_RACE", "POISON_METADATA"]

_DEPTH: Final = 1_000
_LONG: Final = 1 << 20
_MARK: Final = "PO1S0N"
_POISONS: Final = (b"\\u0000", b"\xff\xfe\xfd\xfc\xfb\xfa", b"\\ud800", b'":NaN,')
"""What takes the mark's place on the wire, at its length: what an unchecked caller might send."""


async def _hot_account(arena: Arena) -> None:
    """Everybody charges one user, who is nearly always out of credits."""
    async with arena.load.asking():
        for _ in range(arena.size.rounds):
            arena.faults["a crowd on one user"] += 1
            await arena.calls()
    refused = sum(one.code == "INSUFFICIENT_CREDITS" for one in arena.load.history)
    arena.expect("the user ran out of credits", is_met=refused > 0)


async def _hydrate_race(arena: Arena) -> None:
    """Several engines ask for users that no Redis knows, all at once; then for others."""
    async with arena.load.asking():
        for _ in range(arena.size.rounds):
            arena.faults["a crowd on cold users"] += 1
            await arena.calls()
    touched = len({attempt.asked.user for attempt in arena.load.history})
    arena.observations["cold users asked for"] += touched
    arena.expect("cold users were asked for by several engines", is_met=touched > 0)


async def _poison_metadata(arena: Arena) -> None:
    """Metadata the door refuses; then some that is poisoned behind it, on its way to Redis."""
    hop = arena.stage.hops.engine_redis
    async with arena.load.asking():
        await arena.calls()
        for what, poison in _refused_at_the_door().items():
            attempt = await arena.load.ask(arena.wishes.next(), arena.stage.engine, poison=poison)
            arena.faults["metadata the door refuses"] += 1
            arena.expect(
                f"metadata with {what} is refused at the door",
                is_met=(attempt.outcome, attempt.code) == (Outcome.REFUSED, "INVALID_METADATA"),
            )
        for number in range(arena.size.rounds * len(_POISONS)):
            poison = _POISONS[number % len(_POISONS)]
            hop.requests = Weather(rewrites=((_MARK.encode(), poison),))
            asked = arena.wishes.next()._replace(verb="grant", key=f"poison-{number}")
            await arena.load.ask(asked, arena.stage.engine, poison=_MARK)
            await arena.calls(arena.size.calls // 10)
        hop.clear()
    await arena.recorded()
    poisoned = hop.faults["requests rewritten"]
    async with reading(arena.stage.database) as connection:
        letters = int(await connection.scalar(select(func.count()).select_from(dead_letters)) or 0)
    arena.observations["dead letters"] += letters
    arena.expect("metadata was poisoned on its way", is_met=poisoned > 0)
    arena.expect(
        f"{letters} dead letters for {poisoned} poisoned requests", is_met=letters == poisoned
    )


def _refused_at_the_door() -> dict[str, Any]:
    deep: Any = "bottom"
    for _ in range(_DEPTH):
        deep = [deep]
    return {
        "a NUL": "a\0b",
        "a lone surrogate": "\ud800",
        "a number that is none": float("nan"),
        "a megabyte": "x" * _LONG,
        "a thousand levels": deep,
    }


HOT_ACCOUNT: Final = Scenario(
    name="hot-account",
    promise="However many charge one user at once, the balance is exact and never below zero.",
    play=_hot_account,
    is_in_smoke=True,
    mix=Mix(users=1, opening_micros=20 * CREDIT, charges=0.7),
    manners=Manners(callers=64),
)
HYDRATE_RACE: Final = Scenario(
    name="hydrate-race",
    promise="A cold user that many ask for at once is loaded once: no balance is doubled or forgotten.",
    play=_hydrate_race,
    engines=3,
    mix=Mix(users=2_000),
    manners=Manners(callers=48, repeats=0.2),
)
POISON_METADATA: Final = Scenario(
    name="poison-metadata",
    promise=(
        "Metadata no database can store is refused at the door; past it, it is set aside and the "
        "amount recorded all the same."
    ),
    play=_poison_metadata,
    is_in_smoke=True,
)
