"""`in_transaction`: charged, granted, refunded if and only if the application's own transaction commits."""

# ruff: noqa: PT012  # what raises is the end of a block, which takes several lines

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import delete, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session

from credits_fast import (
    DatabaseUnavailableError,
    IdempotencyKeyConflictError,
    InsufficientCreditsError,
    InvalidArgumentError,
    RefundExceedsChargeError,
    RepeatedRequestError,
    TransactionNotFoundError,
    UserNotFoundError,
)
from credits_fast.ledger.database import connect
from credits_fast.servers.lane import Endpoint, Lane
from credits_fast.sync.tables import holds, intents
from credits_fast.testing import CreditsKit, kit_on
from credits_fast.transactions.intent_ids import stand_in
from credits_fast.transactions.intents import Intents
from credits_fast.transactions.own_transaction import Intended, OwnTransaction
from credits_fast.transactions.settling import Settling
from tests.integration.conftest import CONFIG
from tests.integration.own_application import POINTS
from tests.servers import Servers

AT_ONCE: dict[str, Any] = {**CONFIG, "sync": {"expire_ms": 0, "intent_grace_ms": 0}}
_ENDS_WITHIN_S = 60
_SYNCS_MAX = 20


class OrderError(Exception):
    """The order cannot be had."""


@pytest.fixture(params=["asyncpg", "psycopg"])
async def ledger(request: pytest.FixtureRequest, servers: Servers) -> AsyncIterator[AsyncEngine]:
    """A ledger in PostgreSQL that has the application's table `orders` too."""
    url = await servers.empty_database(request.param)
    engine = connect(url.render_as_string(hide_password=False))
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE IF NOT EXISTS orders (name TEXT)"))
        await connection.execute(text("TRUNCATE orders"))
    yield engine
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE orders"))
    await engine.dispose()


@pytest.fixture
async def kit(ledger: AsyncEngine, redis_endpoint: Endpoint) -> AsyncIterator[CreditsKit]:
    """An open engine, and a worker that settles at once what it finds unsettled."""
    async with kit_on(AT_ONCE, redis_endpoint, ledger, None) as opened:
        await opened.engine.create_user("ada", credits=100)
        yield opened


@pytest.fixture
async def session(kit: CreditsKit) -> AsyncIterator[AsyncSession]:
    """The application's own session, on the ledger's database."""
    async with AsyncSession(kit.database) as opened:
        yield opened


async def order(session: AsyncSession, name: str = "first") -> None:
    """The application's own business."""
    await session.execute(text("INSERT INTO orders VALUES (:name)"), {"name": name})


async def orders(kit: CreditsKit) -> int:
    """How many orders there are."""
    async with kit.database.connect() as connection:
        return int((await connection.execute(text("SELECT count(*) FROM orders"))).scalar_one())


async def rows(kit: CreditsKit) -> list[tuple[str, str, bool]]:
    """The intents: kind, state, and whether they are settled."""
    async with kit.database.connect() as connection:
        found = await connection.execute(select(intents).order_by(intents.c.id))
        return [(row.kind, row.state, row.settled_at is not None) for row in found]


async def assert_settled(kit: CreditsKit, *, credits: int) -> None:
    """Nothing is held, nothing is left to do, the user has this, and the books balance."""
    await kit.assert_balanced()
    user = await kit.engine.get_user("ada")
    assert (credits, 0) == (user.credits, user.reserved)
    assert all(is_settled for _, _, is_settled in await rows(kit))


async def wipe(kit: CreditsKit) -> None:
    """Redis loses everything, and the worker repairs what it can."""
    lane: Lane = await kit.engine.lane()
    await lane.execute(b"FLUSHALL")
    for _ in range(_SYNCS_MAX):
        await kit.worker.step()
        if kit.worker.repaired:
            return
    raise AssertionError("it was not repaired")


# --- it commits, it rolls back -------------------------------------------------------------------


