"""Is there room for more? Journals and memory, looked at before charges, reservations and grants fill them.

The scripts refuse at a journal's cap themselves, but only while they are told the cap: counting costs a
command a partition and call. So they are told while a journal is near it, or nobody knows, and not
before. How long the journals are, and how much memory the servers use, is looked at while there is
traffic, at a bounded rate. Where memory is short the cap that is told is 0.

What gives credits back, and what keeps the journal moving, goes on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, Final

from credits_fast.errors import CreditsError
from credits_fast.resp import pack
from credits_fast.servers.lane import info_fields

if TYPE_CHECKING:
    from collections.abc import Sequence

    from credits_fast.config import BackPressureConfig
    from credits_fast.protocol.keys import PartitionKeys, Partitions
    from credits_fast.servers.lane import Lane
    from credits_fast.servers.routing import Router

__all__ = ["NEAR", "Pressure"]

_log = logging.getLogger(__name__)

NEAR: Final = 100_000
"""Entries below its cap at which a journal is near it: more than a server decides between two looks."""
_HELD_BACK: Final = frozenset(("charge", "extend", "grant", "reserve"))
"""The verbs that are refused."""
_NO_CAP: Final = b""
_NO_ROOM: Final = b"0"
_LOOKS_MISSED: Final = 2
"""After so many looks that did not come, nobody knows how long the journals are."""


class Pressure:
    """How much room there is, as of the last look.

    Args:
        config: The limits.
        router: Which connection leads to a partition.
        partitions: The partitions.
    """

    def __init__(self, config: BackPressureConfig, router: Router, partitions: Partitions) -> None:
        self._journal_max = config.journal_max
        self._memory_max = float(config.memory_max)
        self._poll_s = config.poll_ms / 1_000
        self._router = router
        self._partitions = partitions
        self._is_near = True
        self._known_until = 0.0
        self._look_at = 0.0
        self._short: dict[str, float] = {}
        self._looking: asyncio.Task[None] | None = None

    def journal_max(self, script: str, lane: Lane) -> bytes:
        """The cap a script is told: b"" for none, b"0" where the server's memory is short.

        Args:
            script: The verb.
            lane: The connection to the server.
        """
        if script not in _HELD_BACK:
            return _NO_CAP
        now = time.monotonic()
        if now >= self._look_at and self._looking is None:
            self._look_at = now + self._poll_s
            self._looking = asyncio.get_running_loop().create_task(self.look())
            self._looking.add_done_callback(self._ended)
        if lane.address in self._short:
            return _NO_ROOM
        if self._journal_max and (self._is_near or now > self._known_until):
            return b"%d" % self._journal_max
        return _NO_CAP

    async def look(self) -> None:
        """Look at every server that can be reached; what is not answered is not known."""
        if not self._journal_max and not self._memory_max:
            return
        began = time.monotonic()
        self._look_at = began + self._poll_s
        try:
            reached = await self._router.reached(self._partitions)
        except CreditsError as error:
            _log.debug("the room in Redis cannot be looked at: %s", error)
            return
        looks = (self._look_on(lane, served) for lane, served in reached.items())
        longest = [length for lengths in await asyncio.gather(*looks) for length in lengths]
        if len(longest) == len(self._partitions):
            self._is_near = max(longest) + NEAR >= self._journal_max
            self._known_until = began + _LOOKS_MISSED * self._poll_s

    async def close(self) -> None:
        """Give up the look that is under way."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait((self._looking,))

    async def _look_on(self, lane: Lane, served: Sequence[PartitionKeys]) -> list[int]:
        """The lengths of these journals, without those that are not told; memory is noted."""
        lengths = [pack((b"XLEN", partition.journal)) for partition in served]
        memory, *found = await lane.replies(pack((b"INFO", b"memory")), *lengths)
        self._note(lane.address, memory)
        return [length for length in found if isinstance(length, int)]

    def _note(self, address: str, memory: Any) -> None:
        """Whether memory is short there; a server that does not tell is not held to be."""
        share = 0.0 if isinstance(memory, Exception) else _used(info_fields(memory))
        if not self._memory_max or share < self._memory_max:
            if self._short.pop(address, None) is not None:
                _log.info("Redis at %s has memory again: charges and grants go on", address)
            return
        if address not in self._short:
            _log.warning(
                "Redis at %s uses %.0f %% of maxmemory: charges and grants are refused",
                address,
                100 * share,
            )
        self._short[address] = share

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._looking = None
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("the room in Redis could not be looked at: %r", error)


def _used(information: dict[str, str]) -> float:
    """The share of `maxmemory` that is used; 0 where there is no limit."""
    limit = int(information.get("maxmemory", "0"))
    return int(information.get("used_memory", "0")) / limit if limit else 0.0
