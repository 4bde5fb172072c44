"""Comparing everything while charges go on: no false alarm under load, and every planted difference."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from sqlalchemy import delete, insert, text, update

from credits_fast import InsufficientCreditsError, SyncConfig
from credits_fast.checks.verification import Verification, verify
from credits_fast.ledger.database import writing
from credits_fast.sync.tables import holds, transactions, users
from credits_fast.sync.worker import SyncWorker
from credits_fast.testing import CreditsKit

NAMES = [f"user-{number}" for number in range(12)]
QUICK = SyncConfig(retain_ms=0, poll_ms=1, batch_max=50)
RETAINING = SyncConfig(poll_ms=1)


async def verified(kit: CreditsKit) -> Verification:
    return await verify(kit.engine.router, kit.database, kit.engine.partitions)


@pytest.fixture
async def populated(sqlite_kit: CreditsKit) -> CreditsKit:
    return await populate(sqlite_kit)


async def populate(kit: CreditsKit) -> CreditsKit:
    """Twelve users in four partitions, each with a recorded charge, and one who is not in Redis."""
    engine = kit.engine
    await asyncio.gather(*(engine.create_user(name, credits=10_000) for name in NAMES))
    await asyncio.gather(*(engine.charge(name, "image") for name in NAMES))
    await kit.sync()
    async with writing(kit.database) as connection:
        await connection.execute(insert(users).values(id="cold", credits=5))
    return kit


@asynccontextmanager
async def working(kit: CreditsKit, config: SyncConfig) -> AsyncGenerator[None, None]:
    """A worker of its own beside what goes on inside."""
    await kit.worker.close()
    worker = SyncWorker(kit.engine.endpoint, kit.database, kit.engine.partitions, config)
    stop = asyncio.Event()
    running = asyncio.create_task(worker.run(stop))
    try:
        yield
    finally:
        stop.set()
        await running
        await worker.close()


@asynccontextmanager
async def charging(kit: CreditsKit) -> AsyncGenerator[Callable[[], int], None]:
    """Callers who charge, grant and create users without a pause; how often they did so far."""
    done, stopped = 0, False

    async def calls(seed: int) -> None:
        nonlocal done
        chance = random.Random(seed)
        while not stopped:
            user = chance.choice(NAMES)
            with suppress(InsufficientCreditsError):
                match chance.randrange(20):
                    case 0:
                        await kit.engine.create_user(f"new-{seed}-{done}", credits=3)
                    case 1:
                        await kit.engine.grant(user, 30, "bonus")
                    case 2:
                        await kit.engine.charge(user, "image", amount=10**9)
                    case 3:
                        await kit.engine.reserve(user, "image", amount=1)
                    case 4 | 5:
                        hold = await kit.engine.reserve(user, "image", amount=2)
                        await kit.engine.capture(user, "image", hold.hold_id, amount=1)
                    case _:
                        await kit.engine.charge(user, "image", amount=1)
            done += 1

    callers = [asyncio.create_task(calls(seed)) for seed in range(16)]
    try:
        yield lambda: done
    finally:
        stopped = True
        await asyncio.gather(*callers)


@pytest.mark.parametrize("config", [QUICK, RETAINING], ids=["trimmed at once", "retained"])
async def test_under_load_with_a_worker_everything_agrees(
    kit: CreditsKit, config: SyncConfig
) -> None:
    populated = await populate(kit)
    found: list[Verification] = []
    async with working(populated, config), charging(populated) as charged:
        for _ in range(3):
            before = charged()
            found.append(await verified(populated))
            assert charged() > before

    assert [[]] * 3 == [[*one.differing, *one.forked, *one.sheet.differing] for one in found]
    assert all(one.is_verified for one in found)
    assert all(one.compared >= 12 and one.cold >= 1 for one in found)
    assert found[-1].holds_compared > 0
    assert sum(one.second_looks for one in found) > 0
    assert found[-1].sheet.transactions > found[0].sheet.transactions


async def test_without_a_worker_the_journal_leads_from_the_ledger_to_redis(
    kit: CreditsKit,
) -> None:
    populated = await populate(kit)
    for _ in range(3):
        await asyncio.gather(*(populated.engine.charge(name, "image") for name in NAMES))
    found = await verified(populated)

    assert found.is_verified
    assert (13, 12, 1, 12, 36, 12) == (
        found.users,
        found.compared,
        found.cold,
        found.second_looks,
        found.transactions_waiting,
        found.transactions_compared,
    )


async def _in_redis(
    kit: CreditsKit,
    *,
    balance: int = 0,
    sequence: int = 0,
    reserved: bytes | None = None,
    user: bytes = b"user-7",
) -> None:
    """Add to what an account holds."""
    partition = kit.engine.partitions.of(user)
    router, key = kit.engine.router, partition.account(user)
    held = (await router.execute(partition, b"GET", key)).split(b" ")
    held[1], held[3] = b"%d" % (int(held[1]) + balance), b"%d" % (int(held[3]) + sequence)
    held[2] = held[2] if reserved is None else reserved
    await router.execute(partition, b"SET", key, b" ".join(held))


async def _instead(kit: CreditsKit, *words: bytes) -> None:
    """Put something else, or nothing, in the place of an account."""
    partition = kit.engine.partitions.of(b"user-7")
    key = partition.account(b"user-7")
    await kit.engine.router.execute(partition, b"DEL", key)
    if words:
        await kit.engine.router.execute(partition, words[0], key, *words[1:])


async def _in_sql(kit: CreditsKit, *statements: Any) -> None:
    async with writing(kit.database) as connection:
        for statement in statements:
            await connection.execute(statement)


Plant = Callable[[CreditsKit], Any]
_OF_USER_7 = transactions.c.user_id == "user-7"
_CHARGE = transactions.c.sequence == 2

PLANTED: dict[str, tuple[Plant, str]] = {
    "a balance in Redis": (
        lambda kit: _in_redis(kit, balance=1),
        "Redis has 9980.000001 at sequence 2, the ledger has 9980.000000 there",
    ),
    "credits held in Redis": (
        lambda kit: _in_redis(kit, reserved=b"5000000/0"),
        "Redis has 5.000000 reserved at sequence 2, the ledger 0.000000",
    ),
    "a count of holds in Redis": (
        lambda kit: _in_redis(kit, reserved=b"0/99/1"),
        "the account in Redis counts 1 open holds, there are 0",
    ),
    "a sequence in Redis ahead": (
        lambda kit: _in_redis(kit, sequence=1),
        "transaction 3 is neither there nor in the journal",
    ),
    "a sequence in Redis behind": (
        lambda kit: _in_redis(kit, sequence=-1),
        "and the ledger was at 2 before",
    ),
    "no number in Redis": (
        lambda kit: _instead(kit, b"SET", b"1-0 many 0 2  "),
        "is no account",
    ),
    "something else in Redis": (
        lambda kit: _instead(kit, b"RPUSH", b"something"),
        "is no account",
    ),
    "credits in SQL": (
        lambda kit: _in_sql(kit, update(users).where(users.c.id == "user-7").values(credits=9_999)),
        "the ledger has 9999.000000 there",
    ),
    "a transaction that is gone": (
        lambda kit: _in_sql(kit, delete(transactions).where(_OF_USER_7, _CHARGE)),
        "has recorded that entry, but not the transaction",
    ),
    "a transaction's amount": (
        lambda kit: _in_sql(
            kit,
            update(transactions).where(_OF_USER_7, _CHARGE).values(amount=-19, balance_after=9_981),
        ),
        "the ledger has charge 2 of user-7 of -19.000000 ending at 9981.000000",
    ),
    "a transaction's user": (
        lambda kit: _in_sql(
            kit,
            update(transactions).where(_OF_USER_7, _CHARGE).values(user_id="cold", sequence=1),
        ),
        "the ledger has charge 1 of cold",
    ),
}


@pytest.mark.parametrize("planted", PLANTED)
async def test_a_planted_difference_is_found_and_named(populated: CreditsKit, planted: str) -> None:
    plant, problem = PLANTED[planted]
    assert (await verified(populated)).is_verified

    await plant(populated)
    found = await verified(populated)

    assert not found.is_verified
    assert ["user-7"] == [*found.differing], found.differing
    assert problem in found.differing["user-7"]


async def test_a_planted_difference_is_found_under_load(populated: CreditsKit) -> None:
    await populated.engine.create_user("still", credits=100)
    await populated.engine.charge("still", "image")
    async with working(populated, QUICK), charging(populated):
        await populated.engine.wait_recorded(timeout_ms=30_000)
        before = await verified(populated)
        await _in_redis(populated, balance=-500_000, user=b"still")
        found = await verified(populated)

    assert before.is_verified
    assert (["still"], "0.500000") == ([*found.differing], str(found.drift))


async def test_a_hold_that_is_known_to_redis_only_is_found_once_the_ledger_passed_it(
    populated: CreditsKit,
) -> None:
    hold = await populated.engine.reserve("user-7", "image", amount=5)
    assert (await verified(populated)).is_verified
    await populated.sync()
    assert (await verified(populated)).is_verified

    await _in_sql(
        populated,
        delete(holds).where(holds.c.id == hold.hold_id),
        update(users).where(users.c.id == "user-7").values(reserved=0),
    )
    found = await verified(populated)

    assert ["user-7"] == [*found.differing]
    assert found.sheet.conserves


async def _hold_field(kit: CreditsKit, *words: bytes) -> None:
    """Do something to the open holds of a user's partition."""
    partition = kit.engine.partitions.of(b"user-7")
    await kit.engine.router.execute(partition, words[0], partition.holds, *words[1:])


