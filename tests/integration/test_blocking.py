"""The blocking engine on a real Valkey and PostgreSQL: threads, errors, closing, forks."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest

from credits_fast import (
    Charge,
    ConfigurationError,
    CreditsEngine,
    CreditsError,
    EngineClosedError,
    InsufficientCreditsError,
    SchemaMismatchError,
)
from credits_fast.blocking import BlockingCreditsEngine
from tests.integration.conftest import CONFIG
from tests.servers import Servers

_WITHIN_S = 30


@pytest.fixture
def urls(servers: Servers) -> tuple[str, str]:
    """An empty Redis and an empty, migrated ledger in PostgreSQL."""

    async def emptied() -> str:
        from credits_fast.servers.lane import Endpoint, Lane

        lane = await Lane.open(Endpoint.from_url(servers.redis_url))
        await lane.execute(b"FLUSHALL")
        await lane.close()
        url = await servers.empty_database("asyncpg")
        return url.render_as_string(hide_password=False)

    return servers.redis_url, asyncio.run(emptied())


@pytest.fixture
def credits(urls: tuple[str, str]) -> Iterator[BlockingCreditsEngine]:
    with BlockingCreditsEngine.from_url(*urls, CONFIG) as opened:
        yield opened


def engine_threads() -> int:
    return sum(one.name == "credits-fast engine" for one in threading.enumerate())


def test_results_are_those_of_the_engine(credits: BlockingCreditsEngine) -> None:
    user = credits.create_user("ada", credits=100, tier="basic")
    charge = credits.charge("ada", "image", idempotency_key="k")
    again = credits.charge("ada", "image", idempotency_key="k")

    assert (Decimal(100), "basic") == (user.credits, user.membership_tier)
    assert (Decimal(20), Decimal(80), False) == (charge.cost, charge.balance_after, charge.replayed)
    assert charge._replace(replayed=True) == again
    assert Decimal(85) == credits.grant("ada", "5", "gift").balance_after
    assert 3 == credits.get_user("ada").sequence
    assert "credits" == credits.config.namespace


def test_a_block_charges_what_was_used_and_gives_back_what_an_error_leaves(
    credits: BlockingCreditsEngine,
) -> None:
    credits.create_user("ada", credits=100)
    with credits.hold("ada", "image", amount=30) as hold:
        assert Decimal(30) == hold.amount
        hold.used(amount=12)
    assert hold.captured is not None
    assert (Decimal(12), Decimal(88)) == (hold.captured.cost, hold.captured.balance_after)

    with pytest.raises(ZeroDivisionError), credits.hold("ada", "image", amount=30) as failed:
        raise ZeroDivisionError
    assert failed.captured is None
    assert Decimal(88) == credits.reserve("ada", "image", amount=88).reserved


def test_an_error_is_not_hidden_by_an_engine_that_was_closed_meanwhile(
    credits: BlockingCreditsEngine, caplog: pytest.LogCaptureFixture
) -> None:
    credits.create_user("ada", credits=100)

    def block() -> None:
        with credits.hold("ada", "image"):
            credits.close()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        block()

    assert "was not left: the engine is not open" in caplog.text


def test_a_stream_is_charged_what_it_consumed(credits: BlockingCreditsEngine) -> None:
    credits.create_user("ada", credits=15)

    def stream() -> None:
        for _ in range(5):
            hold.consume(amount=3)
        hold.consume(amount=1)

    with pytest.raises(InsufficientCreditsError), credits.hold("ada", "image", amount=8) as hold:
        stream()

    assert (Decimal(15), False) == (hold.consumed, hold.replayed)
    user = credits.get_user("ada")
    assert (Decimal(0), Decimal(0)) == (user.credits, user.reserved)


def test_errors_are_those_of_the_engine_with_their_facts(credits: BlockingCreditsEngine) -> None:
    credits.create_user("ada", credits=5)

    with pytest.raises(InsufficientCreditsError) as caught:
        credits.charge("ada", "image")
    outcomes = credits.charge_many([Charge(user_id="ada", action=one) for one in ("free", "image")])

    assert (Decimal(20), Decimal(5)) == (caught.value.required, caught.value.available)
    assert [Decimal(0), "INSUFFICIENT_CREDITS"] == [
        one.code if isinstance(one, CreditsError) else one.cost for one in outcomes
    ]


def test_threads_share_it_and_every_one_gets_its_own_answer(credits: BlockingCreditsEngine) -> None:
    for user in range(8):
        credits.create_user(f"user-{user}", credits=20 * user)

    refused: set[tuple[int, str]] = set()

    def spend(user: int) -> list[Decimal]:
        left: list[Decimal] = []
        for _ in range(10):
            try:
                left.append(credits.charge(f"user-{user}", "image").balance_after)
            except InsufficientCreditsError as refusal:
                refused.add((user, refusal.user_id))
        return left

    with ThreadPoolExecutor(8) as pool:
        spent = [*pool.map(spend, range(8), timeout=_WITHIN_S)]

    assert [[Decimal(20 * left) for left in range(user)][::-1] for user in range(8)] == spent
    assert {(user, f"user-{user}") for user in range(8)} == refused
    assert 1 == engine_threads()


def test_a_database_can_be_migrated_before_it_is_opened(servers: Servers, tmp_path: Any) -> None:
    database = f"sqlite:///{tmp_path}/credits.db"
    blocking = BlockingCreditsEngine.from_url(servers.redis_url, database, CONFIG)
    with pytest.raises(SchemaMismatchError):
        blocking.start()

    revision = blocking.migrate()

    assert 0 == engine_threads()
    with blocking as opened:
        assert revision == opened.migrate()


def test_what_is_not_open_says_so(urls: tuple[str, str]) -> None:
    blocking = BlockingCreditsEngine.from_url(*urls, CONFIG)
    for _ in range(2):
        with pytest.raises(EngineClosedError, match="by `with`, or by `start`"):
            blocking.query_balance("ada")
        with blocking:
            blocking.start()  # once more changes nothing
            assert 1 == engine_threads()
            with pytest.raises(CreditsError, match="'ada' does not exist"):
                blocking.query_balance("ada")
        blocking.close()
        assert 0 == engine_threads()


def test_what_cannot_be_made_says_why_and_leaves_no_thread() -> None:
    with pytest.raises(ConfigurationError, match="costs"):
        BlockingCreditsEngine.from_url("redis://nowhere", "sqlite://", {}).start()
    with pytest.raises(ZeroDivisionError):
        BlockingCreditsEngine(lambda: 1 // 0).start()  # type: ignore[arg-type,return-value]

    assert 0 == engine_threads()


def test_whoever_waits_while_it_is_closed_is_told(
    credits: BlockingCreditsEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = threading.Event()

    async def endless(*_: Any, **__: Any) -> None:
        reached.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(CreditsEngine, "get_user", endless)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(credits.get_user, "ada")
        assert reached.wait(_WITHIN_S)
        credits.close()

        with pytest.raises(EngineClosedError, match="before the answer came"):
            waiting.result(_WITHIN_S)


def test_ctrl_c_ends_the_call_and_its_work(
    credits: BlockingCreditsEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled, waiting = threading.Event(), threading.get_ident()

    async def endless(*_: Any, **__: Any) -> None:
        signal.pthread_kill(waiting, signal.SIGINT)
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    monkeypatch.setattr(CreditsEngine, "get_user", endless)
    with pytest.raises(KeyboardInterrupt):
        credits.get_user("ada")

    assert cancelled.wait(_WITHIN_S)
    monkeypatch.undo()
    assert "ada" == credits.create_user("ada").id


def test_ctrl_c_while_an_engine_is_made_leaves_no_thread(urls: tuple[str, str]) -> None:
    waiting = threading.get_ident()

    def make() -> CreditsEngine:
        signal.pthread_kill(waiting, signal.SIGINT)
        return CreditsEngine.from_url(*urls, CONFIG)

    for _ in range(20):  # it may come while the thread starts, or while it is waited for
        with pytest.raises(KeyboardInterrupt):
            BlockingCreditsEngine(make).start()

    assert 0 == engine_threads()


def in_a_fork(work: Callable[[], object]) -> str:
    """What the work gives or raises in a forked process, as text."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            told = str(work())
        except BaseException as error:  # noqa: BLE001
            told = f"{type(error).__name__}: {error}"
        os.write(writing, told.encode())
        os._exit(0)  # nothing of pytest runs twice
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    assert (child, 0) == os.waitpid(child, 0)
    return told


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_after_a_fork_it_refuses_until_it_is_opened_anew(credits: BlockingCreditsEngine) -> None:
    credits.create_user("ada", credits=100)

    def anew() -> Decimal:
        credits.close()  # the parent's stays open
        with credits as own:
            return own.charge("ada", "image").balance_after

    assert "EngineClosedError: the engine was opened in another process" in in_a_fork(
        lambda: credits.charge("ada", "image")
    )
    assert "80.000000" == in_a_fork(anew)
    assert Decimal(60) == credits.charge("ada", "image").balance_after


def test_an_engine_that_is_opened_as_another_thread_closes_it_is_closed_as_well(
    credits: BlockingCreditsEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = threading.Lock()

    class Late:
        """A lock whose first user comes after others have closed the engine and opened it again."""

        def __enter__(self) -> None:
            monkeypatch.setattr(credits, "_opening", real)
            credits.close()
            credits.start()
            real.acquire()

        def __exit__(self, *_: object) -> None:
            real.release()

    monkeypatch.setattr(credits, "_opening", Late())
    credits.close()

    assert 0 == engine_threads()


def test_a_call_that_comes_as_it_closes_is_refused(credits: BlockingCreditsEngine) -> None:
    room = credits._room
    credits.close()

    assert room is not None
    with pytest.raises(EngineClosedError):
        room.wait(lambda engine: engine.get_user("ada"))
    room.close()
