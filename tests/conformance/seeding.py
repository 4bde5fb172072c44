"""The world before a case: users, their ledger, and keys that are remembered already.

The ledger of a case need not add up; ours must. So the rows of each user are put in the order of
their time, numbered, and chained back from the user's balance; cases do not look at these balances.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import insert

from credits_fast import CreditsEngine
from credits_fast.amounts import MICROS_MAX, PLACES, to_credits, to_micros
from credits_fast.calls.carrying import Carrier
from credits_fast.calls.pending import Pending
from credits_fast.json_text import JsonText, quoted
from credits_fast.ledger.database import writing
from credits_fast.protocol.wire import Operation, to_ms
from credits_fast.sync.tables import idempotency_records, transactions, users
from credits_fast.testing import CreditsKit
from credits_fast.types import Level
from tests.conformance.cases import Case, Object, decoded
from tests.conformance.matching import number
from tests.conformance.operations import CHANGING, NoCounterpartError, json_like, perform

__all__ = ["key_owner", "seed"]

_REDIS_TTL_MS: Final = 86_400_000
_SOMEBODY: Final = "u1"
_RESULT_FIELDS: Final = {
    "charge": ("cost", "balanceAfter"),
    "refund": ("amount", "balanceAfter"),
    "grant": ("amount", "balanceAfter"),
    "upgradeTier": ("oldTier", "newTier", "oldCredits", "newCredits", ""),
    "downgradeTier": ("oldTier", "newTier", "oldCredits", "newCredits", ""),
}


async def seed(kit: CreditsKit, case: Case) -> None:
    """Write what is given into the ledger and, where only Redis decides by it, into Redis."""
    given: Object = decoded(case.given)
    ledgers: dict[str, list[Object]] = defaultdict(list)
    for row in given.get("transactions", ()):
        ledgers[row["userId"]].append(row)
    known = {user["id"]: user for user in given.get("users", ())}
    async with writing(kit.database) as connection:
        for user_id in {**known, **ledgers}:
            ledger = sorted(ledgers[user_id], key=lambda row: row.get("createdAt", case.now))
            user: Object = known.get(user_id, {"id": user_id})
            await connection.execute(insert(users), _user(user, len(ledger), case.now))
            if ledger:
                await connection.execute(insert(transactions), _chained(user, ledger, case.now))
    for record in given.get("idempotency_records", ()):
        await _remember(kit, case, record)


def key_owner(case: Case, key: Any) -> tuple[str, Object | None]:
    """Whose key it is, and the step that uses it; somebody's where no step does."""
    for step in case.steps:
        args: Object = step.get("args") or {}
        if args.get("idempotencyKey") == key and step["op"] in CHANGING:
            return args["userId"], step
    return next((user["id"] for user in case.given.get("users", ())), _SOMEBODY), None


def _user(user: Object, sequence: int, now: datetime) -> Object:
    created_at = user.get("createdAt", now)
    return {
        "id": user["id"],
        "credits": to_credits(_micros(user.get("credits", 0))),
        "membership_tier": user.get("membershipTier"),
        "membership_expires_at": user.get("membershipExpiresAt"),
        "sequence": sequence,
        "created_at": created_at,
        "updated_at": user.get("updatedAt", created_at),
    }


def _chained(user: Object, ledger: Sequence[Object], now: datetime) -> list[Object]:
    rows: list[Object] = []
    amounts = [_micros(row["amount"]) for row in ledger]
    balance = _micros(user.get("credits", 0)) - sum(amounts)
    for sequence, (row, amount) in enumerate(zip(ledger, amounts, strict=True), start=1):
        rows.append(
            {
                "id": row.get("id", f"seed-{user['id']}-{sequence}"),
                "user_id": user["id"],
                "sequence": sequence,
                "kind": _kind(row["action"], amount),
                "action": row["action"],
                "amount": to_credits(amount),
                "balance_before": to_credits(balance),
                "balance_after": to_credits(balance + amount),
                "metadata": JsonText(quoted(json_like(row.get("metadata") or {}))),
                "created_at": row.get("createdAt", now),
            }
        )
        balance += amount
    return rows


def _kind(action: str, amount: int) -> str:
    if action.startswith("tier-"):
        return "tier"
    return "charge" if amount <= 0 else "grant"


def _micros(value: Any) -> int:
    """The amount in micro-credits; binary noise beyond the ledger's unit is not part of a case."""
    exact = number(value)
    if exact is None or not exact.is_finite() or abs(exact) > to_credits(MICROS_MAX):
        raise NoCounterpartError(f"nobody can have {value!r} credits")
    return to_micros(round(exact, PLACES), minimum=-MICROS_MAX)


# --- keys that are remembered already ------------------------------------------------------------


class _AskedError(Exception):
    """An operation on its way, held up."""

    def __init__(self, operation: Operation) -> None:
        super().__init__(operation.operation_id)
        self.operation = operation


class _Asking(Carrier):
    """Takes nothing anywhere: it only tells what it was given."""

    def __init__(self) -> None:
        pass

    async def carry_out(
        self,
        pending: Pending[Any],
        acknowledge: Level | None,  # noqa: ARG002  # the signature is the carrier's
    ) -> Any:
        raise _AskedError(pending.operation)


async def _remember(kit: CreditsKit, case: Case, record: Object) -> None:
    """The record of the very operation that the case will repeat, in the ledger and in Redis."""
    user_id, step = key_owner(case, record["key"])
    expires_at: datetime = record.get("expiresAt", case.now + timedelta(days=1))
    result: Object = record.get("result") or {}
    fingerprint = b"-"
    if step is not None:
        operation = await _operation(kit, step)
        fingerprint = operation.fingerprint
        lane = await kit.engine.lane()
        fields = (
            fingerprint,
            str(result.get("transactionId", "")).encode(),
            b"%d" % to_ms(expires_at),
            *_result(step["op"], result),
        )
        await lane.run_script(
            "remember",
            (operation.partition.gate, operation.record_key),
            (b"\0".join(fields), b"%d" % _REDIS_TTL_MS),
        )
    row = {
        "user_id": user_id,
        "key": record["key"],
        "fingerprint": fingerprint.decode(),
        "transaction_id": str(result.get("transactionId", "")),
        "result": JsonText(quoted(json_like(result))),
        "created_at": record.get("createdAt", case.now),
        "expires_at": expires_at,
    }
    async with writing(kit.database) as connection:
        await connection.execute(insert(idempotency_records), row)


async def _operation(kit: CreditsKit, step: Object) -> Operation:
    engine = kit.engine
    asking = CreditsEngine(
        engine.config, redis=engine.endpoint, database=kit.database, clock=kit.clock
    )
    asking._carrier = _Asking()
    try:
        await perform(asking, step["op"], decoded(step["args"]))
    except _AskedError as asked:
        return asked.operation
    raise AssertionError(f"{step['op']} sends nothing")


def _result(op: str, result: Object) -> Iterable[bytes]:
    """The result as the script of the operation keeps it: amounts in micro-credits."""
    for name in _RESULT_FIELDS[op]:
        value = result.get(name)
        micros = number(value)
        if micros is not None:
            yield b"%d" % _micros(micros)
        elif name in {"oldTier", "newTier", ""}:
            yield str(value or "").encode()
        else:
            yield b"0"
