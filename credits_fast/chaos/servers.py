"""A Valkey for scenarios to end, wipe, set back and follow, and a way to speak to it past every fault."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from credits_fast.servers.lane import Endpoint, info_fields
from credits_fast.servers.processes import ServerProcess, start_valkey

if TYPE_CHECKING:
    from typing import Self

__all__ = ["ValkeyServer"]

_OPTIONS: Final = (
    *("--auto-aof-rewrite-percentage", "0"),  # a rewrite would change what a cut cuts
    *("--enable-debug-command", "local"),
    *("--repl-diskless-sync-delay", "0"),
)


class ValkeyServer:
    """A Valkey on a Unix socket in a folder of its own; started and ended as often as one likes.

    Attributes:
        folder: Where its data is.
        socket: Where it listens.
        process: The process that was started last.

    Args:
        folder: Where its data goes; it is made.
        socket: Where it listens; at most about 100 bytes.
        persistent: Whether it writes an append-only file; else it keeps what `SAVE` wrote.
        options: More words for its command line.
    """

    process: ServerProcess

    def __init__(
        self, folder: Path, socket: Path, *, persistent: bool = True, options: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        self.socket = socket
        self._persistent = persistent
        self._options = (*_OPTIONS, *options)

    async def start(self) -> Self:
        """Start it on what its folder holds, and wait until it answers.

        Raises:
            ConfigurationError: No server program is installed.
            RedisUnavailableError: It does not start.
        """
        self.folder.mkdir(exist_ok=True)
        self.process = await start_valkey(
            self.folder, self.socket, persistent=self._persistent, options=self._options
        )
        return self

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it, and wait until it has ended."""
        await asyncio.to_thread(self.process.stop, how)

    async def restart(self, how: signal.Signals) -> None:
        """End it and start it again."""
        await self.stop(how)
        await self.start()

    async def ask(self, *words: str | bytes | int) -> Any:
        """The reply to one command, on a connection of its own and past every fault.

        Raises:
            RedisUnavailableError: It cannot be reached.
            redis.exceptions.RedisError: It refuses the command.
        """
        connection = await Endpoint.from_url(f"unix://{self.socket}").connect()
        try:
            await connection.send_command(*words)
            return await connection.read_response()
        finally:
            await connection.disconnect()

    async def fields(self, section: str) -> dict[str, str]:
        """The fields of a section of INFO."""
        return info_fields(await self.ask("INFO", section))

    @property
    def append_only_file(self) -> Path:
        """The piece of the append-only file that grows."""
        pieces = sorted((self.folder / "appendonlydir").glob("*.incr.aof"))
        return max(pieces, key=lambda path: path.stat().st_mtime_ns)
