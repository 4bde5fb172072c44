"""The scripts alone, on fakeredis and on a real server through one fixture."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from fakeredis import FakeAsyncRedis

from credits_fast.prices.pricing import Option, Quote
from credits_fast.protocol.entries import Entry, decode
from credits_fast.protocol.keys import FORMAT, PartitionKeys, Partitions
from credits_fast.protocol.wire import AUDIT_ALL, Call, Operation, request
from credits_fast.servers.lane import Endpoint, Lane
from tests.servers import Servers

NOW_US = 1_768_478_400_000_000
"""2026-01-15T12:00:00Z"""
NOW_MS = NOW_US // 1_000


_ACCOUNT = ("l", "b", "r", "s", "x", "t")
_AS_NEW = {("l", "1-999"), ("r", "0"), ("x", ""), ("t", "")}


@dataclass
class Bench:
    """One open partition, and what is needed to try a script on it."""

    lane: Lane
    keys: PartitionKeys

    def operation(
        self,
        transaction_id: str = "t1",
        *,
        user: str = "ada",
        key: str = "",
        fingerprint: bytes = b"f",
        ttl_ms: int = 60_000,
        audited: bytes = AUDIT_ALL,
        metadata: bytes = b"",
    ) -> Operation:
        return Operation(
            partition=self.keys,
            user=user.encode(),
            action=b"chat",
            key=key.encode(),
            operation_id=transaction_id,
            fingerprint=fingerprint,
            ttl_ms=ttl_ms,
            life_ms=ttl_ms + 1_000,
            audited=audited,
            metadata=metadata,
        )

    async def run(
        self, *calls: Call, now_us: int | None = NOW_US, journal_max: bytes = b""
    ) -> list[str]:
        """The replies to one script call with these items; NUL is shown as a blank."""
        moment = b"" if now_us is None else b"%d" % now_us
        sha = self.lane.scripts[calls[0].script].sha
        (replies,) = await self.lane.execute_all(request(sha, calls, moment, journal_max))
        return [reply.decode().replace("\0", " ").rstrip() for reply in replies]

    async def account(self, user: str = "ada", **fields: str | int) -> None:
        """Put an account there, or change it: b balance, r reserved, s sequence, t tier, x expiry."""
        given = {**dict(_AS_NEW), **await self.fields(user), "b": 0, "s": 0, **fields}
        account = " ".join(str(given[name]) for name in _ACCOUNT).encode()
        await self.lane.execute(b"SET", self.keys.account(user.encode()), account)

    async def fields(self, user: str = "ada") -> dict[str, str]:
        """The account, but for what is as in a new one."""
        found: bytes | None = await self.lane.execute(b"GET", self.keys.account(user.encode()))
        if found is None:
            return {}
        values = zip(_ACCOUNT, found.decode().split(" ", 5), strict=True)
        return {name: value for name, value in values if (name, value) not in _AS_NEW}

    async def journal(self) -> list[Entry]:
        entries = await self.lane.execute(b"XRANGE", self.keys.journal, b"-", b"+")
        return [decode(entry[0], entry[1]) for entry in entries]

    async def gate(self, **fields: str) -> None:
        """Change what the gate says: format, run, epoch, library."""
        found: bytes = await self.lane.execute(b"GET", self.keys.gate)
        names = ("format", "run", "epoch", "library")
        said = dict(zip(names, found.decode().split(" ", 3), strict=True)) | fields
        await self.lane.execute(b"SET", self.keys.gate, " ".join(said.values()).encode())

    async def meta(self, **fields: str) -> None:
        words = [word.encode() for pair in fields.items() for word in pair]
        await self.lane.execute(b"HSET", self.keys.meta, *words)


def priced(cost: int) -> Quote:
    """The same price for everyone."""
    return Quote((Option(b"", b"%d" % cost),))


@pytest.fixture(params=["fakeredis", "real"])
async def bench(request: pytest.FixtureRequest, servers: Servers) -> AsyncIterator[Bench]:
    client = FakeAsyncRedis()
    is_real = request.param == "real"
    endpoint = Endpoint.from_url(servers.redis_url) if is_real else Endpoint.of(client)
    lane = await Lane.open(endpoint)
    await lane.execute(b"FLUSHALL")
    keys = Partitions("test", 1)[0]
    names, facts = (keys.gate, keys.meta, keys.journal), (b"1", b"1", b"0.1.0", b"1")
    opened = await lane.run_script("open", names, facts)
    assert opened == b"created"
    assert FORMAT == "1"
    yield Bench(lane, keys)
    await lane.close()
    await client.aclose()