async def test_all_three_take_effect_with_the_commit(
    kit: CreditsKit, session: AsyncSession
) -> None:
    credits = kit.engine
    async with credits.in_transaction(session) as purchase:
        await order(session)
        charged = await purchase.charge("ada", "image", metadata={"order": 1})
        granted = await purchase.grant("ada", 7, "bonus")
        refunded = await purchase.refund("ada", 2, "image")
        during = await credits.get_user("ada")

    after = await credits.get_user("ada")
    assert (100, 20) == (during.credits, during.reserved)
    assert (89, 0) == (after.credits, after.reserved)
    assert (("charge", 20, False), ("grant", 7, False), ("refund", 2, False)) == tuple(
        (one.kind, one.amount, one.replayed) for one in (charged, granted, refunded)
    )
    assert ((), 1) == (purchase.unsettled, await orders(kit))
    ledger = await kit.transactions("ada")
    assert [-20, 7, 2] == [one.amount for one in ledger[1:]]
    assert [charged.id, granted.id, refunded.id] == [
        ledger[1].related_id,
        ledger[2].id,
        ledger[3].id,
    ]
    assert 1 == ledger[1].metadata["order"]
    await assert_settled(kit, credits=89)


async def test_none_takes_effect_with_a_rollback(kit: CreditsKit, session: AsyncSession) -> None:
    purchase = kit.engine.in_transaction(session)
    with pytest.raises(OrderError):
        async with purchase:
            await order(session)
            await purchase.charge("ada", "image")
            await purchase.grant("ada", 7, "bonus")
            await purchase.refund("ada", 2, "image")
            raise OrderError

    user = await kit.engine.get_user("ada")
    assert (100, 0, ()) == (user.credits, user.reserved, purchase.unsettled)
    await assert_settled(kit, credits=100)
    assert 0 == await orders(kit)
    assert [("charge", "aborted", True)] == await rows(kit)


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("commits", [True, False])
async def test_every_level_of_isolation_will_do(
    kit: CreditsKit, level: Any, *, commits: bool
) -> None:
    async with kit.database.connect() as connection:
        await connection.execution_options(isolation_level=level)
        block = kit.engine.in_transaction(connection)
        with suppress(OrderError):
            async with block as purchase:
                await connection.execute(text("INSERT INTO orders VALUES ('first')"))
                await purchase.charge("ada", "image")
                await purchase.grant("ada", 5, "bonus")
                if not commits:
                    raise OrderError

    await assert_settled(kit, credits=85 if commits else 100)
    assert int(commits) == await orders(kit)


async def test_what_a_savepoint_takes_back_is_not_done_though_the_rest_commits(
    kit: CreditsKit, session: AsyncSession
) -> None:
    async with kit.engine.in_transaction(session) as purchase:
        await purchase.charge("ada", "image")
        with pytest.raises(OrderError):
            async with session.begin_nested():
                await purchase.charge("ada", "image", amount=50)
                await purchase.grant("ada", 7, "bonus")
                raise OrderError
        async with session.begin_nested():
            await purchase.grant("ada", 3, "bonus")
        await order(session)

    assert () == purchase.unsettled
    await assert_settled(kit, credits=83)
    assert 1 == await orders(kit)


# --- the application dies ------------------------------------------------------------------------

_COMMITTED = {"C5", "C6", "C7", "C8"}


@pytest.mark.parametrize(
    ("point", "kind"),
    [
        (point, kind)
        for point in POINTS
        for kind in ("charge", "grant", "refund")
        # Of a grant or refund nothing is asked of Redis before the commit; they go the same way.
        if kind == "charge"
        or (kind == "grant" and point not in {"C1", "C2"})
        or point in {"C4", "C6"}
    ],
)
@pytest.mark.parametrize("ledger", ["asyncpg"], indirect=True)
async def test_an_application_that_is_killed_was_charged_where_it_had_committed(
    kit: CreditsKit, servers: Servers, point: str, kind: str
) -> None:
    url = kit.database.url.render_as_string(hide_password=False)
    words = ("-m", "tests.integration.own_application", servers.redis_url, url, point, kind)
    program = await asyncio.to_thread(
        subprocess.run,
        (sys.executable, *words),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        timeout=_ENDS_WITHIN_S,
        check=False,
        env=os.environ,
    )
    assert (-signal.SIGKILL, b"") == (program.returncode, program.stderr)
    for _ in range(_SYNCS_MAX):  # the server may take a moment to see that its client is gone
        await kit.sync()
        if (await kit.engine.get_user("ada")).reserved == 0:
            break

    has_committed = point in _COMMITTED
    effect = {"charge": -20, "grant": 20, "refund": 20}[kind] if has_committed else 0
    assert int(has_committed) == await orders(kit)
    await assert_settled(kit, credits=100 + effect)
    await kit.sync()
    await assert_settled(kit, credits=100 + effect)


