"""Values to script arguments, and replies to values or errors. Pure: bytes in, values out.

A tail is the part of a journal item that the caller knows and the script only passes on:
user, action, key, extra and metadata, separated by NUL. `lua/README.md` shows the whole item.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import chain, groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Final, NamedTuple

from credits_fast.amounts import to_credits
from credits_fast.errors import (
    BackPressureError,
    CreditsError,
    IncompatibleFormatError,
    PartitionFencedError,
)
from credits_fast.named_tuples import new
from credits_fast.prices.pricing import UNPRICED
from credits_fast.protocol.keys import FORMAT
from credits_fast.protocol.refusals import Refusal, error_for
from credits_fast.resp import bulk, bulks
from credits_fast.types import ChargeResult, GrantResult, RefundResult, TierChangeResult

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

    from credits_fast.prices.pricing import Quote
    from credits_fast.protocol.keys import PartitionKeys

__all__ = [
    "AUDIT_ALL",
    "AUDIT_NONE",
    "AUDIT_SUCCESS",
    "COLD",
    "COLD_CHARGE",
    "DONE",
    "OK",
    "OVERDUE",
    "UNKNOWN_HOLD",
    "Call",
    "HeldAccount",
    "Operation",
    "Terms",
    "TierChange",
    "Verdict",
    "charge_call",
    "charged",
    "closed",
    "epoch_of",
    "from_ms",
    "grant_call",
    "granted",
    "held",
    "iso",
    "outcome",
    "price",
    "record",
    "refund_call",
    "refunded",
    "request",
    "run_of",
    "tier_call",
    "tier_changed",
    "to_ms",
]

AUDIT_NONE: Final = b"0"
AUDIT_SUCCESS: Final = b"1"
AUDIT_ALL: Final = b"2"
"""What of an operation the audit log gets: nothing, its success, its success or its refusal."""

OK: Final = b"ok\0"
"""How the reply to an operation begins that has taken effect now."""
DONE: Final = (OK, b"replayed\0")
"""How the reply to an operation begins that has taken effect, now or before."""
COLD: Final = b"cold"
"""The reply for an account that Redis does not know: it has to be loaded from the ledger."""
COLD_CHARGE: Final = b"cold_charge"
"""The reply for a refund whose charge Redis does not know."""
OVERDUE: Final = b"overdue"
"""The reply where credits are wanting that a hold keeps whose time may be over."""
UNKNOWN_HOLD: Final = b"unknown_hold"
"""The reply for a hold that is not open: the ledger knows what became of it."""

_MILLISECOND: Final = 1_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_OF_HOLDS: Final = frozenset({"reserve", "extend", "capture", "release"})
"""The verbs that have the key of the partition's holds besides the two that every verb has."""
_KEYS_OF_PARTITION: Final = 2
_ARGUMENTS_OF_CALL: Final = 3
_ARGUMENTS_OF_ITEM: Final = 3
_COMMON_TERMS: Final = 4
_TERMS_KEPT: Final = 1_024
_PRICES_KEPT: Final = 1_024
_partition_of: Final = itemgetter(1)
_MOMENTS_KEPT: Final = 64


class Terms(NamedTuple):
    """What many items of a script call may have in common, ready to travel.

    Attributes:
        size: How many arguments they are.
        packed: The arguments, packed.
    """

    size: int
    packed: bytes


class HeldAccount(NamedTuple):
    """An account as Redis holds it; amounts in micro-credits.

    One of an earlier epoch than its partition's is of a history that was lost.

    Attributes:
        lapses_ms: The moment up to which no hold has expired, None where none is open.
        open_holds: How many holds are open.
    """

    epoch: int
    balance: int
    reserved: int
    sequence: int
    expires_ms: int | None
    tier: str | None
    lapses_ms: int | None = None
    open_holds: int = 0


class Call(NamedTuple):
    """One item for a script, as it travels.

    Attributes:
        script: The verb.
        partition: The partition all its keys belong to.
        account: The account's key, packed.
        record: The record's key, packed; b"" where the operation is not remembered.
        own_key: The verb's own key, packed; b"" where it has none.
        head: Its transaction id and tail, packed.
        terms: Its other arguments in the order of the script's header.
        operation_id: Under which the operation is remembered; the same in every attempt.
        argument: The verb's own argument for each item, packed; b"" where it has none.
    """

    script: str
    partition: PartitionKeys
    account: bytes
    record: bytes
    own_key: bytes
    head: bytes
    terms: Terms
    operation_id: str
    argument: bytes = b""


