"""What a Redis server's refusal means for us: the boundary where its errors are translated."""

from __future__ import annotations

from typing import Final, TypeGuard

from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

from credits_fast.errors import CreditsError, RedisUnavailableError, UnsuitableServerError

__all__ = ["is_not_allowed", "is_not_executed", "is_of_another_type", "server_error", "translated"]

_CLASSES: Final[dict[str, type[ResponseError]]] = {
    "ASK": AskError,
    "CLUSTERDOWN": ClusterDownError,
    "CROSSSLOT": ClusterCrossSlotError,
    "ERR": ResponseError,
    "MASTERDOWN": MasterDownError,
    "MOVED": MovedError,
    "NOPERM": NoPermissionError,
    "NOSCRIPT": NoScriptError,
    "OOM": OutOfMemoryError,
    "READONLY": ReadOnlyError,
    "TRYAGAIN": TryAgainError,
}
"""redis-py's classes for the codes that an error reply begins with."""
_CLASSES_APART: Final[dict[str, type[Exception]]] = {
    "LOADING": BusyLoadingError,
    "NOAUTH": AuthenticationError,
    "WRONGPASS": AuthenticationError,
}
"""The same, where redis-py does not derive them from its class of error replies."""

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
_OF_ANOTHER_TYPE: Final = "WRONGTYPE"


def server_error(text: str) -> Exception:
    """The exception redis-py would raise for an error reply.

    Example:
        >>> server_error("NOSCRIPT No matching script.")
        NoScriptError('No matching script.')
    """
    code, _, rest = text.partition(" ")
    known = _CLASSES.get(code) or _CLASSES_APART.get(code)
    return known(rest) if known else ResponseError(text)


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


def is_of_another_type(error: CreditsError) -> bool:
    """Whether a request failed because what stands under its key is of another type than it asks for."""
    refusal = error.__cause__
    return isinstance(refusal, ResponseError) and str(refusal).startswith(_OF_ANOTHER_TYPE)


def translated(error: BaseException, address: str) -> CreditsError:
    """Our error for a refusal of a request that changes nothing, or that was not executed."""
    if is_not_allowed(error):
        return UnsuitableServerError(f"Redis at {address} does not allow this: {error}")
    return RedisUnavailableError(f"Redis at {address} cannot answer: {error}")