async def test_c4b_a_transaction_left_open_is_waited_for_and_nothing_is_decided(
    kit: CreditsKit,
) -> None:
    session = AsyncSession(kit.database)
    purchase = await kit.engine.in_transaction(session).__aenter__()
    await purchase.charge("ada", "image")
    for _ in range(3):
        await kit.sync()
        assert 20 == (await kit.engine.get_user("ada")).reserved

    await session.rollback()
    await session.close()
    await assert_settled(kit, credits=100)


@pytest.mark.parametrize("kind", ["charge", "grant"])
async def test_c5_a_commit_whose_answer_is_lost_has_happened(
    kit: CreditsKit, session: AsyncSession, kind: str
) -> None:
    commit = AsyncSession.commit

    async def unheard(self: AsyncSession) -> None:
        await commit(self)
        raise ConnectionResetError

    purchase = kit.engine.in_transaction(session)
    with pytest.raises(ConnectionResetError), patch.object(AsyncSession, "commit", unheard):
        async with purchase:
            await (
                purchase.charge("ada", "image")
                if kind == "charge"
                else purchase.grant("ada", 20, "bonus")
            )

    assert (80 if kind == "charge" else 120) == (await kit.engine.get_user("ada")).credits
    assert () == purchase.unsettled
    await assert_settled(kit, credits=80 if kind == "charge" else 120)


async def unresolved(kit: CreditsKit, session: AsyncSession, **options: Any) -> Intended:
    """A charge that is committed and not captured."""

    async def nothing(*_: Any) -> None:
        pass

    with patch.object(OwnTransaction, "_resolve", nothing):
        async with kit.engine.in_transaction(session) as purchase:
            return await purchase.charge("ada", "image", amount=60, **options)


async def test_c6_metadata_that_the_database_writes_longer_is_no_reason_not_to_charge(
    kit: CreditsKit, session: AsyncSession
) -> None:
    metadata = {"numbers": [1e300] * 20}  # jsonb gives 301 digits back for each
    await unresolved(kit, session, metadata=metadata)

    await kit.sync()
    await assert_settled(kit, credits=40)
    assert [10**300] * 20 == (await kit.transactions("ada"))[-1].metadata["numbers"]


async def test_c11_a_hold_that_redis_lost_is_charged_all_the_same(
    kit: CreditsKit, session: AsyncSession
) -> None:
    await kit.engine.charge("ada", "image", amount=10)
    await kit.sync()
    made = await unresolved(kit, session)
    with patch.object(Settling, "sweep", _nothing):
        await wipe(kit)
        await kit.engine.charge("ada", "image", amount=70)
        await kit.sync()

    await kit.sync()
    assert 1 == kit.worker.tally.stood_in
    await assert_settled(kit, credits=-40)  # by no more below zero than the hold was
    assert [10, 70, 60] == [-one.amount for one in (await kit.transactions("ada"))[1:]]
    async with kit.database.connect() as connection:
        found = (await connection.execute(select(holds.c.id, holds.c.state))).all()
    assert [(made.id[:-1] + "j", "captured")] == [tuple(row) for row in found]


@pytest.mark.parametrize("other", ["debt", "holds"])
async def test_c11b_nor_does_it_matter_what_became_of_the_user_meanwhile(
    kit: CreditsKit, session: AsyncSession, other: str
) -> None:
    """Who is in debt by then, or has as many holds as one may have, is charged all the same."""
    credits = kit.engine
    await credits.charge("ada", "image", amount=10)
    await kit.sync()
    await unresolved(kit, session)
    with patch.object(Settling, "sweep", _nothing):
        await wipe(kit)
        number = 1 if other == "debt" else credits.config.holds.open_max
        made = [credits.reserve("ada", "image", amount=0) for _ in range(number)]
        opened = [one.hold_id for one in await asyncio.gather(*made)]
        if other == "debt":
            await credits.capture("ada", "image", opened.pop(), amount=150)
        await kit.sync()

    await kit.sync()
    assert 1 == kit.worker.tally.stood_in
    await asyncio.gather(*(credits.release("ada", hold_id) for hold_id in opened))
    await assert_settled(kit, credits=-120 if other == "debt" else 30)


