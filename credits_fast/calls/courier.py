"""A call on its way: repeated while the world fails, past all that is closed, cold or overdue."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from credits_fast import logs
from credits_fast.calls.expiry import expire_holds
from credits_fast.calls.once import Once
from credits_fast.calls.retry import repeat
from credits_fast.errors import (
    CreditsError,
    MisconfiguredError,
    OutcomeUnknownError,
    PartitionFencedError,
    RedisUnavailableError,
    UnavailableError,
    UserNotFoundError,
)
from credits_fast.protocol import wire
from credits_fast.resp import pack

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine, Sequence

    from credits_fast.calls.accounts import Accounts
    from credits_fast.calls.admission import Admission
    from credits_fast.calls.dispatch import Dispatcher
    from credits_fast.calls.pending import Pending
    from credits_fast.config import RetryConfig
    from credits_fast.protocol.keys import PartitionKeys
    from credits_fast.protocol.wire import Call, HeldAccount, Operation
    from credits_fast.servers.acknowledgement import Receipt

__all__ = ["Courier"]

_log = logging.getLogger(__name__)

_CLOSED: Final = (b"fenced", b"unopened")
_COLD_MAX: Final = 3
_OVERDUE_MAX: Final = 24
"""How often a call has holds looked through that may have expired: once for every `EXPIRED_MAX`."""


class Courier:
    """Takes calls to the scripts and brings their replies back."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        admission: Admission,
        accounts: Accounts,
        retry: RetryConfig,
    ) -> None:
        self._dispatcher = dispatcher
        self._admission = admission
        self._accounts = accounts
        self._retry = retry
        self._expiring = Once()

    async def close(self) -> None:
        """Give up what is done for several callers at once."""
        await self._expiring.close()

    def send(
        self,
        pending: Pending[Any],
        via: Dispatcher | None = None,
        receipt: Receipt | None = None,
    ) -> asyncio.Future[bytes]:
        """The first answer to a call, to be awaited; unless it is `wire.DONE`, it is for `carry_on`.

        Args:
            pending: What is to be carried out.
            via: The dispatcher of the level that is asked for, None for the one of all calls.
            receipt: What that dispatcher fills in.
        """
        return (via or self._dispatcher).submit(pending.call, receipt)

    async def deliver(
        self,
        pending: Pending[Any],
        via: Dispatcher | None = None,
        receipt: Receipt | None = None,
    ) -> bytes:
        """The script's reply to a call, however long its way is; arguments and errors as of the others."""
        return await self.carry_on(pending, self.send(pending, via, receipt), via, receipt)

    async def carry_on(
        self,
        pending: Pending[Any],
        answer: asyncio.Future[bytes],
        via: Dispatcher | None = None,
        receipt: Receipt | None = None,
    ) -> bytes:
        """The script's reply after a first answer; the account is loaded where it was cold.

        A user nobody knows is refused here, for only here it is known.

        Raises:
            UserNotFoundError: Neither Redis nor the ledger knows the user.
            UnavailableError: The attempts ended without an answer.
            MisconfiguredError: The set-up is wrong.
        """
        operation, verb = pending.operation, pending.verb
        try:
            return await self._carry_on(
                pending.call, operation.user, answer, lambda: self.send(pending, via, receipt)
            )
        except UserNotFoundError as error:
            logs.refused(verb, operation, error.code)
            await self.note_refusal(
                operation, verb, "user_not_found", subject=pending.subject, extra=pending.extra
            )
            raise

    async def account(self, partition: PartitionKeys, user: bytes) -> tuple[HeldAccount, int]:
        """The account as it is now, and what now is, in milliseconds; loaded where it was cold.

        Raises:
            UserNotFoundError: Neither Redis nor the ledger knows the user.
            UnavailableError: The attempts ended without an answer.
        """
        for _ in range(_COLD_MAX):
            found = await repeat(lambda: self._look(partition, user), self._retry)
            if found is not None:
                return found
            await repeat(lambda: self._load(partition, user), self._retry)
        raise RedisUnavailableError(f"user {user.decode()!r} does not stay in Redis")

    async def note_refusal(
        self,
        operation: Operation,
        verb: str,
        code: str,
        details: Sequence[str] = ("", "", ""),
        *,
        subject: str = "",
        extra: bytes = b"",
    ) -> None:
        """Have a refusal that was decided outside the scripts audited, if refusals are.

        The refusal stands whether or not it can be written down, so a failure here is only logged.
        """
        if operation.audited != wire.AUDIT_ALL:
            return
        partition = operation.partition
        fields = (
            verb.encode(),
            subject.encode(),
            operation.tail(extra),
            code.encode(),
            *(detail.encode() for detail in details),
        )
        try:
            keys = (partition.journal, partition.gate)
            arguments = (self._dispatcher.now_us(), *fields)
            await self._dispatcher.router.run_script(partition, "refuse", keys, arguments)
        except CreditsError as error:
            _log.warning("a refused %s could not be audited: %s", verb, error)

    async def _carry_on(
        self,
        call: Call,
        user: bytes,
        first: asyncio.Future[bytes],
        again: Callable[[], asyncio.Future[bytes]],
    ) -> bytes:
        """The reply after a first answer that was not the end; it counts as the first attempt."""
        answers = [first]
        doubts: list[OutcomeUnknownError] = []

        async def attempt() -> bytes:
            try:
                return await self._attempt(call, answers.pop() if answers else again(), again)
            except OutcomeUnknownError as error:
                doubts.append(error)
                raise

        try:
            return await self._past_cold(call, user, attempt)
        except (UnavailableError, MisconfiguredError) as error:
            if doubts and not isinstance(error, OutcomeUnknownError):
                raise doubts[-1] from error  # what failed then says nothing of the attempt before
            raise

    async def _past_cold(
        self, call: Call, user: bytes, attempt: Callable[[], Coroutine[None, None, bytes]]
    ) -> bytes:
        """The reply when the account was loaded, and overdue holds were finished."""
        times = {wire.COLD: _COLD_MAX, wire.OVERDUE: _OVERDUE_MAX}
        while True:
            reply = await repeat(attempt, self._retry)
            if reply not in times:
                return reply
            times[reply] -= 1
            if times[reply] < 0:
                raise RedisUnavailableError(
                    f"user {user.decode()!r} is {reply.decode()} in Redis again and again"
                )
            prepare = self._load if reply == wire.COLD else self._expire
            await repeat(partial(prepare, call.partition, user), self._retry)

    async def _attempt(
        self,
        call: Call,
        answer: asyncio.Future[bytes],
        again: Callable[[], asyncio.Future[bytes]],
    ) -> bytes:
        reply = await answer
        if reply in _CLOSED:
            await self._admission.open(call.partition)
            reply = await again()
        status, *fields = reply.split(b"\0", 2)
        error = wire.closed(status, fields, call.partition.number)
        if error is not None:
            raise error
        return reply

    async def _load(self, partition: PartitionKeys, user: bytes) -> None:
        try:
            await self._accounts.load(partition, user)
        except PartitionFencedError:
            await self._admission.open(partition)
            await self._accounts.load(partition, user)

    async def _expire(self, partition: PartitionKeys, user: bytes) -> None:
        """Have holds of the user finished whose time is over; a crowd of callers has it done once."""
        await self._expiring.do(user, lambda: self._expire_now(partition, user))

    async def _expire_now(self, partition: PartitionKeys, user: bytes) -> None:
        router, now_us = self._dispatcher.router, self._dispatcher.now_us()
        try:
            await expire_holds(router, partition, {user: ()}, now_us)
        except PartitionFencedError:
            await self._admission.open(partition)
            await expire_holds(router, partition, {user: ()}, now_us)

    async def _look(self, partition: PartitionKeys, user: bytes) -> tuple[HeldAccount, int] | None:
        look = pack((b"MGET", partition.account(user), partition.gate))
        ask_time = pack((b"TIME",))
        (found, gate), time = await self._dispatcher.router.follow(
            partition, lambda lane: lane.execute_all(look, ask_time)
        )
        if gate is None:
            await self._admission.open(partition)
            return await self._look(partition, user)
        account = None if found is None else wire.held(found)
        if account is None or account.epoch != wire.epoch_of(gate):
            return None
        now_us = self._dispatcher.now_us() or b"%b%06d" % (time[0], int(time[1]))
        return account, int(now_us) // 1_000
