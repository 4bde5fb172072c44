"""What will be asked for: users, requests and changes of tier, drawn from a seed. Pure.

The same seed gives the same scenario. Which of several concurrent requests of one user finds the
credits is for Redis to decide, so the outcome may differ a little between two runs.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, Literal, NamedTuple, TypeAlias

__all__ = [
    "ACTION",
    "PACKS",
    "TIERS",
    "Person",
    "Request",
    "Scenario",
    "Step",
    "TierMove",
    "Tokens",
    "config_text",
    "draw_tokens",
    "scenario",
]

ACTION: Final = "completion"
"""What every request is charged for."""
TIERS: Final = ("free", "pro", "team")
PACKS: Final = {"free": 500, "pro": 2_500, "team": 10_000}
"""Credits a user of each tier buys at once."""

_CAPS: Final = {"free": 200, "pro": 2_000, "team": 10_000}
_TIER_SHARES: Final = (0.70, 0.25, 0.05)
_ZIPF_EXPONENT: Final = 1.07
_REPEATED: Final = 0.02
_REFUNDED: Final = 0.005
_TOPPED_UP: Final = 0.6
_MOVES_PER_USER: Final = 0.08
_MOVED_AFTER: Final = 0.1  # of all steps: nobody changes tier in the first moments

# The logarithm of the median, how far sizes spread around it, and the most there is, in tokens.
_INPUT: Final = (6.9, 0.9, 32_000)  # a median of about 1,000
_OUTPUT: Final = (5.0, 0.8, 4_000)  # of about 150


class Tokens(NamedTuple):
    """The size of a request, and when it comes.

    Attributes:
        at: Seconds after the first one.
        input: Tokens of the prompt.
        output: Tokens of the answer.
    """

    at: float
    input: int
    output: int


@dataclass(frozen=True, slots=True)
class Person:
    """A user to create.

    Attributes:
        id: The id.
        tier: The tier.
        credits: The first credits: what the tier's cap is.
    """

    id: str
    tier: str
    credits: int


@dataclass(frozen=True, slots=True)
class Request:
    """An LLM request to charge for.

    Attributes:
        at: Seconds after the first step.
        user: Who asks.
        input_tokens: Tokens of the prompt.
        output_tokens: Tokens of the answer.
        key: The idempotency key of a request that will be repeated, None for the others.
        refunded: Whether the answer was bad and the credits are given back.
        tops_up: Whether the user buys credits if they do not suffice, and asks again.
    """

    at: float
    user: str
    input_tokens: int
    output_tokens: int
    key: str | None
    refunded: bool
    tops_up: bool


@dataclass(frozen=True, slots=True)
class TierMove:
    """A change of a membership; at most one a user, so that its direction is always right.

    Attributes:
        at: Seconds after the first step.
        user: Whose.
        move: Which.
        target: The new tier; for a renewal the tier that stays.
    """

    at: float
    user: str
    move: Literal["upgrade", "downgrade", "renewal"]
    target: str


Step: TypeAlias = Request | TierMove


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything that will be asked for.

    Attributes:
        seed: What it was drawn from.
        people: The users.
        steps: Requests and changes of tier, in the order of their time.
    """

    seed: int
    people: tuple[Person, ...]
    steps: tuple[Step, ...]


def config_text(namespace: str) -> str:
    """The configuration of the demo, as a TOML file has it."""
    return _CONFIG.format(namespace=namespace, **{f"{tier}_cap": _CAPS[tier] for tier in TIERS})


def draw_tokens(seed: int, number: int) -> Iterator[Tokens]:
    """Sizes of requests, skewed as those of real ones are; all at once."""
    dice = _dice(seed, "tokens")
    for _ in range(number):
        yield Tokens(0.0, _size(dice, *_INPUT), _size(dice, *_OUTPUT))


def scenario(seed: int, users: int, requests: Sequence[Tokens]) -> Scenario:
    """The scenario of a seed: who makes these requests, and what else happens.

    Args:
        seed: Any number.
        users: How many users there are; a few of them make most requests (Zipf).
        requests: The requests, in the order of their time.
    """
    people = tuple(_people(seed, users))
    steps: list[Step] = list(_requests(seed, people, requests))
    moves = list(_moves(seed, people, [step.at for step in steps]))
    for place, move in reversed(moves):
        steps.insert(place, move)
    return Scenario(seed, people, tuple(steps))


def _size(dice: random.Random, middle: float, spread: float, most: int) -> int:
    return min(max(int(dice.lognormvariate(middle, spread)), 1), most)


def _people(seed: int, users: int) -> Iterator[Person]:
    dice = _dice(seed, "people")
    width = max(4, len(str(users)))
    for number in range(1, users + 1):
        (tier,) = dice.choices(TIERS, _TIER_SHARES)
        yield Person(f"user-{number:0{width}}", tier, _CAPS[tier])


def _requests(seed: int, people: Sequence[Person], requests: Sequence[Tokens]) -> Iterator[Request]:
    dice = _dice(seed, "requests")
    weights = [*accumulate(rank**-_ZIPF_EXPONENT for rank in range(1, len(people) + 1))]
    for number, tokens in enumerate(requests):
        (person,) = dice.choices(people, cum_weights=weights)
        yield Request(
            at=tokens.at,
            user=person.id,
            input_tokens=tokens.input,
            output_tokens=tokens.output,
            key=f"request-{number}" if dice.random() < _REPEATED else None,
            refunded=dice.random() < _REFUNDED,
            tops_up=dice.random() < _TOPPED_UP,
        )


def _moves(
    seed: int, people: Sequence[Person], times: Sequence[float]
) -> Iterator[tuple[int, TierMove]]:
    """Changes of tier, each with the place in the steps before which it happens, in their order."""
    dice = _dice(seed, "moves")
    movers = dice.sample(people, int(len(people) * _MOVES_PER_USER))
    first = int(len(times) * _MOVED_AFTER)
    places = sorted(dice.randrange(first, len(times)) for _ in movers) if times else []
    for place, person in zip(places, movers, strict=False):
        yield place, _move(dice, person, times[place])


def _move(dice: random.Random, person: Person, at: float) -> TierMove:
    level = TIERS.index(person.tier)
    if dice.random() < 0.25:  # noqa: PLR2004  # one in four
        return TierMove(at, person.id, "renewal", person.tier)
    if level == len(TIERS) - 1 or (level > 0 and dice.random() < 0.5):  # noqa: PLR2004  # one in two
        return TierMove(at, person.id, "downgrade", TIERS[level - 1])
    return TierMove(at, person.id, "upgrade", TIERS[level + 1])


def _dice(seed: int, what: str) -> random.Random:
    """A generator of its own for each purpose: drawing more of one thing changes no other."""
    return random.Random(f"{seed}/{what}")  # noqa: S311  # a scenario is no secret


_CONFIG: Final = """\
# What the demo charges: LLM requests by their tokens, cheaper in the higher tiers.
namespace = "{namespace}"

[costs.completion]
default = "{{input_tokens}} * 0.003 + {{output_tokens}} * 0.012"
pro = "{{input_tokens}} * 0.0025 + {{output_tokens}} * 0.01"
team = "{{input_tokens}} * ({{input_tokens}} > 4000 ? 0.0015 : 0.002) + {{output_tokens}} * 0.008"

[membership.tiers]
free = 0
pro = 1
team = 2

[membership.credits_caps] # what a user has after a change of tier
free = {free_cap}
pro = {pro_cap}
team = {team_cap}
"""
