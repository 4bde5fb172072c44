"""What leads a user from where the ledger has them to where Redis has them, as items of an entry. Pure.

Used where an operator has decided that Redis is right: what happened in between nobody has, so the sum of
it is one transaction of the action `recovered-gap`, and holds are made, moved or released.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from credits_fast.amounts import json_number
from credits_fast.protocol.entries import (
    HoldFacts,
    HoldItem,
    HoldVerb,
    Item,
    TierFacts,
    TransactionItem,
)

if TYPE_CHECKING:
    from credits_fast.protocol.hold_wire import OpenHold
    from credits_fast.protocol.wire import HeldAccount
    from credits_fast.sync.adoption import KnownAccount

__all__ = ["RECOVERED", "InLedger", "numbered", "settlement"]

RECOVERED: Final = "recovered-gap"
"""The action of what a recovery writes."""
_NO_FINGERPRINT: Final = "-"


@dataclass(slots=True)
class InLedger:
    """A user as the ledger has them.

    Attributes:
        account: Balance, sequence and what is reserved, in micro-credits.
        tier: The stored tier, None for none.
        expires_ms: When the membership ends, None where it does not.
        holds: The open holds, by their ids.
        finished: The ids of others that Redis has open, and that are finished there.
    """

    account: KnownAccount
    tier: str | None
    expires_ms: int | None
    holds: Mapping[str, HoldFacts]
    finished: frozenset[str] = frozenset()


def settlement(
    user_id: str,
    redis: HeldAccount,
    open_holds: Mapping[str, OpenHold],
    ledger: InLedger,
    name: str,
) -> list[Item]:
    """The items, none where both agree; their places in the entry are given by `numbered`.

    Args:
        user_id: The user.
        redis: The account as Redis has it.
        open_holds: The open holds as Redis has them, by their ids.
        ledger: The user as the ledger has them.
        name: The id of the transaction, if there is one.
    """
    items: list[Item] = [*_holds(user_id, redis.balance, open_holds, ledger)]
    transaction = _transaction(user_id, redis, ledger, name)
    return items if transaction is None else [*items, transaction]


def numbered(items: Iterable[Item]) -> tuple[Item, ...]:
    """The items of an entry, each with its place."""
    return tuple(replace(item, index=index) for index, item in enumerate(items))


def _transaction(
    user_id: str, redis: HeldAccount, ledger: InLedger, name: str
) -> TransactionItem | None:
    delta = redis.balance - ledger.account.balance
    tier = _tier(redis, ledger)
    if not delta and tier is None:
        return None
    told = f'{{"sequence":{redis.sequence},"balance":{json_number(redis.balance)}}}'
    return TransactionItem(
        index=0,
        kind="tier" if tier is not None else "grant" if delta > 0 else "charge",
        transaction_id=name,
        sequence=ledger.account.sequence + 1,
        delta=delta,
        balance_after=redis.balance,
        fingerprint=_NO_FINGERPRINT,
        ttl_ms=0,
        audited=True,
        user_id=user_id,
        action=RECOVERED,
        key="",
        extra="",
        metadata=f'{{"recoveredGap":{told}}}'.encode(),
        tier=tier,
    )


def _tier(redis: HeldAccount, ledger: InLedger) -> TierFacts | None:
    """The membership that Redis has, None where the ledger has the same, or Redis has none."""
    if redis.tier is None or (redis.tier, redis.expires_ms) == (ledger.tier, ledger.expires_ms):
        return None
    expiry = "clear" if redis.expires_ms is None else str(redis.expires_ms)
    return TierFacts("upgradeTier", ledger.tier or "", redis.tier, redis.expires_ms, expiry)


def _holds(
    user_id: str, balance: int, open_holds: Mapping[str, OpenHold], ledger: InLedger
) -> Sequence[HoldItem]:
    """What becomes of holds: released where Redis has none, moved or made as it has them."""
    items: list[HoldItem] = []
    total = ledger.account.reserved

    def move(verb: HoldVerb, facts: HoldFacts, tier: str, *, audited: bool) -> None:
        nonlocal total
        total += facts.change
        items.append(
            HoldItem(
                index=0,
                verb=verb,
                operation_id=facts.hold_id,
                balance=balance,
                fingerprint=_NO_FINGERPRINT,
                ttl_ms=0,
                audited=audited,
                hold=replace(facts, total=total),
                user_id=user_id,
                action=RECOVERED,
                key="",
                extra="",
                metadata=b"",
                tier=tier,
            )
        )

    for hold_id, there in ledger.holds.items():
        if hold_id not in open_holds:
            gone = replace(there, state="released", reserved=0, change=-there.reserved)
            move("release", gone, "", audited=True)
    for hold_id, one in open_holds.items():
        if hold_id in ledger.finished:
            continue  # a finished hold is never opened again; what it kept is available
        known = ledger.holds.get(hold_id)
        if known is None:
            move("reserve", _made(one), one.tier, audited=one.audited)
        elif _size(known) != (one.amount, one.reserved, one.expires_ms):
            change = one.reserved - known.reserved
            facts = replace(_made(one), captured=known.captured, change=change)
            move("extend", facts, one.tier, audited=one.audited)
    return items


def _size(hold: HoldFacts) -> tuple[int, int, int]:
    return hold.amount, hold.reserved, hold.expires_ms


def _made(one: OpenHold) -> HoldFacts:
    return HoldFacts(
        hold_id=one.hold_id,
        state="reserved",
        amount=one.amount,
        reserved=one.reserved,
        captured=one.captured,
        expires_ms=one.expires_ms,
        change=one.reserved,
        total=0,
    )
