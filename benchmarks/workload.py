"""Workloads: who is charged how often, under which key, what is refused, what is asked again. Pure.

A workload is drawn from a seed into requests before anything is timed. Keys are never used twice
except by a replay, which repeats an earlier request of its own draw with its key.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import accumulate
from typing import Any, Final, Literal, NamedTuple, TypeAlias

__all__ = [
    "CHARGED",
    "OPENING",
    "PRICE",
    "PRICES",
    "WORKLOADS",
    "Request",
    "Workload",
    "draw",
    "draw_trace",
    "user_name",
]

OPENING: Final = 1_000_000
"""Credits of every user before the first charge."""
PRICE: Final = 1
"""Credits of a charge of every workload but the trace."""
CHARGED: Final = "chat"
_TOO_DEAR: Final = "too-dear"
_BY_TOKENS: Final = "by-tokens"
PRICES: Final[Mapping[str, Mapping[str, object]]] = {
    CHARGED: {"default": PRICE},
    _TOO_DEAR: {"default": 1_000 * OPENING},
    _BY_TOKENS: {"default": "{input} * 0.003 + {output} * 0.015"},
}
"""The configured prices: a fixed one, one nobody can pay, and a formula for the trace."""

_ZIPF_EXPONENT: Final = 1.0

Choice: TypeAlias = Literal["uniform", "zipf", "one"]


@dataclass(frozen=True, slots=True)
class Workload:
    """What callers ask for.

    Attributes:
        name: Its name in reports.
        users: How a user is chosen: all alike, a few far more often (Zipf), or always the same one.
        is_keyed: Whether callers bring idempotency keys.
        refused: The share of requests nobody can pay.
        replayed: The share of requests that repeat an earlier one under its key.
    """

    name: str
    users: Choice = "uniform"
    is_keyed: bool = True
    refused: float = 0.0
    replayed: float = 0.0


_ALL: Final = (
    Workload("uniform"),
    Workload("zipf", users="zipf"),
    Workload("one hot user", users="one"),
    Workload("without a key", is_keyed=False),
    Workload("5 % refusals", refused=0.05),
    Workload("2 % replays", replayed=0.02),
)
WORKLOADS: Final[Mapping[str, Workload]] = {workload.name: workload for workload in _ALL}


class Request(NamedTuple):
    """One charge to be asked for.

    Attributes:
        user: Whose credits.
        action: What is priced.
        key: The idempotency key, None for none.
        variables: Of a price formula, None where the price is fixed.
    """

    user: str
    action: str
    key: str | None
    variables: Mapping[str, Any] | None = None


def user_name(number: int) -> str:
    """The id of a user, counted from 1."""
    return f"user-{number}"


def draw(workload: Workload, tag: str, *, users: int, number: int) -> list[Request]:
    """Requests of a workload.

    Args:
        workload: What is asked for.
        tag: What the draw is seeded with and its keys begin with; a new one for each draw.
        users: How many users there are to choose from.
        number: How many requests.
    """
    chance = random.Random(tag)
    requests: list[Request] = []
    for position, user in enumerate(_chosen(workload.users, chance, users, number)):
        if requests and chance.random() < workload.replayed:
            requests.append(chance.choice(requests))
            continue
        action = _TOO_DEAR if chance.random() < workload.refused else CHARGED
        key = f"{tag}-{position}" if workload.is_keyed else None
        requests.append(Request(user_name(user), action, key))
    return requests


def draw_trace(tokens: Sequence[tuple[int, int]], tag: str, *, users: int) -> list[Request]:
    """One request for each pair of tokens read and written, of users by Zipf."""
    chosen = _chosen("zipf", random.Random(tag), users, len(tokens))
    return [
        Request(
            user_name(user),
            _BY_TOKENS,
            f"{tag}-{position}",
            {"input": Decimal(read), "output": Decimal(written)},
        )
        for position, (user, (read, written)) in enumerate(zip(chosen, tokens, strict=True))
    ]


def _chosen(choice: Choice, chance: random.Random, users: int, number: int) -> Iterator[int]:
    """Numbers of users, from 1."""
    match choice:
        case "one":
            return (1 for _ in range(number))
        case "uniform":
            return (chance.randint(1, users) for _ in range(number))
        case "zipf":
            weights = [*accumulate(1 / rank**_ZIPF_EXPONENT for rank in range(1, users + 1))]
            return iter(chance.choices(range(1, users + 1), cum_weights=weights, k=number))
