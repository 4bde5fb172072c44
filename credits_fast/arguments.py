"""What callers may pass: identifiers, metadata, moments. Checked once, at the door of a verb.

Every check gives the form that travels (UTF-8 bytes) or raises; nothing has been sent by then.
NUL separates fields on the wire and in the journal, so it is the one character that is not allowed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, cast

from credits_fast.errors import InvalidArgumentError, InvalidMetadataError, UserNotFoundError

if TYPE_CHECKING:
    from credits_fast.types import Metadata, Variables

__all__ = [
    "IDENTIFIER_BYTES_MAX",
    "METADATA_BYTES_MAX",
    "METADATA_DEPTH_MAX",
    "aware",
    "check_variables",
    "identifier",
    "metadata_json",
    "moment",
    "user_identifier",
]

IDENTIFIER_BYTES_MAX: Final = 256
"""Bytes of a user id, an action or an idempotency key, in UTF-8."""
METADATA_BYTES_MAX: Final = 4_096
"""Bytes of metadata as compact JSON in UTF-8."""
METADATA_DEPTH_MAX: Final = 8
"""Objects and lists inside one another, the metadata itself included."""

_JSON: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def identifier(argument: str, value: str) -> bytes:
    """An identifier as UTF-8: 1 to 256 bytes, any characters but NUL and lone surrogates.

    Raises:
        InvalidArgumentError: It is none.
    """
    if (
        type(value) is str
        and value.isascii()
        and 0 < len(value) <= IDENTIFIER_BYTES_MAX
        and "\0" not in value
    ):
        return value.encode()  # nearly all of them: nothing below has to be looked at
    if not isinstance(value, str):
        raise InvalidArgumentError(argument, f"must be text, not {type(value).__name__}")
    try:
        encoded = value.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(argument, "has a lone surrogate") from error
    if not 0 < len(encoded) <= IDENTIFIER_BYTES_MAX:
        problem = f"must have 1 to {IDENTIFIER_BYTES_MAX} bytes, not {len(encoded)}"
        raise InvalidArgumentError(argument, problem)
    if b"\0" in encoded:
        raise InvalidArgumentError(argument, "contains NUL")
    return encoded


def user_identifier(user_id: str) -> bytes:
    """A user id as UTF-8.

    Raises:
        UserNotFoundError: It is empty; no user can have that id.
        InvalidArgumentError: It is no identifier.
    """
    if user_id == "":
        raise UserNotFoundError(user_id)
    return identifier("user_id", user_id)


def check_variables(variables: Variables) -> None:
    """Nothing, where the variables are a mapping of names to whatever; the formula judges values.

    Raises:
        InvalidArgumentError: They are no mapping, or a name is no text, has NUL or a lone surrogate.
    """
    if not isinstance(variables, Mapping):
        raise InvalidArgumentError("variables", "must be a mapping of names to numbers")
    for name in variables:
        if not isinstance(name, str):
            raise InvalidArgumentError("variables", f"have a name that is no text: {name!r:.40}")
    try:
        names = "".join(variables).encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError("variables", "have a lone surrogate in a name") from error
    if b"\0" in names:
        raise InvalidArgumentError("variables", "have NUL in a name")


def metadata_json(metadata: Metadata | None) -> bytes:
    """Metadata as compact JSON; b"" where there is none.

    Raises:
        InvalidMetadataError: It is no JSON object with text keys, longer than 4 KiB, deeper than 8,
            or has NaN, infinity, NUL or a lone surrogate anywhere.
    """
    if not metadata:
        if metadata is None or isinstance(metadata, Mapping):
            return b""
        raise InvalidMetadataError("metadata", "must be a mapping")
    if not isinstance(metadata, Mapping):
        raise InvalidMetadataError("metadata", "must be a mapping")
    _check_value(metadata, 1)
    try:
        encoded = _JSON.encode(dict(metadata)).encode()
    except UnicodeEncodeError as error:
        raise InvalidMetadataError("metadata", "has a lone surrogate") from error
    except (TypeError, ValueError) as error:
        raise InvalidMetadataError("metadata", f"is not JSON: {error}") from error
    if len(encoded) > METADATA_BYTES_MAX:
        problem = f"has {len(encoded)} bytes as JSON, more than {METADATA_BYTES_MAX}"
        raise InvalidMetadataError("metadata", problem)
    return encoded


def aware(argument: str, value: datetime) -> datetime:
    """A moment in UTC.

    Raises:
        InvalidArgumentError: It has no time zone, so nobody can say which moment is meant; or there is
            no such moment in UTC.
    """
    if not isinstance(value, datetime):
        raise InvalidArgumentError(argument, f"must be a datetime, not {type(value).__name__}")
    if value.tzinfo is None:
        raise InvalidArgumentError(argument, "has no time zone")
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise InvalidArgumentError(argument, "is beyond the years 1 to 9999 in UTC") from error


def moment(argument: str, value: datetime) -> datetime:
    """A moment in UTC, cut to whole milliseconds.

    Raises:
        InvalidArgumentError: It has no time zone.
    """
    utc = aware(argument, value)
    return utc.replace(microsecond=utc.microsecond // 1_000 * 1_000)


def _check_value(value: Any, depth: int) -> None:
    """Depth before anything else, so that a cycle or a tower of lists ends here."""
    if isinstance(value, str):
        if "\0" in value:
            raise InvalidMetadataError("metadata", "contains NUL")
        return
    inside: Iterable[Any]
    if isinstance(value, Mapping):
        mapping = cast("Mapping[Any, Any]", value)
        inside = mapping.values()
        for key in mapping:
            if not isinstance(key, str):
                raise InvalidMetadataError("metadata", f"has a key that is not text: {key!r:.40}")
            if "\0" in key:
                raise InvalidMetadataError("metadata", "contains NUL")
    elif isinstance(value, (list, tuple)):
        inside = cast("Iterable[Any]", value)
    else:
        return
    if depth > METADATA_DEPTH_MAX:
        raise InvalidMetadataError("metadata", f"is deeper than {METADATA_DEPTH_MAX}")
    for child in inside:
        _check_value(child, depth + 1)
