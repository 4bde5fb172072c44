"""Journal entries as the worker reads them: an entry is one script call, its items are decisions.

    v  the format            t  the moment, in microseconds           0, 1, 2 …  the items

The fields of an item are separated by NUL; `lua/README.md` lists them kind by kind. A number that is
no number, or a missing field, means that the entry was not written by these scripts: it is never
skipped, for the balances after it build on it. Metadata is left as it is and read by the ledger's
side, where an unreadable one is set aside without losing the amount.

Items and entries are not frozen: the worker makes one a decision, and a frozen one costs three times
as much to make. Nobody changes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, TypeAlias

from credits_fast.errors import IncompatibleFormatError
from credits_fast.keys import FORMAT
from credits_fast.refusals import Refusal

if TYPE_CHECKING:
    from credits_fast.types import Kind

__all__ = [
    "NOTHING_YET",
    "Entry",
    "EntryId",
    "Item",
    "MalformedEntryError",
    "RefusedItem",
    "TierFacts",
    "TransactionItem",
    "decode",
    "stamp",
]

NOTHING_YET: Final = "0-0"
"""The position of a partition of which nothing has been recorded."""

_STAMP_BYTES: Final = 16
_KINDS: Final[dict[bytes, Kind]] = {
    b"charge": "charge",
    b"grant": "grant",
    b"refund": "refund",
    b"tier": "tier",
}
_TAIL_FIELDS: Final = 5
_TRANSACTION_FIELDS: Final = 7
_HEAD_FIELDS: Final = {"charge": 2, "grant": 0, "refund": 0, "tier": 5}
_REFUSED_FIELDS: Final = 6


class MalformedEntryError(Exception):
    """An entry that the scripts cannot have written; its partition stops until someone looks."""


class EntryId(tuple[int, int]):
    """The id of an entry: epoch and sequence. It compares like the server compares."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> EntryId:
        """The id of a text such as `1-42`.

        Raises:
            MalformedEntryError: It is none.
        """
        epoch, separator, sequence = text.partition("-")
        try:
            parsed = cls((int(epoch), int(sequence)))
        except ValueError as error:
            raise MalformedEntryError(f"not an entry id: {text!r}") from error
        if not separator:
            raise MalformedEntryError(f"not an entry id: {text!r}")
        return parsed

    @property
    def epoch(self) -> int:
        """Raised whenever history had to be mended; ids of different histories never meet."""
        return self[0]

    @property
    def sequence(self) -> int:
        """The place in the epoch, from 0."""
        return self[1]

    def __str__(self) -> str:
        return f"{self[0]}-{self[1]}"


@dataclass(slots=True)
class TierFacts:
    """What a change of tier did to the membership.

    Attributes:
        verb: The operation in the audit log.
        old_tier: The stored tier before, "" for none.
        new_tier: The stored tier after.
        expires_ms: When the membership ends now, None where it does not.
        expiry: What was asked for: `keep`, `clear` or milliseconds.
    """

    verb: str
    old_tier: str
    new_tier: str
    expires_ms: int | None
    expiry: str


@dataclass(slots=True)
class TransactionItem:
    """A change of a balance: a row of the ledger and its success in the audit log.

    Attributes:
        index: Its place in the entry, from 0.
        kind: `charge`, `grant`, `refund` or `tier`.
        transaction_id: The operation's id.
        sequence: Its number among the user's transactions, without gaps.
        delta: Micro-credits, signed.
        balance_after: Micro-credits.
        fingerprint: What a repeated key must match.
        ttl_ms: How long the key is remembered.
        audited: Whether the audit log gets its success.
        user_id: Whose balance it is.
        action: The caller's action.
        key: The idempotency key, "" where there was none.
        extra: JSON of a charge's variables; the charge a refund names; a downgrade's flag.
        metadata: The caller's metadata as it came, b"" where there was none.
        raw_cost: A formula's value before clamping and rounding, "" for a fixed price.
        formula: The formula's text, "" for a fixed price.
        tier: What a change of tier did, None for every other kind.
    """

    index: int
    kind: Kind
    transaction_id: str
    sequence: int
    delta: int
    balance_after: int
    fingerprint: str
    ttl_ms: int
    audited: bool
    user_id: str
    action: str
    key: str
    extra: str
    metadata: bytes
    raw_cost: str = ""
    formula: str = ""
    tier: TierFacts | None = None


