"""The reference's operations as calls of our engine, argument by argument.

A parameter that is absent stays absent, for absent and null are two things (`membershipExpiresAt`).
`txn`, the reference's database context, has no counterpart: an operation is one script call.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, cast

from credits_fast import UNCHANGED, CreditsEngine
from tests.conformance.cases import Object

__all__ = ["CHANGING", "NoCounterpartError", "json_like", "perform"]

CHANGING: Final = frozenset({"charge", "refund", "grant", "upgradeTier", "downgradeTier"})
"""The operations that change something."""

_HISTORY: Final = {
    "limit": "limit",
    "offset": "offset",
    "startDate": "start_date",
    "endDate": "end_date",
    "action": "action",
}


class NoCounterpartError(Exception):
    """The case asks for something that nothing of ours corresponds to; the text says why."""


async def perform(engine: CreditsEngine, op: str, args: Object) -> Any:
    """What the engine returns.

    Raises:
        CreditsError: The engine refuses.
        NoCounterpartError: There is no such operation.
    """
    user_id: Any = args.get("userId")
    match op:
        case "charge":
            return await engine.charge(
                user_id,
                args.get("action"),  # type: ignore[arg-type]  # whatever the case gives
                variables=args.get("variables"),
                **_key_and_metadata(args),
            )
        case "refund" | "grant":
            verb = engine.refund if op == "refund" else engine.grant
            amount: Any = args.get("amount")
            action: Any = args.get("action")
            return await verb(user_id, amount, action, **_key_and_metadata(args))
        case "upgradeTier":
            return await engine.upgrade_tier(
                user_id,
                args.get("targetTier"),  # type: ignore[arg-type]  # whatever the case gives
                membership_expires_at=args.get("membershipExpiresAt", UNCHANGED),
                **_key_and_metadata(args),
            )
        case "downgradeTier":
            return await engine.downgrade_tier(
                user_id,
                args.get("targetTier"),  # type: ignore[arg-type]  # whatever the case gives
                clear_expiration=args.get("clearExpiration", False),
                **_key_and_metadata(args),
            )
        case _:
            return await _look(engine, op, user_id, args)


async def _look(engine: CreditsEngine, op: str, user_id: Any, args: Object) -> Any:
    match op:
        case "queryBalance":
            return await engine.query_balance(user_id)
        case "validateAccess":
            action: Any = args.get("action")
            return await engine.validate_access(user_id, action)
        case "getHistory":
            given: Object = {**args, **(args.get("options") or {})}
            options: dict[str, Any] = {
                ours: given[theirs] for theirs, ours in _HISTORY.items() if theirs in given
            }
            return await engine.get_history(user_id, **options)
        case _:
            raise NoCounterpartError(f"there is no operation {op}")


def _key_and_metadata(args: Object) -> dict[str, Any]:
    return {
        "idempotency_key": args.get("idempotencyKey"),
        "metadata": json_like(args.get("metadata")),
    }


def json_like(value: Any) -> Any:
    """Metadata as an application has it: a JSON number with a point is a float there."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, list):
        return [json_like(element) for element in cast("list[Any]", value)]
    if isinstance(value, Mapping):
        members = cast("Mapping[str, Any]", value)
        return {name: json_like(member) for name, member in members.items()}
    return value