async def test_c12_a_capture_that_redis_lost_and_the_ledger_has_is_not_made_again(
    kit: CreditsKit, session: AsyncSession
) -> None:
    async with kit.engine.in_transaction(session) as purchase:
        await purchase.charge("ada", "image")
    await kit.sync()
    await wipe(kit)

    await assert_settled(kit, credits=80)


async def test_c13_a_capture_that_redis_lost_and_the_ledger_never_had_is_made_again(
    kit: CreditsKit, session: AsyncSession
) -> None:
    async with kit.engine.in_transaction(session) as purchase:
        await purchase.charge("ada", "image")
        await purchase.grant("ada", 5, "bonus")
        with patch.object(Settling, "sweep", _nothing):
            await kit.sync()  # the ledger has the hold
    assert 85 == (await kit.engine.get_user("ada")).credits
    await wipe(kit)

    await assert_settled(kit, credits=85)
    assert 0 == kit.worker.tally.stood_in


async def _nothing(*_: Any) -> None:
    """What a worker does that does not come to it."""


# --- keys ----------------------------------------------------------------------------------------


async def test_c14_a_transaction_that_is_repeated_after_a_rollback_is_charged_once(
    kit: CreditsKit, session: AsyncSession
) -> None:
    with pytest.raises(OrderError):
        async with kit.engine.in_transaction(session) as purchase:
            await purchase.charge("ada", "image", idempotency_key="order-1")
            raise OrderError
    answers: list[Intended] = []
    for _ in range(2):
        async with kit.engine.in_transaction(session) as purchase:
            answers.append(await purchase.charge("ada", "image", idempotency_key="order-1"))

    assert [False, True] == [one.replayed for one in answers]
    assert answers[0].id == answers[1].id
    with pytest.raises(IdempotencyKeyConflictError):
        async with kit.engine.in_transaction(session) as purchase:
            await purchase.charge("ada", "image", amount=3, idempotency_key="order-1")
    await assert_settled(kit, credits=80)


@pytest.mark.parametrize("first_commits", [True, False])
async def test_c15_of_two_at_once_with_the_same_key_one_commits(
    kit: CreditsKit, session: AsyncSession, *, first_commits: bool
) -> None:
    credits = kit.engine
    is_written = asyncio.Event()

    async def second() -> None:
        await is_written.wait()
        async with AsyncSession(kit.database) as other, credits.in_transaction(other) as purchase:
            await order(other, "second")
            await purchase.charge("ada", "image", idempotency_key="order-1")

    waiting = asyncio.create_task(second())
    with suppress(OrderError):
        async with credits.in_transaction(session) as purchase:
            await order(session)
            await purchase.charge("ada", "image", idempotency_key="order-1")
            is_written.set()
            for _ in range(1_000):  # until the second one holds its credits, on its way to wait
                if (await credits.get_user("ada")).reserved == 40:
                    break
            if not first_commits:
                raise OrderError
    if first_commits:
        with pytest.raises(RepeatedRequestError):
            await waiting
    else:
        await waiting

    assert 1 == await orders(kit)
    await assert_settled(kit, credits=80)


async def test_c16_a_hold_that_was_given_up_aborts_the_transaction_that_comes_too_late(
    kit: CreditsKit, session: AsyncSession
) -> None:
    write = Intents.write

    async def late(self: Intents, connection: Any, intent: Any) -> None:
        await kit.sync()
        await write(self, connection, intent)

    with pytest.raises(DatabaseUnavailableError, match="given up"):
        async with kit.engine.in_transaction(session) as purchase:
            await order(session)
            with patch.object(Intents, "write", late):
                await purchase.charge("ada", "image")

    assert 0 == await orders(kit)
    await assert_settled(kit, credits=100)


async def test_c17_a_charge_whose_intent_was_lost_stays_and_can_be_found(
    kit: CreditsKit, session: AsyncSession
) -> None:
    async with kit.engine.in_transaction(session) as purchase:
        made = await purchase.charge("ada", "image")
    await kit.sync()
    async with kit.database.begin() as connection:
        await connection.execute(delete(intents))
    await assert_settled(kit, credits=80)

    page = Path(__file__).parents[2] / "docs" / "transactions.md"
    query = page.read_text(encoding="utf-8").split("```sql\n")[1].split("```")[0]
    async with kit.database.connect() as connection:
        assert [made.id] == [row.id for row in await connection.execute(text(query))]


