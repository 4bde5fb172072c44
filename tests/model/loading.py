"""Cold accounts: read from the ledger, then loaded by a script; and evicted where they are idle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tests.model import scripts
from tests.model.state import Loading
from tests.model.steps import Step, on_primary

if TYPE_CHECKING:
    from tests.model.design import Design
    from tests.model.state import Bounds, State

__all__ = ["loaded", "steps"]


def steps(design: Design, bounds: Bounds, state: State) -> Iterator[Step]:
    """Loading in one step, or overtaken in the middle; evicting."""
    data = state.primary.data
    if data.account is None and scripts.is_open(design, state.primary):
        yield Step("the account is loaded from the ledger", loaded(design, state))
        if bounds.slow_loads and state.loading is None:
            yield Step("a slow load reads the ledger", state._replace(loading=_read(state)))
    if state.loading is not None:
        yield _finished(design, state, state.loading)
    evicted = data
    if state.faults.evictions:
        evicted = scripts.evict(design, state.primary, state.happened)
    if evicted is not data:
        faults = state.faults._replace(evictions=state.faults.evictions - 1)
        after = on_primary(state, evicted)._replace(faults=faults)
        yield Step("the idle account is evicted", after)


def loaded(design: Design, state: State) -> State:
    """The account read and loaded at once."""
    return on_primary(state, scripts.load(design, state.primary, _read(state)))


def _read(state: State) -> Loading:
    meta = state.primary.data.meta
    generation = meta.generation if meta else 0
    ledger = state.ledger
    return Loading(state.primary.process, generation, ledger.balance, ledger.sequence)


def _finished(design: Design, state: State, loading: Loading) -> Step:
    after = state._replace(loading=None)
    if loading.process != state.primary.process:
        return Step("the slow load's connection is gone", after)
    data = scripts.load(design, state.primary, loading)
    what = "loads nothing" if data is state.primary.data else f"loads {loading.balance} credits"
    return Step(f"the slow load {what}", on_primary(after, data))
