"""Holds whose time is over, finished: asked for by who wants their credits, and by the worker.

The script decides by the server's time; to ask twice is to ask once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from credits_fast.errors import ScriptFailedError
from credits_fast.protocol.wire import COLD, closed

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from credits_fast.protocol.keys import PartitionKeys
    from credits_fast.servers.routing import Router

__all__ = ["EXPIRED_MAX", "expire_holds"]

EXPIRED_MAX: Final = 500
"""Holds that one script call finishes at most: they are one journal entry."""
_TAIL: Final = b"%b\0expire\0\0\0"


async def expire_holds(
    router: Router,
    partition: PartitionKeys,
    holds_of: Mapping[bytes, Collection[bytes]],
    now_us: bytes,
) -> list[int | None]:
    """How many holds of each user were finished; None where Redis does not know the account.

    Args:
        router: Which lane leads to a partition.
        partition: The partition of all of them.
        holds_of: Of each user the holds to look at; none to have all open ones of the partition looked
            through, at about 0.1 microseconds of the server's time each.
        now_us: Microseconds since 1970, b"" for the server's own time.

    Raises:
        PartitionFencedError: The partition is not open.
        ScriptFailedError: An account does not fit its holds, or the journal takes no entry.
        RedisUnavailableError: The server cannot be reached.
    """
    accounts = map(partition.account, holds_of)
    keys = (partition.journal, partition.gate, partition.holds, *accounts)
    items = [part for user, ids in holds_of.items() for part in (_TAIL % user, b"\0".join(ids))]
    arguments = (now_us, b"%d" % EXPIRED_MAX, *items)
    replies = await router.run_script(partition, "expire", keys, arguments)
    return [_number(reply, partition) for reply in replies]


def _number(reply: bytes, partition: PartitionKeys) -> int | None:
    if reply == COLD:
        return None
    status, *fields = reply.split(b"\0")
    error = closed(status, fields, partition.number)
    if error is not None:
        raise error
    if status != b"expired":
        raise ScriptFailedError(f"script expire: {fields[0].decode(errors='replace')}")
    return int(fields[0])
