"""Do Redis, journal and ledger agree about a user while charges go on? Pure: what was read, judged.

A user is at some sequence in each of three places, and they are read one after the other: the ledger,
then Redis, and where that does not decide, the journal and the ledger again. What each says is true of
its own sequence for ever, so it is compared there, and not with whatever another place says later:

    Redis at the ledger's sequence    the balances are equal
    Redis behind it                   never: the scripts go first, and the ledger follows
    Redis ahead of it                 at second sight either the ledger has recorded that sequence, with
                                      that balance; or the journal has every transaction in between, and
                                      they lead from the ledger's balance to Redis'

What holds keep has no sequence, so it is compared where nothing is under way: the ledger has passed the
entry of the account's last change, and the account is the same before the ledger is read and after.

The journal is trimmed only behind the ledger. What the ledger, read last, has not recorded was therefore
not trimmed when the journal was read before it, and stands there if it was ever decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from credits_fast.amounts import to_credits

if TYPE_CHECKING:
    from credits_fast.checks.held import Held
    from credits_fast.protocol.entries import EntryId

__all__ = [
    "Difference",
    "Recorded",
    "Step",
    "apart_in_holds",
    "at_first_sight",
    "at_second_sight",
    "single_holds_apart",
]


class Recorded(NamedTuple):
    """A user as the ledger has it: micro-credits, the number of the last transaction, what holds keep."""

    balance: int
    sequence: int
    reserved: int = 0


class Step(NamedTuple):
    """A transaction of the journal: the change of the balance and the balance after it, micro-credits."""

    delta: int
    balance: int


class Difference(NamedTuple):
    """What does not agree.

    Attributes:
        problem: What was found where, for people.
        drift: By how many micro-credits, 0 where that cannot be said.
    """

    problem: str
    drift: int = 0


def at_first_sight(held: Held | None, recorded: Recorded, floor: int) -> Difference | bool:
    """Whether it is decided: a difference, True where all agree, False where a second look is needed.

    Args:
        held: What Redis has, None where it does not know the user; read after the ledger.
        recorded: What the ledger has.
        floor: The last sequence of the user in the journal, read before both; 0 where it has none.
    """
    if held is None:
        return floor <= recorded.sequence
    if held.problem:
        return Difference(held.problem)
    reached = max(floor, recorded.sequence)
    if held.sequence < reached:
        where = "the ledger" if reached == recorded.sequence else "the journal"
        return Difference(f"{_of_redis(held)}, and {where} was at {reached} before")
    if held.sequence > recorded.sequence:
        return False
    if held.balance == recorded.balance:
        return True
    return _apart(held, recorded.balance, "the ledger has")


def at_second_sight(
    held: Held | None,
    recorded: Recorded,
    floor: int,
    *,
    recorded_there: int | None,
    steps: Mapping[int, Step],
) -> Difference | None:
    """What does not agree, None where all does.

    Args:
        held: What Redis had at first sight, None where it did not know the user.
        recorded: What the ledger has now, after the journal was read.
        floor: As at first sight.
        recorded_there: The balance after the transaction at Redis' sequence in the ledger, in
            micro-credits; None where it has none.
        steps: The user's transactions in the journal that the ledger had not recorded when the
            reading of it began, by sequence.
    """
    if held is None:
        if floor <= recorded.sequence:
            return None
        missing = f"transactions {recorded.sequence + 1} to {floor} that the ledger has not"
        return Difference(f"Redis does not know the user, and the journal has {missing}")
    if held.sequence > recorded.sequence:
        return _through_the_journal(held, recorded, steps)
    if recorded_there is None:
        return Difference(f"{_of_redis(held)}, and the ledger has no such transaction")
    if recorded_there == held.balance:
        return None
    return _apart(held, recorded_there, "the ledger has")


def apart_in_holds(
    before: Held, recorded: Recorded, position: EntryId, after: Held | None
) -> Difference | None:
    """What does not agree of what the user has reserved, None where all does or more is under way.

    Args:
        before: What Redis had.
        recorded: What the ledger has, read after that.
        position: The last entry of the partition that the ledger had recorded before that was read.
        after: What Redis has, read last.
    """
    is_recorded = before.entry.epoch == position.epoch and before.entry <= position
    if before != after or not is_recorded or before.reserved == recorded.reserved:
        return None
    found = f"Redis has {to_credits(before.reserved)} reserved at sequence {before.sequence}"
    return Difference(f"{found}, the ledger {to_credits(recorded.reserved)}")


def single_holds_apart(
    before: Held | None,
    there: Mapping[str, int],
    recorded: Mapping[str, int],
    position: EntryId | None,
    after: Held | None,
) -> Difference | None:
    """What does not agree of a user's open holds, None where all do or more is under way.

    Args:
        before: What Redis had as the account.
        there: What each hold kept in Redis, read after that, micro-credits.
        recorded: The same of the ledger's open holds, read after that.
        position: The last entry of the partition that the ledger had recorded before that was read, None
            where it does not know the partition.
        after: What Redis has as the account, read last.
    """
    if before != after or (before is not None and before.problem):
        return None
    if before is None:
        return Difference(f"Redis has {len(there)} open holds and no account") if there else None
    if before.open_holds != len(there):
        return Difference(
            f"the account in Redis counts {before.open_holds} open holds, there are {len(there)}"
        )
    is_recorded = (
        position is not None and before.entry.epoch == position.epoch and before.entry <= position
    )
    if not is_recorded or there == recorded:
        return None
    named = sorted(
        name for name in there.keys() | recorded if there.get(name) != recorded.get(name)
    )
    return Difference(
        f"Redis and ledger differ in {len(named)} open holds, the first of them {named[0]}"
    )


def _through_the_journal(
    held: Held, recorded: Recorded, steps: Mapping[int, Step]
) -> Difference | None:
    balance = recorded.balance
    for sequence in range(recorded.sequence + 1, held.sequence + 1):
        step = steps.get(sequence)
        if step is None:
            return Difference(
                f"{_of_redis(held)}, the ledger is at {recorded.sequence}, "
                f"and transaction {sequence} is neither there nor in the journal",
                abs(held.balance - balance),
            )
        if balance + step.delta != step.balance:
            return Difference(
                f"transaction {sequence} of the journal changes {to_credits(balance)} by "
                f"{to_credits(step.delta)} and ends at {to_credits(step.balance)}",
                abs(step.balance - balance - step.delta),
            )
        balance = step.balance
    if balance == held.balance:
        return None
    return _apart(held, balance, "the journal has")


def _apart(held: Held, balance: int, who: str) -> Difference:
    found = f"{_of_redis(held)}, {who} {to_credits(balance)} there"
    return Difference(found, abs(held.balance - balance))


def _of_redis(held: Held) -> str:
    return f"Redis has {to_credits(held.balance)} at sequence {held.sequence}"
