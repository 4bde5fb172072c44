"""Runs a case: what is given is written, its steps are done, and everything that came of it is read.

The outcome has the parts that a case can expect: what each step gave, and then the ledger after the
worker has carried everything into it. Beyond what a case says, the sums must agree in the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from typing import Any, Final, cast

from credits_fast import ConfigurationError, CreditsError
from tests.conformance.cases import Case, Object, decoded
from tests.conformance.faults import Faults
from tests.conformance.ledger_view import LedgerView, audit_of, records_of, users_of
from tests.conformance.matching import mismatches
from tests.conformance.operations import NoCounterpartError, perform
from tests.conformance.pure import PURE, answered, config_shape, parsed
from tests.conformance.recording import Recorder, phases
from tests.conformance.scenarios import play, rolled_back
from tests.conformance.seeding import seed
from tests.conformance.shapes import error_shape, result_shape
from tests.conformance.storage import STORAGE, WITHOUT_COUNTERPART
from tests.conformance.world import SURVIVES, World, config_values, open_world
from tests.servers import Servers

__all__ = ["chains", "outcome_of"]

_CLOCK: Final = "advance_clock"
_STORY: Final = "scenario"


async def outcome_of(case: Case, servers: Servers) -> Object:
    """Everything that came of a case.

    Raises:
        NoCounterpartError: It asks for something that nothing of ours corresponds to.
        AssertionError: The sums do not agree afterwards.
    """
    if all(step["op"] in PURE for step in case.steps):
        return await _without_servers(case)
    try:
        config, warnings = parsed(config_values(case))
    except ConfigurationError as error:
        return _configuration_refused(error)
    async with open_world(case, config, servers) as world:
        return {**await _Run(world).outcome(), "warning": warnings}


async def _without_servers(case: Case) -> Object:
    given: Object = {**decoded(case.given), "now": case.now}
    steps: list[Object] = []
    warnings: list[str] = []
    for step in case.steps:
        try:
            result, texts = await answered(step["op"], given, decoded(step.get("args") or {}))
        except ConfigurationError as error:
            steps.append(_configuration_refused(error))
        except CreditsError as error:
            steps.append({"error": error_shape(error)})
        else:
            steps.append({"result": result})
            warnings += texts
    outcome = {**steps[-1], "steps": steps, "warning": warnings}
    if "result" in steps[-1] and case.steps[-1]["op"] == "construct":
        config, _ = parsed(given["config"])
        outcome["config"] = config_shape(config)
    return outcome


def _configuration_refused(error: ConfigurationError) -> Object:
    shape = error_shape(error)
    return {"error": shape, "config_error": shape}


class _Run:
    """A case on its way through a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._case = world.case
        self._ledger = LedgerView(world.case.given.get("transactions", ()))
        self._faults = Faults(world, world.case.given.get("faults", ()))
        self._recorder: Recorder | None = None

    async def outcome(self) -> Object:
        world = self._world
        await seed(world.kit, self._case)
        before = await users_of(world.kit)
        given = await self._ledger.transactions(world.kit)
        await self._faults.begin()
        if "record_calls" in self._case.given and SURVIVES not in self._case.expected:
            for user in before:  # loading a cold account is no part of an operation
                await world.kit.engine.get_user(user)
            self._recorder = Recorder(world)
        steps = [outcome for step in self._case.when for outcome in await self._step(step)]
        audit = await audit_of(world.kit)
        await self._faults.end()
        flat = [*_flat(steps)]
        outcome = {
            **(flat[-1] if flat else {}),
            "steps": steps,
            **await self._state(),
            "audit": audit,
        }
        outcome |= _flags(outcome, flat, before, given)
        outcome["concurrent"] = next((s["concurrent"] for s in steps if "concurrent" in s), None)
        if len(flat) > 1:
            outcome["second_call"] = flat[1]
        if self._recorder is not None:
            outcome["calls"] = phases(self._recorder.calls)
        await self._world.kit.assert_balanced()
        return outcome

    async def _state(self) -> Object:
        kit = self._world.kit
        await kit.sync()
        return {
            "users": await users_of(kit),
            "transactions": await self._ledger.transactions(kit),
            "idempotency_records": await records_of(kit),
        }

    async def _step(self, step: Object) -> list[Object]:
        """What came of a step, recorded in the ledger; a story has as many outcomes as calls."""
        if step.get("op") == _STORY:
            outcomes = await play(self._world, _attempt)
        elif "concurrent" in step:
            together = [self._outcome(one) for one in step["concurrent"]]
            outcomes = [{"concurrent": [*await asyncio.gather(*together)]}]
        else:
            async with self._around(step):
                outcomes = [await self._outcome(step)]
            survivors = await self._survivors(step)
            outcomes = [{**outcome, **survivors} for outcome in outcomes]
        await self._world.kit.sync()
        await self._faults.after_sync()
        await self._ledger.transactions(self._world.kit)
        return outcomes

    @asynccontextmanager
    async def _around(self, step: Object) -> AsyncGenerator[None, None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._faults.during(step))
            if self._recorder is not None:
                await stack.enter_async_context(self._recorder.step())
            if SURVIVES in self._case.expected:
                database = self._world.kit.database
                await stack.enter_async_context(rolled_back(database))
            yield

    async def _survivors(self, step: Object) -> Object:
        """Whether the audit row of a refusal is there after the application's rollback."""
        if SURVIVES not in self._case.expected:
            return {}
        await self._world.kit.sync()
        found = await audit_of(self._world.kit)
        wanted = {"userId": step["args"]["userId"], "action": step["op"], "status": "failed"}
        return {SURVIVES: any(not mismatches(wanted, row) for row in found)}

    async def _outcome(self, step: Object) -> Object:
        op: str = step["op"]
        args: Object = decoded(step.get("args") or {})
        if op == _CLOCK:
            self._world.clock.advance(seconds=float(args["seconds"]))
            return {}
        return await _attempt(self._answer(op, args))

    async def _answer(self, op: str, args: Object) -> Any:
        if op in WITHOUT_COUNTERPART:
            raise NoCounterpartError(f"{op}: {WITHOUT_COUNTERPART[op]}")
        if op in STORAGE:
            return await STORAGE[op](self._world, args)
        if op in PURE:
            return (await answered(op, decoded(self._case.given), args))[0]
        return result_shape(await perform(self._world.kit.engine, op, args))


