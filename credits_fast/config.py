"""The configuration: checked once at the door, every mistake with its path, frozen inside.

Sections and defaults are those the reference Credit SDK documents; `costs` and `membership` describe
the application and have no defaults. Names may be written as here (`credits_caps`) or as in the
reference (`creditsCaps`).
"""

from __future__ import annotations

import json
import re
import tomllib
import warnings
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final, Literal, LiteralString, Self, TypeAlias, cast

from pydantic import (
    AliasGenerator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails, PydanticCustomError

from credits_fast import amounts, formula
from credits_fast.errors import ConfigurationError, InvalidAmountError, Problem
from credits_fast.exact import plain
from credits_fast.types import Level  # noqa: TC001  # pydantic reads the annotation

__all__ = [
    "DEFAULT_PRICE",
    "AcknowledgeConfig",
    "AuditConfig",
    "BackPressureConfig",
    "ConfigurationWarning",
    "CreditsConfig",
    "HoldsConfig",
    "IdempotencyConfig",
    "MembershipConfig",
    "Price",
    "RefundConfig",
    "RetryConfig",
    "SyncConfig",
    "load_config",
]

DEFAULT_PRICE: Final = "default"
"""The key of the price that holds for everyone without a price of their own."""

_NAME_BYTES_MAX: Final = 256
_TIER_BYTES_MAX: Final = 64
_TTL_SECONDS_MAX: Final = 10 * 366 * 86_400
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


class ConfigurationWarning(UserWarning):
    """Something in a configuration is legal and probably not what was meant."""


def _mistake(rule: LiteralString, message: str) -> PydanticCustomError:
    return PydanticCustomError(rule, "{message}", {"message": message})


def _number(value: object) -> Decimal:
    """A finite int or Decimal; text, bool and float are refused."""
    if type(value) is int:
        return Decimal(value)
    if isinstance(value, Decimal):
        if value.is_finite():
            return value
        raise _mistake("not_finite", "must be a finite number")
    if type(value) is float:
        raise _mistake(
            "float", f"is a float; write Decimal('{value}') to say exactly what is meant"
        )
    raise _mistake("number_type", f"must be a number, not {_shown(value)}")


def _credits(value: object) -> Decimal:
    """An amount of credits, not negative, that the ledger can keep exactly."""
    number = _number(value)
    if number < 0:
        raise _mistake("negative", "must not be negative")
    try:
        amounts.to_micros(number)
    except InvalidAmountError as error:
        raise _mistake("amount", str(error).removeprefix("amount ")) from error
    return number


def _price(value: object) -> Decimal | str:
    """A fixed price, or the text of a formula that parses."""
    if not isinstance(value, str):
        return _credits(value)
    try:
        formula.parse(value)
    except formula.FormulaError as error:
        rule = cast("LiteralString", f"formula.{error.rule}")  # each rule is a literal over there
        raise _mistake(rule, str(error)) from error
    return value


def _not_negative(value: object) -> Decimal:
    number = _number(value)
    if number < 0:
        raise _mistake("negative", "must not be negative")
    return number


def _refusals(value: object) -> Decimal | str:
    """`all`, `none` or a share."""
    if isinstance(value, str) and value in {"all", "none"}:
        return value
    if isinstance(value, str) or not 0 <= _number(value) <= 1:
        raise _mistake("refusals", "must be 'all', 'none' or a share from 0 to 1")
    return _number(value)


def _shown(value: object) -> str:
    return "null" if value is None else repr(value)


Price: TypeAlias = Annotated[Decimal | str, PlainValidator(_price)]
"""A fixed number of credits, or a formula as text."""
_Credits: TypeAlias = Annotated[Decimal, PlainValidator(_credits)]
_Level: TypeAlias = Annotated[Decimal, PlainValidator(_not_negative)]
_Number: TypeAlias = Annotated[Decimal, PlainValidator(_not_negative)]
_Flag: TypeAlias = Annotated[bool, Field(strict=True)]
_Count: TypeAlias = Annotated[int, Field(strict=True)]


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="allow",  # told in `warnings`: the reference ignores unknown names
        alias_generator=AliasGenerator(validation_alias=to_camel),
        populate_by_name=True,
        loc_by_alias=False,
        arbitrary_types_allowed=True,
    )


