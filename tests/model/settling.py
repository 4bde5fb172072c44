"""Quiescence: nobody calls any more, nothing fails any more, and everything under way comes to its end.

What a worker or a repair had in hand is dropped, as if it had been killed: that it was not is another
state, which is explored as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from tests.model import carrying, ledger, loading, opening, scripts
from tests.model.repairing import repaired
from tests.model.reversing import reversed_

if TYPE_CHECKING:
    from tests.model.design import Design
    from tests.model.state import State

__all__ = ["Settled", "settled"]

_ROUNDS_MAX: Final = 12


class Settled(NamedTuple):
    """The end.

    Attributes:
        state: The world, when nothing is left to do.
        has_stopped: Whether the partition waits for an operator, because nobody may go on by himself.
    """

    state: State
    has_stopped: bool


def settled(design: Design, state: State) -> Settled:
    """What comes of a state when it is left alone."""
    state = state._replace(workers=(), loading=None, opening=None, under_repair=())
    for _ in range(_ROUNDS_MAX):
        after = _round(design, state)
        if after is None and not design.repairs:
            return Settled(state, has_stopped=True)
        after = repaired(design, state) if after is None else after
        if after == state:
            return Settled(state, has_stopped=False)
        state = after
    raise AssertionError(f"nothing comes to an end: {state}")


def _round(design: Design, state: State) -> State | None:
    """One round of opening, carrying and reversing; None where a difference is in the way."""
    if not scripts.is_open(design, state.primary):
        if not opening.compared(design, state):
            return None
        state = opening.opened(design, state)
        if not scripts.is_open(design, state.primary):
            return None
    batch = carrying.read(design, state)
    if batch is None:
        return None
    if batch.entries:
        written = ledger.write(design, state.ledger, batch, owns=True)
        return None if isinstance(written, str) else state._replace(ledger=written)
    if ledger.reversals_due(design, state.ledger) and state.primary.data.account is None:
        state = loading.loaded(design, state)
    return reversed_(design, state)
