"""The worker as a service: checked at the start, heard from while it runs, ended without haste.

Told to stop, it finishes the step under way and releases its leases, so that another worker need not
wait for them to end. What it could not finish is found again by the position in the ledger.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import time
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from credits_fast.config import CreditsConfig
from credits_fast.errors import ConfigurationError, CreditsError, Problem
from credits_fast.ledger import schema
from credits_fast.ledger.database import address, connect
from credits_fast.ledger.recording import lag_ms
from credits_fast.protocol.keys import Partitions
from credits_fast.servers.endpoints import endpoint_from_url
from credits_fast.servers.preflight import check_servers
from credits_fast.servers.routing import router_to
from credits_fast.sync.worker import SyncWorker

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from credits_fast.servers.endpoints import AnyEndpoint
    from credits_fast.settings import Settings

__all__ = ["REPORT_MS", "Served", "serve", "serve_until_signalled", "worker_config"]

_log = logging.getLogger(__name__)

REPORT_MS: Final = 10_000
"""Milliseconds between two reports in the log."""
_LAST_STEP_S: Final = 4.0
_RELEASE_S: Final = 4.0


@dataclass(frozen=True, slots=True)
class Served:
    """What a worker did while it served.

    Attributes:
        worker: Its id.
        carried: How many decisions it carried into the ledger.
        seconds: How long it served.
        set_aside: The partitions it could not carry, each with the reason.
    """

    worker: str
    carried: int
    seconds: float
    set_aside: dict[int, str] = field(default_factory=dict[int, str])


def worker_config(config: CreditsConfig | None = None, **settings: object) -> CreditsConfig:
    """What a worker needs of a configuration, prices aside, with some of it set anew.

    Args:
        config: The application's configuration, None for the defaults.
        settings: `namespace`, `partitions`, or a name of the section `sync`; None leaves it as it is.

    Raises:
        ConfigurationError: A setting cannot be used.

    Example:
        >>> worker_config(poll_ms=5).sync.poll_ms
        5
    """
    values: dict[str, Any] = {"costs": {}, "membership": {"tiers": {}}}
    if config is not None:
        values["namespace"], values["partitions"] = config.namespace, config.partitions
    sync = {} if config is None else config.sync.model_dump()
    for name, value in settings.items():
        if value is not None:
            (values if name in {"namespace", "partitions"} else sync)[name] = value
    return CreditsConfig.parse({**values, "sync": sync})


async def serve_until_signalled(
    settings: Settings,
    config: CreditsConfig,
    *,
    report_ms: int = REPORT_MS,
) -> Served:
    """Serve until SIGTERM or SIGINT; a second one ends the program at once.

    Args:
        settings: Where the two servers are.
        config: What `worker_config` gives.
        report_ms: Milliseconds between two reports in the log.

    Raises:
        MisconfiguredError: The set-up is wrong.
        UnavailableError: A server cannot be reached at the start.
    """
    if settings.embedded is not None:
        problem = f"{settings.embedded} needs no worker: the program that opens it runs one inside"
        raise ConfigurationError(Problem("embedded", problem, "embedded"))
    endpoint = endpoint_from_url(settings.need_redis_url())
    database = connect(settings.need_database_url())
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)

    def told() -> None:
        stop.set()
        for number in signals:
            loop.remove_signal_handler(number)

    for number in signals:
        loop.add_signal_handler(number, told)
    gc.freeze()  # what is loaded by now stays, and need not be looked through for garbage
    try:
        listen = settings.listen
        return await serve(endpoint, database, config, stop, report_ms=report_ms, listen=listen)
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
        await database.dispose()


async def serve(
    endpoint: AnyEndpoint,
    database: AsyncEngine,
    config: CreditsConfig,
    stop: asyncio.Event,
    *,
    report_ms: int = REPORT_MS,
    listen: str | None = None,
) -> Served:
    """Carry journals into the ledger until told to stop, and say now and then how it goes.

    Args:
        endpoint: The Redis server, or the cluster.
        database: The ledger, migrated.
        config: What `worker_config` gives.
        stop: Set it to end.
        report_ms: Milliseconds between two reports in the log.
        listen: Where to answer probes and scrapers, `host:port`; None for nowhere.

    Raises:
        ConfigurationError: It cannot listen there, or the extra `metrics` is not installed.
        UnsuitableServerError: Redis may evict balances, is too old, or forbids a command.
        SchemaMismatchError: The database is not migrated, or belongs to another set-up.
        IncompatibleFormatError: Another version wrote the data in another format.
        UnavailableError: A server cannot be reached at the start; later the worker waits for it.
    """
    partitions = Partitions(config.namespace, config.partitions)
    report = _Report(endpoint, database, partitions)
    try:
        await check_servers(report.router, partitions)
        await schema.check(database)
        return await _serve(report, config, stop, report_ms, listen)
    finally:
        await report.close()


async def _serve(
    report: _Report,
    config: CreditsConfig,
    stop: asyncio.Event,
    report_ms: int,
    listen: str | None,
) -> Served:
    started = time.monotonic()
    worker = SyncWorker(report.endpoint, report.database, report.partitions, config.sync)
    reporting = asyncio.create_task(report.repeat(worker, report_ms / 1_000))
    try:
        async with _answering(worker, listen):
            await worker.start()
            where = report.endpoint.address, address(report.database)
            _log.info("worker %s carries from %s into %s", worker.id, *where)
            await _run(worker, stop)
    finally:
        set_aside = worker.set_aside
        reporting.cancel()
        (ended,) = await asyncio.gather(reporting, return_exceptions=True)
        if isinstance(ended, Exception):
            _log.error("the reports had ended early", exc_info=ended)
        await _close(worker)
    _log.info("worker %s has ended; it carried %d decisions", worker.id, worker.carried)
    return Served(worker.id, worker.carried, time.monotonic() - started, set_aside)


def _answering(worker: SyncWorker, listen: str | None) -> AbstractAsyncContextManager[object]:
    """While inside, probes and scrapers are answered, where that is wanted."""
    if listen is None:
        return nullcontext()
    try:
        from credits_fast.sync.listening import listening  # noqa: PLC0415  # an extra, perhaps absent
    except ModuleNotFoundError as error:
        problem = f"needs {error.name}: pip install 'credits-fast[metrics]'"
        raise ConfigurationError(Problem("listen", problem, "missing")) from error
    return listening(worker, listen)


async def _run(worker: SyncWorker, stop: asyncio.Event) -> None:
    """Until told to stop; the step under way then has a few seconds."""
    running = asyncio.create_task(worker.run(stop))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait_for(running, _LAST_STEP_S)
    except TimeoutError:
        _log.warning("the step under way took too long and is given up; its entries are read again")
    finally:
        running.cancel()
        stopping.cancel()


async def _close(worker: SyncWorker) -> None:
    try:
        await asyncio.wait_for(worker.close(), _RELEASE_S)
    except TimeoutError:
        _log.warning("the leases could not be released and end by themselves")


class _Report:
    """What the log says of a running worker, and the connections to find out."""

    def __init__(
        self, endpoint: AnyEndpoint, database: AsyncEngine, partitions: Partitions
    ) -> None:
        self.endpoint = endpoint
        self.router = router_to(endpoint)
        self.router.open()
        self.database = database
        self.partitions = partitions

    async def repeat(self, worker: SyncWorker, seconds: float) -> None:
        """Report every so many seconds, for ever."""
        carried, since = worker.carried, time.monotonic()
        while True:
            await asyncio.sleep(seconds)
            lag, now = await self._lag_ms(), time.monotonic()
            self._say(worker, (worker.carried - carried) / (now - since), lag)
            carried, since = worker.carried, now

    async def close(self) -> None:
        """End the connections."""
        await self.router.close()

    def _say(self, worker: SyncWorker, carried_per_s: float, lag: int | None) -> None:
        set_aside = worker.set_aside
        reasons = "; ".join(f"{number}: {reason}" for number, reason in set_aside.items())
        _log.log(
            logging.ERROR if set_aside else logging.INFO,
            "carried %s decisions (%s/s), lag %s, %d of %d partitions%s",
            f"{worker.carried:,}",
            f"{carried_per_s:,.0f}",
            "unknown" if lag is None else f"{lag:,} ms",
            len(worker.owned),
            len(self.partitions),
            f", set aside: {reasons}" if reasons else "",
            extra={
                "carried": worker.carried,
                "carried_per_s": round(carried_per_s),
                "lag_ms": lag,
                "owned": len(worker.owned),
                "set_aside": set_aside,
            },
        )

    async def _lag_ms(self) -> int | None:
        """The lag, None where a server cannot be asked now."""
        with suppress(CreditsError):
            return await lag_ms(self.router, self.database, self.partitions)
        return None
