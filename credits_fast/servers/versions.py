"""Which server it is, by what it says of itself, and what that means for us. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Version", "version_of"]

_FLOORS: Final = {"Redis": (7, 0), "Valkey": (7, 2)}
"""The first versions whose XADD completes an id with the next sequence (`ep-*`), which the journal
is written with. Valkey's first version is 7.2."""
_MSETEX: Final = {"Redis": (8, 4), "Valkey": (9, 1)}
"""The first versions that write several keys with an expiry by one command."""


class Version(NamedTuple):
    """What a server is.

    Attributes:
        name: `Redis` or `Valkey`.
        text: Its version, "" where it does not tell.
        floor: The first version that will do.
        is_new_enough: Whether it will do.
        has_msetex: Whether it has the command `MSETEX`.
    """

    name: str
    text: str
    floor: str
    is_new_enough: bool
    has_msetex: bool


def version_of(information: Mapping[str, str]) -> Version:
    """What a server is, by the fields of INFO, section `server`.

    Example:
        >>> version_of({"redis_version": "7.2.4", "valkey_version": "9.1.2"}).has_msetex
        True
    """
    name, text = "Redis", information.get("redis_version", "")
    if information.get("server_name") == "valkey" or "valkey_version" in information:
        name, text = "Valkey", information.get("valkey_version", "")
    floor, numbers = _FLOORS[name], _numbers(text)
    return Version(
        name, text, ".".join(map(str, floor)), numbers >= floor, has_msetex=numbers >= _MSETEX[name]
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
