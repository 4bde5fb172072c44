"""The reference's storage adapter as what corresponds to it here.

The adapter writes whatever it is told, call by call; we have no such thing. A change of credits is a
grant or a charge, a change of membership is a change of tier, and what came of it is read from the
ledger afterwards.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from sqlalchemy import insert

from credits_fast import (
    UNCHANGED,
    CreditsConfig,
    CreditsEngine,
    InsufficientCreditsError,
    UserNotFoundError,
)
from credits_fast.amounts import MICROS_MAX, to_credits, to_micros
from credits_fast.ledger.database import writing
from credits_fast.ledger.records import Records
from credits_fast.sync.tables import users
from tests.conformance.cases import Object
from tests.conformance.ledger_view import LedgerView, audit_of, records_of, user_of, users_of
from tests.conformance.operations import NoCounterpartError, json_like, perform
from tests.conformance.seeding import key_owner
from tests.conformance.shapes import result_shape
from tests.conformance.world import World

__all__ = ["STORAGE", "WITHOUT_COUNTERPART"]

WITHOUT_COUNTERPART: Final = {
    "storage.createIdempotencyRecord": (
        "A key is remembered by the operation that used it, in the same step; "
        "no call writes such a record by itself."
    ),
    "storage.setUser": "A user is changed by operations, each with its row in the ledger.",
}
"""What the reference's adapter can do and nobody should, each with the reason."""

_ADJUSTMENT: Final = "adjustment"
_EVERYTHING: Final = to_credits(MICROS_MAX)


async def _create_user(world: World, args: Object) -> Object | None:
    if not args.get("id"):
        raise NoCounterpartError("a user's id is the application's; none is made up")
    await world.kit.engine.create_user(
        args["id"],
        credits=args.get("credits", 0),
        tier=args.get("membershipTier"),
        membership_expires_at=args.get("membershipExpiresAt"),
    )
    return await user_of(world.kit, args["id"])


async def _user_by_id(world: World, args: Object) -> Object | None:
    user_id: str = args.get("userId") or args["id"]
    try:
        await world.kit.engine.get_user(user_id)
    except UserNotFoundError:
        return None
    return await user_of(world.kit, user_id)


async def _change_credits(world: World, args: Object) -> Object | None:
    await _book(world.kit.engine, args["userId"], args["amount"], _ADJUSTMENT, None)
    await world.kit.sync()
    return await user_of(world.kit, args["userId"])


async def _change_membership(world: World, args: Object) -> Object | None:
    """A change to a tier whose cap is what the user is to have."""
    user_id, target = args["userId"], args["membershipTier"]
    if not target:
        raise NoCounterpartError("no operation takes a membership away; one that ends expires")
    row = await user_of(world.kit, user_id)
    current: str | None = row["membershipTier"] if row else None
    down = bool(current) and "membershipExpiresAt" not in args
    levels = {**({current: 1} if current else {}), target: 0 if down else 2}
    engine = CreditsEngine(
        _tier_config(world.config, levels, args["credits"]),
        redis=world.kit.engine.endpoint,
        database=world.kit.database,
        clock=world.clock,
    )
    async with engine:
        if row is not None and current == target:
            expires_at = args.get("membershipExpiresAt", row["membershipExpiresAt"])
            await engine.renew_membership(user_id, expires_at)
        elif down:
            await engine.downgrade_tier(user_id, target)
        else:
            new_end = args.get("membershipExpiresAt", UNCHANGED)
            await engine.upgrade_tier(user_id, target, membership_expires_at=new_end)
    await world.kit.sync()
    return await user_of(world.kit, user_id)


def _tier_config(config: CreditsConfig, levels: dict[str, int], cap: Any) -> CreditsConfig:
    return CreditsConfig.parse(
        {
            "costs": {},
            "membership": {
                "tiers": levels,
                "creditsCaps": dict.fromkeys(levels, cap),
                "creditsOnRenewal": "set_to_cap",
            },
            "partitions": config.partitions,
        }
    )


async def _create_transaction(world: World, args: Object) -> Object:
    """The row of the operation that moves this amount; it chains, so the balance must fit."""
    kit, user_id = world.kit, args["userId"]
    before = to_micros(args.get("balanceBefore", 0), minimum=-(10**18))
    row = await user_of(kit, user_id)
    if row is None:
        await _insert_user(world, user_id, before)
    elif to_micros(row["credits"], minimum=-(10**18)) != before:
        raise NoCounterpartError("a row of the ledger follows from the user's balance")
    await _book(kit.engine, user_id, args["amount"], args["action"], args.get("metadata"))
    await kit.sync()
    return (await LedgerView().transactions(kit))[-1]


async def _create_audit_log(world: World, args: Object) -> Object:
    """The row of an operation that succeeded, or was refused."""
    kit, user_id, action = world.kit, args["userId"], args["action"]
    metadata: Any = json_like(args.get("metadata"))
    if args["status"] == "success":
        if await user_of(kit, user_id) is None:
            await _insert_user(world, user_id, 0)
        await kit.engine.grant(user_id, 1, action, metadata=metadata)
    else:
        with suppress(UserNotFoundError, InsufficientCreditsError):
            await kit.engine.charge(user_id, action, amount=_EVERYTHING, metadata=metadata)
    await kit.sync()
    return (await audit_of(kit))[-1]


async def _idempotency_record(world: World, args: Object) -> Object | None:
    user_id, _ = key_owner(world.case, args["key"])
    found = await Records(world.kit.database).remembered(user_id, args["key"])
    if found is None or found.expires_at < world.clock():
        return None
    return {"key": args["key"], "result": found.result, "expiresAt": found.expires_at}


async def _transactions(world: World, args: Object) -> Any:
    return result_shape(await perform(world.kit.engine, "getHistory", args))


async def _reset(world: World, _args: Object) -> Object:
    await world.reset()
    return {"ok": True}


async def _all_users(world: World, _args: Object) -> list[Object]:
    return [*(await users_of(world.kit)).values()]


async def _all_transactions(world: World, _args: Object) -> list[Object]:
    return await LedgerView().transactions(world.kit)


async def _all_audit(world: World, _args: Object) -> list[Object]:
    return await audit_of(world.kit)


async def _all_records(world: World, _args: Object) -> list[Object]:
    return await records_of(world.kit)


async def _book(
    engine: CreditsEngine, user_id: str, amount: Any, action: str, metadata: Any
) -> None:
    if amount > 0:
        await engine.grant(user_id, amount, action, metadata=json_like(metadata))
    else:
        await engine.charge(user_id, action, amount=-amount, metadata=json_like(metadata))


async def _insert_user(world: World, user_id: str, micros: int) -> None:
    now = world.clock()
    row = {"id": user_id, "credits": to_credits(micros), "created_at": now, "updated_at": now}
    async with writing(world.kit.database) as connection:
        await connection.execute(insert(users), row)


STORAGE: Final[dict[str, Callable[[World, Object], Awaitable[Any]]]] = {
    "storage.createUser": _create_user,
    "storage.getUserById": _user_by_id,
    "storage.updateUserCredits": _change_credits,
    "storage.updateUserMembership": _change_membership,
    "storage.createTransaction": _create_transaction,
    "storage.createAuditLog": _create_audit_log,
    "storage.getIdempotencyRecord": _idempotency_record,
    "storage.getTransactions": _transactions,
    "storage.getAllUsers": _all_users,
    "storage.getAllTransactions": _all_transactions,
    "storage.getAuditLogs": _all_audit,
    "storage.getAllIdempotencyRecords": _all_records,
    "storage.reset": _reset,
}
"""What each call of the adapter answers."""
