"""`chaos`: the command, from its options to the document."""

from __future__ import annotations

import asyncio
import secrets
import time
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from credits_fast.cli.chaos.mutants import mutant_answer
from credits_fast.cli.command import command
from credits_fast.cli.options import Document
from credits_fast.cli.output import Answer
from credits_fast.cli.told import until_told
from credits_fast.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from credits_fast.chaos.history import Attempt
    from credits_fast.chaos.run import Played, Step
    from credits_fast.chaos.scenario import Scenario

__all__ = ["add_to"]

_SEED_MAX: Final = 1_000_000


def add_to(app: typer.Typer) -> None:
    """Add the command to the app."""
    command(app, output=Document, log_level="error")(chaos)


class _Set(StrEnum):
    """What is played where no scenario is named, and how much of each."""

    SMOKE = "smoke"
    STANDARD = "standard"


def chaos(
    *,
    scenario: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Play this one; repeat it for more."),
    ] = None,
    set_: Annotated[
        _Set, typer.Option("--set", help="What is played: less than a minute of it, or all.")
    ] = _Set.STANDARD,
    seed: Annotated[
        int | None,
        typer.Option(min=0, metavar="NUMBER", help="For every choice; drawn where none is named."),
    ] = None,
    minutes: Annotated[
        float,
        typer.Option(min=0, metavar="NUMBER", help="Play it again from other seeds for so long."),
    ] = 0.0,
    history: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write every call of every scenario there."),
    ] = None,
    mutants: Annotated[
        bool, typer.Option("--mutants", help="Play the mutants instead, each on its scenario.")
    ] = False,
    mutant: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Play this mutant; repeat it for more."),
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="Show the scenarios and what each promises.")
    ] = False,
) -> Answer:
    """Break real servers under load in every way there is a scenario for, and judge what is left."""
    from credits_fast.chaos.catalogue import SCENARIOS  # noqa: PLC0415  # SQLAlchemy when used
    from credits_fast.chaos.document import catalogue  # noqa: PLC0415
    from credits_fast.cli.chaos.table import listed  # noqa: PLC0415

    if list_:
        return Answer(catalogue(SCENARIOS), listed(SCENARIOS.values()))
    drawn = secrets.randbelow(_SEED_MAX) if seed is None else seed
    if mutants or mutant:
        return mutant_answer(mutant or (), drawn)
    scenarios = _named(set_, scenario or ())
    if history is not None:
        _check_folder(history)
    return _answer(scenarios, set_, drawn, minutes, history)


def _answer(
    scenarios: Sequence[Scenario], set_: _Set, seed: int, minutes: float, history: Path | None
) -> Answer:
    from credits_fast.benchmarks.machine import machine, versions  # noqa: PLC0415
    from credits_fast.chaos.document import document  # noqa: PLC0415
    from credits_fast.cli.chaos.table import summary  # noqa: PLC0415

    date, began = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    played = _played(scenarios, set_, seed, minutes, history)
    circumstances = {
        "set": set_.value,
        "seed": seed,
        "date": date,
        "command": f"credits-fast chaos --set {set_.value} --seed {seed}",
        "machine": machine(),
        "versions": versions(),
    }
    data = document(played, time.monotonic() - began, circumstances)
    return Answer(data, summary(data), ExitCode.OK if data["kept"] else ExitCode.NOT_VERIFIED)


def _played(
    scenarios: Sequence[Scenario], set_: _Set, seed: int, minutes: float, folder: Path | None
) -> Sequence[Played]:
    """Play, with the progress on stderr."""
    from credits_fast.chaos.catalogue import SIZES  # noqa: PLC0415
    from credits_fast.chaos.run import run  # noqa: PLC0415
    from credits_fast.cli.demo.progress import Sight, screen  # noqa: PLC0415  # rich.progress too

    with screen() as screen_:

        def watch(step: Step) -> None:
            title = f"chaos, seed {step.seed}"
            screen_.show(Sight(title, step.done, step.total, step.title))

        def record(played: Played, history: Sequence[Attempt]) -> None:
            if folder is not None:
                _write(folder / f"{played.scenario.name}-{played.seed}.jsonl", history)

        size = SIZES[set_.value]
        work = run(scenarios, size, seed, minutes=minutes, watch=watch, record=record)
        return asyncio.run(until_told(work))


def _named(set_: _Set, names: Sequence[str]) -> Sequence[Scenario]:
    """The scenarios that are wanted.

    Raises:
        typer.BadParameter: One is not known.
    """
    from credits_fast.chaos.catalogue import SCENARIOS, chosen  # noqa: PLC0415

    unknown = [name for name in names if name not in SCENARIOS]
    if unknown:
        known = ", ".join(SCENARIOS)
        problem = f"{unknown[0]!r} is not one of {known}"
        raise typer.BadParameter(problem, param_hint="--scenario")
    return chosen(set_.value, names)


def _check_folder(folder: Path) -> None:
    """Nothing, where a folder is there and can be written to.

    Raises:
        typer.BadParameter: It cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"{folder} cannot be made: {error.strerror}"
        raise typer.BadParameter(problem, param_hint="--history") from error


def _write(file: Path, history: Sequence[Attempt]) -> None:
    """A line for every call, in the order of their end."""
    from credits_fast.chaos.history import to_line  # noqa: PLC0415

    file.write_text("".join(f"{to_line(one)}\n" for one in history), encoding="utf-8")
