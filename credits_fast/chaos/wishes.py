"""What callers ask for: operations of users, drawn from a seed. Pure.

The same seed asks for the same operations in the same order. Which caller comes first, and what a fault
hits, is for the machine to decide: two runs of a seed are alike, not equal.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from credits_fast.chaos.history import Asked, Verb

__all__ = ["CREDIT", "Mix", "Wishes"]

CREDIT: Final = 1_000_000
"""A credit in micro-credits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """Of what the operations are made.

    Attributes:
        users: How many users there are.
        opening_micros: What each has at the beginning, in micro-credits.
        charges: The share of charges; of the others half are grants, half are refunds.
        charge_micros: The highest charge, in micro-credits; each is drawn anew from 1 on.
        credit_micros: The highest grant or refund, likewise.
        keyed: The share of operations that have an idempotency key.
    """

    users: int = 40
    opening_micros: int = 40 * CREDIT
    charges: float = 0.8
    charge_micros: int = 3 * CREDIT
    credit_micros: int = 5 * CREDIT
    keyed: float = 0.9


class Wishes:
    """The operations of a run, one after another.

    Attributes:
        openings: What each user has at the beginning, in micro-credits.

    Args:
        seed: For every choice.
        mix: Of what they are made.

    Example:
        >>> Wishes("7", Mix()).next() == Wishes("7", Mix()).next()
        True
    """

    def __init__(self, seed: str, mix: Mix) -> None:
        self.openings: Mapping[str, int] = {
            f"user-{number:04}": mix.opening_micros for number in range(mix.users)
        }
        self._users = [*self.openings]
        self._mix = mix
        self._chance = random.Random(f"{seed}/wishes")
        self._asked = 0
        self._highest: dict[str | None, int] = {}

    def next(self) -> Asked:
        """Something new."""
        chance, mix = self._chance, self._mix
        verb: Verb = "charge"
        if chance.random() >= mix.charges:
            verb = "grant" if chance.random() < 0.5 else "refund"  # noqa: PLR2004  # half
        most = mix.charge_micros if verb == "charge" else mix.credit_micros
        number = self._count()
        key = f"key-{number}" if chance.random() < mix.keyed else None
        return Asked(number, chance.choice(self._users), verb, chance.randint(1, most), key)

    def under_the_same_key(self, other: Asked) -> Asked:
        """Something else under a key that is taken: it has to be refused.

        No two are alike: where a key was forgotten, the second would rightly get the answer of the first.
        """
        micros = max(self._highest.get(other.key, 0), other.micros) + 1
        self._highest[other.key] = micros
        return other._replace(number=self._count(), micros=micros)

    def _count(self) -> int:
        self._asked += 1
        return self._asked
