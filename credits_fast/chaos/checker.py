"""The verdict on a run: its history and what is left, against the invariants. Pure.

Every invariant says how many things it looked at, for a zero without its denominator says nothing. An
operation is found in the ledger by the number in its metadata, or by its user and key where the
metadata is unreadable.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from credits_fast.chaos.history import Asked, Attempt, Operation, Outcome, operations

if TYPE_CHECKING:
    from credits_fast.chaos.evidence import Evidence, Held, PositionSample, Row

__all__ = ["INVARIANTS", "Examined", "Figures", "Outage", "Terms", "Verdict", "Window", "judge"]

_NS_PER_MS: Final = 1_000_000
_SHOWN_MAX: Final = 3
_CONFLICT: Final = "IDEMPOTENCY_KEY_CONFLICT"

INVARIANTS: Final = {
    "I1": "what a user had and every change since make the balance",
    "I2": "a user's transactions are numbered without gaps, and each balance follows from the one before",
    "I3": "operations and keys take effect once, net of what is undone; who repeats gets the first answer",
    "I4": "what was acknowledged is in the ledger, as it was answered",
    "I5": "Redis and the ledger agree",
    "I6": "no operation takes a balance below zero, at no moment",
    "I7": "the ledger's position never goes back, and one worker at most writes under one fence",
    "I8": "the journal still holds the last entry that is recorded",
    "I9": "what was acknowledged before another operation was asked for comes before it",
    "I10": "what was refused, or said not to be executed, is not in the ledger",
    "I11": "a key that was used for something else is refused",
    "I12": "after a fault charges go on, and everything is recorded, within the limit",
}
"""What is examined after every scenario, by name."""


class Window(NamedTuple):
    """A stretch of time, by the monotonic clock in nanoseconds, both ends included."""

    from_ns: int
    to_ns: int


class Outage(NamedTuple):
    """A fault that kept calls from being decided.

    Attributes:
        fault: What it was.
        ended_ns: When it ended, by the monotonic clock.
    """

    fault: str
    ended_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What was promised, as far as it differs between scenarios.

    Attributes:
        may_lose: What was acknowledged within one of these may be lost.
        may_move: What was acknowledged within one of these was decided on a history that was given up: it
            has to be in the ledger, but with whatever balance was there.
        may_forget: Whether Redis has forgotten keys that the ledger remembers: then one that was used for
            something else is not refused, but undone.
        may_remember: Whether Redis still remembers, and has in its balances, what may be lost: then an
            answer that only repeats another one binds no more than that one, and the ledger has to have
            the sum of what was lost.
        outages: The faults after which charges had to go on.
        limit_ms: Milliseconds within which they had to, and everything had to be recorded.
    """

    may_lose: Sequence[Window] = ()
    may_move: Sequence[Window] = ()
    may_forget: bool = False
    may_remember: bool = False
    outages: Sequence[Outage] = ()
    limit_ms: float = 30_000


