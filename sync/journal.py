"""The Redis side of the worker: reading the journal from where the ledger is, and trimming it.

Every read begins with the last entry that is recorded already. Where it stands there unchanged, what
follows continues the history the ledger knows; where it does not, history was lost and ids may have
been given out anew (a watermark alone would not notice). So that entry is never trimmed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from credits_fast.entries import NOTHING_YET, Entry, decode, stamp
from credits_fast.resp import pack

if TYPE_CHECKING:
    from credits_fast.keys import PartitionKeys, Partitions
    from credits_fast.lane import Lane
    from credits_fast.sync.rows import Batch

__all__ = ["ForkedError", "Journal", "Look"]


class ForkedError(Exception):
    """The journal does not hold the entry up to which the ledger is recorded."""


class Look(NamedTuple):
    """Where to look in a partition's journal.

    Attributes:
        partition: The partition.
        last_id: The last recorded entry.
        last_stamp: Its digest.
        entries_max: How many entries to read after it.
    """

    partition: int
    last_id: str
    last_stamp: str
    entries_max: int


class Journal:
    """The journals of all partitions on one server."""

    def __init__(self, partitions: Partitions, lane: Callable[[], Awaitable[Lane]]) -> None:
        self._partitions = partitions
        self._lane = lane

    async def read(self, looks: Sequence[Look]) -> list[list[tuple[bytes, list[bytes]]]]:
        """What stands in each journal from its last recorded entry on, that one included.

        Raises:
            RedisUnavailableError: The server cannot be reached.
        """
        lane = await self._lane()
        requests = (
            pack(
                (
                    b"XRANGE",
                    self._partitions[look.partition].journal,
                    look.last_id.encode(),
                    b"+",
                    b"COUNT",
                    b"%d" % (look.entries_max + 1),
                ),
            )
            for look in looks
        )
        replies = await lane.execute_all(*requests)
        return [[(entry[0], entry[1]) for entry in reply] for reply in replies]

    async def trim(self, batch: Batch, keep: str) -> bool:
        """Whether the journal could be trimmed: not where it is not what was recorded.

        Args:
            batch: What has been recorded last.
            keep: The first entry to keep.

        Raises:
            RedisUnavailableError: The server cannot be reached.
        """
        lane = await self._lane()
        partition: PartitionKeys = self._partitions[batch.partition]
        reply: bytes = await lane.run_script(
            "trim",
            (partition.meta, partition.journal),
            (batch.last_id.encode(), keep.encode(), *batch.last_fields),
        )
        return reply.startswith(b"ok\0")


def after(look: Look, found: Sequence[tuple[bytes, list[bytes]]]) -> list[Entry]:
    """The entries that follow the last recorded one, which must stand there unchanged.

    Raises:
        ForkedError: It is gone, or another one stands in its place.
        IncompatibleFormatError: An entry was written in another format.
        MalformedEntryError: An entry was not written by the scripts.
    """
    new = found
    if look.last_id != NOTHING_YET:
        if not found or found[0][0].decode() != look.last_id:
            raise ForkedError(f"entry {look.last_id} is recorded and no longer in the journal")
        if stamp(look.last_id, found[0][1]) != look.last_stamp:
            raise ForkedError(f"entry {look.last_id} is recorded and another one in the journal")
        new = found[1:]
    return [decode(entry_id, fields) for entry_id, fields in new]
