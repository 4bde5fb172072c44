"""Scenarios on a cluster: a primary dies and another is elected; slots move while callers ask."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Final

from credits_fast.chaos.arena import StuckError
from credits_fast.chaos.checker import Window
from credits_fast.chaos.scenario import Scenario

if TYPE_CHECKING:
    from credits_fast.chaos.arena import Arena
    from credits_fast.chaos.cluster import ClusterNode, ValkeyCluster

__all__ = ["CLUSTER_FAILOVER", "RESHARD"]

_MOVES: Final = 10
_LAG_NS: Final = 1_000_000_000
"""What a replica of this machine had not received, at most."""
_UNSYNCED_NS: Final = 2_000_000_000
"""What a server holds back behind an fsync, at most."""


async def _cluster_failover(arena: Arena) -> None:
    """A primary is killed while callers ask; its replica takes over, and it comes back as a replica."""
    cluster = _cluster(arena)
    async with arena.load.asking():
        for _ in range(max(1, arena.size.rounds // 2)):
            await arena.calls()
            primary = arena.chance.choice(await cluster.primaries())
            async with arena.outage("SIGKILL of a primary of the cluster"):
                await primary.server.stop(signal.SIGKILL)
                killed_ns = time.monotonic_ns()
                arena.may_lose.append(Window(killed_ns - _LAG_NS, killed_ns))
                await arena.until(cluster.has_its_primaries, "a replica takes over")
            await arena.acknowledgements(10)
            await arena.calls()
            await primary.server.start()
            await arena.until(cluster.is_whole, "the cluster is whole again")


async def _reshard(arena: Arena) -> None:
    """The slot of a partition is moved to another primary key by key, and to the next, and back.

    In the middle of every third move one of the two is killed, and started again.
    """
    cluster, partitions = _cluster(arena), arena.stage.engine.partitions
    async with arena.load.asking():
        await arena.calls()
        for number in range(_MOVES):
            slot = arena.chance.choice([*partitions]).slot
            there = await cluster.owner(slot)
            target = arena.chance.choice(
                [node for node in await cluster.primaries() if node is not there]
            )
            if number % 3 == 2:  # noqa: PLR2004  # every third
                await _move_with_a_crash(arena, slot, target, arena.chance.choice([there, target]))
            else:
                async with arena.outage("slot moved"):
                    arena.observations["keys moved"] += await cluster.move(slot, target)
            await arena.calls(arena.size.calls // 2)
    moved = arena.observations["keys moved"]
    arena.expect(f"keys were moved: {moved}", is_met=moved > 0)


async def _move_with_a_crash(
    arena: Arena, slot: int, target: ClusterNode, crash: ClusterNode
) -> None:
    cluster = _cluster(arena)
    async with arena.outage("slot moved, with a SIGKILL in the middle"):
        from_ns = time.monotonic_ns() - _UNSYNCED_NS
        arena.observations["keys moved"] += await cluster.move(slot, target, crash=crash)
        arena.may_lose.append(Window(from_ns, time.monotonic_ns()))
        await arena.until(cluster.is_whole, "the cluster is whole again")


def _cluster(arena: Arena) -> ValkeyCluster:
    cluster = arena.stage.cluster
    if cluster is None:
        raise StuckError("this scenario is for a cluster, and the stage has none")
    return cluster


CLUSTER_FAILOVER: Final = Scenario(
    name="cluster-failover",
    promise=(
        "A cluster whose primary dies goes on by itself, and loses what the replica had not received: "
        "a second at most."
    ),
    play=_cluster_failover,
    is_clustered=True,
    config={"partitions": 6},  # two on each primary
)
RESHARD: Final = Scenario(
    name="reshard",
    promise=(
        "Slots that move to and fro under load cost retries, and lose and double nothing; where a primary "
        "is killed in the middle, what it held back behind an fsync: two seconds before the kill at most."
    ),
    play=_reshard,
    is_clustered=True,
    config={"partitions": 6},
)