async def test_c18_without_the_database_what_is_held_stays_held_until_it_is_back(
    kit: CreditsKit, session: AsyncSession
) -> None:
    gone = DatabaseUnavailableError("it is away")
    with patch.object(Intents, "decide", side_effect=gone):
        async with kit.engine.in_transaction(session) as purchase:
            made = await purchase.charge("ada", "image")
        user = await kit.engine.get_user("ada")

    assert (100, 20, (made.id,)) == (user.credits, user.reserved, purchase.unsettled)
    await assert_settled(kit, credits=80)


# --- refusals ------------------------------------------------------------------------------------


async def test_what_is_refused_is_refused_before_the_commit(
    kit: CreditsKit, session: AsyncSession
) -> None:
    credits = kit.engine
    charge = await credits.charge("ada", "image")

    async def refused(error: type[Exception], verb: str, *given: Any, **named: Any) -> None:
        with pytest.raises(error):
            async with credits.in_transaction(session) as purchase:
                await order(session)
                await getattr(purchase, verb)(*given, **named)

    await refused(InsufficientCreditsError, "charge", "ada", "image", amount=81)
    await refused(UserNotFoundError, "grant", "nobody", 5, "bonus")
    await refused(UserNotFoundError, "charge", "nobody", "image")
    await refused(TransactionNotFoundError, "refund", "ada", 5, "image", transaction_id="none")
    await refused(InvalidArgumentError, "charge", "ada", "image", idempotency_key="")
    assert charge.transaction_id
    assert 0 == await orders(kit)
    await assert_settled(kit, credits=80)


async def test_a_bounded_refund_never_passes_its_charge(
    ledger: AsyncEngine, redis_endpoint: Endpoint
) -> None:
    bounded = {**AT_ONCE, "refunds": {"above_charge": "refuse"}}
    async with (
        kit_on(bounded, redis_endpoint, ledger, None) as kit,
        AsyncSession(ledger) as session,
    ):
        await kit.engine.create_user("ada", credits=100)
        charge = (await kit.engine.charge("ada", "image")).transaction_id
        with pytest.raises(InvalidArgumentError, match="required"):
            async with kit.engine.in_transaction(session) as purchase:
                await purchase.refund("ada", 5, "image")
        with pytest.raises(RefundExceedsChargeError):
            async with kit.engine.in_transaction(session) as purchase:
                await purchase.refund("ada", 21, "image", transaction_id=charge)
        async with kit.engine.in_transaction(session) as purchase:
            await purchase.refund("ada", 15, "image", transaction_id=charge)
            # Each is within the charge as of now; together they are not, which the script finds.
            await purchase.refund("ada", 15, "image", transaction_id=charge)
        assert 1 == len(purchase.unsettled)
        await kit.assert_balanced()
        assert 95 == (await kit.engine.get_user("ada")).credits
        async with ledger.connect() as connection:
            problems = [*(await connection.execute(select(intents.c.problem))).scalars()]
        assert [False, True] == sorted("REFUND_EXCEEDS_CHARGE" in (one or "") for one in problems)

        before = len(await kit.audit("ada"))
        await kit.sync()
        assert before == len(await kit.audit("ada"))  # it is not tried for ever


async def test_only_the_ledgers_own_database_will_do(
    kit: CreditsKit, sqlite_database: AsyncEngine, servers: Servers
) -> None:
    other = create_async_engine(servers.database_url.set(database="postgres"))
    autocommit = kit.database.execution_options(isolation_level="AUTOCOMMIT")
    for database, why in (
        (sqlite_database, "PostgreSQL"),
        (other, "another database"),
        (autocommit, "AUTOCOMMIT"),
    ):
        async with AsyncSession(database) as session:
            with pytest.raises(InvalidArgumentError, match=why):
                async with kit.engine.in_transaction(session) as purchase:
                    await purchase.grant("ada", 5, "bonus")
    await other.dispose()
    await assert_settled(kit, credits=100)


async def test_what_is_no_session_is_refused_before_the_block_begins(kit: CreditsKit) -> None:
    scoped = async_scoped_session(async_sessionmaker(kit.database), asyncio.current_task)
    others: tuple[Any, ...] = (scoped, kit.database, Session(), None)
    for other in others:
        with pytest.raises(InvalidArgumentError, match="AsyncSession or AsyncConnection"):
            async with kit.engine.in_transaction(other):
                raise AssertionError("the block must not run")
    async with kit.engine.in_transaction(scoped()) as purchase:
        await purchase.charge("ada", "image")

    await scoped.remove()
    await assert_settled(kit, credits=80)