class MembershipConfig(_Section):
    """Tiers, what they are needed for, and what a change of tier does to credits.

    Attributes:
        tiers: Level of each tier, a number of 0 or more; higher satisfies lower.
        requirements: The tier each action needs; None, or absent, means open to all.
        credits_caps: The credits of each tier, used when a tier changes.
        credits_on_tier_change: `set_to_cap` makes the balance exactly the cap of the new tier, as the
            reference does; `keep` leaves it; `raise_to_cap` only ever adds.
        credits_on_renewal: The same choice for a renewed membership.
        unlisted_actions: `open` lets everyone access an action that has neither a requirement nor a
            price, as the reference does; `refuse` raises `UndefinedActionError`.
    """

    tiers: dict[str, _Level]
    requirements: dict[str, str | None] = {}
    credits_caps: dict[str, _Credits] = {}
    credits_on_tier_change: Literal["set_to_cap", "keep", "raise_to_cap"] = "set_to_cap"
    credits_on_renewal: Literal["set_to_cap", "keep", "raise_to_cap"] = "keep"
    unlisted_actions: Literal["open", "refuse"] = "open"

    @field_validator("tiers")
    @classmethod
    def _tier_names(cls, tiers: dict[str, Decimal]) -> dict[str, Decimal]:
        for name in tiers:
            if not name or len(name.encode()) > _TIER_BYTES_MAX or _CONTROL.search(name):
                problem = f"tier {name!r}: a name has 1 to {_TIER_BYTES_MAX} printable characters"
                raise _mistake("tier_name", problem)
            if name == DEFAULT_PRICE:
                raise _mistake("tier_name", "'default' names the price that holds for everyone")
        return tiers

    @model_validator(mode="after")
    def _known_tiers(self) -> Self:
        problems = [
            Problem(f"requirements.{action}", f"tier {tier!r} is not defined", "undefined_tier")
            for action, tier in self.requirements.items()
            if tier is not None and tier not in self.tiers
        ]
        problems += [
            Problem("credits_caps", f"tier {tier!r} has no cap", "cap_missing")
            for tier in self.tiers
            if tier not in self.credits_caps
        ]
        if problems:
            raise _ProblemsError(problems)
        return self


class RetryConfig(_Section):
    """How the library repeats a call that failed for a transient reason, with the same operation id.

    Attributes:
        enabled: Whether it does at all.
        max_attempts: Attempts in all, the first included.
        initial_delay: Milliseconds before the second attempt.
        max_delay: The longest pause, in milliseconds.
        backoff_multiplier: What each pause is multiplied by for the next.
        deadline_ms: Milliseconds from the call to the last attempt's start.
    """

    enabled: _Flag = True
    max_attempts: Annotated[_Count, Field(ge=1, le=100)] = 3
    initial_delay: _Number = Decimal(100)
    max_delay: _Number = Decimal(5_000)
    backoff_multiplier: _Number = Decimal(2)
    deadline_ms: Annotated[_Count, Field(ge=1)] = 10_000

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        problems: list[Problem] = []
        if self.max_delay < self.initial_delay:
            text = "must not be less than initial_delay"
            problems.append(Problem("max_delay", text, "max_delay_below_initial"))
        if self.backoff_multiplier < 1:
            problems.append(
                Problem("backoff_multiplier", "must be at least 1", "multiplier_below_1"),
            )
        if problems:
            raise _ProblemsError(problems)
        return self


class IdempotencyConfig(_Section):
    """How long a repeated call is answered with the first result.

    Attributes:
        enabled: Whether idempotency keys have an effect.
        ttl: Seconds a key is remembered. Each remembered key costs about 190 bytes in Redis.
    """

    enabled: _Flag = True
    ttl: Annotated[_Number, Field(le=_TTL_SECONDS_MAX)] = Decimal(86_400)

    @property
    def ttl_ms(self) -> int:
        """The time to live in whole milliseconds."""
        return int(self.ttl * 1_000)


