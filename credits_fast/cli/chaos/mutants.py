"""`chaos --mutants`: which are played, with the progress on stderr, and the answer."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import typer

from credits_fast.cli.output import Answer
from credits_fast.cli.told import until_told
from credits_fast.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from credits_fast.chaos.mutants import Mutant
    from credits_fast.chaos.mutation import MutantPlay

__all__ = ["mutant_answer"]

_SIZE: Final = "smoke"
"""Enough for every one of them."""


def mutant_answer(names: Sequence[str], seed: int) -> Answer:
    """What came of the mutants of these names, of all where none is named.

    Args:
        names: Which.
        seed: For every choice.

    Raises:
        typer.BadParameter: One is not known.
    """
    from credits_fast.benchmarks.machine import machine, versions  # noqa: PLC0415
    from credits_fast.chaos.document import mutant_document  # noqa: PLC0415
    from credits_fast.cli.chaos.mutant_table import mutant_summary  # noqa: PLC0415

    chosen = _named(names)
    date, began = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    plays = _played(chosen, seed)
    which = " ".join(f"--mutant {name}" for name in names) or "--mutants"
    circumstances = {
        "seed": seed,
        "date": date,
        "command": f"credits-fast chaos {which} --seed {seed}",
        "machine": machine(),
        "versions": versions(),
    }
    data = mutant_document(plays, time.monotonic() - began, circumstances)
    code = ExitCode.OK if data["kept"] else ExitCode.NOT_VERIFIED
    return Answer(data, mutant_summary(data), code)


def _played(mutants: Sequence[Mutant], seed: int) -> Sequence[MutantPlay]:
    """Play, with the progress on stderr."""
    from credits_fast.chaos.catalogue import SIZES  # noqa: PLC0415  # SQLAlchemy when used
    from credits_fast.chaos.mutation import play_mutants  # noqa: PLC0415
    from credits_fast.cli.demo.progress import Sight, screen  # noqa: PLC0415  # rich.progress too

    with screen() as screen_:

        def watch(done: int, total: int, title: str) -> None:
            screen_.show(Sight(f"mutants, seed {seed}", done, total, title))

        return asyncio.run(until_told(play_mutants(mutants, SIZES[_SIZE], seed, watch)))


def _named(names: Sequence[str]) -> Sequence[Mutant]:
    """The mutants that are wanted.

    Raises:
        typer.BadParameter: One is not known.
    """
    from credits_fast.chaos.mutants import MUTANTS  # noqa: PLC0415

    unknown = [name for name in names if name not in MUTANTS]
    if unknown:
        problem = f"{unknown[0]!r} is not one of {', '.join(MUTANTS)}"
        raise typer.BadParameter(problem, param_hint="--mutant")
    return [MUTANTS[name] for name in dict.fromkeys(names)] or [*MUTANTS.values()]
