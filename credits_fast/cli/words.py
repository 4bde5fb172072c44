"""Words on the command line as values: moments, variables, metadata; and values as words for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import typer

from credits_fast.errors import InvalidMetadataError
from credits_fast.exact import plain
from credits_fast.exit_codes import printable
from credits_fast.types import UNCHANGED, Level, Unchanged

if TYPE_CHECKING:
    from credits_fast.types import Variables

__all__ = [
    "Acknowledge",
    "Key",
    "MetadataText",
    "UserId",
    "amount",
    "ending",
    "expiry",
    "metadata_of",
    "moment",
    "name",
    "spoken_expiry",
    "variables_of",
]

UserId: TypeAlias = Annotated[str, typer.Argument(metavar="USER", help="The user's id.")]
Key: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="KEY", help="Idempotency key: the same call again changes nothing."),
]
MetadataText: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="JSON", help="A JSON object to keep with the transaction."),
]
Acknowledge: TypeAlias = Annotated[
    Level | None,
    typer.Option(help="How far it has to have come, else as configured."),
]

NEVER: Final = "never"
KEEP: Final = "keep"


def moment(text: str, option: str, *, end_of_day: bool = False) -> datetime:
    """An ISO 8601 date or time; without a time zone it is UTC, a date is where the day begins.

    Args:
        text: What was given.
        option: The option's name, for the error.
        end_of_day: Whether a date is where the day ends.

    Raises:
        typer.BadParameter: It is neither.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        problem = f"{text!r} is no date such as 2026-01-31 or time such as 2026-01-31T18:00Z"
        raise typer.BadParameter(problem, param_hint=option) from None
    if end_of_day and found.time() == time() and not set("T :") & set(text):
        found += timedelta(days=1, microseconds=-1)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def expiry(text: str | None) -> datetime | Unchanged | None:
    """When a membership ends: a moment, `never` (None), or `keep` and nothing said (unchanged).

    Raises:
        typer.BadParameter: It is none of these.
    """
    if text is None or text == KEEP:
        return UNCHANGED
    return None if text == NEVER else moment(text, "--expires")


def variables_of(pairs: Sequence[str]) -> Variables | None:
    """The variables of `name=value` words, exact; None where there are none.

    Raises:
        typer.BadParameter: A word is not of that form, or its value no number.
    """
    found: dict[str, int | float | Decimal] = {}
    for pair in pairs:
        variable, equals, value = pair.partition("=")
        try:
            number = Decimal(value)
        except InvalidOperation:
            number = Decimal("NaN")
        if not equals or not variable or not number.is_finite():
            problem = f"{pair!r} is not name=number, such as tokens=1200"
            raise typer.BadParameter(problem, param_hint="--variable")
        found[variable] = number
    return found or None


def metadata_of(text: str | None) -> Mapping[str, Any] | None:
    """The metadata in a JSON text, None where there is none.

    Raises:
        InvalidMetadataError: It is not JSON; the engine refuses what is no object.
    """
    if text is None:
        return None
    try:
        found: Mapping[str, Any] = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidMetadataError("metadata", f"is not JSON: {error}") from error
    return found


def amount(credits_: Decimal) -> str:
    """An amount for people: thousands apart, at least two places, never rounded."""
    whole, _, fraction = plain(abs(credits_)).partition(".")
    sign = "-" if credits_ < 0 else ""
    return f"{sign}{int(whole):,}.{fraction.ljust(2, '0')}"


def name(identifier: str) -> str:
    """A user, an action or a key for people; harmless whoever chose it."""
    return printable(identifier) or "''"


def spoken_expiry(expires_at: datetime | None) -> str:
    """When a membership ends, for people."""
    return "without end" if expires_at is None else f"until {expires_at:%Y-%m-%d %H:%M} UTC"


def ending(*, replayed: bool, asked: Level | None, reached: Level) -> str:
    """What is told behind a decision: how far it has come, where that was asked, and whether it is new."""
    level = "" if asked is None else f", acknowledged {reached}"
    return f"{level} (replayed: nothing changed now)" if replayed else level