class Examined(NamedTuple):
    """What the examination of an invariant came to.

    Attributes:
        looked_at: How many things were looked at.
        problems: What contradicts it, for people.
    """

    looked_at: int
    problems: Sequence[str]

    @property
    def shown(self) -> str:
        """The first few problems on one line, "" where there is none."""
        more = len(self.problems) - _SHOWN_MAX
        text = "; ".join(self.problems[:_SHOWN_MAX])
        return f"{text}; and {more} more" if more > 0 else text


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """A run in numbers; amounts in micro-credits.

    Attributes:
        attempted: Operations that were asked for.
        attempts: Calls; a repeated one counts again.
        acknowledged: Operations that were acknowledged.
        acknowledged_held: How many of these were held first, and captured.
        refused: Operations that were refused.
        unavailable: Operations of which the library said that they were not executed.
        ambiguous: Operations that never got an answer.
        ambiguous_executed: How many of these are in the ledger.
        once_ambiguous: Operations with an ambiguous attempt, settled or not.
        replayed: Calls that were answered with an earlier answer.
        recorded: Rows of the ledger.
        lost: Acknowledged operations that are not in the ledger.
        lost_within_bound: How many of these the scenario's bound allows.
        duplicated: Rows beyond the first of an operation or a key that nothing undoes, and rows nobody
            asked for.
        reversed: Rows beyond the first of a key that another row undoes.
        below_floor: Balances below zero, at any row and in Redis.
        drift: The sum of all differences of balances.
        readmission_ms: For each outage, milliseconds until the next acknowledgement; None for never.
        recorded_ms: Milliseconds after the last fault until all was recorded, None for never.
    """

    attempted: int
    attempts: int
    acknowledged: int
    acknowledged_held: int
    refused: int
    unavailable: int
    ambiguous: int
    ambiguous_executed: int
    once_ambiguous: int
    replayed: int
    recorded: int
    lost: int
    lost_within_bound: int
    duplicated: int
    reversed: int
    below_floor: int
    drift: int
    readmission_ms: Sequence[float | None]
    recorded_ms: float | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a run.

    Attributes:
        figures: The run in numbers.
        examined: Every invariant by name.
    """

    figures: Figures
    examined: Mapping[str, Examined]

    @property
    def broken(self) -> list[str]:
        """The names of the invariants that do not hold."""
        return [name for name, found in self.examined.items() if found.problems]


def judge(history: Sequence[Attempt], evidence: Evidence, terms: Terms) -> Verdict:
    """The verdict on a history and what is left of it, under the terms of its scenario."""
    case = _Case(history, evidence, terms)
    return Verdict(_figures(case), {name: examine(case) for name, examine in _EXAMINE.items()})


@dataclass(frozen=True)
class _Case:
    """History and evidence, arranged for looking things up."""

    history: Sequence[Attempt]
    evidence: Evidence
    terms: Terms

    @cached_property
    def asked(self) -> dict[int, Operation]:
        """The operations by number."""
        return operations(self.history)

    @cached_property
    def by_key(self) -> dict[tuple[str, str], list[Operation]]:
        """The operations under each user's key, in the order they were asked for."""
        found: dict[tuple[str, str], list[Operation]] = defaultdict(list)
        for one in sorted(self.asked.values(), key=lambda one: one.invoked_ns):
            if one.asked.key is not None:
                found[one.asked.user, one.asked.key].append(one)
        return found

    @cached_property
    def undone(self) -> frozenset[str]:
        """The rows that another row undoes, by their ids: the other way, and as much."""
        deltas = {row.id: row.delta for row in self.evidence.rows}
        return frozenset(
            row.reverses
            for row in self.evidence.rows
            if row.reverses is not None and deltas.get(row.reverses) == -row.delta
        )

    @cached_property
    def rows(self) -> dict[int, list[Row]]:
        """The rows of each operation; those of nobody under -1. What undoes or settles is the library's."""
        found: dict[int, list[Row]] = defaultdict(list)
        for row in self.evidence.rows:
            if row.reverses not in self.undone and not row.settles:
                found[self._number_of(row)].append(row)
        return found

    @cached_property
    def by_user(self) -> dict[str, list[Row]]:
        """Each user's rows by their sequence."""
        found: dict[str, list[Row]] = defaultdict(list)
        for row in sorted(self.evidence.rows, key=lambda row: row.sequence):
            found[row.user].append(row)
        return found

    @cached_property
    def lost(self) -> list[Operation]:
        """What was acknowledged and is not in the ledger."""
        return [
            one
            for number, one in self.asked.items()
            if one.outcome is Outcome.ACKNOWLEDGED
            and number not in self.rows
            and one.answers[0].transaction_id not in self.undone
        ]

    def binding(self, operation: Operation) -> list[Attempt]:
        """The answers of an operation that must hold: not covered by its scenario's bound, nor undone.

        What was decided within a window may have been answered a moment after it.
        """
        windows, unbound = self.terms.may_lose, set(self.undone)
        if self.terms.may_remember:
            unbound |= {one.transaction_id for one in operation.answers if _is_within(one, windows)}
        return [
            one
            for one in operation.answers
            if one.transaction_id not in unbound and not _is_within(one, windows)
        ]

    def is_below(self, row: Row) -> bool:
        """Whether a row takes its user below zero.

        What was given twice is taken back all the same; what was decided on a history that was given up
        was above zero there.
        """
        if row.after >= 0 or row.delta >= 0 or row.reverses in self.undone:
            return False
        asked = self.asked.get(self._number_of(row))
        answers = asked.answers if asked is not None else ()
        return not any(_is_within(one, self.terms.may_move) for one in answers)

    @cached_property
    def taken_back(self) -> frozenset[str]:
        """The users from whom something was taken back; their balance may be below zero."""
        return frozenset(
            row.user for row in self.evidence.rows if row.reverses in self.undone and row.delta < 0
        )

    @cached_property
    def unsettled(self) -> dict[str, int]:
        """How far what a recovery settled is from what was lost, of each user of whom that can be told.

        Where Redis remembers what the ledger has lost, all of it has to be settled.
        """
        settled, gone, unknown = Counter[str](), Counter[str](), set[str]()
        for row in self.evidence.rows:
            if row.settles:
                settled[row.user] += row.delta
        for one in self.lost:
            gone[one.asked.user] += one.asked.delta
        for number, one in self.asked.items():
            if one.outcome is Outcome.AMBIGUOUS and number not in self.rows:
                unknown.add(one.asked.user)  # it may have been decided and lost
        told = settled.keys() | (gone.keys() if self.terms.may_remember else ())
        return {user: settled[user] - gone[user] for user in told - unknown}

    def drift_of(self, user: str) -> int:
        """How far the ledger's balance of a user is from what the rows make it."""
        made = self.evidence.openings[user] + sum(row.delta for row in self.by_user[user])
        held = self.evidence.ledger.get(user)
        return abs(made if held is None else held.balance - made)

    def _number_of(self, row: Row) -> int:
        if row.number is not None and row.number in self.asked:
            return row.number
        if row.number is None and row.key is not None:
            under = self.by_key.get((row.user, row.key), ())
            named = [one.asked.number for one in under if one.asked.delta == row.delta]
            return named[0] if named else -1
        return -1


