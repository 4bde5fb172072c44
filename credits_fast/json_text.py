"""JSON as text, with exact numbers: what the ledger's metadata is written from.

Python's encoder has no exact decimals, and decoding the caller's metadata only to encode it again
would be work for nothing. So objects are put together as text; facts win over what callers wrote.
"""

from __future__ import annotations

import json
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["JsonText", "json_object", "merged", "quoted", "quoted_text"]


class JsonText(str):
    """Text that is JSON."""

    __slots__ = ()


quoted: Final = json.JSONEncoder(
    ensure_ascii=False,
    allow_nan=False,
    separators=(",", ":"),
).encode
"""A value as compact JSON."""

quoted_text: Final = encode_basestring
"""The same of text, a good deal faster: what the encoder itself calls for it."""


def json_object(members: Mapping[str, Any]) -> JsonText:
    """An object of these members; a `JsonText` goes in as it is, anything else is encoded.

    Example:
        >>> json_object({"cost": JsonText("13.5"), "operation": "chat"})
        '{"cost":13.5,"operation":"chat"}'
    """
    parts = (
        f"{quoted(name)}:{value if isinstance(value, JsonText) else quoted(value)}"
        for name, value in members.items()
    )
    return JsonText(f"{{{','.join(parts)}}}")


def merged(metadata: str, facts: JsonText) -> JsonText:
    """The caller's object with the facts over it.

    Args:
        metadata: A JSON object as text, "" for none.
        facts: A JSON object that wins where both have a member.

    Example:
        >>> merged('{"cost": 0, "model": "m"}', JsonText('{"cost":13.5}'))
        '{"model":"m","cost":13.5}'
    """
    if metadata in {"", "{}"}:
        return facts
    names = json.loads(facts).keys()
    given = {name: value for name, value in json.loads(metadata).items() if name not in names}
    if not given:
        return facts
    inside = quoted(given)[1:-1]
    return JsonText(f"{{{inside},{facts[1:-1]}}}") if len(facts) > 2 else JsonText(f"{{{inside}}}")  # noqa: PLR2004  # {}
