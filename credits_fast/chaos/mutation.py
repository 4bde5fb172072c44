"""Playing mutants: each in a process of its own, on the scenario that has to catch it.

Every one of those scenarios is played as it is, too, from the same seed: a scenario that breaks anyway
catches nothing.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from credits_fast.chaos.mutating import program
from credits_fast.servers.processes import start_server

if TYPE_CHECKING:
    from credits_fast.chaos.arena import Size
    from credits_fast.chaos.mutants import Mutant

__all__ = ["MutantPlay", "play_mutants"]

_PLAYER: Final = "credits_fast.chaos.mutated"
_PLAY_MAX_S: Final = 600.0
"""Seconds a play may take, the start of its servers included."""
_NOTHING_SAID: Final = "it ended without a word"


@dataclass(frozen=True, slots=True, kw_only=True)
class MutantPlay:
    """A scenario, played by a mutant or as it is.

    Attributes:
        mutant: The mutant, None for the scenario as it is.
        scenario: The scenario's name.
        broken: The invariants that were broken, each with the first few problems.
        problems: Everything that was promised and not so.
        failure: Why it did not come to its end, "" where it did.
        seconds: How long it took, without the start of the database.
    """

    mutant: Mutant | None
    scenario: str
    broken: Mapping[str, str] = field(default_factory=dict[str, str])
    problems: Sequence[str] = ()
    failure: str = ""
    seconds: float = 0.0

    @property
    def is_as_it_should_be(self) -> bool:
        """Whether a mutant broke its invariant; whether a scenario without one kept its promise."""
        if self.failure:
            return False
        return not self.problems if self.mutant is None else self.mutant.breaks in self.broken


async def play_mutants(
    mutants: Sequence[Mutant],
    size: Size,
    seed: int,
    watch: Callable[[int, int, str], None] = lambda _done, _total, _title: None,
) -> list[MutantPlay]:
    """Play the scenarios as they are, then every mutant.

    Args:
        mutants: Which.
        size: How much is played of each.
        seed: For every choice.
        watch: Told how many were played, of how many, and which is next.
    """
    plays: list[tuple[Mutant | None, str]] = [(None, name) for name in _scenarios(mutants)]
    plays += [(mutant, mutant.scenario) for mutant in mutants]
    played: list[MutantPlay] = []
    for number, (mutant, scenario) in enumerate(plays):
        title = f"{scenario} as it is" if mutant is None else f"{mutant.name} on {scenario}"
        watch(number, len(plays), title)
        played.append(await _play(mutant, scenario, size, seed))
    watch(len(plays), len(plays), "done")
    return played


def _scenarios(mutants: Iterable[Mutant]) -> list[str]:
    return [*dict.fromkeys(mutant.scenario for mutant in mutants)]


async def _play(mutant: Mutant | None, scenario: str, size: Size, seed: int) -> MutantPlay:
    folder = Path(tempfile.mkdtemp(prefix="cf-mutant-"))
    try:
        said = folder / "document.json"
        words = (scenario, str(seed), str(size.rounds), str(size.calls), str(said))
        name, edits = (mutant.name, mutant.edits) if mutant is not None else ("", ())
        failure = await _run(program(edits, _PLAYER, name, *words), folder / "log")
        if failure:
            return MutantPlay(mutant=mutant, scenario=scenario, failure=failure)
        (one,) = json.loads(said.read_text(encoding="utf-8"))["scenarios"]
        return _judged(mutant, one)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _run(command: Sequence[str], log: Path) -> str:
    """Why the process did not come to its end, "" where it did."""
    server = start_server(command, log)
    try:
        code = await asyncio.to_thread(server.process.wait, _PLAY_MAX_S)
    except subprocess.TimeoutExpired:
        return f"it did not end within {_PLAY_MAX_S:.0f} s"
    finally:
        if server.is_running:  # so that it ends its own servers
            server.stop(signal.SIGINT)
    if not code:
        return ""
    lines = server.log_tail().strip().splitlines()
    return f"it ended with {code}: {lines[-1] if lines else _NOTHING_SAID}"


def _judged(mutant: Mutant | None, one: Mapping[str, Any]) -> MutantPlay:
    broken = {
        name: "; ".join(found["problems"][:1])
        for name, found in one["invariants"].items()
        if found["broken"]
    }
    return MutantPlay(
        mutant=mutant,
        scenario=one["name"],
        broken=broken,
        problems=one["problems"],
        seconds=one["seconds"],
    )