def _is_within(answer: Attempt, windows: Sequence[Window]) -> bool:
    """Whether a call was under way within one of these."""
    return any(answer.invoked_ns <= end and start <= answer.ended_ns for start, end in windows)


def _figures(case: _Case) -> Figures:
    evidence, ended = case.evidence, Counter(one.outcome for one in case.asked.values())
    ambiguous = [n for n, one in case.asked.items() if one.outcome is Outcome.AMBIGUOUS]
    return Figures(
        attempted=len(case.asked),
        attempts=len(case.history),
        acknowledged=ended[Outcome.ACKNOWLEDGED],
        acknowledged_held=sum(
            one.outcome is Outcome.ACKNOWLEDGED and one.asked.is_held for one in case.asked.values()
        ),
        refused=ended[Outcome.REFUSED],
        unavailable=ended[Outcome.UNAVAILABLE],
        ambiguous=len(ambiguous),
        ambiguous_executed=sum(number in case.rows for number in ambiguous),
        once_ambiguous=sum(
            any(tried.outcome is Outcome.AMBIGUOUS for tried in one.attempts)
            for one in case.asked.values()
        ),
        replayed=sum(attempt.replayed for attempt in case.history),
        recorded=len(evidence.rows),
        lost=len(case.lost),
        lost_within_bound=sum(not case.binding(one) for one in case.lost),
        duplicated=len(_surplus(case)),
        reversed=len(case.undone),
        below_floor=sum(map(case.is_below, evidence.rows)) + len(_held_below(case)),
        drift=sum(map(case.drift_of, evidence.openings))
        + sum(abs(ours.balance - theirs.balance) for _, ours, theirs in _both(case)),
        readmission_ms=[_readmission_ms(case, outage) for outage in case.terms.outages],
        recorded_ms=evidence.recorded_ms,
    )


# --- the invariants ------------------------------------------------------------------------------


def _sums(case: _Case) -> Examined:
    openings = case.evidence.openings
    strangers = {row.user for row in case.evidence.rows} - openings.keys()
    problems = [
        f"{user}: the ledger's balance differs by {drift} from opening and rows"
        for user in openings
        if (drift := case.drift_of(user))
    ]
    problems += [f"{user}: rows of a user nobody created" for user in sorted(strangers)]
    problems += [
        f"{user}: what was settled differs by {beyond} from what was lost"
        for user, beyond in sorted(case.unsettled.items())
        if beyond
    ]
    return Examined(len(openings) + len(case.unsettled), problems)


def _chains(case: _Case) -> Examined:
    problems = [problem for user in case.by_user for problem in _broken_chain(case, user)]
    for user, held in case.evidence.ledger.items():
        if held.sequence != len(case.by_user.get(user, ())):
            numbers = f"{len(case.by_user.get(user, ()))} rows, user at {held.sequence}"
            problems.append(f"{user}: {numbers}")
    return Examined(len(case.evidence.rows), problems)


def _broken_chain(case: _Case, user: str) -> Iterator[str]:
    balance = case.evidence.openings.get(user, 0)
    for place, row in enumerate(case.by_user[user], 1):
        if row.sequence != place:
            yield f"{user}: sequence {row.sequence} where {place} is due"
            return
        if (row.before, row.after) != (balance, balance + row.delta):
            yield f"{user} at {place}: {row.before} {row.delta:+} = {row.after} after {balance}"
        balance = row.after


