"""The `Idempotency-Key` of a request: how it is read, and what it stands for. Pure.

The field is draft-ietf-httpapi-idempotency-key-header-07 (October 2025): a structured field whose value
is a string, hence quoted. Most clients send the bare key, as Stripe's do; both are read, and `"a"` and
`a` are the same key. The statuses are the draft's: 400 for a key that is missing where it is required,
or malformed; 422 for one that stands for another request; 409 where the first request's answer is not
there (yet).

A key belongs to the user who sends it. What the application itself uses for the user, such as a
payment's id for a grant, cannot be taken by a request: `stored_key` keeps the two apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Final, Literal, TypeAlias

from credits_fast.arguments import IDENTIFIER_BYTES_MAX
from credits_fast.errors import InvalidArgumentError

__all__ = [
    "FIELD",
    "KEY_CHARACTERS_MAX",
    "Keys",
    "read_key",
    "request_fingerprint",
    "stored_key",
]

FIELD: Final = "Idempotency-Key"
"""The name of the header."""

Keys: TypeAlias = Literal["optional", "required"]
"""Whether a request has to have an `Idempotency-Key`."""

_PREFIX: Final = "http:"
KEY_CHARACTERS_MAX: Final = IDENTIFIER_BYTES_MAX - len(_PREFIX)
"""Characters of a key, all of them ASCII."""

# A string of structured fields (RFC 9651), and after it parameters, which the draft gives no meaning.
_QUOTED: Final = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"(?:\s*;[ -~]*)?', re.ASCII)
_BARE: Final = re.compile(r"[!#-+\--:<-~]+", re.ASCII)  # visible, without quote, comma, semicolon
_ESCAPED: Final = re.compile(r"\\(.)")
_DIGEST_BYTES: Final = 16


def read_key(values: Sequence[str], *, required: bool = False) -> str | None:
    """The key of a request, None where it has none.

    Args:
        values: The values of all its `Idempotency-Key` headers.
        required: Whether a request has to have one.

    Raises:
        InvalidArgumentError: It is required and missing, there are several, or it is malformed.

    Example:
        >>> read_key(['"8e03978e-40d5-43dd-bc93-6894a57f9324"'])
        '8e03978e-40d5-43dd-bc93-6894a57f9324'
        >>> read_key(["order-17"])
        'order-17'
    """
    if not values:
        if required:
            raise InvalidArgumentError(FIELD, "is required")
        return None
    if len(values) > 1:
        raise InvalidArgumentError(FIELD, "may be given once only")
    key = _read(values[0].strip(" \t"))
    if not 0 < len(key) <= KEY_CHARACTERS_MAX:
        problem = f"must have 1 to {KEY_CHARACTERS_MAX} characters, not {len(key)}"
        raise InvalidArgumentError(FIELD, problem)
    return key


def _read(value: str) -> str:
    quoted = _QUOTED.fullmatch(value)
    if quoted is not None:
        return _ESCAPED.sub(r"\1", quoted[1])
    if value and _BARE.fullmatch(value) is None:
        raise InvalidArgumentError(FIELD, "is no quoted string and no bare key of visible ASCII")
    return value


def stored_key(key: str) -> str:
    """The key under which a request is charged: apart from those the application makes itself.

    Example:
        >>> stored_key("order-17")
        'http:order-17'
    """
    return _PREFIX + key


def request_fingerprint(method: str, target: str, parts: Iterable[bytes]) -> str:
    """What a key stands for: the method, where the request goes, and all of its body.

    Headers do not count: those that authenticate or trace differ from one attempt to the next.

    Args:
        method: The request's method.
        target: Its path, with the query.
        parts: The body; in several parts where it is a form, whose bytes differ between attempts.

    Example:
        >>> once = request_fingerprint("POST", "/chat", [b"{}"])
        >>> once == request_fingerprint("POST", "/chat", [b"{}"])
        True
        >>> once == request_fingerprint("POST", "/chat", [b"{ }"])
        False
    """
    digest = blake2b(digest_size=_DIGEST_BYTES)
    for part in (method.upper().encode(), target.encode(errors="surrogatepass"), *parts):
        # Each with its length, so that no boundary can move.
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.hexdigest()
