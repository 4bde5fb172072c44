"""Late duplicates: recorded like any other transaction, then reversed by a compensating one.

The compensating transaction has an id made of what it reverses, so that it too is executed once, however
often it is tried. It is due until the ledger has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tests.model import ledger, scripts
from tests.model.steps import Step, on_primary

if TYPE_CHECKING:
    from tests.model.design import Design
    from tests.model.state import State

__all__ = ["reversed_", "steps"]


def steps(design: Design, state: State) -> Iterator[Step]:
    """A duplicate that is recorded and not reversed yet is reversed."""
    after = reversed_(design, state)
    if after is not state:
        yield Step("a late duplicate is reversed", after)


def reversed_(design: Design, state: State) -> State:
    """What is due executed on the primary; the same state where nothing can be done now."""
    after = state
    for transaction, delta in ledger.reversals_due(design, state.ledger):
        reply, data = scripts.refund(design, after.primary, transaction, delta, state.happened)
        if reply == "ok":
            after = on_primary(after, data)
    return after
