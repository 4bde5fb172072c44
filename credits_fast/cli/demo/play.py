"""The whole play: users are created, steps are taken and watched, everything is recorded and compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from credits_fast.cli.demo.progress import Sight, screen, watching
from credits_fast.cli.demo.report import Outcome
from credits_fast.cli.demo.run import Run
from credits_fast.cli.demo.stage import Stage, open_stage
from credits_fast.cli.demo.verify import verify
from credits_fast.cli.output import notice
from credits_fast.errors import DatabaseUnavailableError
from credits_fast.exit_codes import printable
from credits_fast.lag import LagGauge

if TYPE_CHECKING:
    from credits_fast.cli.demo.scenario import Scenario
    from credits_fast.settings import Settings

__all__ = ["play"]

_RECORDED_MS: Final = 60_000
_ROWS_SHOWN: Final = 8


async def play(
    scenario: Scenario,
    folder: Path | None,
    servers: Settings,
    *,
    callers: int,
    speed: float | None,
) -> Outcome:
    """Play a scenario on a stage of its own; what came of it.

    Args:
        scenario: What to ask for.
        folder: Where the data goes, None for a new temporary folder.
        servers: Existing servers; embedded ones where none is named.
        callers: How many steps at once.
        speed: How many times faster than the scenario's own times, None for as fast as possible.

    Raises:
        CreditsError: The stage cannot be opened, or a server went away for longer than retries last.
    """
    async with open_stage(folder, servers) as stage:
        run = Run(stage.engine, scenario, callers, speed)
        gauge = LagGauge(stage.engine, stage.database)
        await _watched(run, gauge, scenario, stage)
        verdict = await verify(run.books, stage.engine, stage.database)
        user = run.books.most_varied_user()
        sample = await stage.engine.get_history(user, limit=_ROWS_SHOWN)
    return Outcome(
        scenario=scenario,
        callers=callers,
        stage=stage,
        books=run.books,
        meter=run.meter,
        lag_ms=gauge.samples_ms,
        verdict=verdict,
        sample_user=user,
        sample=sample,
    )


async def _watched(run: Run, gauge: LagGauge, scenario: Scenario, stage: Stage) -> None:
    """The run, with its progress on stderr, until everything is recorded."""
    people, steps = len(scenario.people), len(scenario.steps)
    with screen() as screen_:
        async with watching(screen_, lambda: Sight("users", run.meter.created, people)):
            await run.create_people()
        async with (
            watching(screen_, lambda: Sight("steps", run.meter.steps, steps, _pace(run, gauge))),
            gauge.measuring(),
        ):
            await run.perform()
            is_recorded = await _recorded(stage)
        complaints = len(run.complaints)
        if not is_recorded or not complaints:
            return
        async with watching(screen_, lambda: Sight("refunds", run.meter.refunds, complaints)):
            await run.give_back()
            await _recorded(stage)


async def _recorded(stage: Stage) -> bool:
    """Whether everything is in the ledger now; what is not, the comparison finds as lost."""
    try:
        await stage.engine.wait_recorded(timeout_ms=_RECORDED_MS)
    except DatabaseUnavailableError as error:
        notice(f"warning: {printable(error.message)}")
        return False
    return True


def _pace(run: Run, gauge: LagGauge) -> str:
    charges = len(run.meter.latencies_ms)
    per_s = charges / run.meter.seconds if run.meter.seconds else 0.0
    return f"{per_s:,.0f} charges/s, sync lag {gauge.now_ms:,.0f} ms"
