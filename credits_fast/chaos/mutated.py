"""`python -m credits_fast.chaos.mutated`: one scenario, played in the process of a mutant, into a file.

    MUTANT SCENARIO SEED ROUNDS CALLS FILE

The mutant is "" for none. Its edits are made in this process before anything is imported, by
`credits_fast.chaos.mutating`; the workers that are started here get them in the same way.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from credits_fast.chaos.arena import Size
from credits_fast.chaos.catalogue import SCENARIOS
from credits_fast.chaos.document import document
from credits_fast.chaos.mutants import MUTANTS
from credits_fast.chaos.mutating import program
from credits_fast.chaos.run import play
from credits_fast.chaos.stage import open_ledgers
from credits_fast.errors import CreditsError
from credits_fast.exit_codes import ExitCode, error_line, exit_code

_WORKER: Final = "credits_fast.sync"
_LIMIT_S: Final = 10.0
"""Seconds until what does not go on is given up: most mutants stop. Scenarios as they are have no more."""


def main(words: Sequence[str]) -> int:
    """Play, and write the document; the exit code."""
    name, scenario, seed, rounds, calls, file = words
    size = Size(rounds=int(rounds), calls=int(calls))
    try:
        data = asyncio.run(_played(name, scenario, int(seed), size))
    except CreditsError as error:
        sys.stderr.write(error_line(error) + "\n")
        return exit_code(error)
    Path(file).write_text(json.dumps(data), encoding="utf-8")
    return ExitCode.OK


async def _played(name: str, scenario: str, seed: int, size: Size) -> dict[str, Any]:
    edits = MUTANTS[name].edits if name else ()
    began = time.monotonic()
    async with open_ledgers() as ledgers:
        hurried = replace(SCENARIOS[scenario], limit_s=_LIMIT_S)
        played, _ = await play(hurried, size, seed, ledgers, worker=program(edits, _WORKER))
    return document([played], time.monotonic() - began, {"mutant": name or None})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