class AuditConfig(_Section):
    """What is written into the audit log.

    Attributes:
        enabled: Whether anything is.
        refusals: `all`, `none`, or the share of refusals that is recorded, 0 to 1: refusals can be
            the hottest traffic of a system.
    """

    enabled: _Flag = True
    refusals: Annotated[Decimal | str, PlainValidator(_refusals)] = "all"

    @property
    def refusal_rate(self) -> float:
        """The share of refusals to record."""
        if not self.enabled or self.refusals == "none":
            return 0.0
        return 1.0 if self.refusals == "all" else float(self.refusals)


class RefundConfig(_Section):
    """What a refund may give back.

    Attributes:
        above_charge: `allow`, as the reference does; `refuse` makes every refund name its charge and
            refuses what would give back more than was charged.
    """

    above_charge: Literal["allow", "refuse"] = "allow"


class AcknowledgeConfig(_Section):
    """How far a decision has to have come before its caller is answered, if a call says nothing else.

    A level that is not reached in time is no failure: the result says `memory`.

    Attributes:
        level: `memory`, the reply of the script; `replicated`, in the memory of replicas too; `fsynced`,
            on the server's disk; `committed`, in the ledger.
        replicas: How many replicas `replicated` needs.
        fsynced_replicas: How many replicas must have it on disk for `fsynced`, besides the primary.
        timeout_ms: Milliseconds until a level counts as not reached.
    """

    level: Level = "memory"
    replicas: Annotated[_Count, Field(ge=1, le=100)] = 1
    fsynced_replicas: Annotated[_Count, Field(ge=0, le=100)] = 0
    timeout_ms: Annotated[_Count, Field(ge=1, le=60_000)] = 2_000


class BackPressureConfig(_Section):
    """When charges, reservations and grants are refused, so that Redis never runs out of memory.

    Attributes:
        journal_max: Entries a partition's journal may have, recorded ones that are retained included;
            0 for any number.
        memory_max: The share of the server's `maxmemory` that may be used; 0 for all of it. Without a
            `maxmemory` it has no effect.
        poll_ms: Milliseconds between two looks at both, while there is traffic.
    """

    journal_max: Annotated[_Count, Field(ge=0)] = 1_000_000
    memory_max: Annotated[_Number, Field(le=1)] = Decimal("0.85")
    poll_ms: Annotated[_Count, Field(ge=10, le=60_000)] = 500


class HoldsConfig(_Section):
    """How credits are held for charges to come.

    Attributes:
        ttl: Seconds until a hold that is neither captured nor released ends by itself.
        above: What becomes of a capture above what is held: `debt` charges all of it, below zero where
            it must; `cap` charges what is held; `refuse` nothing.
        open_max: How many holds a user may have open at once.
        settle_share: Which share of a hold may be consumed, in a block that consumes, before that much is
            charged: a program that dies loses less than this.
    """

    ttl: Annotated[_Number, Field(ge=Decimal("0.001"), le=_TTL_SECONDS_MAX)] = Decimal(600)
    above: Literal["debt", "cap", "refuse"] = "debt"
    open_max: Annotated[_Count, Field(ge=1, le=10_000)] = 1_000
    settle_share: Annotated[_Number, Field(gt=0, le=1)] = Decimal("0.25")

    @property
    def ttl_ms(self) -> int:
        """The time to live in whole milliseconds."""
        return int(self.ttl * 1_000)


