"""`worker`: the program that carries the journal into the ledger until it is told to stop."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import typer

from credits_fast.cli.command import command
from credits_fast.cli.options import Servers
from credits_fast.cli.output import Answer

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Add the command to the app."""
    command(app, log_level="info")(worker)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sync:
    """How the worker goes about it; what is not given is as configured."""

    poll_ms: Annotated[
        int | None, typer.Option(metavar="MS", help="Pause between looks at an empty journal.")
    ] = None
    lease_ms: Annotated[
        int | None, typer.Option(metavar="MS", help="How long a partition is owned unrenewed.")
    ] = None
    batch_max: Annotated[
        int | None, typer.Option(metavar="N", help="Journal entries of a partition read at once.")
    ] = None


async def worker(
    servers: Servers,
    sync: _Sync,
    *,
    report_ms: Annotated[
        int, typer.Option(metavar="MS", min=100, help="Pause between two reports in the log.")
    ] = 10_000,
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Answer /healthz, /readyz and /metrics there. [CREDITS_LISTEN]",
        ),
    ] = None,
) -> Answer:
    """Carry the journal into the ledger until SIGTERM or Ctrl-C."""
    from credits_fast.sync.service import serve_until_signalled, worker_config  # noqa: PLC0415  # SQLAlchemy

    settings = servers.settings
    if listen is not None:
        settings = replace(settings, listen=listen)
    config = worker_config(
        servers.configured,
        namespace=settings.namespace,
        partitions=settings.partitions,
        poll_ms=sync.poll_ms,
        lease_ms=sync.lease_ms,
        batch_max=sync.batch_max,
    )
    served = await serve_until_signalled(settings, config, report_ms=report_ms)
    data = {
        "worker": served.worker,
        "carried": served.carried,
        "seconds": round(served.seconds, 3),
        "set_aside": served.set_aside,
    }
    return Answer(data, f"carried {served.carried:,} decisions in {served.seconds:.1f} s")
