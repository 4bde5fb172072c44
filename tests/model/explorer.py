"""Every state that can be reached within the bounds, breadth first; so the first trace found is a shortest.

Deterministic: the same design and bounds give the same states, violations and traces.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Final

from tests.model import (
    calling,
    carrying,
    failing,
    loading,
    opening,
    repairing,
    reversing,
)
from tests.model.invariants import End, Violation, at_the_end, in_the_step
from tests.model.state import State, first_state

if TYPE_CHECKING:
    from tests.model.design import Design
    from tests.model.state import Bounds
    from tests.model.steps import Step

__all__ = ["STATES_MAX", "Exploration", "TooManyStatesError", "explore"]

STATES_MAX: Final = 3_000_000


class TooManyStatesError(Exception):
    """The bounds are wider than what may be explored; nothing can be said then."""


@dataclass(frozen=True, slots=True)
class Exploration:
    """What was found.

    Attributes:
        states: How many states there are.
        stopped: In how many of them the partition waits for an operator in the end.
        traces: A shortest trace for every violation: what happened, step by step.
    """

    states: int
    stopped: int
    traces: dict[Violation, tuple[str, ...]]

    @property
    def violations(self) -> frozenset[Violation]:
        """What is violated somewhere."""
        return frozenset(self.traces)


def explore(design: Design, bounds: Bounds) -> Exploration:
    """Every reachable state, checked.

    Raises:
        TooManyStatesError: There are more than may be explored.
    """
    first = first_state(bounds)
    came_from: dict[State, tuple[State, str] | None] = {first: None}
    waiting = deque([first])
    traces: dict[Violation, tuple[str, ...]] = {}
    ends: dict[object, End] = {}
    stopped = 0
    while waiting:
        state = waiting.popleft()
        known = _end_of(state)
        end = ends.get(known)
        if end is None:
            ends[known] = end = at_the_end(design, bounds, state)
        violated, has_stopped = end
        stopped += has_stopped
        for violation in sorted(violated - traces.keys()):
            traces[violation] = _trace(came_from, state)
        for step in _steps(design, bounds, state):
            for violation in sorted(in_the_step(state, step) - traces.keys()):
                traces[violation] = (*_trace(came_from, state), step.words)
            reached = len(came_from)
            came_from.setdefault(
                step.state, (state, step.words)
            )  # looked up once: states are large
            if len(came_from) > reached:
                waiting.append(step.state)
        if len(came_from) > STATES_MAX:
            raise TooManyStatesError(f"more than {STATES_MAX:,} states within: {bounds}")
    return Exploration(len(came_from), stopped, traces)


def _steps(design: Design, bounds: Bounds, state: State) -> Iterator[Step]:
    return chain(
        calling.steps(design, bounds, state),
        carrying.steps(design, bounds, state),
        opening.steps(design, bounds, state),
        loading.steps(design, bounds, state),
        repairing.steps(design, state),
        reversing.steps(design, state),
        failing.steps(state),
    )


def _end_of(state: State) -> object:
    """What the end of a state depends on: what is in hand is dropped, and nothing fails any more."""
    outcomes = tuple(client.outcome for client in state.clients)
    return state.primary, state.ledger, outcomes, state.happened


def _trace(came_from: dict[State, tuple[State, str] | None], state: State) -> tuple[str, ...]:
    words: list[str] = []
    while (before := came_from[state]) is not None:
        state, what = before
        words.append(what)
    return tuple(reversed(words))
