"""Scenarios in which the server loses history: cut off, wiped, set back, or replaced by a late replica."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Final

from credits_fast.chaos.checker import Window
from credits_fast.chaos.proxy import FaultProxy, Weather
from credits_fast.chaos.scenario import Scenario
from credits_fast.chaos.servers import ValkeyServer

if TYPE_CHECKING:
    from credits_fast.chaos.arena import Arena

__all__ = ["FAILOVER_LAG", "FLUSHALL", "POWER_CUT", "RDB_ROLLBACK"]

_IN_HAND: Final = (
    "an answer beyond its bound is lost now and then; a worker's batch in hand is suspected, which is "
    "written after the server was set back"
)


async def _power_cut(arena: Arena) -> None:
    """The server is killed and its append-only file cut off at a random byte after a mark."""
    valkey = arena.stage.valkey
    async with arena.load.asking():
        for _ in range(arena.size.rounds):
            await arena.calls()
            marked_ns, mark = time.monotonic_ns(), valkey.append_only_file.stat().st_size
            await arena.calls()
            async with arena.outage("power cut"):
                await valkey.stop(signal.SIGKILL)
                arena.may_lose.append(Window(marked_ns, time.monotonic_ns()))
                written = valkey.append_only_file.stat().st_size
                with valkey.append_only_file.open("r+b") as file:
                    file.truncate(arena.chance.randint(mark, written))
                await valkey.start()
            await arena.calls()


async def _flushall(arena: Arena) -> None:
    """The server is emptied while callers ask."""
    async with arena.load.asking():
        for _ in range(arena.size.rounds):
            await arena.calls()
            recorded_ns = time.monotonic_ns()
            await arena.recorded()
            async with arena.outage("FLUSHALL"):
                await arena.stage.valkey.ask("FLUSHALL")
                arena.may_lose.append(Window(recorded_ns, time.monotonic_ns()))
            await arena.calls()


async def _rdb_rollback(arena: Arena) -> None:
    """The server is killed and comes back with a snapshot it wrote a while ago."""
    valkey = arena.stage.valkey
    async with arena.load.asking():
        for _ in range(arena.size.rounds):
            await arena.calls()
            saved_ns = time.monotonic_ns()
            await valkey.ask("SAVE")
            await arena.calls()
            async with arena.outage("set back to an earlier snapshot"):
                await valkey.stop(signal.SIGKILL)
                arena.may_lose.append(Window(saved_ns, time.monotonic_ns()))
                await valkey.start()
            await arena.calls()


async def _failover_lag(arena: Arena) -> None:
    """A replica that has not got the last of it is promoted when the primary dies; charges come at once."""
    stage, primary = arena.stage, arena.stage.valkey
    replica = ValkeyServer(stage.folder / "replica", stage.folder / "r.sock")
    await replica.start()
    async with FaultProxy(primary.socket, seed=f"{arena.chance.random()}/replication") as link:
        try:
            await replica.ask("REPLICAOF", "127.0.0.1", link.port)
            async with arena.load.asking():
                await arena.until(lambda: _has_synced(replica), "the replica follows")
                await arena.calls()
                stalled_ns = time.monotonic_ns()
                link.replies = Weather(is_stalled=True)
                await arena.calls()
                async with arena.outage("failover to a replica that lags"):
                    await primary.stop(signal.SIGKILL)
                    arena.may_lose.append(Window(stalled_ns, time.monotonic_ns()))
                    await replica.ask("REPLICAOF", "NO", "ONE")
                    stage.hops.lead_to(replica)
                    stage.valkey = replica
                await arena.calls()
        except BaseException:
            await replica.stop(signal.SIGKILL)
            raise


async def _has_synced(replica: ValkeyServer) -> bool:
    return (await replica.fields("replication")).get("master_link_status") == "up"


POWER_CUT: Final = Scenario(
    name="power-cut",
    promise=(
        "A server that loses the end of its file loses nothing the ledger has, and of the rest what "
        "it had not synced: seconds."
    ),
    play=_power_cut,
    valkey_options=("--appendfsync", "always"),  # else the mark misses what the server holds back
)
FLUSHALL: Final = Scenario(
    name="flushall-under-load",
    promise=(
        "A server that is emptied acknowledges nothing until it is repaired, and loses what was not "
        "recorded: the lag at most."
    ),
    play=_flushall,
)
RDB_ROLLBACK: Final = Scenario(
    name="rdb-rollback",
    promise=(
        "A server that is set back to a snapshot loses nothing the ledger has, and of the rest what "
        "came after the snapshot."
    ),
    play=_rdb_rollback,
    waits_for=_IN_HAND,
    persistent=False,
)
FAILOVER_LAG: Final = Scenario(
    name="failover-lag",
    promise=(
        "A replica that lags and is promoted loses nothing the ledger has, and of the rest what it "
        "had not received."
    ),
    play=_failover_lag,
)
