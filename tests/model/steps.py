"""A step of the world: what happened, in words, and the state after it."""

from __future__ import annotations

from typing import NamedTuple

from tests.model.state import Data, State

__all__ = ["Step", "on_primary"]


class Step(NamedTuple):
    """One step.

    Attributes:
        words: What happened.
        state: The world after it.
        loses: Whether it may lose what was acknowledged: a fault of the servers, not of the protocol.
    """

    words: str
    state: State
    loses: bool = False


def on_primary(state: State, data: Data) -> State:
    """The same with other data on the primary."""
    return state._replace(primary=state.primary._replace(data=data))
