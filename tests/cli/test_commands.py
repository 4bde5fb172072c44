"""What each command does and says: for people in words, for machines in exact JSON."""

from __future__ import annotations

from pathlib import Path

import pytest

from credits_fast.ledger.schema import head
from credits_fast.version import __version__
from tests.cli.conftest import Program, Shop


@pytest.fixture
def ada(program: Program, shop: Shop) -> Shop:
    """A shop with one user of the lowest tier and 100 credits."""
    program.document("user", "create", "ada", "--credits", "100", "--tier", "free")
    return shop


@pytest.mark.usefixtures("shop")
def test_creating_a_user_shows_the_user(program: Program) -> None:
    words = ("--credits", "2.5", "--tier", "pro", "--expires", "2099-01-31")

    expected = {
        "user_id": "ada",
        "credits": "2.500000",
        "reserved": "0.000000",
        "available": "2.500000",
        "membership_tier": "pro",
        "membership_expires_at": "2099-01-31T00:00:00+00:00",
        "sequence": 1,
    }
    assert expected == program.document("user", "create", "ada", *words)
    assert expected == program.document("user", "show", "ada")


@pytest.mark.usefixtures("ada")
def test_a_balance_is_a_sentence_for_people(program: Program) -> None:
    assert "ada has 100.00 credits\n" == program("balance", "ada").out


@pytest.mark.usefixtures("ada")
def test_a_balance_is_an_exact_string_for_machines(program: Program) -> None:
    assert {"user_id": "ada", "credits": "100.000000"} == program.document("balance", "ada")


@pytest.mark.usefixtures("ada")
def test_a_charge_takes_the_price_of_the_formula(program: Program) -> None:
    charged = program.document("charge", "ada", "chat", "--variable", "tokens=1250")

    assert ("12.500000", "100.000000", "87.500000", False) == (
        charged["cost"],
        charged["balance_before"],
        charged["balance_after"],
        charged["replayed"],
    )


@pytest.mark.usefixtures("ada")
def test_a_charge_may_name_its_amount(program: Program) -> None:
    assert "0.000001" == program.document("charge", "ada", "chat", "--amount", "0.000001")["cost"]


def test_how_far_a_decision_has_to_have_come_may_be_said(
    program: Program, tmp_path: Path, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDITS_EMBEDDED", str(tmp_path))
    monkeypatch.setenv("CREDITS_CONFIG", str(config_file))
    program.document("user", "create", "ada", "--credits", "100", "--tier", "free")
    charge = ("charge", "ada", "chat", "--amount", "1")
    upgrade = ("tier", "upgrade", "ada", "pro", "--acknowledge", "committed", "--key", "u")

    assert "memory" == program.document(*charge)["acknowledged"]
    assert program(*charge, "--acknowledge", "committed").out.endswith(", acknowledged committed\n")
    assert "committed" == program.document(*upgrade)["acknowledged"]
    again = ", acknowledged committed (replayed: nothing changed now)\n"
    assert program(*upgrade).out.endswith(again)


def test_a_level_that_does_not_exist_is_refused_before_anything_is_connected(
    program: Program,
) -> None:
    refused = program("charge", "ada", "chat", "--acknowledge", "quickly")

    assert (2, True) == (refused.code, "'quickly' is not one of" in refused.err)


@pytest.mark.usefixtures("ada")
def test_the_same_key_again_replays_the_charge(program: Program) -> None:
    words = ("charge", "ada", "chat", "--variable", "tokens=100", "--key", "request-1")
    first, again = program.document(*words), program.document(*words)

    assert {**first, "replayed": True} == again
    assert "99.000000" == program.document("balance", "ada")["credits"]
    assert program(*words).out.endswith("(replayed: nothing changed now)\n")


@pytest.mark.usefixtures("ada")
def test_a_grant_adds(program: Program) -> None:
    granted = program.document("grant", "ada", "12.5", "--action", "purchase")

    assert ("purchase", "12.500000", "112.500000") == (
        granted["action"],
        granted["amount"],
        granted["balance_after"],
    )


def test_a_refund_names_its_charge(program: Program, ada: Shop) -> None:
    charged = program.document("charge", "ada", "chat", "--variable", "tokens=100")[
        "transaction_id"
    ]
    ada.sync()
    refunded = program.document("refund", "ada", "1", "--transaction", charged)

    assert (charged, "100.000000") == (refunded["related_id"], refunded["balance_after"])


@pytest.mark.usefixtures("ada")
def test_a_tier_goes_up_and_down_and_gets_a_new_end(program: Program) -> None:
    up = program.document("tier", "upgrade", "ada", "team", "--expires", "2099-01-01")
    down = program.document("tier", "downgrade", "ada", "pro")
    renewed = program.document("tier", "renew", "ada", "--expires", "never")

    assert ("free", "team", "4900.000000") == (
        up["old_tier"],
        up["new_tier"],
        up["credits_delta"],
    )
    assert ("team", "pro", "2099-01-01T00:00:00+00:00") == (
        down["old_tier"],
        down["new_tier"],
        down["membership_expires_at"],
    )
    assert ("pro", None) == (renewed["new_tier"], renewed["membership_expires_at"])


def test_history_shows_the_newest_row_first(program: Program, ada: Shop) -> None:
    program.document("charge", "ada", "chat", "--variable", "tokens=50", "--metadata", '{"a": 1}')
    program.document("grant", "ada", "5", "--key", "payment-1")
    ada.sync()
    history = program.document("history", "ada")

    assert ["grant", "charge", "grant"] == [row["kind"] for row in history["transactions"]]
    granted, charged, _ = history["transactions"]
    assert ("5.000000", "payment-1") == (granted["amount"], granted["idempotency_key"])
    assert ("-0.500000", 1) == (charged["amount"], charged["metadata"]["a"])


def test_history_is_read_page_by_page(program: Program, ada: Shop) -> None:
    for _ in range(3):
        program.document("charge", "ada", "chat", "--amount", "1")
    ada.sync()
    first = program.document("history", "ada", "--limit", "2")
    rest = program.document("history", "ada", "--cursor", first["next_cursor"])
    passed_over = program.document("history", "ada", "--offset", "2")

    sequences = [row["sequence"] for page in (first, rest) for row in page["transactions"]]
    assert ([4, 3, 2, 1], None) == (sequences, rest["next_cursor"])
    assert rest["transactions"] == passed_over["transactions"]


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        (2, ()),
        (1, ("--action", "chat")),
        (2, ("--since", "2020-01-01")),
        (0, ("--since", "2999-01-01")),
        (0, ("--until", "2020-01-01T00:00")),
        (2, ("--until", "2999-01-01T12:00+02:00")),
    ],
)
def test_history_can_be_narrowed(
    program: Program, ada: Shop, expected: int, words: tuple[str, ...]
) -> None:
    program.document("charge", "ada", "chat", "--amount", "1")
    ada.sync()

    assert expected == len(program.document("history", "ada", *words)["transactions"])


