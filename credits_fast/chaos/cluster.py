"""A cluster for scenarios to break: three primaries, each with a replica, on ports of this machine."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from credits_fast.chaos.servers import ValkeyServer
from credits_fast.errors import RedisUnavailableError
from credits_fast.protocol.keys import SLOTS

__all__ = ["ClusterNode", "ValkeyCluster"]

_PRIMARIES: Final = 3
_BUS_OFFSET: Final = 10_000
_PORT_MAX: Final = 65_535
_FORMED_S: Final = 30.0
_LOOK_S: Final = 0.01
_KEYS_AT_ONCE: Final = 20
_MIGRATION_MS: Final = 5_000
_OPTIONS: Final = (
    *("--bind", "127.0.0.1", "--cluster-enabled", "yes", "--cluster-node-timeout", "2000"),
    *("--cluster-require-full-coverage", "no", "--cluster-replica-validity-factor", "0"),
)


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A server of a cluster.

    Attributes:
        server: The server; the kit speaks to it by its Unix socket.
        port: Where everybody else reaches it.
    """

    server: ValkeyServer
    port: int

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.server.process.is_running

    async def is_primary(self) -> bool:
        """Whether it says so."""
        return (await self.server.fields("replication")).get("role") == "master"

    async def serves(self) -> bool:
        """Whether it takes the cluster for sound: after a start not before two seconds."""
        return b"cluster_state:ok" in await self.server.ask("CLUSTER", "INFO")

    async def id(self) -> str:
        """Its name in the cluster."""
        return str((await self.server.ask("CLUSTER", "MYID")).decode())


@dataclass(frozen=True, slots=True)
class ValkeyCluster:
    """The servers; see the module.

    Attributes:
        nodes: All of them; the first three are primaries in the beginning.
    """

    nodes: Sequence[ClusterNode]

    @classmethod
    async def start(cls, folder: Path) -> Self:
        """A cluster that serves every slot, with replicas that follow.

        Args:
            folder: Where its data and its sockets go; a short path.

        Raises:
            ConfigurationError: No server program is installed.
            RedisUnavailableError: A server does not start, or they do not find each other.
        """
        async with AsyncExitStack() as stack:
            nodes: list[ClusterNode] = []
            for number in range(2 * _PRIMARIES):
                port = _free_port()
                place = folder / f"node-{number}"
                server = ValkeyServer(
                    place,
                    folder / f"n{number}.sock",
                    options=("--port", str(port), *_OPTIONS),
                )
                await server.start()
                stack.push_async_callback(server.stop, signal.SIGKILL)
                nodes.append(ClusterNode(server, port))
            cluster = cls(nodes)
            await cluster._form()
            stack.pop_all()
            return cluster

    @property
    def url(self) -> str:
        """Its URL, by way of the first three."""
        addresses = (f"127.0.0.1:{node.port}" for node in self.nodes[:_PRIMARIES])
        return f"redis+cluster://{','.join(addresses)}"

    async def stop(self) -> None:
        """End every server."""
        await asyncio.gather(*(node.server.stop(signal.SIGKILL) for node in self.nodes))

    async def primaries(self) -> list[ClusterNode]:
        """The nodes that run and say they are primaries."""
        return [node for node in self.nodes if node.is_running and await node.is_primary()]

    async def has_its_primaries(self) -> bool:
        """Whether as many primaries run as there have to be."""
        return len(await self.primaries()) == _PRIMARIES

    async def is_whole(self) -> bool:
        """Whether every slot is served, every node knows of all others, and every replica follows."""
        for node in self.nodes:
            facts = await node.server.ask("CLUSTER", "INFO")
            known = f"cluster_known_nodes:{len(self.nodes)}\r\n".encode()
            if b"cluster_state:ok" not in facts or known not in facts:
                return False
            link = await node.server.fields("replication")
            if link.get("role") == "slave" and link.get("master_link_status") != "up":
                return False
        return await self.has_its_primaries()

    async def owner(self, slot: int) -> ClusterNode:
        """The primary that serves a slot, as it says itself.

        Raises:
            RedisUnavailableError: Nobody does.
        """
        for node in await self.primaries():
            for first, last, (_, port, *_), *_ in await node.server.ask("CLUSTER", "SLOTS"):
                if first <= slot <= last and port == node.port:
                    return node
        raise RedisUnavailableError(f"nobody serves slot {slot} of the cluster")

    async def move(
        self, slot: int, target: ClusterNode, *, crash: ClusterNode | None = None
    ) -> int:
        """How many keys were moved: all of a slot, some at a time, to a primary that serves it then.

        Args:
            slot: The slot.
            target: Where it goes.
            crash: A node that is killed, and started again, when some of the keys have gone.

        Raises:
            RedisUnavailableError: Nobody serves the slot.
        """
        source = await self.owner(slot)
        moved = 0
        while keys := await self._between(slot, source, target):
            address = ("127.0.0.1", target.port, "", 0, _MIGRATION_MS)
            await source.server.ask("MIGRATE", *address, "KEYS", *keys)
            moved += len(keys)
            if crash is not None:
                await crash.server.restart(signal.SIGKILL)
                await _until(crash.serves, "a server that was started again serves its slots")
                crash = None
        for node in (target, source):
            await node.server.ask("CLUSTER", "SETSLOT", slot, "NODE", await target.id())
        return moved

    async def _between(self, slot: int, source: ClusterNode, target: ClusterNode) -> list[bytes]:
        """Keys of a slot that are still to be moved, where both know that it is; also after a restart."""
        await target.server.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", await source.id())
        await source.server.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", await target.id())
        keys: list[bytes] = await source.server.ask("CLUSTER", "GETKEYSINSLOT", slot, _KEYS_AT_ONCE)
        return keys

    async def _form(self) -> None:
        first, *others = self.nodes
        for number, node in enumerate(self.nodes[:_PRIMARIES]):
            start, beyond = (SLOTS * share // _PRIMARIES for share in (number, number + 1))
            await node.server.ask("CLUSTER", "ADDSLOTSRANGE", start, beyond - 1)
            await node.server.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in others:
            await first.server.ask("CLUSTER", "MEET", "127.0.0.1", node.port)
        for primary, replica in zip(self.nodes[:_PRIMARIES], self.nodes[_PRIMARIES:], strict=True):
            await _follow(replica, await primary.id())
        await _until(self.is_whole, "the nodes of the cluster find each other")


async def _follow(replica: ClusterNode, primary_id: str) -> None:
    """Have a node be the replica of another, as soon as it knows that one."""

    async def knows_it() -> bool:
        return primary_id.encode() in await replica.server.ask("CLUSTER", "NODES")

    await _until(knows_it, "a replica knows its primary")
    await replica.server.ask("CLUSTER", "REPLICATE", primary_id)


async def _until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline = time.monotonic() + _FORMED_S
    while not await condition():
        if time.monotonic() > deadline:
            raise RedisUnavailableError(f"in vain for {_FORMED_S:.0f} s: {what}")
        await asyncio.sleep(_LOOK_S)


def _free_port() -> int:
    """A port that is free now, and the one of the cluster's bus behind it, too."""
    while True:
        with closing(socket.socket()) as first, closing(socket.socket()) as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            if port + _BUS_OFFSET > _PORT_MAX:
                continue
            try:
                second.bind(("127.0.0.1", port + _BUS_OFFSET))
            except OSError:
                continue
            return port