@dataclass(slots=True)
class RefusedItem:
    """A refusal: a row of the audit log and nothing else.

    Attributes:
        index: Its place in the entry, from 0.
        verb: The operation in the audit log.
        refusal: Its facts.
        action: The caller's action.
        extra: As in `TransactionItem`.
        metadata: The caller's metadata as it came, b"" where there was none.
    """

    index: int
    verb: str
    refusal: Refusal
    action: str
    extra: str
    metadata: bytes


Item: TypeAlias = TransactionItem | RefusedItem


@dataclass(slots=True)
class Entry:
    """One journal entry.

    Attributes:
        id: Its id in the stream.
        time_us: When the script ran, in microseconds since 1970.
        items: What it decided, in order.
        fields: The entry as it stands in the stream: names and values in turn.
    """

    id: EntryId
    time_us: int
    items: tuple[Item, ...]
    fields: tuple[bytes, ...]

    @property
    def stamp(self) -> str:
        """What tells this entry from any other that might stand under the same id."""
        return stamp(str(self.id), self.fields)


def decode(entry_id: bytes, fields: Sequence[bytes]) -> Entry:
    """An entry of the stream, as the server gave it.

    Raises:
        IncompatibleFormatError: It was written in another format.
        MalformedEntryError: It was not written by these scripts.
    """
    identity = EntryId.parse(entry_id.decode(errors="replace"))
    if len(fields) < 4 or fields[0] != b"v" or fields[2] != b"t" or len(fields) % 2:  # noqa: PLR2004
        raise MalformedEntryError(f"entry {identity} has no version and time")
    if fields[1] != FORMAT.encode():
        found = fields[1].decode(errors="replace")
        what = f"journal entry {identity}"
        raise IncompatibleFormatError(what, found=found, expected=FORMAT, written_by="")
    try:
        items = tuple(_item(index, raw) for index, raw in enumerate(fields[5::2]))
        return Entry(identity, int(fields[3]), items, tuple(fields))
    except (ValueError, IndexError, KeyError) as error:
        raise MalformedEntryError(f"entry {identity} cannot be read: {error}") from error


def stamp(entry_id: str, fields: Sequence[bytes]) -> str:
    """A digest of a whole entry: operation ids, users, sequences, balances and the server's time.

    Ids may be given out anew after a failover. The digest tells two histories apart even where the
    same operation stands under the same id in both: it was executed at another microsecond.
    """
    digest = blake2b(entry_id.encode(), digest_size=_STAMP_BYTES)
    for field in fields:
        digest.update(b"%d:%b" % (len(field), field))
    return digest.hexdigest()


def _item(index: int, raw: bytes) -> Item:
    name, _, rest = raw.partition(b"\0")
    if name == b"refused":
        return _refused(index, rest)
    kind = _KINDS.get(name)
    if kind is None:
        raise ValueError(f"unknown kind {name.decode()!r:.40}")
    return _transaction(index, kind, rest)


def _transaction(index: int, kind: Kind, raw: bytes) -> TransactionItem:
    words, metadata = _split(raw, _TRANSACTION_FIELDS + _HEAD_FIELDS[kind] + _TAIL_FIELDS)
    transaction_id, sequence, delta, after, fingerprint, ttl_ms, audited, *head = words
    *head, user, action, key, extra = head
    raw_cost, formula = head if kind == "charge" else ("", "")
    return TransactionItem(
        index,
        kind,
        transaction_id,
        int(sequence),
        int(delta),
        int(after),
        fingerprint,
        int(ttl_ms),
        audited != "0",
        user,
        action,
        key,
        extra,
        metadata,
        raw_cost,
        formula,
        _tier_facts(head) if kind == "tier" else None,
    )


def _tier_facts(head: Sequence[str]) -> TierFacts:
    verb, old_tier, new_tier, expires, expiry = head
    return TierFacts(verb, old_tier, new_tier, int(expires) if expires else None, expiry)


def _refused(index: int, raw: bytes) -> RefusedItem:
    words, metadata = _split(raw, _REFUSED_FIELDS + _TAIL_FIELDS)
    verb, code, one, two, three, subject, user, action, key, extra = words
    refusal = Refusal(
        code=code,
        user_id=user,
        key=key,
        subject=subject,
        related=extra if verb == "refund" else "",
        details=(one, two, three),
    )
    return RefusedItem(index, verb, refusal, action, extra, metadata)


def _split(raw: bytes, count: int) -> tuple[list[str], bytes]:
    """So many fields, all but the last one as text; whatever NULs the last one has are its own."""
    fields = raw.split(b"\0", count - 1)
    if len(fields) != count:
        raise ValueError(f"{len(fields)} fields instead of {count}")
    last = fields.pop()
    return b"\0".join(fields).decode().split("\0"), last
