"""Idle accounts leave Redis, so that its memory follows the users who are active, not all there ever were.

The worker goes round the keys of every server, some at a time, and has a script drop the accounts of its
partitions that nobody has used for long enough, whose last change the ledger has, and that have no open
holds. Whoever needs one of them again loads it. How long a key has not been used is what the server
itself counts, in seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Container, Iterable
from typing import TYPE_CHECKING, Final

from credits_fast.errors import RedisUnavailableError, UnsuitableServerError
from credits_fast.resp import pack

if TYPE_CHECKING:
    from credits_fast.protocol.keys import PartitionKeys, Partitions
    from credits_fast.servers.lane import Lane
    from credits_fast.servers.routing import Router

__all__ = ["Eviction"]

_log = logging.getLogger(__name__)

_KEYS_AT_ONCE: Final = b"1000"
"""Keys of a server that are looked at in one turn: less than a millisecond of its time."""
_BEGINNING: Final = b"0"
_MARK: Final = b"}:a:"


class Eviction:
    """Drops idle accounts.

    Args:
        partitions: The partitions as configured.
        router: Which lane leads to a partition.
    """

    def __init__(self, partitions: Partitions, router: Router) -> None:
        self._partitions = partitions
        self._router = router
        self._pattern = b"{%b:*}:a:*" % partitions.namespace.encode()
        self._cursors: dict[str, bytes] = {}
        self._forbidden: set[str] = set()

    async def evict(self, numbers: Collection[int], idle_ms: int) -> int:
        """How many accounts were dropped, in these partitions; a bounded number of keys is looked at.

        A server that is away, or forbids the look, has its accounts left alone.

        Args:
            numbers: The partitions.
            idle_ms: Milliseconds without use after which an account is idle.
        """
        ours = [self._partitions[number] for number in numbers]
        evicted = 0
        try:
            for lane, served in (await self._router.reached(ours)).items():
                if lane.address not in self._forbidden:
                    evicted += await self._evict_on(lane, served, idle_ms // 1_000)
        except RedisUnavailableError as error:
            _log.debug("idle accounts are dropped another time: %s", error)
        return evicted

    async def _evict_on(self, lane: Lane, served: Iterable[PartitionKeys], idle_s: int) -> int:
        served_by = {partition.account(b""): partition for partition in served}
        named: dict[PartitionKeys, list[bytes]] = {}
        for key in await self._idle_accounts(lane, served_by, idle_s):
            prefix, user = _split(key)
            named.setdefault(served_by[prefix], []).append(user)
        evicted = 0
        for partition, users in named.items():
            keys = (partition.gate, partition.meta, *map(partition.account, users))
            replies = await lane.run_script("evict", keys, ())
            evicted += replies.count(b"evicted")
        return evicted

    async def _idle_accounts(
        self, lane: Lane, prefixes: Container[bytes], idle_s: int
    ) -> list[bytes]:
        """The idle ones of these accounts among the next keys of a server, which is gone round."""
        cursor = self._cursors.get(lane.address, _BEGINNING)
        try:
            cursor, keys = await lane.execute(
                b"SCAN", cursor, b"MATCH", self._pattern, b"COUNT", _KEYS_AT_ONCE
            )
            ours = [key for key in keys if _split(key)[0] in prefixes]
            looks = [pack((b"OBJECT", b"IDLETIME", key)) for key in ours]
            idle = await lane.execute_all(*looks) if looks else []
        except UnsuitableServerError as error:
            self._forbidden.add(lane.address)
            _log.warning("idle accounts stay in Redis: %s", error)
            return []
        self._cursors[lane.address] = cursor
        return [
            key
            for key, seconds in zip(ours, idle, strict=True)
            if seconds is not None and seconds >= idle_s
        ]


def _split(key: bytes) -> tuple[bytes, bytes]:
    """What all accounts of the key's partition begin with, and the user."""
    tag, mark, user = key.partition(_MARK)
    return tag + mark, user
