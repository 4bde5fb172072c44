"""The repair of a partition that lost history: both ways, in steps that may be repeated.

    begin      the ledger raises the epoch; its position is the head of the new one, which no journal holds
    close      Redis: closed, under the new epoch
    read       the whole journal
    record     the ledger: what only Redis had, each operation once
    apply      Redis: the account as the ledger has it
    remember   Redis: the records of what the ledger has
    finish     Redis: the head of the new epoch is written, and the partition is open

Whoever repairs may die between any two: as long as the journal lacks the head, comparing fails, and
another repair begins under a higher epoch. A step that comes late finds another epoch and does nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tests.model import ledger, scripts
from tests.model.state import Repair
from tests.model.steps import Step, on_primary

if TYPE_CHECKING:
    from tests.model.design import Design
    from tests.model.state import State

__all__ = ["begun", "repaired", "steps"]


def begun(design: Design, state: State, why: str) -> Iterator[Step]:
    """A difference was found: a repair begins, or the partition is closed, or nothing happens."""
    if not design.repairs:
        yield from _marked(design, state, why)
    elif state.repairs:
        began, repair = _begin(state._replace(repairs=state.repairs - 1))
        after = began._replace(under_repair=(*state.under_repair, repair))
        yield Step(f"{why}: repair {repair.epoch} begins in the ledger", after)


def steps(design: Design, state: State) -> Iterator[Step]:
    """The next step of every repair under way; or its death."""
    for place, repair in enumerate(state.under_repair):
        others = (*state.under_repair[:place], *state.under_repair[place + 1 :])
        after, still = _stepped(design, state, repair)
        left = others if still is None else (*others[:place], still, *others[place:])
        words = f"repair {repair.epoch}: {repair.stage}"
        yield Step(words, after._replace(under_repair=left))
        yield Step(f"repair {repair.epoch} is killed", state._replace(under_repair=others))


def repaired(design: Design, state: State) -> State:
    """A whole repair, uninterrupted."""
    state, repair = _begin(state)
    left: Repair | None = repair
    while left is not None:
        state, left = _stepped(design, state, left)
    return state


def _begin(state: State) -> tuple[State, Repair]:
    raised = ledger.begin_repair(state.ledger)
    workers = tuple(worker._replace(owns=False) for worker in state.workers)
    began = state._replace(ledger=raised, workers=workers)
    return began, Repair(raised.epoch, None, "close", ())


def _marked(design: Design, state: State, why: str) -> Iterator[Step]:
    data = state.primary.data
    if not design.fork_closes or data.meta is None or data.meta.opened_for is None:
        return
    meta = data.meta._replace(opened_for=None)
    yield Step(f"{why}: the partition is closed", on_primary(state, data._replace(meta=meta)))


def _stepped(design: Design, state: State, repair: Repair) -> tuple[State, Repair | None]:
    """The state after one step and what is next; None where it is not its turn any more, or its end."""
    if repair.stage == "close":
        return _closed(design, state, repair)
    if repair.stage == "record":
        return _recorded(design, state, repair)
    if not _is_current(design, state, repair):
        return state, None
    if repair.stage == "read":
        return state, repair._replace(entries=state.primary.data.journal, stage="record")
    return _given_back(design, state, repair)


def _given_back(design: Design, state: State, repair: Repair) -> tuple[State, Repair | None]:
    """The steps by which Redis becomes what the ledger is."""
    if repair.stage == "apply":
        return _applied(design, state), repair._replace(stage="remember")
    if repair.stage == "remember":
        return _remembered(design, state), repair._replace(stage="finish")
    return _finished(design, state, repair), None


def _closed(design: Design, state: State, repair: Repair) -> tuple[State, Repair | None]:
    data = scripts.close(state.primary.data, repair.epoch, closes=design.repair_closes)
    if data is None:
        return state, None
    here = scripts.identity(design, state.primary)
    return on_primary(state, data), repair._replace(closed=here, stage="read")


def _recorded(design: Design, state: State, repair: Repair) -> tuple[State, Repair | None]:
    if design.repair_compares and state.ledger.epoch != repair.epoch:
        return state, None
    if design.repair_records:
        recorded = ledger.survivors(design, state.ledger, repair.entries)
        state = state._replace(ledger=recorded)
    return state, repair._replace(entries=(), stage="apply")


def _is_current(design: Design, state: State, repair: Repair) -> bool:
    """Whether the partition is still closed by this repair, on the server at the other end."""
    meta = state.primary.data.meta
    if meta is None or (design.repair_compares and meta.epoch != repair.epoch):
        return False
    is_here = repair.closed == scripts.identity(design, state.primary)
    return is_here or not design.repair_on_one_server


def _applied(design: Design, state: State) -> State:
    if not design.repair_applies:
        return state
    return on_primary(state, scripts.apply(state.primary.data, state.ledger))


def _remembered(design: Design, state: State) -> State:
    if not design.repair_remembers:
        return state
    return on_primary(state, scripts.remember(state.primary.data, state.ledger.rows))


def _finished(design: Design, state: State, repair: Repair) -> State:
    data = state.primary.data
    if data.journal and data.journal[-1].id >= scripts.head(repair.epoch).id:
        return state  # the server refuses an id that is too small
    opened_for = scripts.identity(design, state.primary)
    return on_primary(state, scripts.finish(data, opened_for, repair.epoch))
