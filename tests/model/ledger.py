"""What one commit does to the ledger: everything of a batch, or nothing, and why nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from tests.model.scripts import head
from tests.model.state import Row, Transaction

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.model.design import Design
    from tests.model.state import Batch, Entry, Ledger

__all__ = ["begin_repair", "reversals_due", "survivors", "write"]

Refusal: TypeAlias = Literal["position lost", "chain broken", "refused"]


def write(design: Design, ledger: Ledger, batch: Batch, *, owns: bool) -> Ledger | Refusal:
    """The ledger with the batch; or why nothing of it was written."""
    if design.worker_fence and not owns:
        return "position lost"
    if design.compare_and_set and _id(ledger.position) != _id(batch.follows):
        return "position lost"
    rows, balance, sequence = ledger.rows, ledger.balance, ledger.sequence
    for entry in batch.entries:
        if entry.transaction is None:
            continue
        chains = (sequence + 1, balance + entry.delta) == (entry.sequence, entry.balance)
        if design.chain and not chains:
            return "chain broken"
        late = _is_known(design, rows, entry.transaction)
        if late and not design.reversal and _has(rows, entry.transaction):
            return "refused"  # by the primary key, as long as nothing makes room for a duplicate
        rows += (Row(entry.transaction, entry.delta, entry.sequence, late),)
        balance, sequence = entry.balance, entry.sequence
    return ledger._replace(
        position=batch.entries[-1], rows=rows, balance=balance, sequence=sequence
    )


def reversals_due(design: Design, ledger: Ledger) -> list[tuple[Transaction, int]]:
    """The compensating transactions that are not recorded yet, with their amounts."""
    if not design.reversal:
        return []
    due = [
        (Transaction("reversal", row.transaction.key, row.sequence), -row.delta)
        for row in ledger.rows
        if row.is_duplicate
    ]
    return [(reversal, delta) for reversal, delta in due if not _has(ledger.rows, reversal)]


def begin_repair(ledger: Ledger) -> Ledger:
    """The repair's first step: a new epoch, whose head is the position. No batch follows that."""
    epoch = ledger.epoch + 1
    return ledger._replace(epoch=epoch, position=head(epoch))


def survivors(design: Design, ledger: Ledger, entries: Iterable[Entry]) -> Ledger:
    """The ledger with what only Redis had, each operation once, chained to what the ledger has."""
    for entry in entries:
        transaction = entry.transaction
        if transaction is None or _is_known(design, ledger.rows, transaction):
            continue
        balance, sequence = ledger.balance + entry.delta, ledger.sequence + 1
        row = Row(transaction, entry.delta, sequence, is_duplicate=False)
        ledger = ledger._replace(rows=(*ledger.rows, row), balance=balance, sequence=sequence)
    return ledger


def _is_known(design: Design, rows: tuple[Row, ...], transaction: Transaction) -> bool:
    if design.unique_transaction and _has(rows, transaction):
        return True
    if not design.key_records or transaction.kind != "charge":
        return False
    return any(
        (row.transaction.kind, row.transaction.key) == ("charge", transaction.key)
        and row.transaction.number != transaction.number
        for row in rows
    )


def _has(rows: tuple[Row, ...], transaction: Transaction) -> bool:
    return any(row.transaction == transaction for row in rows)


def _id(entry: Entry | None) -> tuple[int, int] | None:
    return None if entry is None else entry.id
