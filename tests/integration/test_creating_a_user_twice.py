"""A user is created once, whoever asks again, at the same moment or after a lost answer."""

from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import patch

import pytest

from credits_fast import DatabaseUnavailableError, UserAlreadyExistsError
from credits_fast.ledger.records import NewUser, Records
from credits_fast.testing import CreditsKit, open_kit

_CONFIG: dict[str, Any] = {
    "costs": {},
    "membership": {"tiers": {}},
    "retry": {"initial_delay": 1, "max_delay": 1},
    "idempotency": {"ttl": 60},
    "partitions": 1,
}


@pytest.fixture
async def kit() -> AsyncIterator[CreditsKit]:
    async with open_kit(_CONFIG) as opened:
        yield opened


@pytest.mark.parametrize("credits_", [0, 5])
async def test_a_second_call_at_the_same_moment_is_refused(kit: CreditsKit, credits_: int) -> None:
    await kit.engine.create_user("ada", credits=credits_)

    with pytest.raises(UserAlreadyExistsError):
        await kit.engine.create_user("ada", credits=7)


async def test_a_call_whose_commit_was_answered_too_late_has_succeeded(kit: CreditsKit) -> None:
    create = Records.create_user
    answers: list[bool] = []

    async def answered_late(records: Records, user: NewUser) -> bool:
        answers.append(await create(records, user))
        if len(answers) == 1:
            raise DatabaseUnavailableError("the answer is lost")
        return answers[-1]

    with patch.object(Records, "create_user", answered_late):
        user = await kit.engine.create_user("ada", credits=5)

    assert [True, False] == answers
    assert 5 == user.credits


async def test_a_key_holds_to_the_end_of_its_time_and_not_longer(kit: CreditsKit) -> None:
    assert kit.clock is not None
    await kit.engine.create_user("ada", credits=5, idempotency_key="k")
    kit.clock.advance(seconds=60)
    again = await kit.engine.create_user("ada", credits=5, idempotency_key="k")
    kit.clock.advance(seconds=0.001)

    assert 5 == again.credits
    with pytest.raises(UserAlreadyExistsError):
        await kit.engine.create_user("ada", credits=5, idempotency_key="k")
