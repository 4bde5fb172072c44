"""What must hold: in every state, in every step, and after quiescence from every state.

    twice       no key takes effect twice, net of reversals
    missing     what was acknowledged and survived the faults is in the ledger
    apart       Redis has the balance and the sequence that the ledger has, and that is what its rows sum to
    overdrawn   no balance is below the floor, and no more is given away than there was
    backwards   the ledger's position never goes back inside an epoch
    gap         the user's sequence has no gap and no number twice

A partition that has stopped, because its design has no repair, waits for an operator: `missing` and
`apart` are not asked of it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from tests.model.settling import settled

if TYPE_CHECKING:
    from tests.model.design import Design
    from tests.model.state import Bounds, Ledger, State
    from tests.model.steps import Step

__all__ = ["VIOLATIONS", "End", "Violation", "at_the_end", "in_the_step"]

Violation: TypeAlias = Literal["twice", "missing", "apart", "overdrawn", "backwards", "gap"]
VIOLATIONS: Final[tuple[Violation, ...]] = (
    *("twice", "missing", "apart"),
    *("overdrawn", "backwards", "gap"),
)


def in_the_step(before: State, step: Step) -> set[Violation]:
    """What a step violates: a position that goes back, or something acknowledged that is gone."""
    found: set[Violation] = set()
    if before.ledger is not step.state.ledger and _goes_back(before.ledger, step.state.ledger):
        found.add("backwards")
    if not step.loses and before.primary.data is not step.state.primary.data:
        kept = _surviving(step.state)
        if any(key not in kept for key in _acknowledged(before) & _surviving(before)):
            found.add("missing")
    return found


class End(NamedTuple):
    """What comes of a state: what is violated then, and whether the partition waits for an operator."""

    violated: frozenset[Violation]
    has_stopped: bool


def at_the_end(design: Design, bounds: Bounds, state: State) -> End:
    """What is violated when a state is left alone, and how it ends."""
    end = settled(design, state)
    ledger, account = end.state.ledger, end.state.primary.data.account
    found: set[Violation] = set()
    if any(effect > 1 for effect in _effects(ledger).values()):
        found.add("twice")
    if [row.sequence for row in ledger.rows] != [*range(1, len(ledger.rows) + 1)]:
        found.add("gap")
    unrecorded = _unrecorded(end.state)
    total = bounds.credits + sum(row.delta for row in ledger.rows)
    if min(ledger.balance, total + unrecorded, account.balance if account else 0) < 0:
        found.add("overdrawn")
    if end.has_stopped:
        return End(frozenset(found), has_stopped=True)
    recorded = {row.transaction.key for row in ledger.rows}
    if not _acknowledged(state) & _surviving(state) <= recorded:
        found.add("missing")
    agrees = account is None or account[:2] == (ledger.balance, ledger.sequence)
    if ledger.balance != total or not agrees:
        found.add("apart")
    return End(frozenset(found), has_stopped=False)


def _goes_back(before: Ledger, after: Ledger) -> bool:
    if before.position is None:
        return False
    if after.position is None:
        return True
    return before.epoch == after.epoch and after.position.id < before.position.id


def _effects(ledger: Ledger) -> Counter[int]:
    """Net effects by key."""
    effects: Counter[int] = Counter()
    for row in ledger.rows:
        effects[row.transaction.key] -= row.delta
    return effects


def _unrecorded(state: State) -> int:
    """What the journal takes beyond what the ledger has."""
    recorded = {row.transaction for row in state.ledger.rows}
    beyond = {
        entry.transaction: entry.delta
        for entry in state.primary.data.journal
        if entry.transaction is not None and entry.transaction not in recorded
    }
    return sum(beyond.values())


def _acknowledged(state: State) -> set[int]:
    return {key for key, client in enumerate(state.clients) if client.outcome == "acknowledged"}


def _surviving(state: State) -> set[int]:
    """Keys whose transaction is in the ledger, or in the primary's journal."""
    recorded = {row.transaction.key for row in state.ledger.rows}
    journal = state.primary.data.journal
    return recorded | {entry.transaction.key for entry in journal if entry.transaction is not None}