def _once(case: _Case) -> Examined:
    problems = _surplus(case)
    for number, one in case.asked.items():
        answers = {answer.answer for answer in case.binding(one)}
        if len(answers) > 1:
            problems.append(f"operation {number} was answered in {len(answers)} ways: {answers}")
    return Examined(len(case.asked) + len(case.by_key), problems)


def _surplus(case: _Case) -> list[str]:
    """Rows beyond the first of an operation or of a user's key, and rows nobody asked for."""
    problems: list[str] = []
    seen: set[object] = set()
    for number, rows in case.rows.items():
        for row in (row for row in rows if row.id not in case.undone):
            identities: set[object] = {number}
            if row.key is not None:
                identities.add((row.user, row.key))
            if number < 0:
                problems.append(f"row {row.id} was never asked for")
            elif identities & seen:
                problems.append(f"row {row.id} is operation {number}, key {row.key!r}, once more")
            seen |= identities
    return problems


def _kept(case: _Case) -> Examined:
    answered = [(one, answers) for one in case.asked.values() if (answers := case.binding(one))]
    problems: list[str] = []
    for one, answers in answered:
        rows = case.rows.get(one.asked.number, ())
        is_moved = _is_within(answers[0], case.terms.may_move)
        found = _otherwise(one.asked, answers[0], rows[0], is_moved=is_moved) if rows else ()
        problems += found if rows else [_lost(one)]
    return Examined(len(answered), problems)


def _lost(one: Operation) -> str:
    return f"operation {one.asked.number} was answered {one.answers[0].answer} and is lost"


def _otherwise(asked: Asked, answer: Attempt, row: Row, *, is_moved: bool) -> Iterator[str]:
    after = row.after if is_moved else answer.balance_after
    said = (answer.transaction_id, asked.user, asked.verb, asked.delta, after)
    wrote = (row.id, row.user, row.kind, row.delta, row.after)
    if said != wrote or answer.micros != asked.micros:
        yield f"operation {asked.number} was answered {said} and is recorded as {wrote}"


def _agreeing(case: _Case) -> Examined:
    evidence = case.evidence
    problems = [f"{user}: {problem}" for user, problem in evidence.differing.items()]
    problems += [
        f"{user}: Redis has {ours.balance} at {ours.sequence}, the ledger {theirs.balance} at "
        f"{theirs.sequence}"
        for user, ours, theirs in _both(case)
        if ours != theirs
    ]
    unasked = len(evidence.openings.keys() - evidence.redis.keys())
    if unasked:
        problems.append(f"{unasked} users could not be asked for")
    return Examined(len(evidence.redis), problems)


def _both(case: _Case) -> Iterator[tuple[str, Held, Held]]:
    """What Redis and what the ledger say of each user that both know."""
    for user, ours in case.evidence.redis.items():
        if (theirs := case.evidence.ledger.get(user)) is not None:
            yield user, ours, theirs


def _floor(case: _Case) -> Examined:
    evidence = case.evidence
    problems = [
        f"{row.user}: {row.after} after {row.id}" for row in evidence.rows if case.is_below(row)
    ]
    problems += [f"{user}: {evidence.redis[user].balance} in Redis" for user in _held_below(case)]
    problems += [
        f"operation {one.asked.number} was answered with the balance {one.balance_after}"
        for one in case.history
        if one.outcome is Outcome.ACKNOWLEDGED and one.balance_after < 0 and one.asked.delta < 0
    ]
    return Examined(len(evidence.rows) + len(evidence.redis), problems)


def _held_below(case: _Case) -> list[str]:
    """Users with less than nothing in Redis, from whom nothing was taken back."""
    held = case.evidence.redis
    return [user for user, one in held.items() if one.balance < 0 and user not in case.taken_back]


def _positions(case: _Case) -> Examined:
    by_partition: dict[int, list[PositionSample]] = defaultdict(list)
    owners: dict[tuple[int, int], set[str]] = defaultdict(set)
    for sample in case.evidence.samples:
        by_partition[sample.partition].append(sample)
        if sample.owner is not None:
            owners[sample.partition, sample.fence].add(sample.owner)
    problems = [
        f"partition {after.partition} went back from {before.last} under fence {before.fence} to "
        f"{after.last} under {after.fence}"
        for samples in by_partition.values()
        for before, after in pairwise(samples)
        if (before.epoch, before.last) > (after.epoch, after.last) or before.fence > after.fence
    ]
    problems += [
        f"partition {partition} under fence {fence} belonged to {len(names)} workers"
        for (partition, fence), names in owners.items()
        if len(names) > 1
    ]
    return Examined(len(case.evidence.samples), problems)


