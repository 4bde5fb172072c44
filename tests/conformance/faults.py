"""Failures of the reference's storage, as the failures of ours that correspond to them.

    createAuditLog                          the database refuses rows of the audit log
    createTransaction, updateUserCredits,   the server refuses the journal entry, which is the first
    updateUserMembership                    write of every script
    getUserById, getIdempotencyRecord       the account, or the record, cannot be read
    createIdempotencyRecord                 everything was written and the reply is lost

and where the failure has the code of a network error, the connection is lost before the request is
sent. Every one of them really happens: a fault that nothing met is an error of the case.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Final, cast
from unittest.mock import patch

from sqlalchemy import text

from credits_fast.servers.lane import Lane, LaneLostError, Reply
from tests.conformance.cases import Object
from tests.conformance.operations import CHANGING, NoCounterpartError
from tests.conformance.pure import TRANSIENT
from tests.conformance.world import World

__all__ = ["Faults"]

_SCRIPTS: Final = ("charge", "grant", "refund", "set_tier")
_WRITES: Final = frozenset({"createTransaction", "updateUserCredits", "updateUserMembership"})
_ALL: Final = "all"


@dataclass
class _Fault:
    """One failure.

    Attributes:
        method: What fails at the reference.
        calls: The numbers of the calls that fail, none for all of them.
        message: What the failure says.
        transient: Whether it has the code of a network error.
        hits: How often it was met.
    """

    method: str
    calls: frozenset[int]
    message: str
    transient: bool
    hits: int = 0

    def is_due(self, call: int) -> bool:
        return not self.calls or call in self.calls


class Faults:
    """The failures of a case.

    Args:
        world: Where they happen.
        given: As the case describes them.
    """

    def __init__(self, world: World, given: Iterable[Object]) -> None:
        self._world = world
        self._faults = [_fault(values) for values in given]
        self._changes = 0

    async def begin(self) -> None:
        """Break what is broken for longer than a step."""
        for fault in self._faults:
            if fault.method == "createAuditLog":
                await _refuse_audit(self._world, fault)

    @asynccontextmanager
    async def during(self, step: Object) -> AsyncGenerator[None, None]:
        """Break what is broken in this step, and mend it afterwards."""
        self._changes += step["op"] in CHANGING
        async with AsyncExitStack() as stack:
            for fault in self._faults:
                if fault.transient or fault.method == "createIdempotencyRecord":
                    await stack.enter_async_context(_connection_lost(fault))
                elif fault.method != "createAuditLog" and fault.is_due(self._changes):
                    fault.hits += 1
                    keys = _keys(self._world, fault.method, step["args"])
                    await stack.enter_async_context(_unreadable(self._world, keys))
            yield

    async def after_sync(self) -> None:
        """A failure that is over lets the worker go on."""
        world = self._world
        audit = [fault for fault in self._faults if fault.method == "createAuditLog"]
        if audit and world.kit.worker.set_aside:
            for fault in audit:
                fault.hits += 1
            if all(fault.calls for fault in audit):
                await self._mend_audit()

    async def end(self) -> None:
        """Mend everything; what could not be written is written now."""
        unmet = [fault.method for fault in self._faults if not fault.hits]
        if unmet:
            raise AssertionError(f"these faults were never met: {unmet}")
        if any(fault.method == "createAuditLog" for fault in self._faults):
            await self._mend_audit()

    async def _mend_audit(self) -> None:
        async with self._world.kit.database.begin() as connection:
            await connection.execute(text("DROP TRIGGER IF EXISTS audit_down"))
        await self._world.restart_worker()
        await self._world.kit.sync()


def _fault(values: Object) -> _Fault:
    method = values["method"]
    known = {"createAuditLog", "createIdempotencyRecord", "getUserById", "getIdempotencyRecord"}
    if method not in known | _WRITES:
        raise NoCounterpartError(f"nothing of ours fails like {method}")
    names = {values.get(key) for key in ("code", "name", "message")}
    on_call: Any = values.get("on_call", _ALL)
    calls = cast("list[int]", on_call) if isinstance(on_call, list) else [on_call]
    return _Fault(
        method,
        frozenset(() if on_call == _ALL else calls),
        values.get("message", "down"),
        transient=not names.isdisjoint(TRANSIENT),
    )


async def _refuse_audit(world: World, fault: _Fault) -> None:
    """A trigger that refuses rows: all of them, or from the n-th on until it is dropped."""
    first = min(fault.calls, default=1) - 1
    message = fault.message.replace("'", "''")
    condition = f"(SELECT COUNT(*) FROM audit_logs) >= {first}"  # a number of ours
    refusal = f"SELECT RAISE(ABORT, '{message}');"
    statement = (
        f"CREATE TRIGGER audit_down BEFORE INSERT ON audit_logs WHEN {condition} "
        f"BEGIN {refusal} END"
    )
    async with world.kit.database.begin() as connection:
        await connection.execute(text(statement))


@asynccontextmanager
async def _unreadable(world: World, keys: Sequence[bytes]) -> AsyncGenerator[None, None]:
    """Put what is at these keys aside, and what no script can use in its place."""
    lane = await world.kit.engine.lane()
    kept = [key for key in keys if await lane.execute(b"EXISTS", key)]
    for key in kept:
        await lane.execute(b"RENAME", key, key + b":kept")
    for key in keys:
        put = b"SET" if b"}:i:" in key else b"LPUSH"  # a record is text, anything else no list
        await lane.execute(put, key, b"not what should be here")
    try:
        yield
    finally:
        lane = await world.kit.engine.lane()
        await lane.execute(b"DEL", *keys)
        for key in kept:
            await lane.execute(b"RENAME", key + b":kept", key)


def _keys(world: World, method: str, args: Object) -> list[bytes]:
    user = str(args["userId"]).encode()
    partition = world.kit.engine.partitions.of(user)
    if method in _WRITES:
        return [partition.journal]
    if method == "getUserById":
        return [partition.account(user)]
    return [partition.record(user, b"key:" + str(args.get("idempotencyKey")).encode())]


@asynccontextmanager
async def _connection_lost(fault: _Fault) -> AsyncGenerator[None, None]:
    """The connection ends: before a request is sent, or when its reply is on the way."""
    send = Lane.send
    calls = count(1)

    def sending(
        lane: Lane, requests: Sequence[bytes], replies: Sequence[Callable[[Reply], None]]
    ) -> None:
        shas = [lane.scripts[name].sha for name in _SCRIPTS if name in lane.scripts]
        if not any(sha in request for sha in shas for request in requests):
            send(lane, requests, replies)
        elif not fault.transient:
            send(lane, requests, [_lost(lane, fault, calls, reply) for reply in replies])
        else:
            if fault.is_due(next(calls)):
                fault.hits += 1
                lane.abandon(ConnectionResetError(fault.message))
            send(lane, requests, replies)

    with patch.object(Lane, "send", sending):
        yield


def _lost(
    lane: Lane, fault: _Fault, calls: Iterator[int], reply: Callable[[Reply], None]
) -> Callable[[Reply], None]:
    """The reply of a script that changed something does not arrive."""

    def answered(answer: Reply) -> None:
        if not _took_effect(answer) or not fault.is_due(next(calls)):
            reply(answer)
            return
        fault.hits += 1
        reply(LaneLostError(fault.message))
        lane.abandon(ConnectionResetError(fault.message))

    return answered


def _took_effect(answer: Reply) -> bool:
    return isinstance(answer, list) and any(
        isinstance(item, bytes) and item.startswith((b"ok\0", b"replayed\0"))
        for item in cast("list[Any]", answer)
    )
