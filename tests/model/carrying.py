"""Workers: claim the partition, read from the last recorded entry on, write one commit, trim.

The worker that owns the partition stands first. One that has lost it may still have a batch in hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tests.model import ledger, scripts
from tests.model.repairing import begun
from tests.model.state import Batch, Entry, Trimming, Worker
from tests.model.steps import Step, on_primary

if TYPE_CHECKING:
    from tests.model.design import Design
    from tests.model.state import Bounds, State

__all__ = ["nobody_owns", "read", "steps"]

_IDLE = Worker(owns=False, hand=None)


def steps(design: Design, bounds: Bounds, state: State) -> Iterator[Step]:
    """What workers may do next."""
    for place, worker in enumerate(state.workers):
        name = "the worker" if worker.owns else "a worker without its lease"
        if not worker.owns:
            yield from _claim(design, state, place)
        if worker.hand is None:
            if worker.owns:
                yield from _read(design, state, place, name)
        elif isinstance(worker.hand, Batch):
            yield from _write(design, state, place, worker.hand, name)
        elif bounds.trims:
            yield from _trim(design, state, place, worker.hand, name)
        if worker.hand is not None:
            yield Step(f"{name} is killed", _put(state, place, _IDLE))


def read(design: Design, state: State) -> Batch | None:
    """What follows the last recorded entry on the primary; None where that entry is not there."""
    position = state.ledger.position
    journal = state.primary.data.journal
    if design.overlap_read and not scripts.holds(design, state.primary.data, position):
        return None
    after = position.id if position is not None else (0, 0)
    return Batch(position, tuple(entry for entry in journal if entry.id > after))


def nobody_owns(workers: tuple[Worker, ...]) -> tuple[Worker, ...]:
    """The same workers without leases."""
    return tuple(worker._replace(owns=False) for worker in workers)


def _claim(design: Design, state: State, place: int) -> Iterator[Step]:
    hand = state.workers[place].hand
    follows = isinstance(hand, Batch) and hand.follows == state.ledger.position
    if design.batch_under_claim or not follows:
        hand = None
    workers = nobody_owns(state.workers)
    after = _put(state._replace(workers=workers), place, Worker(owns=True, hand=hand))
    words = "a worker claims the partition" + (", with a batch in hand" if hand else "")
    yield Step(words, after)


def _read(design: Design, state: State, place: int, name: str) -> Iterator[Step]:
    batch = read(design, state)
    if batch is None:
        yield from begun(design, state, f"{name} misses the last recorded entry")
    elif batch.entries:
        hand = Worker(owns=True, hand=batch)
        yield Step(f"{name} reads {_listed(batch.entries)}", _put(state, place, hand))


def _write(design: Design, state: State, place: int, batch: Batch, name: str) -> Iterator[Step]:
    worker = state.workers[place]
    written = ledger.write(design, state.ledger, batch, owns=worker.owns)
    if written == "position lost":
        yield Step(f"{name} has lost the position", _put(state, place, _IDLE))
        return
    if isinstance(written, str):
        refused = _put(state, place, worker._replace(hand=None))
        yield from begun(design, refused, f"{name} cannot write: {written}")
        return
    recorded = state._replace(ledger=written)
    trimming = worker._replace(hand=Trimming(batch.entries[-1]))
    words = f"{name} writes {_listed(batch.entries)}"
    yield Step(words, _put(recorded, place, trimming))
    if state.faults.lost_commits:
        faults = state.faults._replace(lost_commits=state.faults.lost_commits - 1)
        yield Step(f"{words}, and does not learn of it", recorded._replace(faults=faults))


def _trim(design: Design, state: State, place: int, hand: Trimming, name: str) -> Iterator[Step]:
    done, data = scripts.trim(design, state.primary, hand.last)
    after = _put(state, place, state.workers[place]._replace(hand=None))
    if done:
        yield Step(f"{name} trims", on_primary(after, data))
    else:
        yield Step(f"{name} may not trim", after)


def _put(state: State, place: int, worker: Worker) -> State:
    """The workers are alike: the owner first, then one with something in hand."""
    workers = (*state.workers[:place], worker, *state.workers[place + 1 :])
    if len(workers) > 1:
        workers = tuple(sorted(workers, key=lambda each: (not each.owns, each.hand is None)))
    return state._replace(workers=workers)


def _listed(entries: tuple[Entry, ...]) -> str:
    return ", ".join(f"{entry.id[0]}-{entry.id[1]}" for entry in entries)
