"""Scenarios that break the connection to Redis: replies eaten, slices, resets, callers that go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from credits_fast.chaos.load import Manners
from credits_fast.chaos.proxy import Weather
from credits_fast.chaos.scenario import Scenario
from credits_fast.chaos.wishes import Mix

if TYPE_CHECKING:
    from credits_fast.chaos.arena import Arena

__all__ = ["CANCEL_STORM", "REPLY_EATER", "SLOW_SLICE"]

_SCRIPT_CALL: Final = b"EVALSHA"


async def _reply_eater(arena: Arena) -> None:
    """Replies to script calls are eaten, each time with the connection: the server has acted."""
    hop = arena.stage.hops.engine_redis
    async with arena.load.asking():
        for _ in range(arena.size.rounds):
            share = arena.chance.uniform(0.02, 0.3)
            hop.replies = Weather(eats=share, after=_SCRIPT_CALL)
            await arena.calls()
            hop.clear()
            await arena.acknowledgements(1)
    arena.expect("replies to script calls were eaten", is_met=hop.faults["replies eaten"] > 0)


async def _cancel_storm(arena: Arena) -> None:
    """Callers give up at random moments, on the connection that all of them share."""
    async with arena.load.asking():
        for _ in range(arena.size.rounds):
            await arena.calls()
    given_up = sum(attempt.code == "CANCELLED" for attempt in arena.load.history)
    arena.faults["callers gave up"] += given_up
    arena.expect("callers gave up", is_met=given_up > 0)


async def _slow_slice(arena: Arena) -> None:
    """Latency, slices down to a byte, and resets in the middle of either."""
    hop = arena.stage.hops.engine_redis
    slow = Weather(latency_ms=20, slice_bytes=40, slices=0.3, resets=0.01)
    async with arena.load.asking():
        for _ in range(arena.size.rounds):
            hop.requests, hop.replies = slow, slow
            await arena.calls()
            hop.clear()
            async with arena.outage("all connections reset"):
                hop.reset()
            await arena.acknowledgements(1)
    arena.expect("pieces were sliced", is_met=hop.faults["requests sliced"] > 0)


REPLY_EATER: Final = Scenario(
    name="reply-eater",
    promise="Replies that are lost after the server has acted charge nobody twice, and lose nothing.",
    play=_reply_eater,
    is_in_smoke=True,
    mix=Mix(keyed=0.6),  # more than elsewhere is remembered under its own id, or held
)
CANCEL_STORM: Final = Scenario(
    name="cancel-storm",
    promise="Callers that give up in the middle disturb no other call, and nobody gets another's answer.",
    play=_cancel_storm,
    is_in_smoke=True,
    manners=Manners(cancels=0.4, pause_ms=10),
)
SLOW_SLICE: Final = Scenario(
    name="slow-slice",
    promise="On a slow network that slices and resets, every operation takes effect once, in order.",
    play=_slow_slice,
)