class SyncConfig(_Section):
    """How the worker carries the journal into the ledger.

    Attributes:
        batch_max: Decisions of a partition in a commit at most, while it is behind; fewer while it is not.
        poll_ms: Milliseconds between two looks at an empty journal.
        lease_ms: Milliseconds a worker owns a partition without renewing its lease.
        retain_ms: Milliseconds a synced entry stays in the journal, so that a database restored from
            a backup that is not older can be brought forward again.
        retain_max: Synced entries kept per partition at most.
        cleanup_ms: Milliseconds between two sweeps of expired idempotency records.
        expire_ms: Milliseconds between two looks for holds whose time is over, for what is to be reversed,
            and for intents that nobody has settled.
        intent_grace_ms: Milliseconds an application's transaction has to settle its intents itself, and
            to write the intent of a hold.
        idle_ms: Milliseconds without use after which an account leaves Redis, to be loaded from the
            ledger when it is next needed; whole seconds count. 0 for never.
        evict_ms: Milliseconds between two looks for idle accounts, at a thousand keys of a server each.
    """

    batch_max: Annotated[_Count, Field(ge=1, le=100_000)] = 2_000
    poll_ms: Annotated[_Count, Field(ge=1, le=60_000)] = 20
    lease_ms: Annotated[_Count, Field(ge=100, le=3_600_000)] = 10_000
    retain_ms: Annotated[_Count, Field(ge=0)] = 600_000
    retain_max: Annotated[_Count, Field(ge=1)] = 10_000
    cleanup_ms: Annotated[_Count, Field(ge=100)] = 60_000
    expire_ms: Annotated[_Count, Field(ge=0)] = 1_000
    intent_grace_ms: Annotated[_Count, Field(ge=0)] = 5_000
    idle_ms: Annotated[_Count, Field(ge=0)] = 3_600_000
    evict_ms: Annotated[_Count, Field(ge=0)] = 1_000


class CreditsConfig(_Section):
    """The whole configuration of one set of users and their credits.

    Attributes:
        costs: For each action, the price of each tier and the `default` for everyone else.
        membership: Tiers and what they are needed for.
        retry: How transient failures are repeated.
        idempotency: How long a key is remembered.
        audit: What is written into the audit log.
        refunds: What a refund may give back.
        acknowledge: How far a decision has to have come before its caller is answered.
        back_pressure: When charges, reservations and grants are refused, so that memory lasts.
        holds: How credits are held for charges to come.
        sync: How the worker carries the journal into the ledger.
        namespace: Separates several sets of users on one Redis; part of every key.
        partitions: Into how many logical partitions the users fall; fixed once written.

    Example:
        >>> config = CreditsConfig.parse({
        ...     "costs": {"chat": {"default": "{tokens} * 0.01", "pro": "{tokens} * 0.008"}},
        ...     "membership": {"tiers": {"pro": 1}, "credits_caps": {"pro": 1_000}},
        ... })
        >>> config.idempotency.ttl
        Decimal('86400')
    """

    costs: dict[str, dict[str, Price]]
    membership: MembershipConfig
    retry: RetryConfig = RetryConfig()
    idempotency: IdempotencyConfig = IdempotencyConfig()
    audit: AuditConfig = AuditConfig()
    refunds: RefundConfig = RefundConfig()
    acknowledge: AcknowledgeConfig = AcknowledgeConfig()
    back_pressure: BackPressureConfig = BackPressureConfig()
    holds: HoldsConfig = HoldsConfig()
    sync: SyncConfig = SyncConfig()
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,32}$")] = "credits"
    partitions: Annotated[_Count, Field(ge=1, le=1_024)] = 16

    @classmethod
    def parse(cls, values: object) -> Self:
        """The configuration from plain Python values, as a file or a dict literal has them.

        Raises:
            ConfigurationError: With every mistake and its path.
        """
        try:
            config = cls.model_validate(values)
        except ValidationError as error:
            raise ConfigurationError(*_problems(error)) from error
        for text in config.warnings:
            warnings.warn(text, ConfigurationWarning, stacklevel=3)
        return config

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is legal and probably not meant, each with its path."""
        return (*_unknown_names(self), *_unknown_tiers(self), *_rounded_constants(self))

    @model_validator(mode="after")
    def _room_beside_retained(self) -> Self:
        if 0 < self.back_pressure.journal_max <= self.sync.retain_max:
            text = (
                "must be more than sync.retain_max, or recorded entries alone would fill a journal"
            )
            raise _ProblemsError([Problem("back_pressure.journal_max", text, "below_retain_max")])
        return self

    @field_validator("costs")
    @classmethod
    def _default_prices(
        cls,
        costs: dict[str, dict[str, Decimal | str]],
        _info: ValidationInfo,
    ) -> dict[str, dict[str, Decimal | str]]:
        problems = [
            Problem(f"{action}.{DEFAULT_PRICE}", "a default price is required", "missing")
            for action, prices in costs.items()
            if DEFAULT_PRICE not in prices
        ]
        problems += [
            Problem(action[:40], "an action name has 1 to 256 bytes, without NUL", "action_name")
            for action in costs
            if not action or len(action.encode()) > _NAME_BYTES_MAX or "\0" in action
        ]
        if problems:
            raise _ProblemsError(problems)
        return costs


def load_config(path: str | Path) -> CreditsConfig:
    """The configuration in a TOML or JSON file, by its suffix. Decimals are read exactly.

    Raises:
        ConfigurationError: The file cannot be read, is not TOML or JSON, or has mistakes.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(Problem(str(path), f"cannot be read: {error}", "file")) from error
    try:
        match path.suffix.lower():
            case ".toml":
                values: Any = tomllib.loads(text, parse_float=Decimal)
            case ".json":
                values = json.loads(text, parse_float=Decimal)
            case suffix:
                problem = f"has suffix {suffix!r}; .toml or .json is expected"
                raise ConfigurationError(Problem(str(path), problem, "file"))
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise ConfigurationError(Problem(str(path), f"is not valid: {error}", "file")) from error
    return CreditsConfig.parse(values)


