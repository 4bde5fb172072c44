"""An outcome nobody could tell is settled later: took effect once, or not at all; key or no key."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from credits_fast import (
    CaptureResult,
    ChargeResult,
    DatabaseUnavailableError,
    ExtendResult,
    HoldFinishedError,
    InsufficientCreditsError,
    InvalidArgumentError,
    OutcomeUnknownError,
    RedisUnavailableError,
)
from credits_fast.calls import outcomes
from credits_fast.servers.lane import Endpoint
from credits_fast.testing import CreditsKit, kit_on
from tests.integration.conftest import CONFIG
from tests.proxy import ReplyEater


@asynccontextmanager
async def eaten_replies(kit: CreditsKit, tmp_path: Path) -> AsyncGenerator[None, None]:
    """Within it every reply to a script is lost after the server has acted."""
    station: Any = next(kit.engine.router._stations())
    real = station.endpoint
    server = real.address.removeprefix("unix:")
    async with ReplyEater(tmp_path / "p", server, share=1, seed=7):
        await (await kit.engine.lane()).close()
        station.endpoint = Endpoint.from_url(f"unix://{tmp_path}/p")
        yield
    station.endpoint = real


async def unknown_charge(kit: CreditsKit, tmp_path: Path, **more: Any) -> OutcomeUnknownError:
    await kit.engine.create_user("ada", credits=100)
    async with eaten_replies(kit, tmp_path):
        with pytest.raises(OutcomeUnknownError) as unknown:
            await kit.engine.charge("ada", "image", **more)
    return unknown.value


@pytest.mark.parametrize("key", [None, "k"])
async def test_what_took_effect_gives_its_result(
    sqlite_kit: CreditsKit, tmp_path: Path, key: str | None
) -> None:
    error = await unknown_charge(sqlite_kit, tmp_path, idempotency_key=key)
    kept = pickle.loads(pickle.dumps(error))  # noqa: S301

    for one in (error, kept):
        resolution = await sqlite_kit.engine.resolve(one)
        assert resolution.took_effect
        assert error.operation_id == resolution.transaction_id == resolution.operation_id
        assert isinstance(resolution.result, ChargeResult)
        assert (True, 80) == (resolution.result.replayed, resolution.result.balance_after)
    await sqlite_kit.assert_balanced()


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("is_recorded", [False, True])
async def test_what_redis_has_forgotten_is_looked_up(
    sqlite_kit: CreditsKit,
    tmp_path: Path,
    key: str | None,
    is_recorded: bool,  # noqa: FBT001  # a row of the table
) -> None:
    """Repeating it would charge twice."""
    error = await unknown_charge(sqlite_kit, tmp_path, idempotency_key=key)
    if is_recorded:
        await sqlite_kit.sync()
    lane = await sqlite_kit.engine.lane()
    assert 1 == await lane.execute(b"UNLINK", outcomes.pending_of(error).operation.record_key)

    assert (error.operation_id, error.operation_id, None) == await sqlite_kit.engine.resolve(error)
    assert 80 == await sqlite_kit.engine.query_balance("ada")
    await sqlite_kit.assert_balanced()


async def charge_that_never_arrived(kit: CreditsKit) -> OutcomeUnknownError:
    """The call of a charge, lost on its way there; nobody could tell it from one lost on its way back."""
    await kit.engine.create_user("ada", credits=30)
    lane: Any = await kit.engine.lane()
    original = lane.send

    def lost(requests: Any, replies: Any) -> None:
        if any(b"EVALSHA" in request[:20] for request in requests):
            original((), replies)
            lane.abandon(ConnectionResetError("it ended"))
        else:
            original(requests, replies)

    lane.send = lost
    with pytest.raises(OutcomeUnknownError) as unknown:
        await kit.engine.charge("ada", "image")
    return unknown.value


@pytest.fixture
async def once(redis_endpoint: Endpoint, sqlite_database: AsyncEngine) -> AsyncIterator[CreditsKit]:
    """A kit whose engine repeats nothing by itself."""
    config = {**CONFIG, "retry": {"enabled": False}}
    async with kit_on(config, redis_endpoint, sqlite_database, None) as kit:
        yield kit


async def test_what_took_no_effect_takes_it_now_and_once_or_never(once: CreditsKit) -> None:
    error = await charge_that_never_arrived(once)

    looked = await once.engine.resolve(error, repeat_it=False)
    assert (False, None) == (looked.took_effect, looked.result)
    assert 30 == await once.engine.query_balance("ada")

    for replayed in (False, True):
        resolution = await once.engine.resolve(error)
        assert isinstance(resolution.result, ChargeResult)
        assert (replayed, 10) == (resolution.result.replayed, resolution.result.balance_after)
    await once.assert_balanced()


async def test_what_is_refused_when_it_is_repeated_has_no_effect(once: CreditsKit) -> None:
    error = await charge_that_never_arrived(once)
    await once.engine.charge("ada", "image")

    with pytest.raises(InsufficientCreditsError):
        await once.engine.resolve(error)


async def test_too_late_it_is_not_repeated(
    once: CreditsKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = await charge_that_never_arrived(once)
    operation = outcomes.pending_of(error).operation
    assert outcomes.may_be_repeated(operation, 10_000)
    made_ms = int(operation.operation_id[:12], 16)
    monkeypatch.setattr(time, "time_ns", lambda: (made_ms + 40_001) * 1_000_000)

    assert not (await once.engine.resolve(error)).took_effect
    assert 30 == await once.engine.query_balance("ada")


@pytest.mark.parametrize("how", ["cancel", "timeout"])
async def test_a_caller_that_was_cancelled_after_it_was_sent_can_ask(
    sqlite_kit: CreditsKit, how: str
) -> None:
    credits = sqlite_kit.engine
    await credits.create_user("ada", credits=100)
    lane: Any = await credits.lane()
    original, sent = lane.send, asyncio.Event()

    def send(requests: Any, replies: Any) -> None:
        original(requests, replies)
        sent.set()

    lane.send = send

    async def caller() -> None:
        async with asyncio.timeout(None) as limit:
            task = asyncio.current_task()
            assert task is not None
            charging.append((task, limit))
            await credits.charge("ada", "image")

    charging: list[tuple[asyncio.Task[Any], asyncio.Timeout]] = []
    running = asyncio.create_task(caller())
    await sent.wait()
    ((task, limit),) = charging
    if how == "cancel":
        task.cancel()
    else:
        limit.reschedule(0)
    with pytest.raises((asyncio.CancelledError, TimeoutError)) as ended:
        await running

    resolution = await credits.resolve(ended.value)
    assert isinstance(resolution.result, ChargeResult)
    assert 80 == resolution.result.balance_after == await credits.query_balance("ada")
    await sqlite_kit.assert_balanced()


async def unknown_capture(kit: CreditsKit, tmp_path: Path, **more: Any) -> OutcomeUnknownError:
    """The end of a hold of 10 by a member, for whom a picture is 15."""
    credits = kit.engine
    await credits.create_user("ada", credits=100, tier="pro")
    held = await credits.reserve("ada", "image", amount=10)
    await kit.sync()
    async with eaten_replies(kit, tmp_path):
        with pytest.raises(OutcomeUnknownError) as unknown:
            await credits.capture("ada", "image", held.hold_id, above="cap", **more)
    return unknown.value


@pytest.mark.parametrize("where", ["journal", "ledger", "ledger alone"])
@pytest.mark.parametrize(("more", "price"), [({}, 10), ({"amount": 4}, 4), ({"variables": {}}, 15)])
async def test_a_capture_that_finished_its_hold_is_told_its_result_however_late(
    sqlite_kit: CreditsKit,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    more: dict[str, Any],
    price: int,
) -> None:
    error = await unknown_capture(sqlite_kit, tmp_path, **more)
    credits = sqlite_kit.engine
    monkeypatch.setattr(outcomes, "may_be_repeated", lambda *_: False)
    if where == "journal":
        monkeypatch.setattr(credits._records, "capture", unreachable)
    else:
        await sqlite_kit.sync()
    if where == "ledger alone":
        journal = credits.partitions.of(b"ada").journal
        await (await credits.lane()).execute(b"XTRIM", journal, b"MAXLEN", b"1")

    resolution = await credits.resolve(pickle.loads(pickle.dumps(error)))  # noqa: S301
    assert error.operation_id == resolution.transaction_id
    result, cost = resolution.result, min(price, 10)
    assert isinstance(result, CaptureResult)
    assert (error.operation_id, cost, price, 100 - cost, 0, True, True) == (
        *(result.transaction_id, result.cost, result.price, result.balance_after),
        *(result.reserved, result.finished, result.replayed),
    )
    await sqlite_kit.assert_balanced()


async def unreachable(*_: Any) -> None:
    raise DatabaseUnavailableError("it is away")


async def test_a_capture_stays_in_doubt_while_neither_journal_nor_ledger_can_tell(
    sqlite_kit: CreditsKit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = await unknown_capture(sqlite_kit, tmp_path)
    await sqlite_kit.sync()
    credits = sqlite_kit.engine
    monkeypatch.setattr(credits._records, "capture", unreachable)

    for _ in range(2):
        with pytest.raises(OutcomeUnknownError, match="it is away") as unknown:
            await credits.resolve(error)
        error = unknown.value
    monkeypatch.undo()
    assert isinstance((await credits.resolve(error)).result, CaptureResult)


async def test_the_hold_of_another_capture_is_finished_and_not_mistaken_for_ones_own(
    once: CreditsKit,
) -> None:
    credits = once.engine
    await credits.create_user("ada", credits=100)
    held = await credits.reserve("ada", "image")
    await credits.capture("ada", "image", held.hold_id, amount=7)

    for _ in range(2):  # told by the journal, then by the ledger
        with pytest.raises(HoldFinishedError, match="captured"):
            await credits.capture("ada", "image", held.hold_id, amount=7)
        await once.sync()
    assert 93 == await credits.query_balance("ada")
    await once.assert_balanced()


async def test_an_error_about_nothing_cannot_be_resolved(sqlite_kit: CreditsKit) -> None:
    with pytest.raises(InvalidArgumentError, match="outcome is unknown"):
        await sqlite_kit.engine.resolve(RedisUnavailableError("away"))


async def test_an_extension_is_settled_as_long_as_somebody_remembers_it_and_no_guess_is_made(
    sqlite_kit: CreditsKit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credits = sqlite_kit.engine
    await credits.create_user("ada", credits=100)
    hold_id = (await credits.reserve("ada", "image")).hold_id
    async with eaten_replies(sqlite_kit, tmp_path):
        with pytest.raises(OutcomeUnknownError) as unknown:
            await credits.extend("ada", hold_id, amount=5)
    error = unknown.value

    resolution = await credits.resolve(error)
    assert isinstance(resolution.result, ExtendResult)
    assert (True, 25) == (resolution.result.replayed, resolution.result.kept)
    await (await credits.lane()).execute(b"UNLINK", outcomes.pending_of(error).operation.record_key)
    monkeypatch.setattr(outcomes, "may_be_repeated", lambda *_: False)
    assert (error.operation_id, error.operation_id, None) == await credits.resolve(error)
    await sqlite_kit.sync()
    keys = credits.partitions.of(b"ada")
    await (await credits.lane()).execute(b"XTRIM", keys.journal, b"MAXLEN", b"1")
    with pytest.raises(OutcomeUnknownError, match="has forgotten it"):
        await credits.resolve(error)
    assert 25 == (await credits.get_user("ada")).reserved
