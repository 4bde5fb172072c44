"""What the pages say is so: examples run, links lead somewhere, no operation is left out."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from credits_fast import CreditsEngine

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)
_ENDS_WITHIN_S = 60


def run(*words: str, folder: Path) -> str:
    """What a program prints; it says nothing on stderr and ends well."""
    ended = subprocess.run(
        (sys.executable, *words),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=_ENDS_WITHIN_S,
        check=False,
    )
    assert (0, "") == (ended.returncode, ended.stderr)
    return ended.stdout


def test_the_readmes_example_prints_what_the_readme_says(tmp_path: Path) -> None:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    at = next(number for number, (language, _) in enumerate(blocks) if language == "python")
    example, expected = blocks[at][1], blocks[at + 1][1]

    assert expected == run("-c", example, folder=tmp_path)
    assert expected.replace("False", "True") == run("-c", example, folder=tmp_path)


def test_the_table_of_operations_is_complete() -> None:
    table = README.split("## Operations")[1].split("\n## ")[0]
    named = {
        name
        for row in re.findall(r"^\| (`.*?) \|", table, flags=re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    plumbing = {"start", "close", "lane"}
    operations = {
        name
        for name, _ in inspect.getmembers(CreditsEngine, inspect.iscoroutinefunction)
        if not name.startswith("_")
    }

    assert operations - plumbing == named


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    commands = re.findall(r"^make ([\w-]+)", README, flags=re.MULTILINE)

    assert ["demo", "test"] == commands
    assert all(re.search(rf"^{name}:", makefile, flags=re.MULTILINE) for name in commands)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    ours = [link for link in links if "://" not in link]

    assert [] == [link for link in ours if not (page.parent / link).exists()]


def test_the_example_of_requests_tells_a_repeated_payment_and_gives_back(tmp_path: Path) -> None:
    example = str(ROOT / "examples" / "llm_requests.py")
    first = run(example, str(tmp_path / "data"), folder=tmp_path).splitlines()
    second = run(example, str(tmp_path / "data"), folder=tmp_path).splitlines()

    assert first[0].split()[-1] == first[1].split()[-1]
    assert "given back" in first[2]
    assert "402" in first[3]
    assert ["new", "known already"] == [line.split(", ")[1] for line in first[4:6]]
    assert "403 needs pro, you are free" in first[6]
    assert "200 it cost 6.00" in first[8]
    statement = first[first.index("statement of ada") + 1 :]
    assert ["charge", "tier", "grant", "refund", "charge", "charge", "grant"] == [
        line.split()[1] for line in statement
    ]
    assert first[0].split("you have")[0] == second[0].split("you have")[0]
    assert "known already" in second[4]
