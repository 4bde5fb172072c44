"""Requests in the Redis protocol (RESP): an array of bulk strings. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["bulk", "bulks", "pack"]


def pack(parts: Sequence[bytes]) -> bytes:
    r"""A request.

    Example:
        >>> pack((b"GET", b"k"))
        b'*2\r\n$3\r\nGET\r\n$1\r\nk\r\n'
    """
    return b"*%d\r\n%b" % (len(parts), bulks(parts))


def bulk(part: bytes) -> bytes:
    """One part of a request."""
    return b"$%d\r\n%b\r\n" % (len(part), part)


def bulks(parts: Iterable[bytes]) -> bytes:
    """Several parts of a request, one after another."""
    return b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])