def _retained(case: _Case) -> Examined:
    problems = [
        f"partition {end.partition} is recorded up to {end.recorded}, its journal begins at {end.first}"
        for end in case.evidence.journals
        if end.recorded is not None and (end.first is None or end.first > end.recorded)
    ]
    return Examined(len(case.evidence.journals), problems)


def _in_order(case: _Case) -> Examined:
    """One pass over each user's operations by the time they were asked for."""
    looked_at, problems = 0, list[str]()
    for user, rows in case.by_user.items():
        placed = [
            (case.asked[number], row.sequence)
            for row in rows
            if row.id not in case.undone and (number := _known(case, row)) is not None
        ]
        answered = sorted(
            (answers[0].ended_ns, place) for one, place in placed if (answers := case.binding(one))
        )
        moments, highest, most = [moment for moment, _ in answered], [0], 0
        for _, place in answered:
            most = max(most, place)
            highest.append(most)
        looked_at += len(placed)
        problems += [
            f"{user}: operation {one.asked.number} is number {place}, after {before} was acknowledged"
            for one, place in placed
            if place <= (before := highest[bisect_right(moments, one.invoked_ns)])
        ]
    return Examined(looked_at, problems)


def _known(case: _Case, row: Row) -> int | None:
    return row.number if row.number is not None and row.number in case.asked else None


def _not_there(case: _Case) -> Examined:
    denied = {
        number: one
        for number, one in case.asked.items()
        if one.outcome in {Outcome.REFUSED, Outcome.UNAVAILABLE}
    }
    problems = [
        f"operation {number} was {one.outcome} ({one.attempts[-1].code}) and is in the ledger"
        for number, one in denied.items()
        if number in case.rows
    ]
    return Examined(len(denied), problems)


def _conflicts(case: _Case) -> Examined:
    looked_at, problems = 0, list[str]()
    for (user, key), under in case.by_key.items():
        if len(under) == 1:
            continue
        looked_at += len(under) - 1
        accepted = [(one, answers[0]) for one in under if (answers := case.binding(one))]
        if len(accepted) > 1:
            problems.append(
                f"{user}: {len(accepted)} operations were acknowledged under key {key!r}"
            )
        problems += [
            f"{user}: operation {one.asked.number} under key {key!r} was refused as {code}"
            for one in under
            if not case.terms.may_forget
            and _was_taken(one, accepted)
            and one.outcome is Outcome.REFUSED
            and (code := one.attempts[-1].code) != _CONFLICT
        ]
    return Examined(looked_at, problems)


def _was_taken(one: Operation, accepted: Sequence[tuple[Operation, Attempt]]) -> bool:
    """Whether another operation had been acknowledged under the key before this one was asked for."""
    return any(other is not one and answer.ended_ns < one.invoked_ns for other, answer in accepted)


def _going_on(case: _Case) -> Examined:
    limit, recorded_ms = case.terms.limit_ms, case.evidence.recorded_ms
    problems = [
        f"after {outage.fault} nothing was acknowledged within {limit:,.0f} ms"
        for outage in case.terms.outages
        if (ms := _readmission_ms(case, outage)) is None or ms > limit
    ]
    if recorded_ms is None or recorded_ms > limit:
        problems.append(f"not everything was recorded within {limit:,.0f} ms after the last fault")
    return Examined(len(case.terms.outages) + 1, problems)


def _readmission_ms(case: _Case, outage: Outage) -> float | None:
    """Milliseconds from the end of a fault to the first acknowledgement after it."""
    after = [
        one.ended_ns
        for one in case.history
        if one.outcome is Outcome.ACKNOWLEDGED and one.ended_ns > outage.ended_ns
    ]
    return (min(after) - outage.ended_ns) / _NS_PER_MS if after else None


_EXAMINE: Final[Mapping[str, Callable[[_Case], Examined]]] = {
    "I1": _sums,
    "I2": _chains,
    "I3": _once,
    "I4": _kept,
    "I5": _agreeing,
    "I6": _floor,
    "I7": _positions,
    "I8": _retained,
    "I9": _in_order,
    "I10": _not_there,
    "I11": _conflicts,
    "I12": _going_on,
}
