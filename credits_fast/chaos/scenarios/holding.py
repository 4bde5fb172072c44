"""A scenario about credits that are held for a while: what is given up comes back, once and exactly."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from sqlalchemy import func, select

from credits_fast.amounts import to_credits
from credits_fast.chaos.arena import StuckError
from credits_fast.chaos.scenario import Scenario
from credits_fast.errors import RefusedError, UnavailableError
from credits_fast.ledger.database import reading
from credits_fast.sync.tables import holds

if TYPE_CHECKING:
    from credits_fast.chaos.arena import Arena

__all__ = ["HELD_CREDITS"]

T = TypeVar("T")

_ACTION: Final = "chaos"
_KEYS: Final = "hold-"
"""How their keys begin: callers hold credits as well, without any."""
_HOLDERS: Final = 8
_HELD_MICROS: Final = 3_000_000
_TRIES_MAX: Final = 200
_BETWEEN_TRIES_S: Final = 0.05


async def _held_credits(arena: Arena) -> None:
    """The server is killed while callers ask and others hold credits and give them up again."""
    async with arena.load.asking(), _holders(arena):
        for _ in range(arena.size.rounds):
            await arena.calls()
            await arena.turns()
            async with arena.outage("SIGKILL of the server"):
                await arena.stage.valkey.restart(signal.SIGKILL)
            await arena.acknowledgements(10)
    await arena.recorded()
    given_up, recorded = arena.observations["holds given up"], await _recorded(arena)
    arena.expect("credits were held and given up", is_met=given_up > 0)
    arena.expect(
        f"every hold that was given up is recorded so, and none is open: {recorded} of {given_up}",
        is_met=recorded == {"released": given_up},
    )


@asynccontextmanager
async def _holders(arena: Arena) -> AsyncGenerator[None, None]:
    """Others hold credits until the work inside is done, and give up what they hold then.

    Raises:
        ExceptionGroup: A hold could not be given up.
    """
    ending = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for number in range(_HOLDERS):
            chance = random.Random(f"{arena.chance.random()}/holder {number}")
            group.create_task(_hold_on(arena, number, chance, ending))
        try:
            yield
        finally:
            ending.set()


async def _hold_on(arena: Arena, holder: int, chance: random.Random, ending: asyncio.Event) -> None:
    """Hold credits and give them up again, one hold after another."""
    engine, names, number = arena.stage.engine, [*arena.wishes.openings], 0
    while not ending.is_set():
        number += 1
        user, key = chance.choice(names), f"{_KEYS}{holder}-{number}"
        amount = to_credits(chance.randint(1, _HELD_MICROS))
        reserve = partial(engine.reserve, user, _ACTION, amount=amount, idempotency_key=key)
        try:
            held = await _settled(reserve)
        except RefusedError:
            continue  # not enough credits
        await asyncio.sleep(chance.uniform(0, _BETWEEN_TRIES_S))
        given_up = f"{key}-given-up"
        await _settled(partial(engine.release, user, held.hold_id, idempotency_key=given_up))
        arena.observations["holds given up"] += 1


async def _settled(call: Callable[[], Awaitable[T]]) -> T:
    """What comes of a call that is repeated under its key until there is an answer.

    Raises:
        RefusedError: It is refused.
        StuckError: There is none.
    """
    for _ in range(_TRIES_MAX):
        try:
            return await call()
        except UnavailableError:
            await asyncio.sleep(_BETWEEN_TRIES_S)
    raise StuckError(f"no answer to a hold in {_TRIES_MAX} tries")


async def _recorded(arena: Arena) -> dict[str, int]:
    """How many of the holders' holds are in which state."""
    of_holders = holds.c.idempotency_key.startswith(_KEYS)
    states = select(holds.c.state, func.count()).where(of_holders).group_by(holds.c.state)
    async with reading(arena.stage.database) as connection:
        return {state: int(number) for state, number in await connection.execute(states)}


HELD_CREDITS: Final = Scenario(
    name="held-credits",
    promise="Credits that are held and given up come back once and exactly, whatever dies meanwhile.",
    play=_held_credits,
    valkey_options=("--appendfsync", "always"),
)