async def _attempt(call: Awaitable[Any]) -> Object:
    try:
        return {"result": result_shape(await call)}
    except CreditsError as error:
        return {"error": error_shape(error)}


# --- flags ---------------------------------------------------------------------------------------


def _flags(
    outcome: Object, steps: Sequence[Object], before: Object, given: Sequence[Object]
) -> Object:
    done = {name for name in map(_transaction_of, steps) if name is not None}
    for step in steps:
        if steps[0].get("result") is not None:
            step["result_equals_first"] = step.get("result") == steps[0]["result"]
    new = outcome["transactions"][len(given) :]
    flags: Object = {
        "ledger_chain": chains(outcome["transactions"]),
        "atomic": done == {row["id"] for row in new} and _adds_up(before, outcome["users"], new),
        "one_fails": sum("error" in step for step in steps) == 1,
    }
    if steps and "result_equals_first" in steps[-1]:
        flags["result_equals_first"] = steps[-1]["result_equals_first"]
    return flags


def chains(rows: Sequence[Object]) -> bool:
    """Whether each row of a user begins with the balance the row before it ended with."""
    balances: dict[str, Decimal] = {}
    for row in rows:
        if balances.get(row["userId"], row["balanceBefore"]) != row["balanceBefore"]:
            return False
        if row["balanceBefore"] + row["amount"] != row["balanceAfter"]:
            return False
        balances[row["userId"]] = row["balanceAfter"]
    return True


def _adds_up(before: Object, after: Object, new: Sequence[Object]) -> bool:
    """Whether every user has what the new rows make of what there was."""
    for user_id, user in after.items():
        moved = sum(row["amount"] for row in new if row["userId"] == user_id)
        if before.get(user_id, {"credits": 0})["credits"] + moved != user["credits"]:
            return False
    return True


def _transaction_of(step: Object) -> str | None:
    result: Any = step.get("result")
    return cast("Object", result).get("transactionId") if isinstance(result, dict) else None


def _flat(steps: Iterable[Object]) -> Iterable[Object]:
    for step in steps:
        yield from step.get("concurrent", [step])
