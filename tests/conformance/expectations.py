"""What a case expects, in the terms of what a run gives: users by id, rules of ours, phases of calls.

The case file replaces the texts of errors by neutral names. Where we have the same name, or a place
in the configuration that says the same, it must agree; a name nobody here knows is not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

from tests.conformance.cases import Object
from tests.conformance.operations import NoCounterpartError
from tests.conformance.recording import phases

__all__ = ["PARTS", "prepared"]

_FLAGS: Final = frozenset(
    {"ledger_chain", "atomic", "one_fails", "audit_survives_rollback", "result_equals_first"}
)
PARTS: Final = _FLAGS | {
    *("result", "error", "steps", "second_call", "concurrent", "concurrent_any_order"),
    *("users", "transactions", "audit", "idempotency_records", "calls"),
    *("config", "config_error", "warning"),
}
"""The parts of an outcome; anything else is prose."""

_RULES: Final[Mapping[str, str]] = {
    "config.required": "a configuration is required",
    "storage.required": "is required: the engine needs a Redis and a ledger",
    "costs.required": "costs: is required",
    "costs.default_required": "costs.{subject}",
    "costs.default_negative": "costs.{subject}.default: must not be negative",
    "membership.required": "membership: is required",
    "membership.cap_invalid": "membership.credits_caps.{subject}",
    "retry.initial_delay_negative": "retry.initial_delay: must not be negative",
    "retry.max_delay_below_initial": "retry.max_delay: must not be less than initial_delay",
    "retry.multiplier_below_1": "retry.backoff_multiplier: must be at least 1",
}
"""What our message of a broken rule contains."""

_CAUSES: Final = frozenset({"not_finite", "nan", "invalid_variable", "not_a_number_type"})


def prepared(expected: Object) -> Object:
    """The expectation, ready to be matched with an outcome.

    Raises:
        NoCounterpartError: It holds a flag in prose.
    """
    unknown = sorted(expected.keys() - PARTS)
    if unknown:
        raise NoCounterpartError(f"the flag {', '.join(unknown)} is prose")
    return _outcome(expected)


def _outcome(expected: Object) -> Object:
    """The expectation of a whole case, or of one of its steps."""
    parts = {name: _part(name, value) for name, value in expected.items()}
    if "concurrent_any_order" in parts:
        parts["concurrent"] = {"$any_order": parts.pop("concurrent_any_order")}
    return parts


def _part(name: str, value: Any) -> Any:
    if name in _FLAGS:
        return value is not False  # perhaps said in words
    return _PARTS[name](value) if name in _PARTS else value


def _users(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    users = cast("Sequence[Object]", value)
    return {user["id"]: user for user in users} or {"$count": 0}


def _calls(value: Any) -> Any:
    calls = cast("Sequence[Object]", value)
    return [
        {**phase, "writes": {"$exact": phase["writes"]}}
        for phase in phases(call["method"] for call in calls)
    ]


def _warning(value: Any) -> Any:
    return {"$some": {"$contains": value if isinstance(value, str) else ""}}


def _steps(value: Any) -> Any:
    return [_step(step) for step in cast("Sequence[Object | None]", value)]


def _step(step: Object | None) -> Object:
    """A step that is not checked matches anything."""
    return {} if step is None else _outcome(step)


def _error(error: Object) -> Object:
    """The error with our names for what went wrong."""
    kept = {name: value for name, value in error.items() if name not in {"rule", "subject"}}
    if kept.get("cause_kind") not in _CAUSES:
        kept.pop("cause_kind", None)
    if "message_contains" in kept:
        kept["message"] = {"$contains": kept.pop("message_contains")}
    problem = _problem(error.get("rule", ""), error.get("subject"))
    return {**kept, "problems": {"$some": problem}} if problem else kept


def _problem(rule: str, subject: str | None) -> Object | None:
    if rule in _RULES:
        return {"text": {"$contains": _RULES[rule].format(subject=subject)}}
    if not rule.startswith("formula."):
        return None
    return {"rule": rule, **({} if subject is None else {"text": {"$contains": subject}})}


_PARTS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "error": _error,
    "config_error": _error,
    "steps": _steps,
    "concurrent": _steps,
    "concurrent_any_order": _steps,
    "second_call": _step,
    "users": _users,
    "calls": _calls,
    "warning": _warning,
}
