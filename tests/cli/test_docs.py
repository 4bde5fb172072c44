"""The page about the command line says what the program does, and leaves nothing out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from credits_fast.cli.app import app
from credits_fast.exit_codes import ExitCode
from tests.cli.conftest import Program, Shop

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
EVERYWHERE = {
    *("--json", "--log-level", "--log-format", "--debug", "--help"),
    *("--redis-url", "--database-url", "--embedded", "--config"),
}


def sections() -> dict[str, str]:
    """What the page says of each command, by its name."""
    parts = re.split(r"^### `credits-fast ([^`]+)`$", PAGE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def commands(group: Any = None, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every command of the program with its full name."""
    top: Any = typer.main.get_command(app)
    for name, found in (group or top).commands.items():
        if hasattr(found, "commands"):
            yield from commands(found, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", found


def documented_json(name: str) -> dict[str, Any]:
    """The example document of a command."""
    found = re.search(r"```json\n(.*?)```", sections()[name], flags=re.DOTALL)
    assert found is not None, name
    document: dict[str, Any] = json.loads(found[1])
    return document


def test_the_page_has_every_command_and_no_other() -> None:
    assert {name for name, _ in commands()} == sections().keys()


def test_every_command_has_an_example() -> None:
    assert [] == [name for name, text in sections().items() if f"\ncredits-fast {name}" not in text]


@pytest.mark.parametrize("name", sections())
def test_every_option_of_a_command_is_mentioned(name: str) -> None:
    command = dict(commands())[name]
    options = {word for parameter in command.params for word in parameter.opts if word[:2] == "--"}

    assert set() == {word for word in options - EVERYWHERE if f"`{word}" not in sections()[name]}


def test_the_exit_codes_are_those_of_the_program() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", PAGE, flags=re.MULTILINE)

    assert [(str(code.value), code.name) for code in ExitCode] == rows


def test_the_variables_are_those_of_the_options() -> None:
    helps = (parameter.help or "" for _, command in commands() for parameter in command.params)
    named = {name for text in helps for name in re.findall(r"\[(CREDITS_\w+)\]", text)}

    assert named == set(re.findall(r"`(CREDITS_\w+)`", PAGE))


def test_the_documents_have_the_members_of_the_page(
    program: Program, shop: Shop, tmp_path: Path
) -> None:
    ran = {
        "user create": program.document("user", "create", "ada", "--credits", "100"),
        "user show": program.document("user", "show", "ada"),
        "balance": program.document("balance", "ada"),
        "charge": program.document("charge", "ada", "chat", "--amount", "1"),
        "grant": program.document("grant", "ada", "1"),
        "refund": program.document("refund", "ada", "1"),
        "tier upgrade": program.document("tier", "upgrade", "ada", "pro"),
        "migrate": program.document("migrate", "--database-url", f"sqlite:///{tmp_path}/n.db"),
        "check-config": program.document("check-config", str(shop.config)),
        "version": program.document("version"),
    }
    shop.sync()
    ran["history"] = program.document("history", "ada")
    ran["verify"] = program.document("verify")
    ran["doctor"] = program("doctor", "--json").json
    ran["partitions"] = program.document("partitions")

    assert {name: documented_json(name).keys() for name in ran} == {
        name: document.keys() for name, document in ran.items()
    }
    for name, member in (
        ("history", "transactions"),
        ("partitions", "partitions"),
        ("doctor", "findings"),
    ):
        row = documented_json(name)[member][0]
        assert row.keys() == ran[name][member][0].keys()


def test_the_figures_of_the_demo_are_those_of_the_page(program: Program, tmp_path: Path) -> None:
    sizes = ("--users", "3", "--requests", "20", "--folder", str(tmp_path / "data"))
    figures = program("demo", *sizes, "--json", "-").json

    table = re.findall(r"^\| (`.*?`) \|", sections()["demo"], flags=re.MULTILINE)
    assert set(figures) == {name for row in table for name in re.findall(r"`(\w+)`", row)}
