"""A real cluster and a real Sentinel from the wheel's server, for the tests that end nodes."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis.asyncio.connection import Connection
from redis.exceptions import RedisError

from credits_fast.protocol.keys import SLOTS
from credits_fast.servers.endpoints import ClusterEndpoint, endpoint_from_url
from credits_fast.servers.processes import ServerProcess, start_server, valkey_program

WAIT_S = 30
PRIMARIES = 3


def free_port(*, bus: bool = False) -> int:
    """A port that is free now; with `bus` the one of the cluster's bus behind it is, too."""
    while True:
        with closing(socket.socket()) as first, closing(socket.socket()) as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            if not bus:
                return port
            if port + 10_000 > 65_535:
                continue
            try:
                second.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            return port


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait for a condition, asked again and again."""
    deadline = time.monotonic() + WAIT_S
    while not await condition():
        assert time.monotonic() < deadline, f"in vain for {WAIT_S} s: {what}"
        await asyncio.sleep(0.01)


@dataclass
class Node:
    """A server on a port of its own."""

    folder: Path
    port: int
    options: Sequence[str]
    process: ServerProcess = field(init=False)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        command = [
            str(valkey_program()),
            *self.options,
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)),
            *("--save", "", "--appendonly", "no"),
        ]
        self.process = start_server(command, self.folder / "log")
        await self.process.wait_until(self._answers)

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        self.process.stop(how)

    async def ask(self, *words: str | bytes | int) -> Any:
        """The reply to one command, on a connection of its own."""
        connection: Any = Connection(host="127.0.0.1", port=self.port)
        try:
            await connection.connect()
            await connection.send_command(*words)
            return await connection.read_response()
        finally:
            await connection.disconnect()

    async def fields(self, *words: str) -> dict[str, str]:
        """The fields of a reply such as that of INFO."""
        lines = (await self.ask(*words)).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    async def id(self) -> str:
        return str((await self.ask("CLUSTER", "MYID")).decode())

    def _answers(self) -> bool:
        with closing(socket.socket()) as connection:
            try:
                connection.connect(("127.0.0.1", self.port))
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
            except OSError:
                return False


@dataclass
class Cluster:
    """Three primaries and a replica of the first."""

    folder: Path
    nodes: list[Node]

    @classmethod
    async def start(cls, *, patience_ms: int = 1_000) -> Cluster:
        """A cluster whose replica takes over when its primary was not heard of for so long."""
        folder = Path(tempfile.mkdtemp(prefix="cf-cluster-"))
        options = (
            *("--cluster-enabled", "yes", "--cluster-node-timeout", str(patience_ms)),
            *("--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0"),
            *("--cluster-replica-validity-factor", "0"),
        )
        nodes = [
            Node(folder / str(number), free_port(bus=True), options)
            for number in range(PRIMARIES + 1)
        ]
        cluster = cls(folder, nodes)
        try:
            await asyncio.gather(*(node.start() for node in nodes))
            await cluster._form()
        except BaseException:
            cluster.stop()
            raise
        return cluster

    def stop(self) -> None:
        for node in self.nodes:
            if hasattr(node, "process"):
                node.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(node.address for node in self.nodes[:PRIMARIES])

    @property
    def endpoint(self) -> ClusterEndpoint:
        endpoint = endpoint_from_url(self.url)
        assert isinstance(endpoint, ClusterEndpoint)
        return endpoint

    @property
    def replica(self) -> Node:
        return self.nodes[PRIMARIES]

    async def primaries(self) -> list[Node]:
        """The nodes that say they are primaries and answer."""
        found: list[Node] = []
        for node in self.nodes:
            if not node.process.is_running:
                continue
            if (await node.fields("INFO", "replication")).get("role") == "master":
                found.append(node)
        return found

    async def owner(self, slot: int) -> Node:
        """The node that serves a slot, as that node itself says."""
        for node in await self.primaries():
            for first, last, primary, *_ in await node.ask("CLUSTER", "SLOTS"):
                if first <= slot <= last and primary[1] == node.port:
                    return node
        raise AssertionError(f"slot {slot} has no owner")

    async def empty(self) -> None:
        for node in await self.primaries():
            await node.ask("FLUSHALL")

    async def move(self, slot: int, target: Node) -> Migration:
        """A migration of a slot that has begun; nothing of it has been moved yet."""
        source = await self.owner(slot)
        source_id, target_id = await source.id(), await target.id()
        await target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        await source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        return Migration(slot, source, target, target_id)

    async def move_atomically(self, slot: int, target: Node) -> None:
        """Move a slot with all its keys; the servers see to it themselves."""
        source = await self.owner(slot)
        words = ("SLOTSRANGE", slot, slot, "NODE", await target.id())
        await source.ask("CLUSTER", "MIGRATESLOTS", *words)

        async def has_moved() -> bool:
            return await self.owner(slot) is target

        await until(has_moved, f"slot {slot} has moved")

    async def _form(self) -> None:
        first = self.nodes[0]
        for number, node in enumerate(self.nodes[:PRIMARIES]):
            start, beyond = (SLOTS * share // PRIMARIES for share in (number, number + 1))
            await node.ask("CLUSTER", "ADDSLOTSRANGE", start, beyond - 1)
            await node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            await first.ask("CLUSTER", "MEET", "127.0.0.1", node.port)
        first_id = await first.id()

        async def knows_first() -> bool:
            return first_id.encode() in await self.replica.ask("CLUSTER", "NODES")

        await until(knows_first, "the replica knows its primary")
        await self.replica.ask("CLUSTER", "REPLICATE", first_id)
        await until(self.is_whole, "the cluster is formed")

    async def is_whole(self) -> bool:
        """Whether every node knows of all others and the replica follows."""
        for node in self.nodes:
            facts = await node.fields("CLUSTER", "INFO")
            if (facts["cluster_state"], facts["cluster_known_nodes"]) != ("ok", "4"):
                return False
            if len(await node.ask("CLUSTER", "SLOTS")) < PRIMARIES:
                return False
        link = await self.replica.fields("INFO", "replication")
        return link.get("master_link_status") == "up"


@dataclass
class Migration:
    """A slot on its way, key by key."""

    slot: int
    source: Node
    target: Node
    target_id: str

    async def move_keys(self) -> int:
        """How many keys were moved: all there are."""
        keys = await self.source.ask("CLUSTER", "GETKEYSINSLOT", self.slot, 10_000)
        if keys:
            address = ("127.0.0.1", self.target.port, "", 0, 5_000)
            await self.source.ask("MIGRATE", *address, "KEYS", *keys)
        return len(keys)

    async def finish(self) -> None:
        """The target serves the slot from now on."""
        for node in (self.target, self.source):
            await node.ask("CLUSTER", "SETSLOT", self.slot, "NODE", self.target_id)


@dataclass
class Watched:
    """A primary, its replica and a Sentinel that watches them."""

    folder: Path
    primary: Node
    replica: Node
    sentinel: Node

    service = "credits"

    @classmethod
    async def start(cls) -> Watched:
        folder = Path(tempfile.mkdtemp(prefix="cf-sentinel-"))
        primary = Node(folder / "0", free_port(), ("--repl-diskless-sync-delay", "0"))
        follow = ("--replicaof", f"127.0.0.1 {primary.port}", "--repl-diskless-sync-delay", "0")
        replica = Node(folder / "1", free_port(), follow)
        configuration = folder / "sentinel.conf"
        lines = (
            f"sentinel monitor {cls.service} 127.0.0.1 {primary.port} 1",
            f"sentinel down-after-milliseconds {cls.service} 500",
            f"sentinel failover-timeout {cls.service} 5000",
        )
        configuration.write_text("\n".join(lines) + "\n")
        sentinel = Node(folder / "2", free_port(), (str(configuration), "--sentinel"))
        watched = cls(folder, primary, replica, sentinel)
        try:
            await primary.start()
            await replica.start()
            await sentinel.start()
            await until(watched.is_whole, "the Sentinel knows the replica")
        except BaseException:
            watched.stop()
            raise
        return watched

    def stop(self) -> None:
        for node in (self.sentinel, self.replica, self.primary):
            if hasattr(node, "process"):
                node.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def url(self) -> str:
        return f"redis+sentinel://{self.sentinel.address}/{self.service}"

    async def is_whole(self) -> bool:
        replicas = await self.sentinel.ask("SENTINEL", "REPLICAS", self.service)
        link = await self.replica.fields("INFO", "replication")
        return len(replicas) == 1 and link.get("master_link_status") == "up"

    async def named(self) -> int:
        """The port of the primary the Sentinel names."""
        words = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)
        return int((await self.sentinel.ask(*words))[1])

    async def is_over(self) -> bool:
        """Whether the replica is the primary now, and named as such."""
        try:
            role = (await self.replica.fields("INFO", "replication")).get("role")
            return role == "master" and await self.named() == self.replica.port
        except (RedisError, OSError):
            return False
