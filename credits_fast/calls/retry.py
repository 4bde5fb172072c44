"""The one retry loop: transient failures only, always the same operation, bounded in count and time."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, TypeVar

from credits_fast.errors import CreditsError, MisconfiguredError, OutcomeUnknownError
from credits_fast.exact import EXACT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from credits_fast.config import RetryConfig

__all__ = ["delay_ms", "is_transient", "repeat"]

T = TypeVar("T")


def delay_ms(policy: RetryConfig, failed_attempt: int) -> float:
    """Milliseconds to wait after a failed attempt, without jitter.

    Args:
        policy: The retry section of the configuration.
        failed_attempt: Its number, from 1.

    Example:
        >>> delay_ms(RetryConfig(), 3)
        400.0
    """
    factor = EXACT.power(policy.backoff_multiplier, failed_attempt - 1)
    grown = EXACT.multiply(policy.initial_delay, factor)
    return float(min(grown, policy.max_delay))


def is_transient(error: Exception) -> bool:
    """Whether an error says that the same call may succeed later."""
    return isinstance(error, CreditsError) and error.transient


async def repeat(
    attempt: Callable[[], Awaitable[T]],
    policy: RetryConfig,
    *,
    transient: Callable[[Exception], bool] = is_transient,
) -> T:
    """The result of the first attempt that succeeds.

    Every attempt must be one and the same operation: the caller puts its operation id into it. Each
    pause is shortened by up to half at random, so that callers that failed together do not come
    back together.

    Raises:
        OutcomeUnknownError: The attempts ended, or the set-up turned out to be wrong, and an earlier one
            may have taken effect.
        Exception: The last attempt's error, or the first that is not transient.
    """
    deadline = time.monotonic() + policy.deadline_ms / 1_000
    attempts = policy.max_attempts if policy.enabled else 1
    unknown: OutcomeUnknownError | None = None
    for number in range(1, attempts + 1):
        try:
            return await attempt()
        except Exception as error:
            if not transient(error):
                if unknown is not None and isinstance(error, MisconfiguredError):
                    raise unknown from error  # this attempt says nothing about the one before
                raise
            if isinstance(error, OutcomeUnknownError):
                unknown = error
            pause = delay_ms(policy, number) / 1_000 * random.uniform(0.5, 1)  # noqa: S311  # jitter
            if number == attempts or time.monotonic() + pause > deadline:
                if unknown is not None:
                    raise unknown from error
                raise
        await asyncio.sleep(pause)
    raise AssertionError("unreachable: there is at least one attempt")
