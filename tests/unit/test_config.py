"""The configuration: every mistake with its path, and what is legal but not meant."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from credits_fast import ConfigurationError, ConfigurationWarning, CreditsConfig, load_config

MEMBERSHIP: dict[str, Any] = {
    "tiers": {"free": 0, "pro": 1},
    "credits_caps": {"free": 100, "pro": 1_000},
}
VALID: dict[str, Any] = {"costs": {"chat": {"default": 1}}, "membership": MEMBERSHIP}


def _values(*values: Any) -> tuple[Any, ...]:
    return values


def problems_of(values: Any) -> dict[str, str]:
    with pytest.raises(ConfigurationError) as refused:
        CreditsConfig.parse(values)

    return {problem.path: problem.message for problem in refused.value.problems}


def test_the_documented_defaults_hold() -> None:
    config = CreditsConfig.parse(VALID)

    assert (True, 3, 100, 5_000, 2) == _values(
        config.retry.enabled,
        config.retry.max_attempts,
        config.retry.initial_delay,
        config.retry.max_delay,
        config.retry.backoff_multiplier,
    )
    assert (True, 86_400) == _values(config.idempotency.enabled, config.idempotency.ttl)
    assert (True, "all") == (config.audit.enabled, config.audit.refusals)
    assert (16, "credits") == (config.partitions, config.namespace)


def test_a_journal_has_room_beside_what_is_retained() -> None:
    as_many = {**VALID, "back_pressure": {"journal_max": 10_000}}
    beyond = {**VALID, "back_pressure": {"memory_max": Decimal("1.1"), "poll_ms": 1}}

    assert {"back_pressure.journal_max"} == {*problems_of(as_many)}
    assert {"back_pressure.memory_max", "back_pressure.poll_ms"} == {*problems_of(beyond)}
    unlimited = CreditsConfig.parse({**VALID, "back_pressure": {"journal_max": 0}})
    assert 0 == unlimited.back_pressure.journal_max


def test_an_unknown_level_is_a_mistake() -> None:
    assert {"acknowledge.level", "acknowledge.replicas"} == {
        *problems_of({**VALID, "acknowledge": {"level": "engraved", "replicas": 0}})
    }


def test_every_mistake_is_named_with_its_path() -> None:
    found = problems_of(
        {
            "costs": {
                "ai-completion": {"default": 1, "premium": "{token-count} * 2"},
                "b": {"default": True, "x": None},
                "c": None,
                "d": {"premium": 1},
                "e": {"default": 0.5},
                "f": {"default": Decimal("NaN")},
                "g": {"default": -1},
                "h": {"default": Decimal("0.0000001")},
            },
            "membership": {
                **MEMBERSHIP,
                "requirements": {"a": "gold", "b": ""},
            },
            "retry": {"max_attempts": "many", "initial_delay": -1},
            "idempotency": {"ttl": -1},
            "audit": {"enabled": 1, "refusals": 2},
            "namespace": "Not Allowed",
        },
    )

    premium = found.pop("costs.ai-completion.premium")
    assert premium.startswith("unknown variable name 'token-count'")
    assert {
        "costs.b.default": "must be a number, not True",
        "costs.b.x": "must be a number, not null",
        "costs.c": "must be a table of names and values",
        "costs.e.default": "is a float; write Decimal('0.5') to say exactly what is meant",
        "costs.f.default": "must be a finite number",
        "costs.g.default": "must not be negative",
        "costs.h.default": "has more than 6 decimal places",
        "membership.requirements.a": "tier 'gold' is not defined",
        "membership.requirements.b": "tier '' is not defined",
        "retry.max_attempts": "must be a whole number",
        "retry.initial_delay": "must not be negative",
        "idempotency.ttl": "must not be negative",
        "audit.enabled": "must be true or false",
        "audit.refusals": "must be 'all', 'none' or a share from 0 to 1",
    }.items() <= found.items()
    assert found["namespace"].startswith("string should match pattern")


@pytest.mark.parametrize(
    ("values", "path", "message"),
    [
        (None, "", "a configuration is required: a table of sections"),
        ([], "", "a configuration is required: a table of sections"),
        ({"membership": MEMBERSHIP}, "costs", "is required"),
        ({"costs": {}}, "membership", "is required"),
        (
            {"costs": {"a": {"pro": 1}}, "membership": MEMBERSHIP},
            "costs.a.default",
            "a default price is required",
        ),
        (
            {**VALID, "membership": {"tiers": {"free": 0}}},
            "membership.credits_caps",
            "tier 'free' has no cap",
        ),
        (
            {**VALID, "membership": {"tiers": {"default": 0}, "credits_caps": {"default": 1}}},
            "membership.tiers",
            "'default' names the price that holds for everyone",
        ),
        (
            {**VALID, "retry": {"max_delay": 99}},
            "retry.max_delay",
            "must not be less than initial_delay",
        ),
        (
            {**VALID, "retry": {"backoff_multiplier": Decimal("0.99")}},
            "retry.backoff_multiplier",
            "must be at least 1",
        ),
    ],
)
def test_a_mistake_has_one_clear_line(values: Any, path: str, message: str) -> None:
    assert {path: message} == problems_of(values)


def test_the_references_spelling_is_understood() -> None:
    config = CreditsConfig.parse(
        {
            "costs": {"a": {"default": 1}},
            "membership": {"tiers": {"free": 0}, "creditsCaps": {"free": 5}},
            "retry": {"maxAttempts": 7},
        },
    )

    assert (5, 7) == _values(config.membership.credits_caps["free"], config.retry.max_attempts)


@pytest.mark.parametrize(
    ("values", "warning"),
    [
        ({**VALID, "webhooks": {}}, "webhooks: unknown name, ignored"),
        ({**VALID, "retry": {"attempts": 1}}, "retry.attempts: unknown name, ignored"),
        (
            {**VALID, "costs": {"a": {"default": 1, "gold": 1}}},
            "unknown tier gold in costs.a",
        ),
        (
            {**VALID, "costs": {"a": {"default": "0.001"}}},
            (
                "costs.a.default: the formula '0.001' has no variables and is rounded to 0; "
                "a number without quotes is charged as it is"
            ),
        ),
    ],
)
def test_what_is_legal_and_not_meant_is_warned_of(values: Any, warning: str) -> None:
    with pytest.warns(ConfigurationWarning) as caught:
        CreditsConfig.parse(values)

    assert [warning] == [str(one.message) for one in caught]


@pytest.mark.parametrize("suffix", ["toml", "json"])
def test_a_file_is_read_exactly(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"credits.{suffix}"
    toml = "[costs.a]\ndefault = 0.1\n[membership]\ntiers = {free = 0}\ncredits_caps = {free = 1}\n"
    values = {
        "costs": {"a": {"default": 0.1}},
        "membership": {"tiers": {"free": 0}, "credits_caps": {"free": 1}},
    }
    path.write_text(toml if suffix == "toml" else json.dumps(values), encoding="utf-8")

    assert Decimal("0.1") == load_config(path).costs["a"]["default"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("missing.toml", None, "cannot be read"),
        ("credits.yaml", "a: 1", "has suffix '.yaml'; .toml or .json is expected"),
        ("credits.toml", "costs = ", "is not valid"),
        ("credits.json", "{", "is not valid"),
        ("latin.json", b"\xff", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_says_so(
    tmp_path: Path,
    name: str,
    text: str | bytes | None,
    message: str,
) -> None:
    path = tmp_path / name
    if isinstance(text, str):
        path.write_text(text, encoding="utf-8")
    elif text is not None:
        path.write_bytes(text)

    with pytest.raises(ConfigurationError, match=message) as refused:
        load_config(path)

    assert str(path) == refused.value.problems[0].path


def test_a_configuration_cannot_be_changed_afterwards() -> None:
    config = CreditsConfig.parse(VALID)

    with pytest.raises(Exception, match="frozen"):
        config.namespace = "other"
