"""Opening a partition: compare its journal with the ledger, then admit it on this server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tests.model import carrying, scripts
from tests.model.repairing import begun
from tests.model.state import Opening
from tests.model.steps import Step, on_primary

if TYPE_CHECKING:
    from tests.model.design import Design
    from tests.model.state import Bounds, State

__all__ = ["compared", "opened", "steps"]


def steps(design: Design, bounds: Bounds, state: State) -> Iterator[Step]:
    """Opening in one step, or overtaken in the middle; or noticing that history was lost."""
    if state.opening is not None:
        yield _finished(state, state.opening)
    if scripts.is_open(design, state.primary):
        return
    if not compared(design, state):
        yield from begun(design, state, "the journal does not continue the ledger")
        return
    after = opened(design, state)
    if after != state:
        yield Step("the partition is compared and opened", after)
    if bounds.slow_openings and state.opening is None:
        taken = _taken(design, state)
        yield Step("a slow opening has compared", taken._replace(opening=_begun(design, state)))


def compared(design: Design, state: State) -> bool:
    """Whether the journal holds what the ledger has recorded last."""
    if not design.opening_compares:
        return True
    return scripts.holds(design, state.primary.data, state.ledger.position)


def opened(design: Design, state: State) -> State:
    """The partition open on the primary."""
    return _finished(_taken(design, state), _begun(design, state)).state


def _taken(design: Design, state: State) -> State:
    """Taken from its worker in the ledger, before the comparison."""
    if not design.opening_fences:
        return state
    return state._replace(workers=carrying.nobody_owns(state.workers))


def _begun(design: Design, state: State) -> Opening:
    seen = scripts.identity(design, state.primary)
    creates = state.ledger.position is None or not design.opening_compares
    if design.opening_creates_absent:
        creates = creates and state.primary.data.meta is None
    return Opening(seen, state.primary.process, state.ledger.epoch, creates)


def _finished(state: State, opening: Opening) -> Step:
    after = state._replace(opening=None)
    if opening.process != state.primary.process:
        return Step("the slow opening's connection is gone", after)
    data = scripts.open_(
        state.primary.data, opening.identity, opening.epoch, create=opening.creates
    )
    return Step("the slow opening opens", on_primary(after, data))
