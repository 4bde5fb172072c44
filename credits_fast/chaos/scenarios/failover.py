"""Scenarios in which a replica takes over that lacks the last of what the primary had, or beside it."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from credits_fast.chaos.checker import Window
from credits_fast.chaos.history import Outcome
from credits_fast.chaos.load import Manners
from credits_fast.chaos.proxy import FaultProxy, Weather
from credits_fast.chaos.scenario import Scenario
from credits_fast.chaos.servers import ValkeyServer
from credits_fast.chaos.wishes import CREDIT, Mix
from credits_fast.protocol.entries import EntryId

if TYPE_CHECKING:
    from collections.abc import Generator

    from credits_fast.chaos.arena import Arena

__all__ = [
    "BEHIND_DB",
    "CLOCK_BACK",
    "ID_REUSE",
    "LAG",
    "NO_IDENTITY",
    "SPLIT_BRAIN",
    "SPLIT_BRAIN_GUARDED",
]

_AHEAD: Final = 1_000_000
"""Ids by which the old primary is ahead of its replica."""
_TIGHT: Final = Mix(opening_micros=20 * CREDIT, charges=0.95)
"""Little credit: what is given away twice is soon below zero."""
_GUARD: Final = {"min-replicas-to-write": 1, "min-replicas-max-lag": 1}
"""With it a primary takes no write when no replica has said for a second that it follows."""
_GUARD_S: Final = 3.0
"""After so many seconds it has noticed: the server rounds to whole seconds, and looks once in each."""


@dataclass(slots=True)
class _Pair:
    """A primary and its replica, with a proxy between the two."""

    arena: Arena
    primary: ValkeyServer
    replica: ValkeyServer
    link: FaultProxy

    def stall(self) -> None:
        """From now on the replica gets nothing."""
        self.arena.faults["replication stalled"] += 1
        self.link.replies = Weather(is_stalled=True)

    async def promote(self) -> None:
        """The replica decides from now on, for everybody who connects anew."""
        await self.replica.ask("REPLICAOF", "NO", "ONE")
        for hop in (self.arena.stage.hops.engine_redis, self.arena.stage.hops.worker_redis):
            hop.upstream = self.replica.socket
        self.arena.stage.valkey = self.replica

    async def fail_over(self) -> None:
        """The primary dies, the replica is promoted, and everybody connects to it."""
        await self.primary.stop(signal.SIGKILL)
        await self.promote()
        self.arena.stage.hops.lead_to(self.replica)


@asynccontextmanager
async def _pair(arena: Arena) -> AsyncGenerator[_Pair, None]:
    """A replica of the server that has everything so far; whichever is not in use in the end is ended."""
    stage, primary = arena.stage, arena.stage.valkey
    replica = ValkeyServer(stage.folder / "replica", stage.folder / "r.sock")
    await replica.start()
    try:
        async with FaultProxy(primary.socket, seed=f"{arena.chance.random()}/replication") as link:
            await replica.ask("REPLICAOF", "127.0.0.1", link.port)
            await arena.until(lambda: _has_synced(replica), "the replica follows")
            yield _Pair(arena, primary, replica, link)
    finally:
        if stage.valkey is not replica:
            await replica.stop(signal.SIGKILL)


async def _has_synced(replica: ValkeyServer) -> bool:
    return (await replica.fields("replication")).get("master_link_status") == "up"


async def _lag(arena: Arena) -> None:
    """A replica that has not got the last of it is promoted when the primary dies; charges come at once."""
    async with _pair(arena) as pair, arena.load.asking():
        await arena.calls()
        stalled_ns = time.monotonic_ns()
        pair.stall()
        await arena.calls()
        async with arena.outage("failover to a replica that lags"):
            await pair.fail_over()
            arena.may_lose.append(Window(stalled_ns, time.monotonic_ns()))
        await arena.calls()


async def _behind_db(arena: Arena) -> None:
    """The replica that is promoted lacks what the ledger has; everything was recorded before."""
    async with _pair(arena) as pair:
        await _spend_unseen(arena, pair)
        async with arena.outage("failover to a replica behind the ledger"):
            await pair.fail_over()
        async with arena.load.asking():
            await arena.calls()


async def _id_reuse(arena: Arena) -> None:
    """As before, and charges come while no worker is awake: ids would be given out anew."""
    async with _pair(arena) as pair:
        await _spend_unseen(arena, pair)
        with _asleep(arena):
            async with arena.outage("failover while the workers sleep"):
                await pair.fail_over()
                before = arena.load.acknowledged
                async with arena.load.asking():
                    await arena.calls()
                given_away = arena.load.acknowledged - before
        async with arena.load.asking():
            await arena.calls()
    arena.expect(
        f"nothing is acknowledged before the ledger is compared: {given_away}",
        is_met=given_away == 0,
    )


@contextmanager
def _asleep(arena: Arena) -> Generator[None, None, None]:
    """Every worker stands still, wherever it is."""
    for worker in arena.stage.workers:
        arena.faults["SIGSTOP of a worker"] += 1
        worker.pause()
    try:
        yield
    finally:
        for worker in arena.stage.workers:
            worker.wake()


async def _no_identity(arena: Arena) -> None:
    """As when the replica is behind the ledger, on servers that do not say which process they are."""
    async with _pair(arena) as pair, _identity_hidden(arena, pair):
        await _spend_unseen(arena, pair)
        epochs = [sample.epoch for sample in await arena.watch.look()]
        before, promoted_ns = arena.load.acknowledged, time.monotonic_ns()
        async with arena.outage("failover between servers without identity"):
            await pair.fail_over()
        async with arena.load.asking():
            await arena.until(partial(_all_begun_anew, arena, epochs), "the worker notices")
            arena.may_move.append(Window(promoted_ns, time.monotonic_ns()))
            given_away = arena.load.acknowledged - before
            await arena.calls()
    arena.observations["acknowledged before it was noticed"] += given_away


async def _all_begun_anew(arena: Arena, epochs: Sequence[int]) -> bool:
    """Whether every partition is in a later epoch."""
    now = [sample.epoch for sample in await arena.watch.look()]
    return all(after > before for before, after in zip(epochs, now, strict=True))


@asynccontextmanager
async def _identity_hidden(arena: Arena, pair: _Pair) -> AsyncGenerator[None, None]:
    """Both servers forbid INFO, and everybody has connected anew; the kit asks for it again afterwards."""
    for server in (pair.primary, pair.replica):
        await server.ask("ACL", "SETUSER", "default", "-info")
        arena.faults["identity hidden"] += 1
    arena.stage.hops.lead_to(pair.primary)
    try:
        async with arena.load.asking():
            await arena.acknowledgements(10)  # the partitions are open for whoever has no identity
        yield
    finally:
        await arena.stage.valkey.ask("ACL", "SETUSER", "default", "+info")


async def _clock_back(arena: Arena) -> None:
    """The old primary's ids are far ahead of the new one's: new entries come before the position."""
    async with _pair(arena) as pair:
        async with arena.load.asking():
            await arena.calls()
        pair.stall()
        for partition in arena.stage.engine.partitions:
            ((last, _),) = await pair.primary.ask(
                "XREVRANGE", partition.journal, "+", "-", "COUNT", 1
            )
            epoch, sequence = EntryId.parse(last.decode())
            await pair.primary.ask("XSETID", partition.journal, f"{epoch}-{sequence + _AHEAD}")
            arena.faults["ids moved ahead"] += 1
        async with arena.load.asking():
            await arena.calls()
        await arena.recorded()
        async with arena.outage("failover to a replica with lower ids"):
            await pair.fail_over()
        async with arena.load.asking():
            await arena.calls()


async def _spend_unseen(arena: Arena, pair: _Pair) -> None:
    """Charges that the replica does not get and the ledger has."""
    async with arena.load.asking():
        await arena.calls()
        pair.stall()
        await arena.calls()
    await arena.recorded()


async def _split_brain(arena: Arena) -> None:
    """A primary that is cut off goes on deciding for some callers while a replica decides for others."""
    async with _pair(arena) as pair:
        await _split(arena, pair, loses_for_s=math.inf)


async def _split(arena: Arena, pair: _Pair, loses_for_s: float) -> None:
    """Two primaries; what the one that was cut off acknowledges may be lost for so many seconds."""
    stage = arena.stage
    async with arena.load.asking():
        await arena.calls()
    cut_ns = time.monotonic_ns()
    pair.stall()
    await pair.promote()  # the first engine stays where it is: its connection lives
    stage.hops.worker_redis.reset()
    stage.engines.append(stage.new_engine())
    await stage.engines[-1].start()
    split, promoted_ns = len(arena.load.history), time.monotonic_ns()
    async with arena.load.asking():
        await arena.calls(2 * arena.size.calls)
        async with arena.outage("the primary that was cut off dies"):
            await pair.primary.stop(signal.SIGKILL)
            stage.hops.lead_to(pair.replica)
            lost_ns = min(time.monotonic_ns() - cut_ns, loses_for_s * 1e9)
            arena.may_lose.append(Window(cut_ns, cut_ns + int(lost_ns)))
        await arena.calls()
    since = [one for one in arena.load.history[split:] if one.invoked_ns > promoted_ns]
    arena.observations["refused by the primary that was cut off"] += sum(
        one.outcome is Outcome.UNAVAILABLE for one in since
    )


async def _split_brain_guarded(arena: Arena) -> None:
    """As before, with a primary that wants a replica for every write: it stops when it is cut off."""
    async with _pair(arena) as pair:
        for name, value in _GUARD.items():
            await pair.primary.ask("CONFIG", "SET", name, value)
        await _split(arena, pair, loses_for_s=_GUARD_S)
    refused = arena.observations["refused by the primary that was cut off"]
    arena.expect("the primary that was cut off refused", is_met=refused > 0)


LAG: Final = Scenario(
    name="failover-lag",
    promise=(
        "A replica that lags and is promoted loses nothing the ledger has, and of the rest what it "
        "had not received."
    ),
    play=_lag,
)
BEHIND_DB: Final = Scenario(
    name="failover-behind-db",
    promise="A replica that lacks what is recorded and is promoted loses nothing at all.",
    play=_behind_db,
    mix=_TIGHT,
)
ID_REUSE: Final = Scenario(
    name="failover-id-reuse",
    promise=(
        "A replica that lacks what is recorded acknowledges nothing before it was compared with the "
        "ledger, whoever sleeps."
    ),
    play=_id_reuse,
    mix=_TIGHT,
)
CLOCK_BACK: Final = Scenario(
    name="clock-back",
    promise="A promoted server whose ids are far behind those recorded hides nothing from the worker.",
    play=_clock_back,
    mix=_TIGHT,
)
NO_IDENTITY: Final = Scenario(
    name="failover-no-runid",
    promise=(
        "Where servers hide their identity the worker notices a failover, and what either side has is "
        "recorded; until then nobody asks the ledger, so that credits are spent twice and keys forgotten."
    ),
    play=_no_identity,
    mix=Mix(opening_micros=10_000 * CREDIT),  # with less, what is spent twice would be below zero
    manners=Manners(
        repeats=0, conflicts=0
    ),  # a key that is used again meanwhile takes effect again
)
SPLIT_BRAIN: Final = Scenario(
    name="split-brain",
    promise=(
        "Of two primaries that decide at once, what the one that is given up has acknowledged since it "
        "was cut off is lost, and nothing else."
    ),
    play=_split_brain,
)
SPLIT_BRAIN_GUARDED: Final = Scenario(
    name="split-brain-guarded",
    promise=(
        "A primary that wants a replica for every write refuses when it is cut off, and loses what it "
        "acknowledges within three seconds at most."
    ),
    play=_split_brain_guarded,
)
