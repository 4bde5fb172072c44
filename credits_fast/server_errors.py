"""What a Redis server's refusal means for us: the boundary where foreign exceptions are translated."""

from __future__ import annotations

from typing import Final, TypeGuard

from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    TryAgainError,
)

from credits_fast.errors import CreditsError, RedisUnavailableError, UnsuitableServerError

__all__ = ["is_not_allowed", "is_not_executed", "translated"]

_NOT_ALLOWED: Final = (AuthenticationError, AuthorizationError, NoPermissionError)
_NOT_ALLOWED_IN_SCRIPT: Final = "ACL failure in script"

_NOT_EXECUTED: Final = (
    AskError,  # MOVED is one of them
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    TryAgainError,
)
_NOT_EXECUTED_CODES: Final = ("BUSY", "MISCONF", "NOREPLICAS")


def is_not_allowed(error: BaseException | None) -> TypeGuard[BaseException]:
    """Whether the server's access rules forbid the request: a mistake of the set-up."""
    return isinstance(error, _NOT_ALLOWED) or str(error).startswith(_NOT_ALLOWED_IN_SCRIPT)


def is_not_executed(error: Exception) -> bool:
    """Whether the server says that it did not execute the request, and may do so later.

    Source: the Redis documentation of each reply. Out of memory belongs here because it is only
    checked before a script's first write, and that is the journal entry.
    """
    code = str(error).partition(" ")[0]
    return isinstance(error, _NOT_EXECUTED) or code in _NOT_EXECUTED_CODES


def translated(error: BaseException, address: str) -> CreditsError:
    """Our error for a refusal of a request that changes nothing, or that was not executed."""
    if is_not_allowed(error):
        return UnsuitableServerError(f"Redis at {address} does not allow this: {error}")
    return RedisUnavailableError(f"Redis at {address} cannot answer: {error}")
