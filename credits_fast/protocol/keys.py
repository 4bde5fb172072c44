"""Every Redis key name, once; and the rule that gives each user a partition.

    {<namespace>:<partition>.<salt>}:g             gate      string  one per partition
    {<namespace>:<partition>.<salt>}:m             meta      hash    one per partition
    {<namespace>:<partition>.<salt>}:j             journal   stream  one per partition
    {<namespace>:<partition>.<salt>}:a:<user>      account   string  one per active user
    {<namespace>:<partition>.<salt>}:i:<digest>    record    string  one per remembered operation
    {<namespace>:<partition>.<salt>}:f:<charge>    refunded  hash    one per charge refunded by its id
    {<namespace>:<partition>.<salt>}:h             holds     hash    one per partition with open holds
    {<namespace>:<partition>.<salt>}:w             mark      string  for a second, behind a call that waits

What stands between the braces is the hash tag: all keys of a partition share one slot of a cluster,
so that one script may touch them. The salt is the smallest number that moves the tag into the
partition's own equal share of the 16,384 slots, so that partitions spread evenly over the nodes of
a cluster however few they are. A namespace has no braces; whatever follows the tag cannot move it.
"""

from __future__ import annotations

import binascii
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import blake2b
from itertools import count
from typing import Final

__all__ = ["FORMAT", "SLOTS", "PartitionKeys", "Partitions", "fingerprint", "slot"]

FORMAT: Final = "1"
"""The format of keys and journal entries; another one is refused, never guessed at."""

SLOTS: Final = 16_384
"""Slots of a Redis Cluster (source: the cluster specification)."""

_RECORD_DIGEST_BYTES: Final = 12
"""Two of a billion keys that a partition remembers meet by chance once in 10^11 times (2^59 / 2^96); who
looks for another's on purpose has 2^96 to try. Four bytes more would cost each key sixteen of memory."""
_DIGEST: Final = blake2b(digest_size=_RECORD_DIGEST_BYTES)
_FINGERPRINT_BYTES: Final = 8
_FINGERPRINTS_KEPT: Final = 1_024
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")


@dataclass(frozen=True)
class PartitionKeys:
    """The names of one partition's keys.

    Attributes:
        number: The partition.
        tag: Its hash tag, braces included.
    """

    number: int
    tag: bytes

    @cached_property
    def slot(self) -> int:
        """The slot of a cluster that all its keys are in."""
        return slot(self.tag)

    @cached_property
    def gate(self) -> bytes:
        """On which server process the partition is open; every script looks at it first."""
        return self.tag + b":g"

    @cached_property
    def meta(self) -> bytes:
        """Format, epoch and position of the partition."""
        return self.tag + b":m"

    @cached_property
    def journal(self) -> bytes:
        """The stream of everything that was decided and is to be recorded."""
        return self.tag + b":j"

    @cached_property
    def accounts(self) -> bytes:
        """How the key of every account begins; the user follows."""
        return self.tag + b":a:"

    def account(self, user: bytes) -> bytes:
        """A user's balance and membership."""
        return self.accounts + user

    @cached_property
    def mark(self) -> bytes:
        """What is written so that a server can be asked who has everything before it."""
        return self.tag + b":w"

    @property
    def absent(self) -> bytes:
        """A key that is never there, to try permissions on."""
        return b"%b:probe" % self.tag

    @cached_property
    def records(self) -> bytes:
        """How the key of every record begins; twelve bytes follow."""
        return self.tag + b":i:"

    def record(self, user: bytes, identity: bytes) -> bytes:
        """What is remembered of an operation, under the caller's key or the operation's own id.

        Args:
            user: The user, so that the same key of two users is two records.
            identity: `key:` or `id:` and the key or id: the two can never meet.
        """
        digest = _DIGEST.copy()  # half as long as making one
        digest.update(user + b"\0" + identity)
        return self.records + digest.digest()

    def refunded(self, transaction_id: bytes) -> bytes:
        """What has been given back of a charge."""
        return self.tag + b":f:" + transaction_id

    @cached_property
    def holds(self) -> bytes:
        """The open holds of the partition's users; they belong to accounts, and are loaded with them."""
        return self.tag + b":h"


class Partitions:
    """The partitions of a namespace, and which user belongs to which.

    Args:
        namespace: 1 to 32 of `a-z 0-9 _ -`; the configuration has checked it.
        number: How many there are.
    """

    def __init__(self, namespace: str, number: int) -> None:
        self.namespace = namespace
        self._seed = zlib.crc32(namespace.encode() + b"\0")
        self._partitions = tuple(
            PartitionKeys(index, _tag(namespace, index, number)) for index in range(number)
        )

    def __len__(self) -> int:
        return len(self._partitions)

    def __iter__(self) -> Iterator[PartitionKeys]:
        return iter(self._partitions)

    def __getitem__(self, number: int) -> PartitionKeys:
        return self._partitions[number]

    def of(self, user: bytes) -> PartitionKeys:
        """The partition of a user: CRC-32 of namespace, NUL and user, modulo their number."""
        return self._partitions[zlib.crc32(user, self._seed) % len(self._partitions)]


@lru_cache(maxsize=_FINGERPRINTS_KEPT)
def fingerprint(*parts: str) -> bytes:
    """Eleven characters that stand for an operation and its parameters.

    A repeated idempotency key with another fingerprint is a conflict. 64 bits are enough: a
    collision takes one and the same user and key, and harms nobody but that user.
    """
    digest = blake2b("\0".join(parts).encode(), digest_size=_FINGERPRINT_BYTES)
    return _text(digest.digest())


def slot(key: bytes) -> int:
    """The cluster slot of a key (source: the cluster specification, CRC-16/XMODEM of the tag)."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return binascii.crc_hqx(key, 0) % SLOTS


def _tag(namespace: str, number: int, partitions: int) -> bytes:
    first, beyond = (SLOTS * share // partitions for share in (number, number + 1))
    name = b"%b:%d." % (namespace.encode(), number)
    checksum = binascii.crc_hqx(name, 0)
    for salt in count():
        if first <= binascii.crc_hqx(b"%d" % salt, checksum) % SLOTS < beyond:
            return b"{%b%d}" % (name, salt)
    raise AssertionError("unreachable: the salts run through every slot")


def _text(digest: bytes) -> bytes:
    """Base64 for URLs, without padding."""
    return binascii.b2a_base64(digest, newline=False).translate(_URL_SAFE).rstrip(b"=")
