"""What the model takes for granted of a server that is demoted and promoted again, on real ones."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from credits_fast.servers.lane import Endpoint, Lane
from tests.cluster_servers import Node, free_port, until

_QUICKLY = ("--repl-diskless-sync-delay", "0")


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Node, Node]]:
    """Two servers that do not know of each other."""
    folder = Path(tempfile.mkdtemp(prefix="cf-pair-"))
    first, second = (Node(folder / name, free_port(), _QUICKLY) for name in ("0", "1"))
    try:
        await first.start()
        await second.start()
        yield first, second
    finally:
        for node in (first, second):
            if hasattr(node, "process"):
                node.stop()
        shutil.rmtree(folder)


async def follow(replica: Node, primary: Node) -> None:
    """The replica has what the primary has."""

    async def has_caught_up() -> bool:
        its = await replica.fields("INFO", "replication")
        offset = (await primary.fields("INFO", "replication"))["master_repl_offset"]
        return (its.get("master_link_status"), its.get("slave_repl_offset")) == ("up", offset)

    await replica.ask("REPLICAOF", "127.0.0.1", primary.port)
    await until(has_caught_up, "the replica catches up")


async def promotion(lane: Lane) -> str:
    """The server's replication id, as a script reads it."""
    text = b"return string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')"
    return str((await lane.execute(b"EVAL", text, b"0")).decode())


async def test_there_and_back_changes_nothing_but_the_replication_id(
    pair: tuple[Node, Node],
) -> None:
    """Process, connection and script cache survive, and data that was written meanwhile is gone."""
    there, back = pair
    lane = await Lane.open(Endpoint.from_url(f"redis://{there.address}"))
    await lane.execute(b"HSET", b"meta", b"run", lane.run.encode())
    await follow(back, there)
    await back.ask("REPLICAOF", "NO", "ONE")
    await lane.execute(b"SET", b"lost", b"1")
    before = await promotion(lane)

    await follow(there, back)
    demoted = await promotion(lane)
    await there.ask("REPLICAOF", "NO", "ONE")

    assert (await there.fields("INFO", "server"))["run_id"] == lane.run
    assert lane.run.encode() == await lane.execute(b"HGET", b"meta", b"run")
    assert await lane.execute(b"GET", b"lost") is None
    assert [1] == await lane.execute(b"SCRIPT", b"EXISTS", lane.scripts["charge"].sha)
    assert 3 == len({before, demoted, await promotion(lane)})
    await lane.close()
