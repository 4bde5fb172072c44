"""Entries of a history the ledger does not have, on top of what the ledger has. Pure.

A transaction is known by its id. What was done to a hold has none of its own: it is held against what
the ledger knows of the hold. One the ledger lacks is made; one that is open there is extended, captured,
released or has expired; one that is finished stays as it is. What a hold was given in all, and when it
ends, only ever grow, so an extension that the ledger has already is known by them. Money counts more than
holds: a capture whose hold is not open any more is a charge all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from credits_fast.amounts import json_number
from credits_fast.json_text import JsonText, merged
from credits_fast.protocol.entries import Entry, EntryId, HoldFacts, HoldItem, Item, TransactionItem
from credits_fast.sync.rows import ChainBrokenError

__all__ = ["Known", "KnownAccount", "adopted", "hold_ids", "missing", "transactions_of"]


@dataclass(slots=True)
class KnownAccount:
    """A user as the ledger has it, and as adopted entries move it; amounts in micro-credits."""

    balance: int
    sequence: int
    reserved: int


@dataclass(slots=True)
class Known:
    """What the ledger knows of the users and holds of some entries; adopted entries move it.

    Attributes:
        accounts: The users, by their ids.
        holds: The holds, by their ids.
    """

    accounts: dict[str, KnownAccount] = field(default_factory=dict[str, KnownAccount])
    holds: dict[str, HoldFacts] = field(default_factory=dict[str, HoldFacts])


def transactions_of(entries: Iterable[Entry]) -> Iterator[TransactionItem]:
    """The transactions of entries."""
    return (item for entry in entries for item in entry.items if isinstance(item, TransactionItem))


def hold_ids(entries: Iterable[Entry]) -> set[str]:
    """The holds that entries are about."""
    items = (item for entry in entries for item in entry.items)
    return {
        item.hold.hold_id
        for item in items
        if isinstance(item, TransactionItem | HoldItem) and item.hold is not None
    }


def missing(
    page: Sequence[Entry], recorded: Mapping[str, EntryId], position: EntryId
) -> list[Entry]:
    """Of these entries, what the ledger may lack; of what is done to holds `adopted` decides.

    Refusals have no id. Those beside a transaction that is recorded are recorded, and those of an entry
    up to the position as well.
    """
    found: list[Entry] = []
    for entry in page:
        ours = [*transactions_of([entry])]
        is_recorded = any(item.transaction_id in recorded for item in ours)
        is_before = not ours and entry.id <= position
        items: list[Item] = []
        for item in entry.items:
            if isinstance(item, TransactionItem):
                lacks = item.transaction_id not in recorded
            else:
                lacks = isinstance(item, HoldItem) or not (is_recorded or is_before)
            if lacks:
                items.append(item)
        if items:
            found.append(Entry(entry.id, entry.time_us, tuple(items), entry.fields))
    return found


def adopted(entry: Entry, name: EntryId, known: Known) -> Entry | None:
    """The entry under its new name, on top of what is known; None where nothing of it is new.

    Raises:
        ChainBrokenError: The ledger does not know a user.
    """
    items: list[Item] = []
    for item in entry.items:
        moved: Item | None = item
        if isinstance(item, TransactionItem):
            moved = _transaction(item, entry.id, known)
        elif isinstance(item, HoldItem):
            moved = _hold(item, entry.id, known)
        if moved is not None:
            items.append(moved)
    return Entry(name, entry.time_us, tuple(items), entry.fields) if items else None


def _transaction(item: TransactionItem, entry_id: EntryId, known: Known) -> TransactionItem:
    account = _account(item.user_id, entry_id, known)
    account.balance += item.delta
    account.sequence += 1
    return replace(
        item,
        sequence=account.sequence,
        balance_after=account.balance,
        metadata=_with_origin(item, entry_id),
        hold=None if item.hold is None else _captured(item, item.hold, account, known),
    )


def _captured(
    item: TransactionItem, hold: HoldFacts, account: KnownAccount, known: Known
) -> HoldFacts | None:
    """What the capture does to the hold that the ledger has, None where that is not open."""
    there = known.holds.get(hold.hold_id)
    if there is None or there.state != "reserved":
        return None
    taken = there.reserved if hold.state == "captured" else min(there.reserved, -hold.change)
    moved = replace(there, state=hold.state, captured=there.captured - item.delta, price=hold.price)
    return _moved(moved, -taken, account, known)


def _hold(item: HoldItem, entry_id: EntryId, known: Known) -> HoldItem | None:
    """What is done to a hold, None where the ledger has it already."""
    account = _account(item.user_id, entry_id, known)
    there = known.holds.get(item.hold.hold_id)
    if item.verb == "reserve":
        if there is not None:
            return None
        facts = _moved(replace(item.hold, reserved=0), item.hold.amount, account, known)
    else:
        if there is None or there.state != "reserved":
            return None
        if item.verb == "extend":
            return _extended(item, there, account, known)
        facts = _moved(replace(there, state=item.hold.state), -there.reserved, account, known)
    return replace(item, balance=account.balance, hold=facts)


def _extended(
    item: HoldItem, there: HoldFacts, account: KnownAccount, known: Known
) -> HoldItem | None:
    """What an extension adds to the hold, None where the ledger's has had as much, for as long."""
    amount = max(there.amount, item.hold.amount)
    expires_ms = max(there.expires_ms, item.hold.expires_ms)
    if (amount, expires_ms) == (there.amount, there.expires_ms):
        return None
    moved = replace(there, amount=amount, expires_ms=expires_ms)
    facts = _moved(moved, amount - there.amount, account, known)
    return replace(item, balance=account.balance, hold=facts)


def _moved(hold: HoldFacts, change: int, account: KnownAccount, known: Known) -> HoldFacts:
    """The hold with so much more kept, or less."""
    account.reserved += change
    moved = replace(hold, reserved=hold.reserved + change, change=change, total=account.reserved)
    known.holds[hold.hold_id] = moved
    return moved


def _account(user_id: str, entry_id: EntryId, known: Known) -> KnownAccount:
    if user_id not in known.accounts:
        raise ChainBrokenError(f"user {user_id!r} of entry {entry_id} is not in the ledger")
    return known.accounts[user_id]


def _with_origin(item: TransactionItem, entry_id: EntryId) -> bytes:
    """The metadata with what the caller was told: sequence and balance of the other history."""
    hold = f',"hold":"{item.hold.hold_id}"' if item.hold is not None else ""
    told = (
        f'{{"adoptedFrom":{{"entry":"{entry_id}","sequence":{item.sequence}'
        f',"balanceAfter":{json_number(item.balance_after)}{hold}}}}}'
    )
    try:
        return merged(item.metadata.decode(), JsonText(told)).encode()
    except ValueError:
        return item.metadata  # unreadable as it was; it is set aside like any other
