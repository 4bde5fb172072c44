"""A key that was used again although the ledger remembers it: its second effect is undone.

Redis forgets a record only where it lost one, as in a failover, or where two histories were made one.
Then a repeated call is decided once more, and that was already told to its caller. The balance went
through it, so it is recorded like any other; the commit that records it notes that it has to be
reversed, and the worker then has a script give back what it took, or take back what it gave, below zero
where it must. So the net effect of a key is at most one.

The reversal is an operation like any other, whose id is made of what it reverses: however often it is
asked for, it happens once.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Sequence
from datetime import datetime
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import NoScriptError
from sqlalchemy import func, select, update

from credits_fast.calls.accounts import Accounts
from credits_fast.calls.operations import GRACE_MS
from credits_fast.errors import CreditsError, RedisUnavailableError
from credits_fast.ledger.charges import KnownCharge, known_charge
from credits_fast.ledger.database import reading, writing
from credits_fast.ledger.records import Records
from credits_fast.protocol.wire import (
    AUDIT_SUCCESS,
    COLD,
    COLD_CHARGE,
    Operation,
    grant_call,
    refund_call,
    request,
)
from credits_fast.sync.tables import micros_of, reversals, transactions

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from credits_fast.protocol.keys import Partitions
    from credits_fast.protocol.wire import Call
    from credits_fast.servers.lane import Lane
    from credits_fast.servers.routing import Router

__all__ = ["REVERSAL", "Reversals", "reversal_id"]

_log = logging.getLogger(__name__)

REVERSAL: Final = "reversal"
"""The action of the compensating transaction."""

_AT_ONCE: Final = 100
_REMEMBERED_MS: Final = 86_400_000
_ID_BYTES: Final = 16
_DECIDED: Final = (b"ok\0", b"replayed\0")
_REFUNDED_MEANWHILE: Final = b"refund_exceeds_charge\0"
_IN_VAIN: Final = "tier"
"""The kind whose second effect is no amount to give back; it is told and left alone."""


class Reversals:
    """Carries reversals out.

    Args:
        partitions: The partitions as configured.
        router: Which lane leads to a partition.
        database: The ledger.
    """

    def __init__(self, partitions: Partitions, router: Router, database: AsyncEngine) -> None:
        self._partitions = partitions
        self._router = router
        self._database = database
        self._records = Records(database)
        self._accounts = Accounts(self._records, router)

    async def settle(self, numbers: Collection[int], now: datetime, now_us: bytes) -> int:
        """How many reversals of these partitions are in the ledger by now; the others are asked for.

        Args:
            numbers: The partitions.
            now: The moment that is noted.
            now_us: Microseconds since 1970, b"" for the server's own time.

        Raises:
            DatabaseUnavailableError: The database cannot be reached.
        """
        due = await self._due(numbers)
        if not due:
            return 0
        known = await self._known([reversal_id(row.id) for row in due])
        done = [row for row in due if reversal_id(row.id) in known or row.kind == _IN_VAIN]
        for row in due:
            if row not in done:
                await self._ask(row, now_us)
        await self._note(done, now)
        return len(done)

    async def _due(self, numbers: Collection[int]) -> Sequence[Any]:
        """What is to be reversed, the oldest of every partition first.

        So a partition that is closed keeps no other waiting.
        """
        columns = reversals.c
        turn = func.row_number().over(
            partition_by=columns.partition, order_by=(columns.noted_at, columns.transaction_id)
        )
        query = (
            select(
                transactions.c.id,
                transactions.c.user_id,
                transactions.c.kind,
                micros_of(transactions.c.amount).label("amount"),
                transactions.c.related_id,
                columns.key,
                columns.first_id,
            )
            .join(transactions, transactions.c.id == columns.transaction_id)
            .where(columns.settled_at.is_(None), columns.partition.in_(numbers))
            .order_by(turn, columns.partition)
            .limit(_AT_ONCE)
        )
        async with reading(self._database) as connection:
            return (await connection.execute(query)).all()

    async def _known(self, ids: Sequence[str]) -> set[str]:
        query = select(transactions.c.id).where(transactions.c.id.in_(ids))
        async with reading(self._database) as connection:
            return {*await connection.scalars(query)}

    async def _ask(self, row: Any, now_us: bytes) -> None:
        """Have the script do it; where that is not possible now, another time."""
        operation = _operation(row, self._partitions)
        try:
            name = _charge_of(row)
            charge = None if name is None else await self._charge(operation, name)
            call = _call(row, operation, charge)
            reply = await self._send(call, now_us)
            if reply == COLD:
                await self._accounts.load(operation.partition, operation.user)
                reply = await self._send(call, now_us)
            if reply == COLD_CHARGE and name is not None and charge is not None:
                await self._load_charge(operation, name.encode(), charge)
                reply = await self._send(call, now_us)
        except CreditsError as error:
            _log.debug("transaction %s is reversed another time: %s", row.id, error)
            return
        if reply.startswith(_REFUNDED_MEANWHILE):
            _log.debug("transaction %s is reversed another time: it is refunded just now", row.id)
        elif not reply.startswith(_DECIDED):
            _log.error("transaction %s cannot be reversed: %r", row.id, reply)

    async def _charge(self, operation: Operation, name: str) -> KnownCharge | None:
        """A charge and what was given back of it, what is not recorded yet included."""
        return await self._router.follow(
            operation.partition, lambda lane: known_charge(self._records, lane, operation, name)
        )

    async def _load_charge(self, operation: Operation, name: bytes, charge: KnownCharge) -> None:
        partition = operation.partition
        sums = (b"%d" % charge.charged, b"%d" % charge.refunded)
        await self._router.run_script(
            partition,
            "load_charge",
            (partition.gate, partition.refunded(name)),
            (operation.user, *sums, b"%d" % _REMEMBERED_MS),
        )

    async def _send(self, call: Call, now_us: bytes) -> bytes:
        return await self._router.follow(call.partition, lambda lane: _sent(lane, call, now_us))

    async def _note(self, done: Sequence[Any], now: datetime) -> None:
        if not done:
            return
        ids = [row.id for row in done]
        async with writing(self._database) as connection:
            await connection.execute(
                update(reversals).where(reversals.c.transaction_id.in_(ids)).values(settled_at=now)
            )
        for row in done:
            if row.kind == _IN_VAIN:
                _log.error(
                    "transaction %s of user %r repeats %s and is no amount: it stays",
                    *(row.id, row.user_id, row.first_id),
                )


def reversal_id(transaction_id: str) -> str:
    """The id of the transaction that reverses another one.

    Example:
        >>> len(reversal_id("0199")), reversal_id("0199") == reversal_id("0199")
        (32, True)
    """
    return blake2b(f"reversal:{transaction_id}".encode(), digest_size=_ID_BYTES).hexdigest()


def _charge_of(row: Any) -> str | None:
    """The charge that is reversed, or of which a refund is; None where it is about none."""
    name: str | None = {"charge": row.id, "refund": row.related_id}.get(row.kind)
    return name


def _operation(row: Any, partitions: Partitions) -> Operation:
    """Who undoes which transaction, and what is said of it."""
    user = row.user_id.encode()
    facts = {"reverses": row.id, "repeats": row.first_id, "repeatedKey": row.key}
    return Operation(
        partition=partitions.of(user),
        user=user,
        action=REVERSAL.encode(),
        key=b"",
        operation_id=reversal_id(row.id),
        fingerprint=b"-",
        ttl_ms=_REMEMBERED_MS,
        life_ms=_REMEMBERED_MS + GRACE_MS,
        audited=AUDIT_SUCCESS,
        metadata=json.dumps(facts).encode(),
    )


def _call(row: Any, operation: Operation, charge: KnownCharge | None) -> Call:
    """The call that undoes a transaction: what is left of its amount, the other way.

    A charge gets back what was not given back of it yet, and never more: a refund that is decided
    meanwhile has this one refused, and asked for anew. A refund that is undone counts as one of its
    charge, of which so much may be given back again.
    """
    if row.kind == "grant":
        return grant_call(operation, -row.amount)
    if row.kind == "charge" and charge is not None:
        left = charge.charged - charge.refunded
        return refund_call(operation, left, row.id.encode(), bounded=True)
    related = row.related_id if charge is not None else ""
    return refund_call(operation, -row.amount, related.encode(), bounded=False)


async def _sent(lane: Lane, call: Call, now_us: bytes) -> bytes:
    """The script's reply; a server that has dropped it gets it again."""
    try:
        (replies,) = await lane.execute_all(_packed(lane, call, now_us))
    except RedisUnavailableError as error:
        if not isinstance(error.__cause__, NoScriptError):
            raise
        await lane.load_scripts()
        (replies,) = await lane.execute_all(_packed(lane, call, now_us))
    reply: bytes = replies[0]
    return reply


def _packed(lane: Lane, call: Call, now_us: bytes) -> bytes:
    return request(lane.scripts[call.script].sha, [call], now_us)
