"""What Redis holds of users' accounts: balance, reserved, sequence; read in one write to each server.

It is for looking only, and says nothing about membership; charges ask the scripts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from credits_fast.errors import CreditsError
from credits_fast.protocol.entries import EntryId, MalformedEntryError
from credits_fast.protocol.wire import epoch_of, held
from credits_fast.resp import pack
from credits_fast.servers.server_errors import is_of_another_type

if TYPE_CHECKING:
    from credits_fast.protocol.keys import Partitions
    from credits_fast.servers.lane import Reply
    from credits_fast.servers.routing import Router

__all__ = ["Held", "held_accounts"]

_NO_ACCOUNT: Final = "what Redis holds under the account's name is no account"


class Held(NamedTuple):
    """An account as Redis has it.

    Attributes:
        balance: Micro-credits.
        sequence: The number of the user's last transaction.
        reserved: Micro-credits that open holds keep.
        problem: Why it cannot be read, "" where it can; then the numbers are 0.
        open_holds: How many holds are open.
        entry: The journal entry of its last change, or the first of the epoch in which it was loaded.
    """

    balance: int
    sequence: int
    reserved: int = 0
    problem: str = ""
    open_holds: int = 0
    entry: EntryId = EntryId((0, 0))


async def held_accounts(
    router: Router, partitions: Partitions, users: Sequence[str]
) -> list[Held | None]:
    """The account of each of some users, in their order; None for one that Redis does not know.

    One of an earlier epoch than its partition's, of a history that was lost, is not known.

    Raises:
        RedisUnavailableError: A server cannot be reached.
        UnsuitableServerError: A server's access rules forbid it.
    """
    names = [user.encode() for user in users]
    theirs = [partitions.of(name) for name in names]
    wanted = {partition.number: partition for partition in theirs}
    looks = [(partition, pack((b"GET", partition.gate))) for partition in wanted.values()]
    looks += [
        (partition, pack((b"GET", partition.account(name))))
        for partition, name in zip(theirs, names, strict=True)
    ]
    outcomes = await router.outcomes(looks)
    epochs = dict(zip(wanted, map(_epoch, outcomes), strict=False))
    accounts = outcomes[len(wanted) :]
    return [
        _held(outcome, epochs[partition.number])
        for partition, outcome in zip(theirs, accounts, strict=True)
    ]


def _epoch(gate: Reply) -> int | None:
    """The epoch of an open partition, None where it is closed."""
    if isinstance(gate, CreditsError):
        raise gate
    return None if gate is None else epoch_of(gate)


def _held(outcome: Reply, epoch: int | None) -> Held | None:
    if isinstance(outcome, CreditsError):
        if is_of_another_type(outcome):
            return Held(0, 0, problem=_NO_ACCOUNT)
        raise outcome
    if outcome is None:
        return None
    try:
        account, entry = held(outcome), _entry_of(outcome)
    except (ValueError, MalformedEntryError):
        return Held(0, 0, problem=_NO_ACCOUNT)
    if epoch is not None and account.epoch != epoch:
        return None
    return Held(
        account.balance,
        account.sequence,
        account.reserved,
        open_holds=account.open_holds,
        entry=entry,
    )


def _entry_of(account: bytes) -> EntryId:
    return EntryId.parse(account.split(b" ", 1)[0].decode())
