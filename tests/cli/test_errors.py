"""What goes wrong ends in one clear line, with --json in one document, and the code of its family."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from credits_fast.engine import CreditsEngine
from credits_fast.errors import OutcomeUnknownError
from tests.cli.conftest import Program, Shop

SECRET = "hunter2"  # opens nothing

REFUSED = [
    ("USER_NOT_FOUND: user 'bob' does not exist", "balance bob"),
    ("USER_NOT_FOUND: the user id is empty", "balance ''"),
    ("USER_ALREADY_EXISTS: user 'ada'", "user create ada"),
    ("UNDEFINED_TIER: tier 'gold'", "user create bob --tier gold"),
    ("INVALID_AMOUNT: credits must not be negative", "user create bob --credits=-1"),
    ("INVALID_AMOUNT: amount is not a decimal number: 'ten'", "grant ada ten"),
    ("INVALID_AMOUNT: amount must be positive", "grant ada 0"),
    ("INVALID_AMOUNT: amount has more than 6 decimal places", "refund ada 0.0000001"),
    ("INVALID_METADATA: metadata is not JSON", "grant ada 1 --metadata {"),
    ("INVALID_METADATA: metadata must be a mapping", "grant ada 1 --metadata [1]"),
    ("INVALID_METADATA: metadata is not JSON", 'grant ada 1 --metadata {"a":NaN}'),
    ("INVALID_ARGUMENT: idempotency_key must have 1 to 256 bytes", "grant ada 1 --key ''"),
    ("UNDEFINED_ACTION: action 'sing' has no price", "charge ada sing"),
    ("MISSING_VARIABLE: formula '{tokens} * 0.01' needs variable 'tokens'", "charge ada chat"),
    ("MEMBERSHIP_REQUIRED: user 'ada' needs tier 'pro'", "charge ada report"),
    ("INSUFFICIENT_CREDITS: user 'ada' has 100 credits", "charge ada chat --amount 101"),
    ("INVALID_TIER_CHANGE: user 'ada' cannot change", "tier upgrade ada free"),
    ("INVALID_ARGUMENT: limit must be 0 to 1000", "history ada --limit 1001"),
    ("INVALID_ARGUMENT: cursor is not a cursor", "history ada --cursor x"),
]
MISUSED = [
    ("Missing argument 'USER'", "balance"),
    ("No such option: --sideways", "balance ada --sideways"),
    ("No such command 'frobnicate'", "frobnicate"),
    ("Missing command", "tier"),
    ("'tokens' is not name=number", "charge ada chat --variable tokens"),
    ("'tokens=many' is not name=number", "charge ada chat --variable tokens=many"),
    ("'tokens=inf' is not name=number", "charge ada chat --variable tokens=inf"),
    ("'soon' is no date", "tier renew ada --expires soon"),
    ("a renewal sets a new end", "tier renew ada --expires keep"),
    ("a downgrade sets no new end", "tier downgrade ada free --expires 2099-01-01"),
    ("a new user has nothing to keep", "user create bob --expires keep"),
    ("'yesterday' is no date", "history ada --since yesterday"),
    ("--limit", "history ada --limit many"),
    ("only a trace has times", "demo --speed 2"),
    ("'fast' is neither max nor a number", "demo --speed fast --trace x.csv"),
    ("nowhere.csv cannot be read", "demo --trace nowhere.csv"),
    ("/nowhere/figures.json cannot be written", "demo --json /nowhere/figures.json"),
    ("give --database-url too", "demo --redis-url redis://localhost"),
]
MISCONFIGURED = [
    ("CREDITS_LOG_LEVEL: 'loud' is none of", "balance ada --log-level loud"),
    ("CREDITS_LOG_FORMAT: 'xml' is none of", "balance ada --log-format xml"),
    ("nowhere.toml: cannot be read", "balance ada --config nowhere.toml"),
    ("redis_url: cannot be used", f"balance ada --redis-url redis://:{SECRET}/x@host"),
    ("database_url: cannot be used", f"balance ada --database-url mysql://u:{SECRET}@host/x"),
    ("sync.poll_ms: ", "worker --poll-ms 0"),
    ("sync.lease_ms: ", "worker --lease-ms 1"),
    ("namespace: ", "worker --namespace {x}"),
]


def words_of(line: str) -> list[str]:
    return ["" if word == "''" else word for word in line.split(" ")]


@pytest.mark.parametrize(("expected", "line"), REFUSED)
@pytest.mark.usefixtures("in_shared_shop")
def test_a_refusal_is_one_line_and_ends_with_4(program: Program, expected: str, line: str) -> None:
    ended = program(*words_of(line))

    assert (4, "", 1) == (ended.code, ended.out, ended.err.count("\n"))
    assert ended.err.startswith(f"error: {expected}")


@pytest.mark.usefixtures("shop")
def test_a_refund_of_a_charge_that_does_not_exist_is_refused(program: Program) -> None:
    program("user", "create", "ada")
    ended = program("refund", "ada", "1", "--transaction", "none")

    expected = "error: TRANSACTION_NOT_FOUND: user 'ada' has no charge 'none'\n"
    assert (4, expected) == (ended.code, ended.err)


@pytest.mark.parametrize(("expected", "line"), MISUSED)
def test_a_misunderstanding_is_one_line_and_ends_with_2(
    program: Program, expected: str, line: str
) -> None:
    ended = program(*words_of(line))

    assert (2, "", 1) == (ended.code, ended.out, ended.err.count("\n"))
    assert ended.err.startswith("error: USAGE: ")
    assert expected in ended.err


@pytest.mark.parametrize(("expected", "line"), MISCONFIGURED)
@pytest.mark.usefixtures("in_shared_shop")
def test_a_wrong_setting_is_one_line_without_password_and_ends_with_3(
    program: Program, expected: str, line: str
) -> None:
    ended = program(*words_of(line))

    assert (3, "", 1) == (ended.code, ended.out, ended.err.count("\n"))
    assert ended.err.startswith(f"error: CONFIGURATION_ERROR: {expected}")
    assert SECRET not in ended.err


@pytest.mark.parametrize(
    ("line", "flag", "variable"),
    [
        ("balance ada", "--embedded", "CREDITS_EMBEDDED"),
        ("balance ada --redis-url redis://h", "--database-url", "CREDITS_DATABASE_URL"),
        ("balance ada --database-url sqlite:///x.db", "--redis-url", "CREDITS_REDIS_URL"),
        ("balance ada --embedded somewhere", "--config", "CREDITS_CONFIG"),
        ("migrate", "--database-url", "CREDITS_DATABASE_URL"),
        ("worker", "--redis-url", "CREDITS_REDIS_URL"),
        ("worker --redis-url redis://h", "--database-url", "CREDITS_DATABASE_URL"),
    ],
)
def test_a_missing_setting_is_named_by_flag_and_variable(
    program: Program, line: str, flag: str, variable: str
) -> None:
    ended = program(*words_of(line))

    assert (3, 1) == (ended.code, ended.err.count("\n"))
    assert flag in ended.err
    assert variable in ended.err


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        ("REDIS_UNAVAILABLE", ["--redis-url", "redis://localhost:1"]),
        (
            "DATABASE_UNAVAILABLE",
            ["--database-url", f"postgresql://u:{SECRET}@localhost:1/ledger"],
        ),
        ("DATABASE_UNAVAILABLE", ["--database-url", "sqlite:////nowhere/credits.db"]),
    ],
)
@pytest.mark.parametrize("command", [("balance", "ada"), ("worker",)])
@pytest.mark.usefixtures("in_shared_shop")
def test_a_server_that_is_not_there_ends_with_5(
    program: Program, command: tuple[str, ...], expected: str, words: list[str]
) -> None:
    ended = program(*command, *words)

    assert (5, 1) == (ended.code, ended.err.count("\n"))
    assert ended.err.startswith(f"error: {expected}: ")
    assert SECRET not in ended.err


@pytest.mark.usefixtures("in_shared_shop")
def test_a_database_that_is_not_migrated_ends_with_3(program: Program, tmp_path: Path) -> None:
    ended = program("balance", "ada", "--database-url", f"sqlite:///{tmp_path}/new.db")

    assert 3 == ended.code
    assert ended.err.startswith("error: SCHEMA_MISMATCH: ")
    assert ended.err.endswith("run: credits-fast migrate\n")


@pytest.mark.usefixtures("in_shared_shop")
def test_an_unknown_outcome_ends_with_6(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unanswered(*_: object, **__: object) -> None:
        raise OutcomeUnknownError("0123", "the reply was lost")

    monkeypatch.setattr(CreditsEngine, "grant", unanswered)
    ended = program("grant", "ada", "1", "--json")

    assert (6, "0123") == (ended.code, ended.json["error"]["operation_id"])


@pytest.mark.usefixtures("in_shared_shop")
def test_a_bug_is_one_line_and_ends_with_1(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise KeyError("odd")

    monkeypatch.setattr(CreditsEngine, "grant", broken)
    ended = program("grant", "ada", "1")

    assert (1, "error: BUG: KeyError: 'odd' (--debug shows where)\n") == (ended.code, ended.err)


@pytest.mark.usefixtures("in_shared_shop")
def test_debug_shows_where(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from credits_fast.cli import main

    async def broken(*_: object, **__: object) -> None:
        raise KeyError("odd")

    monkeypatch.setattr(CreditsEngine, "grant", broken)
    main(["grant", "ada", "1", "--debug"])

    assert "Traceback" in capsys.readouterr().err


@pytest.mark.usefixtures("in_shared_shop")
def test_with_json_an_error_is_a_document_with_its_facts(program: Program) -> None:
    ended = program("charge", "ada", "chat", "--amount", "100.5", "--json")

    expected = {
        "error": {
            "code": "INSUFFICIENT_CREDITS",
            "message": "user 'ada' has 100 credits available, 100.5 are required",
            "user_id": "ada",
            "required": "100.500000",
            "available": "100.000000",
            "reserved": "0.000000",
        },
    }
    assert (4, expected) == (ended.code, ended.json)


def test_with_json_a_misunderstanding_is_a_document_too(program: Program) -> None:
    ended = program("balance", "--json")

    assert (2, "USAGE") == (ended.code, ended.json["error"]["code"])


def test_with_json_a_wrong_configuration_lists_its_problems(program: Program, shop: Shop) -> None:
    shop.config.write_text('[costs.chat]\ndefault = "{token-count}"\n[membership]\ntiers = {}\n')
    ended = program("balance", "ada", "--json")

    (problem,) = ended.json["error"]["problems"]
    assert "costs.chat.default" == problem["path"]


@pytest.mark.usefixtures("in_shared_shop")
def test_a_foreign_name_cannot_break_the_line(program: Program) -> None:
    ended = program("balance", "two\nlines \x1b[2J")

    assert (4, 1) == (ended.code, ended.err.count("\n"))
    assert "\x1b" not in ended.err


def test_without_a_command_the_help_is_shown(program: Program) -> None:
    ended = program()

    assert 0 == ended.code
    assert "check-config" in ended.out


def test_an_embedded_folder_needs_no_worker(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDITS_EMBEDDED", str(tmp_path))
    ended = program("worker")

    assert 3 == ended.code
    assert "needs no worker" in ended.err


def test_every_document_is_one_document(program: Program, config_file: Path) -> None:
    ended = program("check-config", str(config_file), "--json")

    assert isinstance(json.loads(ended.out), dict)
