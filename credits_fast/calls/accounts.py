"""Cold accounts: a user whom Redis does not know is read from the ledger, once, whoever asks.

The user's open holds come along.
An absent account is never "zero". Callers that meet one at the same time share one read. A user whom
the ledger does not know either is remembered for a moment, so that asking again and again costs the
database one look; a user created meanwhile is in Redis at once and never comes here.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from credits_fast.calls.once import Once
from credits_fast.errors import (
    PartitionFencedError,
    RedisUnavailableError,
    ScriptFailedError,
    UserNotFoundError,
)
from credits_fast.protocol.hold_wire import packed_holds
from credits_fast.protocol.wire import closed, to_ms

if TYPE_CHECKING:
    from credits_fast.ledger.records import AccountRow, Records
    from credits_fast.protocol.keys import PartitionKeys
    from credits_fast.servers.lane import Lane
    from credits_fast.servers.routing import Router

__all__ = ["Accounts"]

_READS_MAX: Final = 16
"""Reads of the ledger at once: a crowd of cold users must not take every connection."""
_UNKNOWN_MS: Final = 5_000
"""How long a user whom the ledger does not know is taken to be unknown."""
_UNKNOWN_MAX: Final = 10_000
_STALE_MAX: Final = 10


class Accounts:
    """Brings accounts from the ledger into Redis.

    Args:
        records: The ledger's side.
        router: Which lane leads to a partition.
    """

    def __init__(self, records: Records, router: Router) -> None:
        self._records = records
        self._router = router
        self._loading = Once()
        self._unknown: dict[bytes, float] = {}
        self._reads = asyncio.Semaphore(_READS_MAX)

    async def load(self, partition: PartitionKeys, user: bytes) -> None:
        """Have Redis know the account.

        Raises:
            UserNotFoundError: The ledger does not know the user.
            DatabaseUnavailableError: The database cannot be reached.
            RedisUnavailableError: The server cannot be reached.
            PartitionFencedError: The partition is not open.
            ScriptFailedError: What Redis has at the account's key is not an account.
            EngineClosedError: The engine was closed meanwhile.
        """
        if self._is_unknown(user):
            raise UserNotFoundError(user.decode())
        await self._loading.do(user, lambda: self._load(partition, user))

    def forget(self, user: bytes) -> None:
        """The user may exist from now on."""
        self._unknown.pop(user, None)

    async def close(self) -> None:
        """Give up reads under way."""
        await self._loading.close()

    async def _load(self, partition: PartitionKeys, user: bytes) -> None:
        await self._router.follow(partition, lambda lane: self._load_by(lane, partition, user))

    async def _load_by(self, lane: Lane, partition: PartitionKeys, user: bytes) -> None:
        for _ in range(_STALE_MAX):
            generation = await lane.execute(b"HGET", partition.meta, b"generation")
            if generation is None:
                raise PartitionFencedError(partition.number, "Redis does not know it")
            async with self._reads:
                row = await self._records.account(user.decode())
            if row is None:
                self._note_unknown(user)
                raise UserNotFoundError(user.decode())
            keys = (
                partition.gate,
                partition.meta,
                partition.holds,
                partition.account(user),
            )
            facts = (generation, user, *_arguments(row))
            (reply,) = await lane.run_script("load", keys, facts)
            status, *fields = reply.split(b"\0")
            error = closed(status, fields, partition.number)
            if error is not None:
                raise error
            if status == b"malformed":
                raise ScriptFailedError(
                    f"script load: what stands at the key of user {user.decode()!r} is not an account"
                )
            if status != b"stale":
                return
        raise RedisUnavailableError(
            f"user {user.decode()!r} cannot be loaded: evictions never rest"
        )

    def _is_unknown(self, user: bytes) -> bool:
        until = self._unknown.get(user)
        if until is None:
            return False
        if time.monotonic() < until:
            return True
        del self._unknown[user]
        return False

    def _note_unknown(self, user: bytes) -> None:
        if len(self._unknown) >= _UNKNOWN_MAX:
            del self._unknown[next(iter(self._unknown))]
        self._unknown[user] = time.monotonic() + _UNKNOWN_MS / 1_000


def _arguments(row: AccountRow) -> tuple[bytes, ...]:
    return (
        b"%d" % row.balance,
        b"%d" % row.reserved,
        b"%d" % row.sequence,
        (row.tier or "").encode(),
        b"" if row.expires_at is None else b"%d" % to_ms(row.expires_at),
        packed_holds(row.holds),
    )
