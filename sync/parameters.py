"""Rows as the parameters of SQLite's prepared statements, one function a table. Pure.

They have the very form in which the columns of `tables` are stored: an amount is text of six places, a
moment is text without its zone, which is UTC, and JSON is the text it is. So nothing has to be converted
column by column while the transaction is open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from credits_fast.amounts import MICROS_PER_CREDIT, PLACES

if TYPE_CHECKING:
    from credits_fast.sync.rows import Batch

__all__ = ["ENCODERS", "Parameters", "decimal_text", "moment_text"]

Parameters: TypeAlias = list[tuple[Any, ...]]
"""One tuple a row."""


def decimal_text(micros: int) -> str:
    """Micro-credits as a decimal of six places: what NUMERIC(20, 6) shows.

    Example:
        >>> decimal_text(-13_500_000)
        '-13.500000'
    """
    whole, fraction = divmod(abs(micros), MICROS_PER_CREDIT)
    return f"{'-' if micros < 0 else ''}{whole}.{fraction:0{PLACES}d}"


def moment_text(moment: datetime) -> str:
    """A moment in UTC as SQLite stores it.

    Example:
        >>> from datetime import UTC
        >>> moment_text(datetime(2026, 1, 15, 12, tzinfo=UTC))
        '2026-01-15 12:00:00.000000'
    """
    return moment.isoformat(" ", "microseconds").removesuffix("+00:00")


def _transactions(batch: Batch) -> Parameters:
    partition, amount, when = batch.partition, decimal_text, _Moments()
    return [
        (
            *row[:5],
            amount(row.amount),
            amount(row.balance_before),
            amount(row.balance_after),
            *row[8:-1],
            when[row.created_at],
            partition,
        )
        for row in batch.transactions
    ]


def _audit_logs(batch: Batch) -> Parameters:
    when = _Moments()
    return [(*row[:-1], when[row.created_at]) for row in batch.audit]


def _idempotency_records(batch: Batch) -> Parameters:
    when = _Moments()
    return [(*row[:-2], when[row[-2]], when[row[-1]]) for row in batch.records.values()]


def _holds(batch: Batch) -> Parameters:
    partition, amount, when = batch.partition, decimal_text, _Moments()
    return [
        (
            *row[:4],
            amount(row.amount),
            amount(row.reserved),
            amount(row.captured),
            *row[7:11],
            when[row.created_at],
            when[row.expires_at],
            None if row.finished_at is None else when[row.finished_at],
            partition,
        )
        for row in batch.new_holds
    ]


def _dead_letters(batch: Batch) -> Parameters:
    return [(*row[:-1], moment_text(row.created_at), batch.partition) for row in batch.dead_letters]


class _Moments(dict[datetime, str]):
    """The text of each moment, made when it is first asked for."""

    def __missing__(self, moment: datetime) -> str:
        self[moment] = text = moment_text(moment)
        return text


ENCODERS: Final[Mapping[str, Callable[[Batch], Parameters]]] = {
    "transactions": _transactions,
    "audit_logs": _audit_logs,
    "idempotency_records": _idempotency_records,
    "holds": _holds,
    "dead_letters": _dead_letters,
}
"""The parameters of a batch for each table; the columns are in the order of `COLUMNS`."""
