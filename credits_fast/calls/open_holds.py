"""The open holds of a partition as Redis has them, for those who compare them with the ledger's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from credits_fast.errors import CreditsError, ScriptFailedError
from credits_fast.protocol.hold_wire import OpenHold
from credits_fast.servers.server_errors import is_of_another_type

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from credits_fast.protocol.keys import PartitionKeys

__all__ = ["open_holds"]

_AT_ONCE: Final = b"500"
_BEGINNING: Final = b"0"


async def open_holds(
    execute: Callable[..., Awaitable[Any]], partition: PartitionKeys
) -> dict[str, dict[str, OpenHold]]:
    """The open holds of each user who has any, by their ids; some at a time, so not of one moment.

    Args:
        execute: Runs a command on the partition's server.
        partition: The partition.

    Raises:
        RedisUnavailableError: The server cannot be reached.
        ScriptFailedError: What stands there as a hold, or as all of them, is none.
    """
    found: dict[str, dict[str, OpenHold]] = {}
    cursor = _BEGINNING
    while True:
        try:
            cursor, page = await execute(b"HSCAN", partition.holds, cursor, b"COUNT", _AT_ONCE)
        except CreditsError as error:
            if is_of_another_type(error):
                what = f"what Redis keeps as the holds of partition {partition.number} are none"
                raise ScriptFailedError(what) from error
            raise
        for field, text in zip(page[::2], page[1::2], strict=True):
            user, _, hold_id = field.partition(b"\0")
            try:
                hold = OpenHold.parse(hold_id, text)
            except ValueError as error:
                what = f"what Redis keeps as hold {hold_id!r} of user {user!r} is none: {text!r}"
                raise ScriptFailedError(what) from error
            found.setdefault(user.decode(), {})[hold.hold_id] = hold
        if cursor == _BEGINNING:
            return found