async def test_a_ledger_in_sqlite_cannot_decide(sqlite_kit: CreditsKit) -> None:
    await sqlite_kit.engine.create_user("ada", credits=100)
    async with AsyncSession(sqlite_kit.database) as session:
        with pytest.raises(InvalidArgumentError, match="PostgreSQL"):
            async with sqlite_kit.engine.in_transaction(session) as purchase:
                await purchase.charge("ada", "image")
    await sqlite_kit.assert_balanced()


async def test_a_block_is_entered_once_and_used_within(
    kit: CreditsKit, session: AsyncSession
) -> None:
    block = kit.engine.in_transaction(session)
    with pytest.raises(InvalidArgumentError, match="not open"):
        await block.charge("ada", "image")
    async with block:
        pass
    with pytest.raises(InvalidArgumentError, match="not open"):
        await block.grant("ada", 1, "bonus")
    with pytest.raises(InvalidArgumentError, match="once"):
        async with block:
            pass


async def test_a_cancelled_application_is_settled_before_it_hears_of_it(
    kit: CreditsKit, session: AsyncSession
) -> None:
    is_held = asyncio.Event()

    async def business() -> None:
        async with kit.engine.in_transaction(session) as purchase:
            await purchase.charge("ada", "image")
            is_held.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(business())
    await is_held.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert 0 == (await kit.engine.get_user("ada")).reserved
    await assert_settled(kit, credits=100)


async def test_a_hold_for_an_intent_never_expires_by_time(
    kit: CreditsKit, session: AsyncSession
) -> None:
    async with kit.engine.in_transaction(session) as purchase:
        made = await purchase.charge("ada", "image")
        with patch.object(Settling, "sweep", _nothing):
            await kit.sync()
        async with kit.database.connect() as connection:
            query = select(holds.c.expires_at).where(holds.c.id == made.id)
            assert 7000 < (await connection.execute(query)).scalar_one().year
    await assert_settled(kit, credits=80)


async def test_holds_that_stand_in_for_others_keep_no_intent_from_being_found(
    kit: CreditsKit, session: AsyncSession
) -> None:
    """However many of them stay open, because they cannot be captured."""

    async def rename(names: dict[str, str]) -> None:  # the ledger's side of it is enough
        async with kit.database.begin() as connection:
            for name, other in names.items():
                renamed = update(holds).where(holds.c.id == name).values(id=other)
                await connection.execute(renamed)

    async with kit.engine.in_transaction(session) as purchase:
        made = [await purchase.charge("ada", "image", amount=1) for _ in range(4)]
        with patch.object(Settling, "sweep", _nothing):
            await kit.sync()
        *ids, last = sorted(one.id for one in made)
        await rename({name: stand_in(name) for name in ids})
        found: list[str] = []
        after, any_time = "", datetime.now(UTC) + timedelta(days=1)
        for _ in range(3):
            page = await Intents(kit.database).unsettled(range(4), any_time, after, most=2)
            found += [intent.id for intent in page.found]
            after = page.last_id
        await rename({stand_in(name): name for name in ids})

    assert [last] == found
    await assert_settled(kit, credits=96)


async def test_an_intent_is_marked_only_where_the_ledger_has_its_effect(
    kit: CreditsKit, session: AsyncSession
) -> None:
    async with kit.engine.in_transaction(session) as purchase:
        await purchase.charge("ada", "image")
    assert [("charge", "commit", False)] == await rows(kit)
    with patch.object(Settling, "sweep", _nothing):
        await kit.sync()  # it is the commit that records the capture which marks it
    assert [("charge", "commit", True)] == await rows(kit)

    async with kit.database.begin() as connection:  # as a repair leaves it
        await connection.execute(update(intents).values(settled_at=None))
    await assert_settled(kit, credits=80)


async def test_a_database_error_of_the_application_is_its_own(
    kit: CreditsKit, session: AsyncSession
) -> None:
    with pytest.raises(DBAPIError):
        async with kit.engine.in_transaction(session) as purchase:
            await purchase.charge("ada", "image")
            await session.execute(text("SELECT 1 / 0"))
    await assert_settled(kit, credits=100)
