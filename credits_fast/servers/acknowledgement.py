"""What a server is asked so that a decision survives more than its process, and what its answer means.

    memory       the reply of the script
    replicated   WAIT     so many replicas have it in their memory
    fsynced      WAITAOF  the server's append-only file, and those of so many replicas, are on disk
    committed    the ledger has the row; no server is asked, see `commits`

Both commands speak of the last write of *their own connection*: on another one they say nothing, and
behind a call that wrote nothing, such as a repeated one, they answer at once. So they follow the script
on its connection, and a mark is written in between: whoever has the mark has everything before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from credits_fast.resp import pack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from credits_fast.config import AcknowledgeConfig
    from credits_fast.protocol.keys import PartitionKeys
    from credits_fast.types import Level

__all__ = ["Confirmation", "Receipt", "confirmation_of", "counts_of"]

_MARK_MS: Final = b"1000"
"""How long a mark stays. It only has to be written."""


@dataclass(slots=True)
class Receipt:
    """What a caller is told about its decision beyond the reply; filled in when the reply comes.

    Attributes:
        level: The level that is known to be reached.
    """

    level: Level = "memory"


class Confirmation(NamedTuple):
    """How a server confirms one level.

    Attributes:
        level: What is reached when it does.
        command: What it is asked, without the time it has.
        needed: The counts its answer must not fall short of.
        timeout_ms: Milliseconds it has.
    """

    level: Level
    command: tuple[bytes, ...]
    needed: tuple[int, ...]
    timeout_ms: int

    def requests(self, partition: PartitionKeys) -> tuple[bytes, bytes]:
        """The mark and the question, packed; to be sent right behind the scripts.

        Args:
            partition: Any partition of the server.
        """
        mark = pack((b"SET", partition.mark, b"", b"PX", _MARK_MS))
        return mark, pack((*self.command, b"%d" % self.timeout_ms))

    @property
    def trial(self) -> bytes:
        """The question in a form that is answered at once, packed: does the server know it?"""
        return pack((*self.command, b"1"))

    def is_reached(self, answer: Any) -> bool:
        """Whether the answer says so; an error says nothing, and nothing is not enough.

        Example:
            >>> Confirmation("fsynced", (b"WAITAOF", b"1", b"1"), (1, 1), 100).is_reached([1, 0])
            False
        """
        counts: Sequence[Any] = counts_of(answer)
        return len(counts) == len(self.needed) and all(
            isinstance(count, int) and count >= needed
            for count, needed in zip(counts, self.needed, strict=True)
        )


def counts_of(answer: Any) -> Sequence[Any]:
    """The counts of an answer: WAIT has one, WAITAOF that of the server itself and that of replicas."""
    return cast("list[Any]", answer) if isinstance(answer, list) else [answer]


def confirmation_of(level: Level, config: AcknowledgeConfig) -> Confirmation | None:
    """How a server confirms a level, None where no server is asked."""
    if level == "replicated":
        needed: tuple[int, ...] = (config.replicas,)
        return Confirmation(level, (b"WAIT", b"%d" % config.replicas), needed, config.timeout_ms)
    if level == "fsynced":
        needed = (1, config.fsynced_replicas)
        command = (b"WAITAOF", *(b"%d" % count for count in needed))
        return Confirmation(level, command, needed, config.timeout_ms)
    return None
