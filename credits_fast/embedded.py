"""The embedded default: a real Valkey and SQLite in a folder, the worker in this program.

    <folder>/credits.db     the ledger
    <folder>/valkey/        Valkey's append-only file and its log
    <folder>/lock           held while a program has the folder open

Valkey listens on a Unix socket in a temporary folder of its own, because such a path must be short. It
is started when the engine opens and ended when it closes, and it dies with the program.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from credits_fast.engine import CreditsEngine
from credits_fast.errors import ConfigurationError, EngineClosedError, Problem, UnavailableError
from credits_fast.ids import operation_id
from credits_fast.ledger.database import connect
from credits_fast.servers.lane import Endpoint
from credits_fast.servers.processes import ServerProcess, start_valkey
from credits_fast.sync.worker import SyncWorker

if TYPE_CHECKING:
    from typing import TextIO

    from credits_fast.engine import Configuration

__all__ = ["EmbeddedEngine"]

_log = logging.getLogger(__name__)

_RESTART_S: Final = 1.0
_DRAIN_S: Final = 10.0


class EmbeddedEngine(CreditsEngine):
    """What `CreditsEngine.embedded` gives; see there.

    Attributes:
        folder: Where the data is.
        database_path: The SQLite file with the ledger.
    """

    def __init__(self, path: str | Path, config: Configuration) -> None:
        self.folder = Path(path).absolute()
        self.database_path = self.folder / "credits.db"
        self._run_folder = Path(tempfile.gettempdir()) / f"credits-fast-{operation_id()[-12:]}"
        self._socket = self._run_folder / "valkey.sock"
        super().__init__(
            config,
            redis=Endpoint.from_url(f"unix://{self._socket}"),
            database=connect(f"sqlite+aiosqlite:///{self.database_path}"),
        )
        self._owns_database = True
        self._lock: TextIO | None = None
        self._server: ServerProcess | None = None
        self._worker: SyncWorker | None = None
        self._working: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()

    @property
    def worker(self) -> SyncWorker:
        """The worker inside, to be watched; `credits_fast.sync.listening` answers about it.

        Raises:
            EngineClosedError: The engine is not open.
        """
        if self._worker is None:
            raise EngineClosedError("the engine is not open; enter it with `async with`")
        return self._worker

    async def start(self) -> None:
        """Start Valkey, bring the database to this version's schema, open, start the worker.

        Raises:
            ConfigurationError: The folder cannot be used, is open in another program, or no server is
                installed.
            CreditsError: As `CreditsEngine.start`.
        """
        try:
            self._lock = _locked(self.folder)
            data = self.folder / "valkey"
            data.mkdir(exist_ok=True)
            self._run_folder.mkdir(mode=0o700)
            self._server = await start_valkey(data, self._socket, persistent=True)
            await self.migrate()
            await super().start()
        except BaseException:
            await self.close()
            raise
        self._worker = SyncWorker(
            self.endpoint,
            self._database,
            self.partitions,
            self.config.sync,
        )
        self._working = asyncio.create_task(self._work(self._worker), name="credits-fast worker")

    async def close(self) -> None:
        """Record what is not recorded yet, then end the worker, the connections and Valkey."""
        self._stop.set()
        if self._working is not None and self._worker is not None:
            await asyncio.gather(self._working, return_exceptions=True)
            with suppress(
                UnavailableError, TimeoutError
            ):  # it is in the journal, and read next time
                await asyncio.wait_for(self._worker.drain(), _DRAIN_S)
            await self._worker.close()
            self._working = None
        await super().close()
        if self._server is not None:
            await asyncio.to_thread(self._server.stop)
        shutil.rmtree(self._run_folder, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()

    async def _work(self, worker: SyncWorker) -> None:
        """The worker, started anew should it ever fall over: a silent death would be the worst."""
        while not self._stop.is_set():
            try:
                await worker.run(self._stop)
            except Exception:  # noqa: BLE001  # a bug, or a driver's surprise; logged with its traceback
                _log.exception("the worker failed and is started again")
                await asyncio.sleep(_RESTART_S)


def _locked(folder: Path) -> TextIO:
    """The open lock file of a folder that is ours from now on.

    Raises:
        ConfigurationError: The folder cannot be made, or another program has it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w", encoding="utf-8")
    except OSError as error:
        problem = Problem("embedded", f"folder {folder} cannot be used: {error}", "embedded")
        raise ConfigurationError(problem) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        problem = Problem("embedded", f"folder {folder} is open in another program", "embedded")
        raise ConfigurationError(problem) from error
    return lock
