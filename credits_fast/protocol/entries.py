"""Journal entries as the worker reads them: an entry is one script call, its items are decisions.

    v  the format            t  the moment, in microseconds            i  the items

An item is its kind and its fields, separated by NUL, as are the items; `lua/README.md` lists the
fields kind by kind. A number that is
no number, or a missing field, means that the entry was not written by these scripts: it is never
skipped, for the balances after it build on it. Metadata is left as it is and read by the ledger's
side, where an unreadable one is set aside without losing the amount.

Items and entries are not frozen: the worker makes one a decision, and a frozen one costs three times
as much to make. Nobody changes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from credits_fast.errors import IncompatibleFormatError
from credits_fast.protocol.keys import FORMAT
from credits_fast.protocol.refusals import Refusal

if TYPE_CHECKING:
    from credits_fast.types import HoldState, Kind

__all__ = [
    "NOTHING_YET",
    "Entry",
    "EntryId",
    "HoldFacts",
    "HoldItem",
    "HoldVerb",
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
    b"capture": "charge",
}
_HOLD_VERBS: Final[dict[bytes, HoldVerb]] = {
    b"reserve": "reserve",
    b"extend": "extend",
    b"release": "release",
    b"expire": "expire",
}
_HOLD_STATES: Final[dict[str, HoldState]] = {
    "reserved": "reserved",
    "captured": "captured",
    "released": "released",
    "expired": "expired",
}
_HOLD_FIELDS: Final = 8
_REFUSED: Final = b"refused"
_FIELDS: Final = {
    b"charge": 14,
    b"grant": 12,
    b"refund": 12,
    b"tier": 17,
    b"capture": 23,
    b"reserve": 21,
    b"extend": 18,
    b"release": 18,
    b"expire": 18,
    _REFUSED: 11,
}
"""Fields behind the kind: those of the transaction, of the kind, and of the tail."""


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
class HoldFacts:
    """What became of a hold; amounts in micro-credits.

    Attributes:
        hold_id: The hold.
        state: What it is afterwards.
        amount: What was reserved in all.
        reserved: What it still keeps.
        captured: What was charged of it so far.
        expires_ms: When it ends.
        change: By how much what it keeps has changed, signed.
        total: What all holds of the user keep afterwards.
        price: What a capture should have cost; 0 for every other kind.
    """

    hold_id: str
    state: HoldState
    amount: int
    reserved: int
    captured: int
    expires_ms: int
    change: int
    total: int
    price: int = 0


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
        hold: What a capture did to its hold, None for every other charge and kind.
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
    hold: HoldFacts | None = None


HoldVerb: TypeAlias = Literal["reserve", "extend", "release", "expire"]
"""What is done to a hold without changing the balance."""


@dataclass(slots=True)
class HoldItem:
    """A hold that was made, extended or given up: no change of the balance, and so without a sequence.

    Attributes:
        index: Its place in the entry, from 0.
        verb: What was done.
        operation_id: The operation's id; the hold's own where it was made or has expired.
        balance: The balance, which stays as it is; micro-credits.
        fingerprint: What a repeated key must match.
        ttl_ms: How long the key is remembered.
        audited: Whether the audit log gets its success.
        hold: What became of the hold.
        user_id: Whose hold it is.
        action: The caller's action.
        key: The idempotency key, "" where there was none.
        extra: JSON of the variables of a reservation's price.
        metadata: The caller's metadata as it came, b"" where there was none.
        tier: The tier whose price was reserved, "" for none.
        raw_cost: A formula's value before clamping and rounding, "" for a fixed price.
        formula: The formula's text, "" for a fixed price.
    """

    index: int
    verb: HoldVerb
    operation_id: str
    balance: int
    fingerprint: str
    ttl_ms: int
    audited: bool
    hold: HoldFacts
    user_id: str
    action: str
    key: str
    extra: str
    metadata: bytes
    tier: str = ""
    raw_cost: str = ""
    formula: str = ""


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


Item: TypeAlias = TransactionItem | HoldItem | RefusedItem


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
    if len(fields) < 4 or fields[0] != b"v" or fields[2] != b"t":  # noqa: PLR2004
        raise MalformedEntryError(f"entry {identity} has no version and time")
    if fields[1] != FORMAT.encode():
        found = fields[1].decode(errors="replace")
        what = f"journal entry {identity}"
        raise IncompatibleFormatError(what, found=found, expected=FORMAT, written_by="")
    try:
        _, _, _, time_us, name, items = fields
        if name != b"i":
            raise ValueError("it has no items")  # noqa: TRY301  # one way out for all of them
        return Entry(identity, int(time_us), tuple(_items(items)), tuple(fields))
    except (ValueError, KeyError) as error:
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


def _items(raw: bytes) -> Iterator[Item]:
    """The items of an entry: the kind of each says how many fields follow."""
    if not raw:  # the first entry of an epoch that was begun after a repair
        return
    fields = raw.split(b"\0")
    at, index = 0, 0
    while at < len(fields):
        kind = fields[at]
        count = _FIELDS.get(kind)
        if count is None:
            raise ValueError(f"unknown kind {kind.decode()!r:.40}")
        end = at + 1 + count
        if end > len(fields):
            raise ValueError(f"{len(fields) - at - 1} fields instead of {count}")
        words = b"\0".join(fields[at + 1 : end - 1]).decode().split("\0")
        yield _item(index, kind, words, fields[end - 1])
        at, index = end, index + 1


def _item(index: int, kind: bytes, words: list[str], metadata: bytes) -> Item:
    if kind in _KINDS:
        return _transaction(index, kind, words, metadata)
    if kind == _REFUSED:
        return _refused(index, words, metadata)
    return _held(index, _HOLD_VERBS[kind], words, metadata)


def _transaction(index: int, name: bytes, words: list[str], metadata: bytes) -> TransactionItem:
    transaction_id, sequence, delta, after, fingerprint, ttl_ms, audited, *head = words
    *head, user, action, key, extra = head
    kind, hold = _KINDS[name], None
    if name == b"capture":
        hold = _hold_facts(head)
        hold.price = int(head[_HOLD_FIELDS])
        head = head[_HOLD_FIELDS + 1 :]
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
        hold,
    )


def _held(index: int, verb: HoldVerb, words: list[str], metadata: bytes) -> HoldItem:
    operation_id, balance, fingerprint, ttl_ms, audited, *head = words
    *head, user, action, key, extra = head
    tier, raw_cost, formula = head[_HOLD_FIELDS:] if verb == "reserve" else ("", "", "")
    return HoldItem(
        index,
        verb,
        operation_id,
        int(balance),
        fingerprint,
        int(ttl_ms),
        audited != "0",
        _hold_facts(head),
        user,
        action,
        key,
        extra,
        metadata,
        tier,
        raw_cost,
        formula,
    )


def _hold_facts(head: Sequence[str]) -> HoldFacts:
    hold_id, state, *numbers = head[:_HOLD_FIELDS]
    return HoldFacts(hold_id, _HOLD_STATES[state], *map(int, numbers))


def _tier_facts(head: Sequence[str]) -> TierFacts:
    verb, old_tier, new_tier, expires, expiry = head
    return TierFacts(verb, old_tier, new_tier, int(expires) if expires else None, expiry)


def _refused(index: int, words: list[str], metadata: bytes) -> RefusedItem:
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
