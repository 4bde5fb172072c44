"""What users and maintainers may rely on: names, errors, layers of import, drawings, examples."""

from __future__ import annotations

import ast
import copy
import doctest
import importlib
import importlib.util
import inspect
import pickle
import pkgutil
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import credits_fast
from credits_fast import CreditsEngine, CreditsError, errors

ROOT = Path(__file__).parents[2]


def error_classes() -> list[type[CreditsError]]:
    found = [getattr(errors, name) for name in errors.__all__]
    return [one for one in found if issubclass(one, CreditsError)]


def test_the_public_names_are_sorted_and_exist() -> None:
    names = credits_fast.__all__
    words = sorted(name for name in names if name.isupper())
    classes = sorted(name for name in names if name[0].isupper() and not name.isupper())
    rest = sorted(name for name in names if not name[0].isupper())

    assert [*words, *classes, *rest] == names
    assert all(hasattr(credits_fast, name) for name in names)


def test_every_error_is_public() -> None:
    assert {one.__name__ for one in error_classes()} <= {*credits_fast.__all__}


def test_the_drawn_error_tree_is_the_real_one() -> None:
    lines = (errors.__doc__ or "").splitlines()
    drawn: dict[str, tuple[str, str]] = {}
    parents = ["CreditsError"]
    for line in lines:
        match = re.match(r"    ([│├└─ ]*)(\w+Error)\s*([A-Z_]*)", line)
        if match is None or match[2] == "CreditsError":
            continue
        depth = len(match[1]) // 4
        parents[depth:] = [match[2]]
        drawn[match[2]] = (parents[depth - 1], match[3])
    real = {
        one.__name__: (one.__mro__[1].__name__, one.code)
        for one in error_classes()
        if one is not CreditsError
    }

    families = {"MisconfiguredError", "RefusedError", "UnavailableError"}
    assert {name: parent for name, (parent, _) in drawn.items()} == {
        name: parent for name, (parent, _) in real.items()
    }
    assert {name: code for name, (_, code) in drawn.items() if name not in families} == {
        name: code for name, (_, code) in real.items() if name not in families
    }


def test_codes_are_unique_and_only_the_world_is_transient() -> None:
    codes = [one.code for one in error_classes()]

    assert len(codes) == len(set(codes))
    for one in error_classes():
        assert issubclass(one, errors.UnavailableError) == one.transient


def example_errors() -> list[CreditsError]:
    one = Decimal(1)
    return [
        errors.ConfigurationError(errors.Problem("a.b", "is wrong", "rule")),
        errors.IncompatibleFormatError("it", found="2", expected="1", written_by="9"),
        errors.InvalidAmountError("amount", "is wrong"),
        errors.IdempotencyKeyConflictError("k", "t"),
        errors.RepeatedRequestError("k", "t"),
        errors.RequestInProgressError("k", "h"),
        errors.MembershipRequiredError("ada", "pro", None, "none"),
        errors.MissingVariableError("{x}", "x", ["y"]),
        errors.FormulaEvaluationError("{x}", {"x": Decimal("1.5")}, "cause", "nan"),
        errors.InsufficientCreditsError("ada", one, one),
        errors.InsufficientCreditsError("ada", one, one, one),
        errors.HoldNotFoundError("ada", "h"),
        errors.HoldFinishedError("ada", "h", "captured"),
        errors.HoldExpiredError("ada", "h"),
        errors.CaptureExceedsHoldError("ada", "h", one, one),
        errors.HoldSharedError("ada", "h"),
        errors.HoldLimitError("ada", 3),
        errors.RefundExceedsChargeError("ada", "t", charged=one, refunded=one, amount=one),
        errors.InvalidTierChangeError("ada", None, "pro", "why"),
        errors.PartitionFencedError(3, "why"),
        errors.BackPressureError(3, "journal"),
        errors.OutcomeUnknownError("op", "why"),
    ]


