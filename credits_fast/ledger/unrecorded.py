"""What the ledger does not have yet: the journal beyond a position."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from credits_fast.protocol.entries import NOTHING_YET, decode

if TYPE_CHECKING:
    from credits_fast.protocol.entries import Entry
    from credits_fast.protocol.keys import PartitionKeys
    from credits_fast.servers.lane import Lane

__all__ = ["journal_after"]

_PAGE: Final = 1_000


async def journal_after(lane: Lane, partition: PartitionKeys, last_id: str) -> list[Entry] | None:
    """The journal after an entry, None where that entry is gone.

    Raises:
        RedisUnavailableError: Redis cannot be reached.
    """
    entries: list[Entry] = []
    start = last_id.encode()
    while True:
        page = await lane.execute(
            b"XRANGE",
            partition.journal,
            start,
            b"+",
            b"COUNT",
            b"%d" % _PAGE,
        )
        if not entries and last_id != NOTHING_YET:
            if not page or page[0][0] != start:
                return None
            page = page[1:]
        entries += (decode(entry_id, fields) for entry_id, fields in page)
        if len(page) < _PAGE - 1:
            return entries
        start = b"(" + page[-1][0]
