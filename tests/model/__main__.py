"""`python -m tests.model`: explore the protocol, and tell what goes wrong without one of its ingredients.

    python -m tests.model                             every row of the table in every world: some minutes
    python -m tests.model --deep                      the whole design in the larger worlds
    python -m tests.model --without chain --without unique_transaction
    python -m tests.model --identity process --world "there and back"

With `--without` or `--identity` a shortest counterexample of every violation is told step by step. It
ends with 1 where the table is contradicted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.model import report
from tests.model.design import INGREDIENTS, TODAY, WHOLE, Design
from tests.model.explorer import Exploration, explore
from tests.model.table import ROWS, Found, examined
from tests.model.worlds import DEEP_WORLDS, WORLDS

_ALL = {**WORLDS, **DEEP_WORLDS}


def main(words: Sequence[str] | None = None) -> int:
    """The exit code: 0, or 1 where the table, or the whole design, does not hold."""
    given = _parser().parse_args(words)
    if given.today or given.without or given.identity or given.world:
        return _counterexamples(given)
    return _deep(given) if given.deep else _table(given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--deep", action="store_true", help="the whole design in the larger worlds")
    add("--today", action="store_true", help="begin with what is built today")
    add("--without", action="append", default=[], choices=INGREDIENTS, metavar="INGREDIENT")
    add("--identity", choices=("process", "promotion", "hidden"), help="what a server is told by")
    add("--world", action="append", default=[], choices=tuple(_ALL), metavar="WORLD")
    add("--json", type=Path, metavar="FILE", help="write what was found to a file as well")
    return parser


def _counterexamples(given: argparse.Namespace) -> int:
    design = _design(given)
    facts: list[dict[str, Any]] = []
    for name in given.world or WORLDS:
        found = explore(design, _ALL[name])
        _say(f"{name} ({_ALL[name]}): {found.states:,} states, {report.named(found.violations)}")
        for line in report.story(found):
            _say(f"    {line}")
        facts.append(_facts(name, found))
    _write(given.json, facts)
    return 0


def _design(given: argparse.Namespace) -> Design:
    design = (TODAY if given.today else WHOLE).without(*given.without)
    return replace(design, identity=given.identity) if given.identity else design


def _table(given: argparse.Namespace) -> int:
    found: list[Found] = []
    for row in ROWS:
        found.append(examined(row, WORLDS))
        _say(f"{row.name}: {report.named(found[-1].violations)}")
    _say("")
    for line in report.table(found):
        _say(line)
    facts = [
        {"left_out": each.row.name, "states": each.states, "violations": sorted(each.violations)}
        for each in found
    ]
    _write(given.json, facts)
    wrong = [each.row.name for each in found if each.violations != each.row.violations]
    if wrong:
        _say(f"the table says something else of: {', '.join(wrong)}")
    return 1 if wrong else 0


def _deep(given: argparse.Namespace) -> int:
    facts: list[dict[str, Any]] = []
    violated = False
    for name, bounds in DEEP_WORLDS.items():
        found = explore(WHOLE, bounds)
        violated = violated or bool(found.violations)
        _say(f"{name} ({bounds}): {found.states:,} states, {report.named(found.violations)}")
        facts.append(_facts(name, found))
    _write(given.json, facts)
    return 1 if violated else 0


def _facts(world: str, found: Exploration) -> dict[str, Any]:
    return {
        "world": world,
        "states": found.states,
        "stopped": found.stopped,
        "traces": found.traces,
    }


def _write(file: Path | None, facts: object) -> None:
    if file is not None:
        file.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