def test_a_table_of_history_is_readable_and_harmless(program: Program, shop: Shop) -> None:
    nasty = "[bold]\x1b[2J"
    program.document("user", "create", "ada", "--credits", "1234.5")
    program.document("charge", "ada", nasty, "--amount", "0.25")
    shop.sync()
    shown = program("history", "ada", "--limit", "1").out

    assert r"[bold]\x1b[2J" in shown
    assert "-0.25" in shown
    assert "1,234.25" in shown
    assert "more: --cursor 2" in shown


def test_migrate_says_from_where_to_where(program: Program, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new.db"
    first = program.document("migrate", "--database-url", url)
    again = program.document("migrate", "--database-url", url)

    assert (None, head()) == (first["from"], first["to"])
    assert (head(), head()) == (again["from"], again["to"])


def test_migrate_check_changes_nothing(program: Program, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new.db"

    assert [3, 3] == [program("migrate", "--check", "--database-url", url).code for _ in range(2)]
    program("migrate", "--database-url", url)
    assert 0 == program("migrate", "--check", "--database-url", url).code


def test_the_version_is_one_line(program: Program) -> None:
    expected = f"credits-fast {__version__}\n"

    assert [expected, expected] == [program(word).out for word in ("version", "--version")]
    assert __version__ == program.document("version")["credits_fast"]


def test_a_valid_configuration_is_summed_up(program: Program, config_file: Path) -> None:
    checked = program.document("check-config", str(config_file))

    assert (True, {"free", "pro", "team"}) == (checked["valid"], set(checked["tiers"]))
    assert {"formula": "{tokens} * 0.005", "variables": ["tokens"]} == (
        checked["actions"]["chat"]["prices"]["pro"]
    )
    assert {"requires": "pro", "prices": {"default": {"fixed": "7.5"}}} == (
        checked["actions"]["report"]
    )
    shown = program("check-config", str(config_file)).out
    assert "2 actions, 3 tiers" in shown
    assert "(variables: tokens)" in shown


def test_a_legal_oddity_is_a_warning(program: Program, config_file: Path) -> None:
    config_file.write_text(config_file.read_text().replace("[costs.report]", "[costs.x]\ngold = 1"))
    config_file.write_text(config_file.read_text().replace("[costs.x]", "[costs.report]"))

    checked = program("check-config", str(config_file))

    assert 0 == checked.code
    assert "warning: unknown tier gold in costs.report" in checked.out


def test_every_mistake_of_a_configuration_is_named_with_its_path(
    program: Program, tmp_path: Path
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(
        '[costs.chat]\npro = "{token-count}"\n[membership.tiers]\npro = -1\n[retry]\nenabled = 1\n'
    )
    shown, document = (
        program("check-config", str(path)),
        program("check-config", str(path), "--json"),
    )

    paths = [problem["path"] for problem in document.json["error"]["problems"]]
    assert (3, 3) == (shown.code, document.code)
    assert len(paths) >= 3
    assert all(f"{path}: " in shown.out for path in paths)
    assert {"costs.chat.pro", "membership.tiers.pro", "retry.enabled"} <= set(paths)
