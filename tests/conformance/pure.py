"""The parts without servers: prices, formulas, configurations, memberships, retries."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, Final

from pydantic.alias_generators import to_camel

from credits_fast import (
    ConfigurationError,
    ConfigurationWarning,
    CreditsConfig,
    CreditsEngine,
    Problem,
    RetryConfig,
    formula,
)
from credits_fast.calls.retry import delay_ms, repeat
from credits_fast.ledger.database import connect
from credits_fast.prices.membership import validate
from credits_fast.prices.pricing import PriceList
from credits_fast.servers.lane import Endpoint
from tests.conformance.cases import Object

__all__ = ["PURE", "TRANSIENT", "answered", "config_shape", "parsed"]

TRANSIENT: Final = frozenset(
    {
        *("ECONNRESET", "ECONNREFUSED", "ETIMEDOUT", "ENOTFOUND", "ENETUNREACH", "EHOSTUNREACH"),
        *("ER_LOCK_DEADLOCK", "ER_LOCK_WAIT_TIMEOUT", "SQLITE_BUSY", "SQLITE_LOCKED"),
        *("P2024", "P2034", "408", "429", "500", "502", "503", "504"),
    }
)
"""What the reference takes to be transient: our families of errors say the same by their class."""

_ACTION: Final = "act"


def parsed(values: Any) -> tuple[CreditsConfig, list[str]]:
    """A configuration and what it warns of.

    Raises:
        ConfigurationError: It is refused.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        config = CreditsConfig.parse(values)
    return config, _texts(caught)


async def answered(op: str, given: Object, args: Object) -> tuple[Any, list[str]]:
    """What an operation without servers gives, and what it warns of.

    Raises:
        CreditsError: It is refused.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = await PURE[op](given, args)
    return result, _texts(caught)


def _texts(caught: Iterable[warnings.WarningMessage]) -> list[str]:
    return [str(one.message) for one in caught if issubclass(one.category, ConfigurationWarning)]


def config_shape(config: CreditsConfig) -> Object:
    """The sections that have defaults, as they are in force."""
    sections = {"retry": config.retry, "idempotency": config.idempotency, "audit": config.audit}
    shape: Object = {
        name: {to_camel(key): value for key, value in section} for name, section in sections.items()
    }
    return {**shape, "membership": {"requirements": config.membership.requirements}}


async def _construct(given: Object, _args: Object) -> Object:
    database = connect("sqlite://")
    redis = None if given.get("no_storage") else Endpoint.from_url("redis://localhost")
    try:
        CreditsEngine(given.get("config"), redis=redis, database=database)
    finally:
        await database.dispose()
    return {"ok": True}


async def _price(given: Object, args: Object) -> Object:
    tiers = sorted({tier for prices in given["costs"].values() for tier in prices or ()})
    levels = {tier: level for level, tier in enumerate(tiers) if tier != "default"}
    config = CreditsConfig.parse(
        {
            "costs": given["costs"],
            "membership": {"tiers": levels, "creditsCaps": dict.fromkeys(levels, 0)},
        }
    )
    priced = PriceList(config).price(args["action"], args.get("tier"), args.get("variables"))
    details: Object = {
        "isDynamic": priced.formula is not None,
        "rawCost": priced.raw_cost,
        "finalCost": priced.cost,
    }
    if priced.formula is not None:
        details |= {"formula": priced.formula, "variables": priced.variables}
    return {"cost": priced.cost, "details": details}


async def _validate_formula(_given: Object, args: Object) -> Object:
    """A formula stands in a configuration, which is where it is refused."""
    CreditsConfig.parse(_priced_by(args["formula"]))
    return {"ok": True}


async def _evaluate(_given: Object, args: Object) -> Decimal:
    CreditsConfig.parse(_priced_by(args["formula"]))
    return formula.parse(args["formula"]).evaluate(args.get("variables") or {})


async def _formula_variables(_given: Object, args: Object) -> list[str]:
    return [*formula.placeholders(args["formula"])]


def _priced_by(text: Any) -> Object:
    if not isinstance(text, str):
        raise ConfigurationError(Problem(_ACTION, "a formula is text", "formula.type"))
    return {
        "costs": {_ACTION: {"default": text}},
        "membership": {"tiers": {}, "requirements": {}, "creditsCaps": {}},
    }


async def _membership(given: Object, args: Object) -> Object:
    """Whether a tier is enough. An empty requirement cannot be configured; here it is none."""
    levels = {tier: Decimal(level) for tier, level in given["membership"]["tiers"].items()}
    access = validate(
        levels,
        args.get("tier"),
        args.get("expiresAt"),
        args.get("requiredTier") or None,
        given["now"],
    )
    shape: Object = {
        "valid": access.valid,
        "currentTier": access.current_tier,
        "isExpired": access.is_expired,
    }
    if access.required_tier is not None:
        shape["requiredTier"] = access.required_tier
    if access.reason is not None:
        shape["reason_kind"] = access.reason
    return shape


# --- retries -------------------------------------------------------------------------------------


async def _retry_delay(_given: Object, args: Object) -> float:
    return delay_ms(_retry_config(args), args["failedAttempt"])


async def _retry_execute(_given: Object, args: Object) -> Object:
    """How often a call is tried that ends as listed; the last outcome stays."""
    options: Object = args.get("options") or {}
    listed = frozenset(map(str, options.get("retryableErrors", TRANSIENT)))
    outcomes: list[Object | None] = args["outcomes"]
    attempts = 0

    async def attempt() -> None:
        nonlocal attempts
        outcome = outcomes[min(attempts, len(outcomes) - 1)]
        attempts += 1
        if outcome is not None:
            raise _ForeignError(outcome)

    def transient(error: Exception) -> bool:
        return isinstance(error, _ForeignError) and not listed.isdisjoint(error.names)

    try:
        await repeat(attempt, _retry_config({**args["config"], **options}), transient=transient)
    except _ForeignError as error:
        return {"attempts": attempts, "succeeded": False, "error_message": str(error)}
    return {"attempts": attempts, "succeeded": True}


class _ForeignError(Exception):
    """An error of another library, which has a name, a code or a status; never judged by its text."""

    def __init__(self, facts: Object) -> None:
        super().__init__(facts.get("message", ""))
        self.names = frozenset(_names(facts))


def _names(facts: Object) -> Iterable[str]:
    for key in ("name", "code"):
        if isinstance(facts.get(key), str):
            yield facts[key]
    if isinstance(facts.get("statusCode"), int):
        yield str(facts["statusCode"])


def _retry_config(values: Object) -> RetryConfig:
    names = {to_camel(name) for name in RetryConfig.model_fields}
    return RetryConfig.model_validate({name: values[name] for name in names & values.keys()})


PURE: Final[dict[str, Callable[[Object, Object], Any]]] = {
    "construct": _construct,
    "price": _price,
    "validate_formula": _validate_formula,
    "evaluate": _evaluate,
    "evaluate_formula": _evaluate,
    "formula_variables": _formula_variables,
    "membership_validate": _membership,
    "retry_delay": _retry_delay,
    "retry_execute": _retry_execute,
}
"""What each operation without servers answers, from what is given and its arguments; awaitable."""
