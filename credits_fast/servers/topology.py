"""Who serves which slot of a cluster, as its nodes say it: parsed, looked up, corrected.

A node answers `CLUSTER SLOTS` with all it knows, and a request that belongs elsewhere with `MOVED` (for
good) or `ASK` (this once, while a slot is on its way). A node that does not know its own host names
none; then it is the host it was asked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from redis.exceptions import MovedError

from credits_fast.protocol.keys import SLOTS

if TYPE_CHECKING:
    from redis.exceptions import AskError

__all__ = ["Address", "Redirection", "Topology"]


class Address(NamedTuple):
    """Where a node listens, as it announces it."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Topology:
    """The primary of every slot that has one."""

    def __init__(self, primaries: Sequence[Address | None]) -> None:
        self._primaries = [*primaries]

    @classmethod
    def of(cls, reply: Sequence[Any], asked: Address) -> Topology:
        """What a node answers to `CLUSTER SLOTS`.

        Args:
            reply: First slot, last slot, primary and replicas, for each range.
            asked: The node that was asked.
        """
        primaries: list[Address | None] = [None] * SLOTS
        for first, last, (host, port, *_), *_ in reply:
            address = Address(_host(host, asked), int(port))
            primaries[int(first) : int(last) + 1] = [address] * (int(last) + 1 - int(first))
        return cls(primaries)

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Every node that serves a slot."""
        return tuple(dict.fromkeys(address for address in self._primaries if address is not None))

    def primary(self, slot: int) -> Address | None:
        """The node that serves a slot, None where none does."""
        return self._primaries[slot]

    def move(self, slot: int, address: Address) -> None:
        """The slot is served there from now on."""
        self._primaries[slot] = address


class Redirection(NamedTuple):
    """Where a request belongs.

    Attributes:
        slot: The slot of its keys.
        address: The node that serves it.
        is_final: Whether it does from now on; else only requests that say `ASKING` go there.
    """

    slot: int
    address: Address
    is_final: bool

    @classmethod
    def of(cls, refusal: AskError, asked: Address) -> Redirection:
        """What a node says with `MOVED` or `ASK`.

        Args:
            refusal: Its reply.
            asked: The node.
        """
        told: Any = refusal
        address = Address(_host(told.host, asked), int(told.port))
        return cls(int(told.slot_id), address, isinstance(refusal, MovedError))


def _host(announced: bytes | str | None, asked: Address) -> str:
    host = announced.decode() if isinstance(announced, bytes) else announced
    return asked.host if host in {None, "", "?"} else str(host)