# --- mistakes ----------------------------------------------------------------------------------


class _ProblemsError(ValueError):
    """Several mistakes of one section; paths are relative to it."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("; ".join(map(str, problems)))


_PYDANTIC_RULES: Final = {
    "missing": ("missing", "is required"),
    "dict_type": ("type", "must be a table of names and values"),
    "model_type": ("type", "must be a table of names and values"),
    "bool_type": ("type", "must be true or false"),
    "int_type": ("type", "must be a whole number"),
    "string_type": ("type", "must be text"),
}


def _problems(error: ValidationError) -> list[Problem]:
    found: list[Problem] = []
    for details in error.errors(include_url=False):
        path = ".".join(str(step) for step in details["loc"])
        cause = details.get("ctx", {}).get("error")
        if isinstance(cause, _ProblemsError):
            found += (
                problem._replace(path=f"{path}.{problem.path}" if path else problem.path)
                for problem in cause.problems
            )
        else:
            found.append(_problem(path, details))
    return found


def _problem(path: str, details: ErrorDetails) -> Problem:
    kind = details["type"]
    if not path and kind in {"dict_type", "model_type", "model_attributes_type"}:
        return Problem("", "a configuration is required: a table of sections", "missing")
    rule, message = _PYDANTIC_RULES.get(kind, (kind, details["msg"]))
    return Problem(path, message[:1].lower() + message[1:], rule)


# --- warnings ----------------------------------------------------------------------------------


def _unknown_names(config: CreditsConfig) -> list[str]:
    sections: dict[str, _Section] = {
        "": config,
        "membership.": config.membership,
        "retry.": config.retry,
        "idempotency.": config.idempotency,
        "audit.": config.audit,
        "refunds.": config.refunds,
        "acknowledge.": config.acknowledge,
        "back_pressure.": config.back_pressure,
        "holds.": config.holds,
        "sync.": config.sync,
    }
    return [
        f"{prefix}{name}: unknown name, ignored"
        for prefix, section in sections.items()
        for name in section.model_extra or {}
    ]


def _unknown_tiers(config: CreditsConfig) -> list[str]:
    return [
        f"unknown tier {tier} in costs.{action}"
        for action, prices in config.costs.items()
        for tier in prices
        if tier != DEFAULT_PRICE and tier not in config.membership.tiers
    ]


def _rounded_constants(config: CreditsConfig) -> list[str]:
    """A price such as "0.001" in quotes is a formula, and formulas round to two places."""
    found: list[str] = []
    for action, prices in config.costs.items():
        for tier, price in prices.items():
            if not isinstance(price, str) or (parsed := formula.parse(price)).variables:
                continue
            value = parsed.evaluate({})
            charged = formula.to_price(parsed, value, {})
            if value != charged:
                found.append(
                    f"costs.{action}.{tier}: the formula {price!r} has no variables and is rounded "
                    f"to {plain(charged)}; a number without quotes is charged as it is",
                )
    return found
