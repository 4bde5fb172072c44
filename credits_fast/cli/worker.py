"""`worker`: the program that carries the journal into the ledger until it is told to stop."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated

import typer

from credits_fast.cli.command import command
from credits_fast.cli.options import ConfigFile, DatabaseUrl, RedisUrl, configuration
from credits_fast.cli.output import Answer
from credits_fast.config import CreditsConfig
from credits_fast.settings import Settings

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Add the command to the app."""
    command(app, log_level="info")(worker)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Servers:
    """The worker's servers; its configuration may be the defaults."""

    redis_url: RedisUrl = None
    database_url: DatabaseUrl = None
    config: ConfigFile = None
    namespace: Annotated[
        str | None, typer.Option(metavar="NAME", help="The set of users. [CREDITS_NAMESPACE]")
    ] = None
    partitions: Annotated[
        int | None, typer.Option(metavar="N", help="How many there are. [CREDITS_PARTITIONS]")
    ] = None

    @property
    def settings(self) -> Settings:
        """What the flags say, and the environment behind them."""
        flags = Settings(
            redis_url=self.redis_url,
            database_url=self.database_url,
            config=self.config,
            namespace=self.namespace,
            partitions=self.partitions,
        )
        return flags.over(Settings.of(os.environ))


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
    servers: _Servers,
    sync: _Sync,
    *,
    report_ms: Annotated[
        int, typer.Option(metavar="MS", min=100, help="Pause between two reports in the log.")
    ] = 10_000,
) -> Answer:
    """Carry the journal into the ledger until SIGTERM or Ctrl-C."""
    from credits_fast.sync.service import serve_until_signalled, worker_config  # noqa: PLC0415  # SQLAlchemy

    settings = servers.settings
    config = worker_config(
        _configured(settings),
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


def _configured(settings: Settings) -> CreditsConfig | None:
    return None if settings.config is None else configuration(settings.config)