OF_HOLDS: dict[str, tuple[Plant, str]] = {
    "a hold that is gone": (
        lambda kit: _hold_field(kit, b"UNLINK"),
        "the account in Redis counts 2 open holds, there are 0",
    ),
    "a hold nobody made": (
        lambda kit: _hold_field(kit, b"HSET", b"user-7\0stray", b"5 5 0 99 1 "),
        "the account in Redis counts 2 open holds, there are 3",
    ),
    "a count": (
        lambda kit: _in_redis(kit, reserved=b"5000000/99/7"),
        "the account in Redis counts 7 open holds, there are 2",
    ),
    "holds without an account": (
        _instead,
        "Redis has 2 open holds and no account",
    ),
    "an amount in SQL": (
        lambda kit: _in_sql(
            kit, update(holds).where(holds.c.reserved > 2).values(amount=3, reserved=2)
        ),
        "Redis and ledger differ in 1 open holds",
    ),
}


@pytest.mark.parametrize("planted", OF_HOLDS)
async def test_a_planted_difference_of_single_holds_is_found(
    populated: CreditsKit, planted: str
) -> None:
    plant, problem = OF_HOLDS[planted]
    for amount in (2, 3):
        await populated.engine.reserve("user-7", "image", amount=amount)
    before = await verified(populated)
    assert (True, 2) == (before.is_verified, before.holds_compared)
    await populated.sync()
    assert (await verified(populated)).is_verified

    await plant(populated)
    found = await verified(populated)

    assert ["user-7"] == [*found.differing], found.differing
    assert problem in found.differing["user-7"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((b"HSET", b"user-7\0h1", b"garbage"), "'user-7' is none: b'garbage'"),
        ((b"SET", b"garbage"), "what Redis keeps as the holds of partition"),
    ],
)
async def test_what_is_kept_as_a_hold_and_is_none_is_told(
    populated: CreditsKit, words: tuple[bytes, ...], told: str
) -> None:
    await _hold_field(populated, *words)

    found = await verified(populated)

    assert not found.is_verified
    assert told in found.forked[populated.engine.partitions.of(b"user-7").number]