class Operation(NamedTuple):
    """What every changing operation has in common, checked and encoded.

    Attributes:
        partition: The user's partition.
        user: The user's id.
        action: The caller's action, or the fixed name of a change of tier.
        key: The idempotency key, b"" where there is none.
        operation_id: The id of the transaction, if there will be one.
        fingerprint: What a repeated key must match.
        ttl_ms: How long the operation is remembered.
        life_ms: How long its record stays in Redis: a little longer than that, for clocks that differ
            after a failover; the record itself says when it ends.
        audited: `AUDIT_NONE`, `AUDIT_SUCCESS` or `AUDIT_ALL`.
        metadata: The caller's metadata as JSON, b"" where there is none.
    """

    partition: PartitionKeys
    user: bytes
    action: bytes
    key: bytes
    operation_id: str
    fingerprint: bytes
    ttl_ms: int
    life_ms: int
    audited: bytes
    metadata: bytes

    @property
    def user_id(self) -> str:
        """The user's id as text."""
        return self.user.decode()

    @property
    def record_key(self) -> bytes:
        """Where the operation is remembered: under the caller's key, else under its own id."""
        identity = b"key:" + self.key if self.key else b"id:" + self.operation_id.encode()
        return self.partition.record(self.user, identity)

    def tail(self, extra: bytes = b"") -> bytes:
        """The caller's part of a journal item."""
        return b"\0".join((self.user, self.action, self.key, extra, self.metadata))

    def call(
        self,
        script: str,
        own: tuple[int, bytes],
        *,
        extra: bytes = b"",
        own_key: bytes = b"",
        argument: bytes = b"",
        is_remembered: bool = True,
    ) -> Call:
        """The operation as an item for a script.

        Args:
            script: The verb.
            own: The verb's own terms: how many arguments, and the arguments, packed.
            extra: The verb's own part of the tail.
            own_key: The verb's own key, b"" where it has none.
            argument: The verb's own argument for each item, b"" where it has none.
            is_remembered: Whether it has a record against being repeated.
        """
        partition, user, action, key, operation_id, fingerprint, ttl_ms, life_ms, audited, more = (
            self
        )
        name, accounts = operation_id.encode(), partition.accounts
        tail = b"\0".join((user, action, key, extra, more))
        record = b""
        if is_remembered:
            record = bulk(partition.record(user, b"key:" + key if key else b"id:" + name))
        size, packed = own
        return new(
            Call,
            (
                script,
                partition,
                b"$%d\r\n%b%b\r\n" % (len(accounts) + len(user), accounts, user),
                record,
                bulk(own_key) if own_key else b"",
                b"$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(name), name, len(tail), tail),
                _terms(fingerprint, ttl_ms, life_ms if is_remembered else 0, audited, size, packed),
                operation_id,
                bulk(argument) if argument else b"",
            ),
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a change of tier is let through from one tier.

    Attributes:
        tier: The tier it comes from, b"" for none and for any that is not listed.
        reason: b"" lets it through; else why it is refused.
        cap: The credits of the tier after the change, in micro-credits.
    """

    tier: bytes
    reason: bytes
    cap: int


@dataclass(frozen=True, slots=True)
class TierChange:
    """A change of tier as it travels.

    Attributes:
        verb: The operation in the audit log: `upgradeTier`, `downgradeTier`, `renewMembership`.
        target: The new tier, b"" to keep the stored one.
        judged_by: b"effective" or b"stored".
        policy: What happens to credits: b"set_to_cap", b"keep" or b"raise_to_cap".
        expiry: b"keep", b"clear" or milliseconds.
        verdicts: One for each tier that matters, the one for all others last.
        extra: b"1" or b"0", whether a downgrade clears the expiry; b"" otherwise.
    """

    verb: bytes
    target: bytes
    judged_by: bytes
    policy: bytes
    expiry: bytes
    verdicts: tuple[Verdict, ...]
    extra: bytes = b""


# --- calls ---------------------------------------------------------------------------------------


def charge_call(operation: Operation, quote: Quote) -> Call:
    """A charge: the price for every tier, and the script picks."""
    return operation.call("charge", quote.packed, extra=quote.variables)


def grant_call(operation: Operation, micros: int) -> Call:
    """A grant of so many micro-credits."""
    return operation.call("grant", (1, bulk(b"%d" % micros)))


def refund_call(operation: Operation, micros: int, related: bytes, *, bounded: bool) -> Call:
    """A refund of so many micro-credits, of a charge where `related` names one."""
    return operation.call(
        "refund",
        (3, bulks((b"%d" % micros, related, b"1" if bounded else b"0"))),
        extra=related,
        own_key=operation.partition.refunded(related),
    )


def tier_call(operation: Operation, change: TierChange) -> Call:
    """A change, or a renewal, of a membership."""
    arguments = [
        change.verb,
        change.target,
        change.target,
        change.judged_by,
        change.policy,
        change.expiry,
        b"%d" % len(change.verdicts),
    ]
    for verdict in change.verdicts:
        arguments += (verdict.tier, verdict.reason, b"%d" % verdict.cap)
    return operation.call("set_tier", (len(arguments), bulks(arguments)), extra=change.extra)


def request(
    sha: bytes, calls: Sequence[Call], now_us: bytes = b"", journal_max: bytes = b""
) -> bytes:
    """One call of a script with these items, all of one verb, packed.

    The items of a partition must stand together. Items with equal terms name the same ones, which
    travel once.

    Args:
        sha: The script's SHA-1, by which the server finds it.
        calls: The items, at least one.
        now_us: Microseconds since 1970, b"" for the server's own time.
        journal_max: Entries a journal may have before charges and grants are refused, b"" for any
            number.
    """
    partitions, counts = _sections(calls)
    _, _, accounts, records, own_keys, heads, terms, _, arguments = zip(*calls, strict=True)
    remembered, own = [*filter(None, records)], [*filter(None, own_keys)]
    holds = [one.holds for one in partitions] if calls[0].script in _OF_HOLDS else []
    key_count = _KEYS_OF_PARTITION * len(counts) + len(holds)
    key_count += len(calls) + len(remembered) + len(own)
    of_item = _ARGUMENTS_OF_ITEM + bool(calls[0].argument)
    place = _ARGUMENTS_OF_CALL + len(counts) + of_item * len(calls) + 1
    places: dict[Terms, bytes] = {}
    for one in dict.fromkeys(terms):
        places[one] = bulk(b"%d" % place)
        place += one.size
    return b"".join(
        (
            b"*%d\r\n" % (3 + key_count + place - 1),
            bulks((b"EVALSHA", sha, b"%d" % key_count)),
            bulks([partition.journal for partition in partitions]),
            bulks([partition.gate for partition in partitions]),
            *accounts,
            *remembered,
            *own,
            bulks(holds),
            bulks((now_us, b"%d" % len(counts), journal_max)),
            bulks([b"%d" % count for count in counts]),
            *chain.from_iterable(
                zip(heads, map(places.__getitem__, terms), arguments, strict=True)
            ),
            *[one.packed for one in places],
        ),
    )


def _sections(calls: Sequence[Call]) -> tuple[list[PartitionKeys], list[int]]:
    """The partitions of the calls, and how many calls each has."""
    sections = [(partition, len([*those])) for partition, those in groupby(calls, _partition_of)]
    return [partition for partition, _ in sections], [count for _, count in sections]


@lru_cache(maxsize=_TERMS_KEPT)
def _terms(  # noqa: PLR0917  # keyword arguments would make the lookup half as fast
    fingerprint: bytes, ttl_ms: int, life_ms: int, audited: bytes, own: int, packed: bytes
) -> Terms:
    """The terms of every verb, and those of one."""
    common = bulks((fingerprint, b"%d" % ttl_ms, b"%d" % life_ms, audited))
    return Terms(_COMMON_TERMS + own, common + packed)


# --- replies -------------------------------------------------------------------------------------


def charged(reply: bytes, operation: Operation, quote: Quote) -> ChargeResult:
    """The result of a charge.

    Raises:
        CreditsError: The refusal the script decided.
    """
    transaction_id, replayed = operation.operation_id, False
    if reply.startswith(OK):  # nearly every one
        _, cost, after = reply.split(b"\0")
    else:
        transaction_id, replayed, (cost, after) = outcome(reply, operation, quote)
    taken, left = int(cost), int(after)
    before = to_credits(left + taken)
    return new(
        ChargeResult, (transaction_id, price(taken), before, to_credits(left), replayed, "memory")
    )


def granted(reply: bytes, operation: Operation, micros: int) -> GrantResult:
    """The result of a grant.

    Raises:
        CreditsError: The refusal the script decided.
    """
    return GrantResult(*_added(reply, operation, micros, b""))


def refunded(reply: bytes, operation: Operation, micros: int, related: bytes) -> RefundResult:
    """The result of a refund.

    Raises:
        CreditsError: The refusal the script decided.
    """
    return RefundResult(*_added(reply, operation, micros, related))


def tier_changed(reply: bytes, operation: Operation, change: TierChange) -> TierChangeResult:
    """The result of a change of tier.

    Raises:
        CreditsError: The refusal the script decided.
    """
    transaction_id, replayed, (old, new, before, after, expires) = outcome(
        reply, operation, subject=change.target
    )
    return TierChangeResult(
        transaction_id,
        old.decode() or None,
        new.decode(),
        to_credits(int(before)),
        to_credits(int(after)),
        to_credits(int(after) - int(before)),
        from_ms(int(expires)) if expires else None,
        replayed,
    )


def held(account: bytes) -> HeldAccount:
    """An account as Redis holds it, read."""
    entry, balance, reserved, sequence, expires, tier = account.decode().split(" ", 5)
    amount, lapses, open_holds = (*reserved.split("/"), "", "")[:3]
    return HeldAccount(
        int(entry.partition("-")[0]),
        int(balance),
        int(amount),
        int(sequence),
        int(expires) if expires else None,
        tier or None,
        int(lapses) if lapses else None,
        int(open_holds or 0),
    )


def epoch_of(gate: bytes) -> int:
    """The epoch of a partition, as its gate says."""
    return int(gate.split(b" ", 3)[2])


def run_of(gate: bytes) -> str:
    """The identity of the server process a partition is open on, as its gate says."""
    return gate.split(b" ", 3)[1].decode()


def closed(status: bytes, fields: Sequence[bytes], partition: int) -> CreditsError | None:
    """The error of a partition that is not open or has no room, None for any other status."""
    if status == b"fenced":
        return PartitionFencedError(partition, "the server has changed since it was opened")
    if status == b"unopened":
        return PartitionFencedError(partition, "Redis does not know it")
    if status == b"back_pressure":
        return BackPressureError(partition, "memory" if fields[0] == b"0" else "journal")
    if status == b"incompatible":
        return IncompatibleFormatError(
            f"partition {partition}",
            found=fields[0].decode(errors="replace"),
            expected=FORMAT,
            written_by=fields[1].decode(errors="replace"),
        )
    return None


def to_ms(moment: datetime) -> int:
    """Milliseconds since 1970."""
    return round(moment.timestamp() * _MILLISECOND)


@lru_cache(maxsize=_MOMENTS_KEPT)  # the holds of one script call often end in the same millisecond
def from_ms(milliseconds: int) -> datetime:
    """The moment so many milliseconds after 1970, in UTC; exact."""
    return _EPOCH + timedelta(milliseconds=milliseconds)


def iso(moment: datetime) -> str:
    """The moment as metadata shows it: ISO 8601 in UTC with milliseconds, as the reference does."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def record(operation: Operation, now: datetime) -> bytes:
    """What Redis remembers of an operation without a result of its own."""
    expires = b"%d" % (to_ms(now) + operation.ttl_ms)
    return b"\0".join((operation.fingerprint, operation.operation_id.encode(), expires, b""))


def _added(
    reply: bytes,
    operation: Operation,
    micros: int,
    related: bytes,
) -> tuple[str, Decimal, Decimal, Decimal, bool]:
    transaction_id, replayed, (amount, after) = outcome(
        reply, operation, subject=b"%d" % micros, related=related
    )
    added, now = int(amount), int(after)
    return transaction_id, to_credits(added), to_credits(now - added), to_credits(now), replayed


def outcome(
    reply: bytes,
    operation: Operation,
    quote: Quote | None = None,
    *,
    subject: bytes = b"",
    related: bytes = b"",
) -> tuple[str, bool, list[bytes]]:
    """What a reply says: the transaction id, whether it is a replay, and the other fields.

    Args:
        reply: The script's.
        operation: What the call carries out.
        quote: The price it carries, None where it has none.
        subject: What a refusal says of the request.
        related: The charge a refund names.

    Raises:
        CreditsError: The refusal the script decided.
    """
    status, *fields = reply.split(b"\0")
    if status == b"ok":
        return operation.operation_id, False, fields
    if status == b"replayed":
        return fields[0].decode(), True, fields[1:]
    if status == b"unpriced" and quote is not None:
        raise _price_error(quote, fields)
    error = closed(status, fields, operation.partition.number)
    if error is not None:
        raise error
    one, two, three = (field.decode() for field in fields)
    raise error_for(
        Refusal(
            code=status.decode(),
            user_id=operation.user_id,
            key=operation.key.decode(),
            subject=subject.decode(),
            related=related.decode(),
            details=(one, two, three),
        ),
    )


price: Final = lru_cache(maxsize=_PRICES_KEPT)(to_credits)
"""An amount that many charges have in common, as credits."""


def _price_error(quote: Quote, fields: Sequence[bytes]) -> CreditsError:
    """The very error the quote carries, so that the caller gets all its attributes."""
    for option in quote.options:
        if option.cost == UNPRICED and [option.raw_cost, option.formula] == [*fields[:2]]:
            return copy(option.error)  # type: ignore[return-value]  # an unpriced option has one
    raise AssertionError("unreachable: the script answers with an option of the quote")
