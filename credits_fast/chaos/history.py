"""What was asked for and what was answered, one attempt after another. Pure.

An operation is asked for once and attempted as often as it takes, always under the same key. It ends in
one of four ways: acknowledged, refused, unavailable (the library says that nothing was executed) or
ambiguous (it may have been). Only an acknowledgement or a refusal settles an ambiguous attempt.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal, NamedTuple, TypeAlias

__all__ = ["Asked", "Attempt", "Operation", "Outcome", "Verb", "from_line", "operations", "to_line"]

Verb: TypeAlias = Literal["charge", "grant", "refund"]

_NS_PER_MS: Final = 1_000_000


class Outcome(StrEnum):
    """How an attempt, or an operation, ended."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"
    AMBIGUOUS = "ambiguous"


class Asked(NamedTuple):
    """An operation, as it was asked for.

    Attributes:
        number: Its number in the run; the ledger keeps it in the metadata.
        user: Whose balance it changes.
        verb: What it does.
        micros: How much, in micro-credits; positive.
        key: The idempotency key, None for none.
    """

    number: int
    user: str
    verb: Verb
    micros: int
    key: str | None

    @property
    def delta(self) -> int:
        """What it changes the balance by, in micro-credits."""
        return -self.micros if self.verb == "charge" else self.micros

    @property
    def is_held(self) -> bool:
        """Whether it is reserved first, and captured: every other charge without a key."""
        return self.verb == "charge" and self.key is None and self.number % 2 == 0


class Attempt(NamedTuple):
    """One call, from its beginning to its answer.

    Attributes:
        asked: What was asked for.
        invoked_ns: When it began, by the monotonic clock.
        ended_ns: When its answer came, or its caller gave up.
        outcome: How it ended.
        code: The code of the error, "" for an acknowledgement.
        transaction_id: The transaction it was answered with, "" where there is none.
        micros: What the answer says was taken or given, in micro-credits.
        balance_after: The balance in the answer, in micro-credits.
        replayed: Whether the answer says that it is an earlier one.
    """

    asked: Asked
    invoked_ns: int
    ended_ns: int
    outcome: Outcome
    code: str = ""
    transaction_id: str = ""
    micros: int = 0
    balance_after: int = 0
    replayed: bool = False

    @property
    def answer(self) -> tuple[str, int, int]:
        """What a repeated call must be answered with again."""
        return self.transaction_id, self.micros, self.balance_after

    @property
    def ms(self) -> float:
        """How long it took, in milliseconds."""
        return (self.ended_ns - self.invoked_ns) / _NS_PER_MS


@dataclass(frozen=True, slots=True)
class Operation:
    """Everything that is known of one operation.

    Attributes:
        asked: What was asked for.
        attempts: Its calls, in the order of their end.
    """

    asked: Asked
    attempts: Sequence[Attempt]

    @property
    def outcome(self) -> Outcome:
        """How it ended, all attempts together."""
        outcomes = [attempt.outcome for attempt in self.attempts]
        if Outcome.ACKNOWLEDGED in outcomes:
            return Outcome.ACKNOWLEDGED
        if outcomes[-1] is Outcome.REFUSED:
            return Outcome.REFUSED
        return Outcome.AMBIGUOUS if Outcome.AMBIGUOUS in outcomes else Outcome.UNAVAILABLE

    @property
    def answers(self) -> list[Attempt]:
        """The attempts that were acknowledged."""
        return [one for one in self.attempts if one.outcome is Outcome.ACKNOWLEDGED]

    @property
    def invoked_ns(self) -> int:
        """When it was first asked for."""
        return min(attempt.invoked_ns for attempt in self.attempts)


def operations(history: Iterable[Attempt]) -> dict[int, Operation]:
    """The operations of a history by their number."""
    found: dict[int, list[Attempt]] = {}
    for attempt in sorted(history, key=lambda one: one.ended_ns):
        found.setdefault(attempt.asked.number, []).append(attempt)
    return {number: Operation(tried[0].asked, tried) for number, tried in found.items()}


def to_line(attempt: Attempt) -> str:
    """An attempt as a line of JSON, without the end of the line."""
    return json.dumps({**attempt._asdict(), "asked": attempt.asked._asdict()})


def from_line(line: str) -> Attempt:
    """The attempt of such a line.

    Example:
        >>> one = Attempt(Asked(1, "ada", "charge", 5, "k"), 10, 20, Outcome.REFUSED, "NO")
        >>> from_line(to_line(one)) == one
        True
    """
    found: dict[str, Any] = json.loads(line)
    outcome, asked = Outcome(found.pop("outcome")), Asked(**found.pop("asked"))
    return Attempt(asked, outcome=outcome, **found)
