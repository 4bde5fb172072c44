"""The baseline of Redis: redis-py on asyncio with hiredis, one `await evalsha` for each charge.

It gets what makes it fast: as many connections as callers, up to 256, all of them open before the clock
starts, and a script that does no more than it must.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from importlib.resources import files
from typing import Any, Final

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis

from credits_fast.amounts import MICROS_PER_CREDIT
from credits_fast.benchmarks.workload import OPENING, PRICE, Request, user_name
from credits_fast.ids import operation_id

__all__ = ["Naive", "redis_py_url"]

_COST: Final = PRICE * MICROS_PER_CREDIT
_TTL_MS: Final = 86_400_000
_PAGE: Final = 1_000
_CONNECTIONS_MAX: Final = 256
"""More of them would meet the limit on open files before they were any faster."""
_SCHEMES: Final = {"valkey": "redis", "valkeys": "rediss", "valkey+unix": "unix"}


class Naive:
    """Charges by redis-py; open it with `open`.

    Args:
        url: The server.
        namespace: What its keys begin with.
        callers: How many at once, hence how many connections.
    """

    def __init__(self, url: str, namespace: str, callers: int) -> None:
        self._tag = f"{{{namespace}-naive}}"
        self._connections = min(callers, _CONNECTIONS_MAX)
        kind: Any = ConnectionPool if callers <= _CONNECTIONS_MAX else BlockingConnectionPool
        pool = kind.from_url(redis_py_url(url), max_connections=self._connections)
        self._client: Any = Redis.from_pool(pool)
        self._sha = ""

    async def open(self, users: int) -> None:
        """Connect every connection, load the script, give every user the first credits."""
        text = (files("credits_fast") / "benchmarks" / "naive.lua").read_text(encoding="utf-8")
        self._sha = await self._client.script_load(text)
        pool: Any = self._client.connection_pool
        held = [await pool.get_connection() for _ in range(self._connections)]
        await asyncio.gather(*map(pool.release, held))
        for start in range(1, users + 1, _PAGE):
            pipe: Any = self._client.pipeline(transaction=False)
            for number in range(start, min(start + _PAGE, users + 1)):
                pipe.hsetnx(
                    self._account(user_name(number)), "balance", OPENING * MICROS_PER_CREDIT
                )
            await pipe.execute()

    def ask(self, request: Request) -> Awaitable[object]:
        """One charge, to be awaited."""
        user, action, key, _ = request
        return self._client.evalsha(  # type: ignore[no-any-return]  # redis-py's types say less
            self._sha,
            3,
            self._account(user),
            f"{self._tag}:k:{user}:{key}",
            f"{self._tag}:t",
            _COST,
            _TTL_MS,
            operation_id(),
            user,
            action,
            key,
        )

    async def missing(self, users: int, charges: int) -> int:
        """Credits that are not where so many charges should have left them; 0 is right."""
        has = 0
        for start in range(1, users + 1, _PAGE):
            pipe: Any = self._client.pipeline(transaction=False)
            for number in range(start, min(start + _PAGE, users + 1)):
                pipe.hget(self._account(user_name(number)), "balance")
            has += sum(map(int, await pipe.execute()))
        return abs((users * OPENING - charges * PRICE) * MICROS_PER_CREDIT - has)

    async def close(self) -> None:
        """End every connection."""
        await self._client.aclose()

    def _account(self, user: str) -> str:
        return f"{self._tag}:a:{user}"


def redis_py_url(url: str) -> str:
    """A server's URL with a scheme redis-py knows.

    Example:
        >>> redis_py_url("valkey://localhost")
        'redis://localhost'
    """
    scheme, separator, rest = url.partition("://")
    return _SCHEMES.get(scheme, scheme) + separator + rest
