"""What Redis holds of users' accounts: balance and sequence, read in one write to each server.

It is for looking only, and says nothing about membership; charges ask the scripts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from redis.exceptions import ResponseError

from credits_fast.errors import CreditsError
from credits_fast.resp import pack

if TYPE_CHECKING:
    from credits_fast.keys import PartitionKeys, Partitions
    from credits_fast.lane import Reply
    from credits_fast.routing import Router

__all__ = ["Held", "held_accounts"]

_WRONG_TYPE: Final = "WRONGTYPE"


class Held(NamedTuple):
    """An account as Redis has it.

    Attributes:
        balance: Micro-credits.
        sequence: The number of the user's last transaction.
        problem: Why it cannot be read, "" where it can; then the numbers are 0.
    """

    balance: int
    sequence: int
    problem: str = ""


async def held_accounts(
    router: Router, partitions: Partitions, users: Sequence[str]
) -> list[Held | None]:
    """The account of each of some users, in their order; None for one that Redis does not know.

    Raises:
        RedisUnavailableError: A server cannot be reached.
        UnsuitableServerError: A server's access rules forbid it.
    """
    outcomes = await router.outcomes([_look(partitions, user) for user in users])
    return [_held(outcome) for outcome in outcomes]


def _look(partitions: Partitions, user_id: str) -> tuple[PartitionKeys, bytes]:
    user = user_id.encode()
    partition = partitions.of(user)
    return partition, pack((b"HMGET", partition.account(user), b"b", b"s"))


def _held(outcome: Reply) -> Held | None:
    if isinstance(outcome, CreditsError):
        refusal = outcome.__cause__
        if isinstance(refusal, ResponseError) and str(refusal).startswith(_WRONG_TYPE):
            return Held(0, 0, "what Redis holds under the account's name is no account")
        raise outcome
    found: tuple[bytes | None, bytes | None] = (outcome[0], outcome[1])
    balance, sequence = found
    if balance is None and sequence is None:
        return None
    try:
        return Held(int(balance or b""), int(sequence or b""))
    except ValueError:
        return Held(0, 0, f"Redis has a balance {balance!r} at sequence {sequence!r}")