async def test_an_account_put_back_to_where_it_was_is_found_though_the_ledger_is_there_too(
    populated: CreditsKit,
) -> None:
    partition = populated.engine.partitions.of(b"user-7")
    account = partition.account(b"user-7")
    before = await populated.engine.router.execute(partition, b"DUMP", account)
    await populated.engine.charge("user-7", "image")
    await populated.engine.router.execute(partition, b"RESTORE", account, b"0", before, b"REPLACE")
    found = await verified(populated)

    assert "at sequence 2, and the journal was at 3 before" in found.differing["user-7"]


async def test_a_user_whom_redis_forgot_while_the_ledger_lags_is_found(
    populated: CreditsKit,
) -> None:
    await populated.engine.charge("user-7", "image")
    await _instead(populated)
    found = await verified(populated)
    await populated.sync()
    later = await verified(populated)

    assert "the journal has transactions 3 to 3" in found.differing["user-7"]
    assert (True, 2) == (later.is_verified, later.cold)


async def test_a_user_whom_the_ledger_has_lost_is_found(populated: CreditsKit) -> None:
    await populated.engine.create_user("gone", credits=10)
    await populated.engine.charge("gone", "image", amount=1)
    await _in_sql(
        populated,
        delete(transactions).where(transactions.c.user_id == "gone"),
        delete(users).where(users.c.id == "gone"),
    )
    found = await verified(populated)

    assert {"gone": "the journal has transactions, the ledger no such user"} == found.differing


async def test_a_step_that_begins_elsewhere_than_the_one_before_it_ended_is_found(
    kit: CreditsKit,
) -> None:
    """Every sum still agrees: both rows were moved by the same amount."""
    populated = await populate(kit)
    for _ in range(2):
        await populated.engine.charge("user-7", "image")
    await populated.sync()
    moved = update(transactions).where(_OF_USER_7, transactions.c.sequence == 3)
    await _in_sql(populated, moved.values(balance_before=9_970, balance_after=9_950))
    found = await verified(populated)

    assert 0 == found.sheet.drift
    assert (
        "transaction 3 begins at 9970.000000, the one before it ended at 9980.000000"
        == (found.sheet.differing["user-7"])
    )
    assert not found.is_verified


async def test_a_journal_that_is_gone_or_another_one_is_found(populated: CreditsKit) -> None:
    journal = populated.engine.partitions[2].journal
    lane = await populated.engine.lane()
    await lane.execute(b"DEL", journal)
    found = await verified(populated)

    assert [2] == [*found.forked]
    assert "is recorded and no longer in the journal" in found.forked[2]


async def test_an_entry_nobody_can_read_is_found(populated: CreditsKit) -> None:
    journal = populated.engine.partitions[1].journal
    lane = await populated.engine.lane()
    await lane.execute(b"XADD", journal, b"1-*", b"v", b"1", b"t", b"0", b"i", b"nonsense")
    found = await verified(populated)

    assert [1] == [*found.forked]
    assert "cannot be read" in found.forked[1]


async def test_sums_that_do_not_make_the_balances_are_found_in_the_ledger_alone(
    populated: CreditsKit,
) -> None:
    await _in_sql(populated, text("UPDATE users SET sequence = 3 WHERE id = 'user-7'"))
    found = await verified(populated)

    assert "the sequence has a gap" in found.sheet.differing["user-7"]
