"""The Redis side of the worker: reading the journal from where the ledger is, and trimming it.

Every read begins with the last entry that is recorded already. Where it stands there unchanged, what
follows continues the history the ledger knows; where it does not, history was lost and ids may have
been given out anew (a watermark alone would not notice). So that entry is never trimmed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from credits_fast.errors import CreditsError
from credits_fast.protocol.entries import NOTHING_YET, stamp
from credits_fast.resp import pack

if TYPE_CHECKING:
    from credits_fast.protocol.keys import PartitionKeys, Partitions
    from credits_fast.servers.routing import Router
    from credits_fast.sync.rows import Batch

__all__ = ["ForkedError", "Journal", "Look", "RawEntry", "after"]

RawEntry: TypeAlias = tuple[bytes, list[bytes]]
"""An entry as the server gives it: its id, and its names and values in turn."""


class ForkedError(Exception):
    """The journal does not hold the entry up to which the ledger is recorded."""


class Look(NamedTuple):
    """Where to look in a partition's journal.

    Attributes:
        partition: The partition.
        last_id: The last entry that is recorded, or about to be.
        last_stamp: Its digest.
        entries_max: How many entries to read after it.
        items_max: How many decisions to make a batch of; more that was read is read again.
    """

    partition: int
    last_id: str
    last_stamp: str
    entries_max: int
    items_max: int


class Journal:
    """The journals of all partitions, wherever they are."""

    def __init__(self, partitions: Partitions, router: Router) -> None:
        self._partitions = partitions
        self._router = router

    async def read(self, looks: Sequence[Look]) -> list[list[RawEntry] | None]:
        """What stands in each journal from its last recorded entry on, that one included.

        None where its node of a cluster cannot answer now: the others are read all the same.

        Raises:
            RedisUnavailableError: No server can be reached.
            UnsuitableServerError: A server's access rules forbid it.
        """
        replies = await self._router.outcomes([self._request(look) for look in looks])
        problems = [reply for reply in replies if isinstance(reply, CreditsError)]
        for problem in problems:
            if not problem.transient or len(problems) == len(replies):
                raise problem
        return [
            None if isinstance(reply, CreditsError) else [(entry[0], entry[1]) for entry in reply]
            for reply in replies
        ]

    async def trim(self, batch: Batch, keep: str) -> bool:
        """Whether the journal could be trimmed: not where it is not what was recorded.

        Args:
            batch: What has been recorded last.
            keep: The first entry to keep.

        Raises:
            RedisUnavailableError: The server cannot be reached.
        """
        last = batch.last
        if last is None:
            return True
        partition = self._partitions[batch.partition]
        reply: bytes = await self._router.run_script(
            partition,
            "trim",
            (partition.gate, partition.meta, partition.journal),
            (str(last.id).encode(), keep.encode(), *last.fields),
        )
        return reply.startswith(b"ok\0")

    def _request(self, look: Look) -> tuple[PartitionKeys, bytes]:
        partition = self._partitions[look.partition]
        count = b"%d" % (look.entries_max + 1)
        start = look.last_id.encode()
        return partition, pack((b"XRANGE", partition.journal, start, b"+", b"COUNT", count))


def after(look: Look, found: Sequence[RawEntry]) -> Sequence[RawEntry]:
    """The entries that follow the last one known, which must stand there unchanged.

    Raises:
        ForkedError: It is gone, or another one stands in its place.
    """
    if look.last_id == NOTHING_YET:
        return found[: look.entries_max]
    if not found or found[0][0].decode() != look.last_id:
        raise ForkedError(f"entry {look.last_id} is recorded and no longer in the journal")
    if stamp(look.last_id, found[0][1]) != look.last_stamp:
        raise ForkedError(f"entry {look.last_id} is recorded and another one in the journal")
    return found[1:]
