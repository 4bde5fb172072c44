"""Ids of intents: what shall be done once an application's own transaction has committed. Pure.

An intent's id is an operation id with a letter behind it, so that holds and transactions tell by their
ids alone whether they belong to one:

    i   the intent, the hold it charges, or the grant or refund it becomes
    j   the hold that stands in for one that was lost, and is charged instead
"""

from __future__ import annotations

from typing import Final

__all__ = ["intent_id", "intent_of", "stand_in"]

_LENGTH: Final = 33


def intent_id(operation_id: str) -> str:
    """The id of the intent that an operation makes.

    Example:
        >>> intent_id("0" * 32)[30:]
        '00i'
    """
    return operation_id + "i"


def stand_in(intent: str) -> str:
    """The id of the hold that stands in for the intent's lost one."""
    return intent[:-1] + "j"


def intent_of(name: str) -> str | None:
    """The intent that a hold or transaction belongs to, None where it belongs to none.

    Example:
        >>> intent_of(stand_in(intent_id("0" * 32))) == intent_id("0" * 32)
        True
        >>> intent_of("0" * 32)
    """
    if len(name) != _LENGTH or name[-1] not in "ij":
        return None
    return name[:-1] + "i"
