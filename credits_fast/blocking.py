"""`BlockingCreditsEngine`: the engine for code that does not await, such as scripts and task queues.

It has the engine's operations, under the same names, with the same arguments, results and errors; each
call waits for its answer. There is one implementation: an engine of its own runs on an event loop in a
thread, and every operation here is handed over to it. Concurrent calls of several threads travel
together, as concurrent tasks do.

    with BlockingCreditsEngine.from_url("redis://…", "postgresql://…", "credits.toml") as credits:
        credits.charge("ada", "report", idempotency_key=job.id)

A thread does not survive a fork. Where workers are forked, as in Celery, each opens its own after the
fork; one that was open already refuses every call there, until it is started anew.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import CancelledError, Future
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, Self, TypeVar

from credits_fast.engine import CreditsEngine
from credits_fast.errors import EngineClosedError

if TYPE_CHECKING:
    from datetime import datetime
    from decimal import Decimal
    from pathlib import Path
    from types import TracebackType

    from credits_fast.amounts import Amount
    from credits_fast.config import CreditsConfig
    from credits_fast.engine import Configuration
    from credits_fast.holds.hold import Hold
    from credits_fast.types import CaptureResult, Variables

__all__ = ["BlockingCreditsEngine", "BlockingHold"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

_log: Final = logging.getLogger(__name__)

_NOT_OPEN: Final = "the engine is not open: it is opened by `with`, or by `start`"
_FORKED: Final = (
    "the engine was opened in another process, before a fork; open one of its own in each process"
)


class BlockingCreditsEngine:
    """Charges, grants and refunds of one set of users, for code that does not await.

    It may be used by several threads at once, and opened again after it was closed. In a program that
    runs an event loop `CreditsEngine` is the better choice: a call here holds up its whole thread.

    Every operation may raise what the engine's raises, and `EngineClosedError` where this one is not
    open, was closed meanwhile, or was opened in another process.

    Args:
        make_engine: Makes the engine; called in the thread of its event loop at every start. What it
            uses, such as a SQLAlchemy engine, belongs to that loop and must not be shared with others.

    Example:
        >>> with BlockingCreditsEngine.embedded("./credits-data", "credits.toml") as credits:
        ...     credits.create_user("ada", credits=100)
        ...     print(credits.charge("ada", "chat", variables={"tokens": 1200}).balance_after)
    """

    _room: _Room | None

    def __init__(self, make_engine: Callable[[], CreditsEngine]) -> None:
        self._make_engine = make_engine
        self._forget()

    @classmethod
    def from_url(cls, redis_url: str, database_url: str, config: Configuration) -> Self:
        """An engine on servers that run elsewhere; see `CreditsEngine.from_url`.

        Args:
            redis_url: Where the server, the cluster or the Sentinels are.
            database_url: A SQLAlchemy URL of PostgreSQL or SQLite; the driver is filled in.
            config: The configuration, its values, or the path of a TOML or JSON file.

        Raises:
            ConfigurationError: When it is opened: a URL or the configuration cannot be used.
        """
        return cls(lambda: CreditsEngine.from_url(redis_url, database_url, config))

    @classmethod
    def embedded(cls, path: str | Path, config: Configuration) -> Self:
        """An engine with a real Valkey and SQLite of its own in a folder; see `CreditsEngine.embedded`.

        Args:
            path: The folder; it is made where it does not exist.
            config: The configuration, its values, or the path of a TOML or JSON file.

        Raises:
            ConfigurationError: When it is opened: the configuration cannot be used, or the extra is
                not installed.
        """
        return cls(lambda: CreditsEngine.embedded(path, config))

    # --- opening and closing ------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the thread and open the engine; nothing, where it is open already.

        Raises:
            CreditsError: What `CreditsEngine.start` raises.
        """
        if self._process != os.getpid():
            self._forget()
        with self._opening:
            if self._room is not None:
                return
            room = _Room(self._make_engine)
            try:
                room.wait(lambda engine: engine.start())
            except BaseException:
                room.close()
                raise
            self._room = room

    def close(self) -> None:
        """End connections and whatever is under way, and the thread. Nothing acknowledged is lost."""
        if self._process != os.getpid():
            return  # what came along in a fork is the parent's to close
        room = self._room
        if room is None:
            return
        with self._opening:
            room, self._room = self._room, None  # others may have closed it, and opened another
            if room is None:
                return
            try:
                room.wait(lambda engine: engine.close())
            finally:
                room.close()

    @property
    def config(self) -> CreditsConfig:
        """The configuration, checked.

        Raises:
            EngineClosedError: It is not open.
        """
        return self._opened().engine.config

    def migrate(self) -> str:
        """Bring the database to this version's schema; may be called before the engine is opened.

        Returns:
            The revision the database is at now.
        """
        if self._process == os.getpid() and self._room is not None:
            return self._wait(lambda engine: engine.migrate())
        room = _Room(self._make_engine)
        try:
            return room.wait(_migrated)
        finally:
            room.close()

    # --- operations ---------------------------------------------------------------------------

    @staticmethod
    def _blocking(
        method: Callable[Concatenate[CreditsEngine, _P], Coroutine[Any, Any, _R]],
    ) -> Callable[Concatenate[BlockingCreditsEngine, _P], _R]:
        """The operation that waits for the engine's; name, arguments and types are the engine's."""

        @wraps(method)
        def call(self: BlockingCreditsEngine, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
            def work(engine: CreditsEngine) -> Coroutine[Any, Any, _R]:
                own: Callable[_P, Coroutine[Any, Any, _R]] = getattr(engine, method.__name__)
                return own(*args, **kwargs)

            return self._wait(work)

        return call

    @staticmethod
    def _block(
        method: Callable[Concatenate[CreditsEngine, _P], Hold],
    ) -> Callable[Concatenate[BlockingCreditsEngine, _P], AbstractContextManager[BlockingHold]]:
        """The engine's block, for `with` instead of `async with`."""

        @wraps(method)
        @contextmanager
        def block(
            self: BlockingCreditsEngine, /, *args: _P.args, **kwargs: _P.kwargs
        ) -> Generator[BlockingHold, None, None]:
            hold = method(self._opened().engine, *args, **kwargs)
            self._wait(lambda _: hold.__aenter__())
            try:
                yield BlockingHold(hold, self._wait)
            except BaseException:
                raised = sys.exc_info()
                try:
                    self._wait(lambda _: hold.__aexit__(*raised))
                except EngineClosedError as error:  # what led here is more important
                    _log.warning("hold %s was not left: %s", hold.id, error)
                raise
            self._wait(lambda _: hold.__aexit__(None, None, None))

        return block

    create_user = _blocking(CreditsEngine.create_user)
    get_user = _blocking(CreditsEngine.get_user)
    query_balance = _blocking(CreditsEngine.query_balance)
    charge = _blocking(CreditsEngine.charge)
    charge_many = _blocking(CreditsEngine.charge_many)
    refund = _blocking(CreditsEngine.refund)
    grant = _blocking(CreditsEngine.grant)
    hold = _block(CreditsEngine.hold)
    reserve = _blocking(CreditsEngine.reserve)
    extend = _blocking(CreditsEngine.extend)
    capture = _blocking(CreditsEngine.capture)
    release = _blocking(CreditsEngine.release)
    resolve = _blocking(CreditsEngine.resolve)
    upgrade_tier = _blocking(CreditsEngine.upgrade_tier)
    downgrade_tier = _blocking(CreditsEngine.downgrade_tier)
    renew_membership = _blocking(CreditsEngine.renew_membership)
    validate_access = _blocking(CreditsEngine.validate_access)
    get_history = _blocking(CreditsEngine.get_history)
    get_audit_log = _blocking(CreditsEngine.get_audit_log)
    wait_recorded = _blocking(CreditsEngine.wait_recorded)

    def _forget(self) -> None:
        """Begin in this process: locks of another one may be held for ever by threads it left behind."""
        self._process = os.getpid()
        self._opening = threading.Lock()
        self._room = None

    def _opened(self) -> _Room:
        room = self._room
        if room is None:
            raise EngineClosedError(_NOT_OPEN)
        if self._process != os.getpid():
            raise EngineClosedError(_FORKED)
        return room

    def _wait(self, work: Callable[[CreditsEngine], Coroutine[Any, Any, _R]]) -> _R:
        return self._opened().wait(work)


class BlockingHold:
    """What `BlockingCreditsEngine.hold` gives: the engine's `Hold`, for code that does not await.

    Args:
        hold: The engine's.
        wait: Waits for work on the event loop.
    """

    def __init__(
        self,
        hold: Hold,
        wait: Callable[[Callable[[CreditsEngine], Coroutine[Any, Any, None]]], None],
    ) -> None:
        self._hold = hold
        self._wait = wait

    @property
    def id(self) -> str:
        """The hold's id."""
        return self._hold.id

    @property
    def amount(self) -> Decimal:
        """What was reserved, in credits."""
        return self._hold.amount

    @property
    def expires_at(self) -> datetime:
        """When the hold ended by itself, were it not extended."""
        return self._hold.expires_at

    @property
    def replayed(self) -> bool:
        """Whether another call made the hold, under the same key."""
        return self._hold.replayed

    @property
    def consumed(self) -> Decimal:
        """What was consumed so far, in credits; 0 where nothing was."""
        return self._hold.consumed

    @property
    def captured(self) -> CaptureResult | None:
        """The charge, from the end of the block on; see `Hold`."""
        return self._hold.captured

    def used(self, *, amount: Amount | None = None, variables: Variables | None = None) -> None:
        """Say what is to be charged at the end of the block; see `Hold.used`.

        Args:
            amount: The price in credits, 0 or more.
            variables: Values for the variables of the action's price formula.
        """
        self._hold.used(amount=amount, variables=variables)

    def consume(self, *, amount: Amount | None = None, variables: Variables | None = None) -> None:
        """Count a piece of a stream, before it is handed on; see `Hold.consume`.

        Args:
            amount: The price of the piece in credits, 0 or more.
            variables: What it adds to the variables of the action's price formula.
        """
        self._wait(lambda _: self._hold.consume(amount=amount, variables=variables))


async def _migrated(engine: CreditsEngine) -> str:
    try:
        return await engine.migrate()
    finally:
        await engine.close()


class _Room:
    """A thread with an event loop, and an engine on it.

    Attributes:
        engine: The engine, once there is one.
    """

    engine: CreditsEngine

    def __init__(self, make_engine: Callable[[], CreditsEngine]) -> None:
        self._handing_over = threading.Lock()
        self._ending = False
        made: Future[asyncio.AbstractEventLoop] = Future()
        # A daemon, so that a program that forgets to close can end.
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._live(make_engine, made)),
            name="credits-fast engine",
            daemon=True,
        )
        try:
            self._thread.start()
            self._loop = made.result()
        except BaseException:
            made.add_done_callback(self._leave)  # Ctrl-C may come while the engine is being made
            if self._thread.is_alive():
                self._thread.join()
            raise

    def wait(self, work: Callable[[CreditsEngine], Coroutine[Any, Any, _R]]) -> _R:
        """What the work on the engine gives, when it is done."""
        # Made before the work begins: Ctrl-C may come at any moment from then on.
        answer: Future[_R] = Future()
        try:
            self._hand_in(work, answer)
            return answer.result()
        except CancelledError:
            raise EngineClosedError("the engine was closed before the answer came") from None
        except BaseException:
            answer.cancel()  # Ctrl-C: nobody waits for the answer any more
            raise

    def close(self) -> None:
        """End the thread, and whatever is under way on it."""
        with self._handing_over:
            if self._ending:
                return
            self._ending = True
            self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    def _leave(self, made: Future[asyncio.AbstractEventLoop]) -> None:
        """End the thread, where an engine was made that nobody waits for."""
        if made.exception() is None:
            made.result().call_soon_threadsafe(self._end.set)

    def _hand_in(
        self, work: Callable[[CreditsEngine], Coroutine[Any, Any, _R]], answer: Future[_R]
    ) -> None:
        with self._handing_over:
            if self._ending:
                raise EngineClosedError(_NOT_OPEN)
            self._loop.call_soon_threadsafe(self._begin, work, answer)

    def _begin(
        self, work: Callable[[CreditsEngine], Coroutine[Any, Any, _R]], answer: Future[_R]
    ) -> None:
        """Begin the work, whose end becomes the answer; without an answer it is cancelled."""
        task = self._loop.create_task(work(self.engine))
        task.add_done_callback(lambda done: _hand_over(done, answer))

        def given_up(answer: Future[_R]) -> None:
            if answer.cancelled() and not task.done():
                self._loop.call_soon_threadsafe(task.cancel)

        answer.add_done_callback(given_up)

    async def _live(
        self,
        make_engine: Callable[[], CreditsEngine],
        made: Future[asyncio.AbstractEventLoop],
    ) -> None:
        """Until the end; `asyncio.run` then cancels what is under way, and those who wait are told."""
        self._end = asyncio.Event()
        try:
            self.engine = make_engine()
        except BaseException as error:  # noqa: BLE001  # whoever opens the engine is told
            made.set_exception(error)
            return
        made.set_result(asyncio.get_running_loop())
        await self._end.wait()


def _hand_over(task: asyncio.Task[_R], answer: Future[_R]) -> None:
    """Tell who waits how the task has ended."""
    if task.cancelled():
        answer.cancel()
        return
    error = task.exception()
    if not answer.set_running_or_notify_cancel():
        return  # Ctrl-C: nobody waits
    if error is None:
        answer.set_result(task.result())
    else:
        answer.set_exception(error)