@pytest.mark.parametrize("error", example_errors(), ids=lambda error: type(error).__name__)
def test_errors_can_be_copied_and_pickled_with_their_facts(error: CreditsError) -> None:
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):  # noqa: S301
        assert type(error) is type(other)
        assert (str(error), vars(error)) == (str(other), vars(other))


def test_an_error_names_its_facts_in_one_line_and_amounts_without_noise() -> None:
    error = errors.InsufficientCreditsError("a\nb", Decimal("13.500000"), Decimal("0.000000"))

    assert "user 'a\\nb' has 0 credits available, 13.5 are required" == str(error)


LIGHT = {
    "fastapi",
    "starlette",
    "sqlalchemy",
    "alembic",
    "asyncpg",
    "typer",
    "rich",
    "aiosqlite",
    "fakeredis",
    "pytest",
}


def test_importing_the_library_loads_nothing_heavy() -> None:
    program = "import sys, credits_fast; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert not LIGHT & {*done.stdout.split()}


def test_the_library_logs_nothing_of_its_own_accord() -> None:
    import logging

    handlers = logging.getLogger("credits_fast").handlers
    assert ["NullHandler"] == [type(one).__name__ for one in handlers]


def public_methods() -> list[tuple[str, Any]]:
    members = inspect.getmembers(CreditsEngine, inspect.isfunction)
    return [(name, member) for name, member in members if not name.startswith("_")]


CHANGING = {
    "create_user",
    "charge",
    "refund",
    "grant",
    "reserve",
    "extend",
    "capture",
    "release",
    "upgrade_tier",
    "downgrade_tier",
    "renew_membership",
}


@pytest.mark.parametrize("name", sorted(CHANGING))
def test_every_changing_operation_takes_a_key_and_metadata(name: str) -> None:
    parameters = inspect.signature(getattr(CreditsEngine, name)).parameters

    assert {"idempotency_key", "metadata"} <= {*parameters}
    assert inspect.Parameter.KEYWORD_ONLY == parameters["idempotency_key"].kind


@pytest.mark.parametrize(("name", "method"), public_methods())
def test_every_public_method_says_what_it_gives_takes_and_raises(name: str, method: Any) -> None:
    text = inspect.getdoc(method) or ""
    parameters = [one for one in inspect.signature(method).parameters if one != "self"]

    assert text, name
    if len(parameters) > 2:
        described = text.split("Args:")[1]
        assert all(re.search(rf"^    {one}: ", described, re.MULTILINE) for one in parameters), name


DOCTESTED = [
    *("amounts", "exact", "formula", "ids", "json_text"),
    *("servers.versions", "transactions.intent_ids"),
    *("sync.pace", "sync.parameters", "testing", "usage"),
    *("web.headers", "web.idempotency", "web.problems"),
]


@pytest.mark.parametrize("name", DOCTESTED)
def test_the_examples_of_pure_modules_run(name: str) -> None:
    module = importlib.import_module(f"credits_fast.{name}")
    result = doctest.testmod(module)

    assert result.attempted > 0
    assert 0 == result.failed


def modules() -> list[str]:
    found = pkgutil.walk_packages([str(ROOT / "credits_fast")], "credits_fast.")
    return [one.name for one in found if ".migrations" not in one.name]


@pytest.mark.parametrize("name", modules())
def test_every_module_says_its_one_idea_in_its_first_sentence(name: str) -> None:
    if name.endswith("__main__"):
        return
    found = importlib.util.find_spec(name)  # read, not run: a rim may want an extra
    assert found is not None
    assert found.origin is not None
    source = Path(found.origin).read_text(encoding="utf-8")
    text = ast.get_docstring(ast.parse(source)) or ""

    assert re.match(r"\S[^\n]+[.:]\n?", text), name


def test_nothing_is_left_behind_in_the_code() -> None:
    words = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    for folder in ("credits_fast", "lua", "sync", "migrations", "benchmarks", "examples"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".lua", ".sql", ".md"} and path.is_file():
                assert not words.search(path.read_text(encoding="utf-8")), path
