"""Idle accounts leave Redis and come back, whatever happens at the same moment."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any, Final

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from credits_fast import InsufficientCreditsError
from credits_fast.servers.lane import Endpoint
from credits_fast.sync.eviction import Eviction
from credits_fast.testing import CreditsKit, kit_on
from tests.integration.conftest import CONFIG
from tests.integration.test_least_privilege import documented_commands, endpoint_of
from tests.servers import Servers

USERS: Final = [f"user-{number}" for number in range(40)]
AT_ONCE: Final[dict[str, Any]] = {**CONFIG, "sync": {"idle_ms": 1, "evict_ms": 0}}
ROUNDS: Final = 12


@pytest.fixture
async def forgetful(database: AsyncEngine, redis_endpoint: Endpoint) -> AsyncIterator[CreditsKit]:
    """Forty users with 1,000 credits, and a worker that drops every account it may drop."""
    async with kit_on(AT_ONCE, redis_endpoint, database, None) as kit:
        for user in USERS:
            await kit.engine.create_user(user, credits=1_000)
        yield kit


async def charge_new_users(kit: CreditsKit) -> None:
    """All users with one recorded charge."""
    for user in USERS:
        await kit.engine.create_user(user, credits=1_000)
    await asyncio.gather(*(kit.engine.charge(user, "image") for user in USERS))
    await kit.sync()


async def charge_later(kit: CreditsKit, user: str, turns: int) -> None:
    """A charge, after so many turns of the event loop: somewhere in the middle of a step."""
    for _ in range(turns):
        await asyncio.sleep(0)
    await kit.engine.charge(user, "image", amount=1)


async def carry(kit: CreditsKit) -> None:
    for _ in range(3):
        await kit.worker.step()


async def accounts(kit: CreditsKit) -> int:
    lane = await kit.engine.lane()
    found = await asyncio.gather(
        *(
            lane.execute(b"EXISTS", kit.engine.partitions.of(user.encode()).account(user.encode()))
            for user in USERS
        )
    )
    return sum(found)


async def test_what_the_ledger_has_leaves_and_comes_back_when_it_is_needed(
    forgetful: CreditsKit,
) -> None:
    await asyncio.gather(*(forgetful.engine.charge(user, "image") for user in USERS))
    held = await forgetful.engine.reserve(USERS[0], "image", amount=500)
    assert 40 == await accounts(forgetful)

    await forgetful.sync()

    assert 1 == await accounts(forgetful)  # the one with an open hold
    assert 39 == forgetful.worker.tally.evictions
    with pytest.raises(InsufficientCreditsError) as refused:
        await forgetful.engine.charge(USERS[0], "image", amount=481)
    assert (Decimal(480), Decimal(500)) == (refused.value.available, refused.value.reserved)
    captured = await forgetful.engine.capture(USERS[0], "image", held.hold_id, amount=400)
    assert Decimal(580) == captured.balance_after
    await forgetful.sync()
    assert 0 == await accounts(forgetful)
    assert Decimal(580) == await forgetful.engine.query_balance(USERS[0])
    assert 1 == await accounts(forgetful)
    await forgetful.assert_balanced()


async def test_charges_while_accounts_leave_all_the_time(forgetful: CreditsKit) -> None:
    chance = random.Random(5)
    charged: Counter[str] = Counter()
    for _ in range(ROUNDS):
        some = chance.sample(USERS, 12)
        charged.update(some)
        charges = (charge_later(forgetful, user, chance.randrange(400)) for user in some)
        await asyncio.gather(*charges, carry(forgetful))

    assert forgetful.worker.tally.evictions > len(USERS)
    for user in USERS:
        assert 1_000 - charged[user] == await forgetful.engine.query_balance(user)
    await forgetful.assert_balanced()


async def test_what_is_used_stays_and_so_does_what_others_carry(
    sqlite_kit: CreditsKit,
) -> None:
    await charge_new_users(sqlite_kit)
    eviction = Eviction(sqlite_kit.engine.partitions, sqlite_kit.engine.router)
    everything = range(len(sqlite_kit.engine.partitions))

    assert 0 == await eviction.evict(everything, 3_600_000)
    assert 40 == await accounts(sqlite_kit)
    theirs = sum(sqlite_kit.engine.partitions.of(user.encode()).number == 1 for user in USERS)
    assert theirs == await eviction.evict([1], 0) > 0
    assert 40 - theirs == await accounts(sqlite_kit)
    assert 40 - theirs == await eviction.evict(everything, 0)


async def test_all_keys_of_a_server_are_gone_round_a_part_at_a_time(
    sqlite_kit: CreditsKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("credits_fast.sync.eviction._KEYS_AT_ONCE", b"10")
    await charge_new_users(sqlite_kit)
    eviction = Eviction(sqlite_kit.engine.partitions, sqlite_kit.engine.router)
    everything = range(len(sqlite_kit.engine.partitions))

    turns = [await eviction.evict(everything, 0) for _ in range(40)]

    assert 40 == sum(turns)
    assert max(turns) < 40


@pytest.mark.usefixtures("redis_endpoint")
async def test_a_worker_that_may_not_look_for_idle_accounts_says_so_once(
    servers: Servers, sqlite_database: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    commands = [name for name in documented_commands() if name != "SCAN"]
    endpoint = await endpoint_of(servers, commands)
    async with kit_on(AT_ONCE, endpoint, sqlite_database, None) as kit:
        with caplog.at_level(logging.WARNING):
            await charge_new_users(kit)
            await kit.sync()
        assert 40 == await accounts(kit)

    told = [record for record in caplog.records if "idle accounts stay" in record.message]
    assert 1 == len(told)
