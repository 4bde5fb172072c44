"""The retry loop: transient failures only, bounded in count and time."""

from __future__ import annotations

from decimal import Context, Decimal, Inexact, localcontext

import pytest

from credits_fast import (
    CreditsError,
    InsufficientCreditsError,
    OutcomeUnknownError,
    RedisUnavailableError,
    RetryConfig,
    UnsuitableServerError,
    UserNotFoundError,
)
from credits_fast.calls.retry import delay_ms, repeat

QUICK = RetryConfig(initial_delay=Decimal(0), max_delay=Decimal(0))


class Attempts:
    """Fails with each of the errors in turn, then succeeds."""

    def __init__(self, *errors: CreditsError) -> None:
        self.errors = list(errors)
        self.made = 0

    async def __call__(self) -> str:
        self.made += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


@pytest.mark.parametrize(
    ("failed", "delay"),
    [(1, 100), (2, 200), (4, 800), (7, 5_000), (60, 5_000)],
)
def test_delays_grow_up_to_the_longest(failed: int, delay: float) -> None:
    assert delay == delay_ms(RetryConfig(), failed)


async def test_a_transient_failure_is_repeated() -> None:
    attempts = Attempts(RedisUnavailableError("down"), RedisUnavailableError("down"))

    assert "done" == await repeat(attempts, QUICK)
    assert 3 == attempts.made


async def test_the_number_of_attempts_counts_the_first() -> None:
    attempts = Attempts(*(RedisUnavailableError(f"down {n}") for n in range(9)))

    with pytest.raises(RedisUnavailableError, match="down 2"):
        await repeat(attempts, QUICK)
    assert 3 == attempts.made


async def test_switched_off_there_is_one_attempt() -> None:
    attempts = Attempts(RedisUnavailableError("down"))

    with pytest.raises(RedisUnavailableError):
        await repeat(attempts, RetryConfig(enabled=False))
    assert 1 == attempts.made


async def test_a_refusal_is_never_repeated_whatever_its_text() -> None:
    attempts = Attempts(InsufficientCreditsError("ada", Decimal(500), Decimal(1)))

    with pytest.raises(InsufficientCreditsError):
        await repeat(attempts, QUICK)
    assert 1 == attempts.made


async def test_once_an_outcome_was_unknown_a_later_failure_does_not_hide_it() -> None:
    attempts = Attempts(
        OutcomeUnknownError("op", "reply lost"),
        RedisUnavailableError("down"),
        RedisUnavailableError("down"),
    )

    with pytest.raises(OutcomeUnknownError, match="reply lost"):
        await repeat(attempts, QUICK)


async def test_no_attempt_begins_after_the_deadline() -> None:
    policy = RetryConfig(max_attempts=100, initial_delay=Decimal(5_000), deadline_ms=1)
    attempts = Attempts(*(RedisUnavailableError("down") for _ in range(99)))

    with pytest.raises(RedisUnavailableError):
        await repeat(attempts, policy)
    assert 1 == attempts.made


async def test_a_wrong_set_up_says_nothing_about_an_attempt_that_may_have_taken_effect() -> None:
    wrong = UnsuitableServerError("EVALSHA is forbidden now")
    attempts = Attempts(OutcomeUnknownError("op", "it hung up"), wrong)

    with pytest.raises(OutcomeUnknownError, match="it hung up") as told:
        await repeat(attempts, QUICK)
    assert wrong is told.value.__cause__

    with pytest.raises(UnsuitableServerError):
        await repeat(Attempts(wrong), QUICK)
    with pytest.raises(UserNotFoundError):  # which is decided: there was nobody to charge
        await repeat(Attempts(OutcomeUnknownError("op", "gone"), UserNotFoundError("ada")), QUICK)


def test_a_pause_does_not_depend_on_the_applications_decimal_context() -> None:
    policy = RetryConfig(initial_delay=Decimal(3), backoff_multiplier=Decimal("1.25"))

    with localcontext(Context(prec=2, traps=[Inexact])):
        assert 3.75 == delay_ms(policy, 2)
        assert 5_000 == delay_ms(policy, 100)
