"""What the scripts do with the data of one server: pure, whole or not at all.

Each answers as the Lua script of its name does, with the data as it is afterwards. Those of a repair are
planned; the others stand in `lua/`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.model.state import BEGINNING, Account, Data, Entry, Meta, Row, Transaction

if TYPE_CHECKING:
    from tests.model.design import Design
    from tests.model.state import Identity, Ledger, Loading, Server

__all__ = [
    "apply",
    "charge",
    "close",
    "evict",
    "expire",
    "finish",
    "head",
    "holds",
    "identity",
    "is_open",
    "load",
    "open_",
    "record_of",
    "refund",
    "remember",
    "same",
    "trim",
]


_GENERATIONS: Final = 100
"""Evictions at one moment at most."""


def identity(design: Design, server: Server) -> Identity:
    """What a script compares with the partition's meta."""
    if design.identity == "promotion":
        return server.process, server.promotion
    return (server.process if design.identity == "process" else 0), 0


def is_open(design: Design, server: Server) -> bool:
    """The gate of every script."""
    meta = server.data.meta
    if meta is None:
        return False
    if not design.admission_fence:
        return True
    if meta.opened_for is None:
        return False
    return design.identity == "hidden" or meta.opened_for == identity(design, server)


def same(design: Design, one: Entry, other: Entry) -> bool:
    """Whether two entries under one id are taken to be the same."""
    return one == other if design.whole_stamp else one.transaction == other.transaction


def holds(design: Design, data: Data, position: Entry | None) -> bool:
    """Whether a journal holds what the ledger has recorded last."""
    if position is None:
        return True
    return any(entry.id == position.id and same(design, entry, position) for entry in data.journal)


def record_of(transaction: Transaction) -> Transaction:
    """The name of an operation's record: the caller's key, whichever id it came under."""
    return transaction if transaction.kind == "reversal" else transaction._replace(number=0)


def charge(
    design: Design, server: Server, transaction: Transaction, moment: int
) -> tuple[str, Data]:
    """`charge`: one credit."""
    data = server.data
    if not is_open(design, server):
        return "closed", data
    if record_of(transaction) in data.records:
        return "replayed", data
    if data.account is None:
        return "cold", data
    if data.account.balance < 1:
        return "insufficient", data
    return "ok", _booked(data, transaction, -1, moment)


def refund(
    design: Design, server: Server, transaction: Transaction, delta: int, moment: int
) -> tuple[str, Data]:
    """The compensating transaction of a late duplicate, under an id made of what it reverses."""
    data = server.data
    if not is_open(design, server):
        return "closed", data
    if transaction in data.records:
        return "replayed", data
    if data.account is None:
        return "cold", data
    return "ok", _booked(data, transaction, delta, moment)


def _booked(data: Data, transaction: Transaction, delta: int, moment: int) -> Data:
    """Journal, balance and record: what every script that changes a balance writes."""
    meta, journal, account, records = data
    assert meta is not None
    assert account is not None
    top = journal[-1].id if journal else BEGINNING
    number = top[1] + 1 if top[0] == meta.epoch else 1
    balance, sequence = account.balance + delta, account.sequence + 1
    entry = Entry((meta.epoch, number), transaction, delta, sequence, balance, moment)
    return Data(
        meta,
        (*journal, entry),
        Account(balance, sequence, entry.id),
        records | {record_of(transaction)},
    )


def load(design: Design, server: Server, loading: Loading) -> Data:
    """`load`: the account as the ledger had it."""
    data = server.data
    if not is_open(design, server) or data.meta is None:
        return data
    if design.load_generation and data.meta.generation != loading.generation:
        return data
    if data.account is not None and design.load_once:
        return data
    return data._replace(account=Account(loading.balance, loading.sequence, BEGINNING))


def open_(data: Data, opened_for: Identity, epoch: int, *, create: bool) -> Data:
    """`open`: admit the partition; nothing where it is gone or of another epoch."""
    if data.meta is None:
        if not create or data.journal:
            return data
        return data._replace(meta=Meta(opened_for, epoch, 0, BEGINNING))
    if data.meta.epoch != epoch:
        return data
    return data._replace(meta=data.meta._replace(opened_for=opened_for))


def trim(design: Design, server: Server, last: Entry) -> tuple[bool, Data]:
    """`trim`: whether it was done; what is older than the recorded entry is dropped."""
    data = server.data
    if not is_open(design, server) or data.meta is None:
        return False, data
    if design.conditional_trim and last not in data.journal:
        return False, data
    kept = tuple(entry for entry in data.journal if entry.id >= last.id)
    return True, data._replace(journal=kept, meta=data.meta._replace(synced=last.id))


def evict(design: Design, server: Server, moment: int) -> Data:
    """Drop the idle account; what the ledger does not have of it yet forbids that."""
    data = server.data
    if not is_open(design, server) or data.meta is None or data.account is None:
        return data
    if design.evict_recorded and data.account.last > data.meta.synced:
        return data
    generation = data.meta.generation + 1
    if design.generation_is_new:
        generation = max(generation, _GENERATIONS * moment)
    return data._replace(account=None, meta=data.meta._replace(generation=generation))


def expire(data: Data, record: Transaction) -> Data:
    """The record of a finished operation is gone, while the ledger still has it."""
    return data._replace(records=data.records - {record})


def close(data: Data, epoch: int, *, closes: bool) -> Data | None:
    """Begin a repair: from here on nothing is charged; None where a later one was here."""
    if data.meta is None:
        return data._replace(meta=Meta(None, epoch, 0, BEGINNING))
    if data.meta.epoch >= epoch:
        return None
    opened_for = None if closes else data.meta.opened_for
    return data._replace(meta=data.meta._replace(opened_for=opened_for, epoch=epoch))


def apply(data: Data, ledger: Ledger) -> Data:
    """The account as the ledger has it."""
    return data._replace(account=Account(ledger.balance, ledger.sequence, BEGINNING))


def remember(data: Data, rows: tuple[Row, ...]) -> Data:
    """The records of what the ledger has."""
    return data._replace(records=data.records | {record_of(row.transaction) for row in rows})


def head(epoch: int) -> Entry:
    """The first entry of an epoch that begins with a repair: known before it is written."""
    return Entry((epoch, 0), None, 0, 0, 0, 0)


def finish(data: Data, opened_for: Identity, epoch: int) -> Data:
    """End a repair: the epoch begins with its head, and the partition is open."""
    assert data.meta is not None
    first = head(epoch)
    older = tuple(entry for entry in data.journal if entry.id < first.id)
    meta = Meta(opened_for, epoch, data.meta.generation, first.id)
    return data._replace(meta=meta, journal=(*older, first))
