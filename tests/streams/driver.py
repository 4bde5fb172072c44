"""Reads streams and ends them: they are left, fail, are cancelled, or die with their server.

One life of the application after another, with a batch of streams at once in each. Those that end in a
way of their own have ended before the server goes; the others are read until so many pieces have come,
and then it is killed.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from sqlalchemy.ext.asyncio import AsyncEngine

from credits_fast import CreditsEngine
from credits_fast.checks.balance_sheet import balance_sheet
from credits_fast.servers.processes import ServerProcess, start_server
from tests.streams.notes import Story, stories

__all__ = ["CONFIG", "ENDINGS", "USERS", "Played", "Stream", "Theatre", "program"]

ENDINGS: Final = ("whole", "left", "raises", "cancelled", "killed")
USERS: Final = 20
CONFIG: Final[dict[str, Any]] = {
    "costs": {"stream": {"default": 1}},
    "membership": {"tiers": {}},
    "partitions": 4,
    "holds": {"settle_share": 0.25},
    "sync": {"expire_ms": 50, "poll_ms": 2},
}
_TTL_MS: Final = 2_000
_ENDS_WITHIN_S: Final = 60.0
_LOOKS_EVERY_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream to be read.

    Attributes:
        number: Its own.
        user: Who pays.
        amount: What it holds to begin with, in credits.
        pieces: How many it has; each costs a credit.
        ending: How it ends, of `ENDINGS`.
        at: After how many pieces, or waits of the application, it does.
    """

    number: int
    user: str
    amount: int
    pieces: int
    ending: str
    at: int

    @property
    def target(self) -> str:
        """What is asked for."""
        asked = {
            "number": self.number,
            "user": self.user,
            "amount": self.amount,
            "pieces": self.pieces,
            "ends": self.ending,
            "at": self.at,
            "ttl_ms": _TTL_MS,
        }
        return f"/?{urlencode(asked)}"


def program(lives: int, at_once: int, seed: int) -> list[list[Stream]]:
    """What is played: for each life its streams; one life in four is one that is killed."""
    chance = random.Random(seed)
    played: list[list[Stream]] = []
    for life in range(lives):
        endings = ["killed"] if life % 4 == 3 else list(ENDINGS[:-1])
        batch = [
            _drawn(life * at_once + place, endings[place % len(endings)], chance)
            for place in range(at_once)
        ]
        played.append(batch)
    return played


def _drawn(number: int, ending: str, chance: random.Random) -> Stream:
    pieces = chance.randint(2, 60)
    at = chance.randint(1, 2 * pieces + 10 if ending == "cancelled" else pieces - 1)
    user = f"user-{chance.randrange(USERS)}"
    return Stream(number, user, chance.randint(4, 60), pieces, ending, at)


@dataclass
class Played:
    """What was seen while the streams were read.

    Attributes:
        kills: How often the server was killed.
        differing: What the ledger's sums contradicted then.
        stories: What the application said of its streams.
    """

    kills: int = 0
    differing: list[str] = field(default_factory=list[str])
    stories: dict[int, Story] = field(default_factory=dict[int, Story])


class Theatre:
    """Where streams are played: an application's process, one life after another, and a worker.

    Args:
        redis_url: The server that decides.
        database_url: The ledger.
        database: The same.
        folder: For files.
        seed: For the moments of the kills.
    """

    def __init__(
        self, redis_url: str, database_url: str, database: AsyncEngine, folder: Path, seed: int
    ) -> None:
        self._urls = (redis_url, database_url)
        self._database = database
        self._folder = folder
        self._chance = random.Random(f"{seed}/kills")
        self._config = folder / "credits.json"
        self._notes = folder / "notes"

    async def play(
        self, lives: Sequence[Sequence[Stream]], tell: Callable[[str], object]
    ) -> Played:
        """Play all lives, and wait until no hold is open."""
        self._config.write_text(json.dumps(CONFIG))
        self._notes.touch()
        seen = Played()
        worker = self._started_worker()
        try:
            async with CreditsEngine.from_url(*self._urls, self._config) as credits:
                for number in range(USERS):
                    await credits.create_user(f"user-{number}", credits=1_000_000)
                for life, batch in enumerate(lives, 1):
                    await self._live(batch, seen)
                    tell(f"{life} of {len(lives)} lives")
                await self._until_nothing_is_held(credits)
        finally:
            worker.stop()
        seen.stories = stories(self._notes)
        return seen

    async def _live(self, batch: Sequence[Stream], seen: Played) -> None:
        """One life of the application."""
        is_killed = any(stream.ending == "killed" for stream in batch)
        server, port = await self._started_application()
        readers = [Reader(port, stream) for stream in batch]
        tasks = [asyncio.create_task(reader.read()) for reader in readers]
        try:
            async with asyncio.timeout(_ENDS_WITHIN_S):
                if is_killed:
                    await self._until_killed(server, batch, readers)
                    await self._look(seen)
                await asyncio.gather(*tasks)
                if not is_killed:
                    await self._until_over(batch)
        finally:
            for task in tasks:
                task.cancel()
            server.stop(signal.SIGKILL)

    async def _until_killed(
        self, server: ServerProcess, batch: Sequence[Stream], readers: Sequence[Reader]
    ) -> None:
        enough = self._chance.randint(1, sum(stream.pieces for stream in batch) * 3 // 4)
        while sum(reader.pieces for reader in readers) < enough:
            await asyncio.sleep(0)
        server.stop(signal.SIGKILL)

    async def _look(self, seen: Played) -> None:
        """The ledger's sums, while the holds of a dead application are open: one snapshot of all."""
        sheet = await balance_sheet(self._database)
        seen.kills += 1
        seen.differing += [f"{user}: {problem}" for user, problem in sheet.differing.items()]

    async def _until_over(self, batch: Sequence[Stream]) -> None:
        """Every stream that was begun has left its block."""
        while True:
            told = stories(self._notes)
            if all(stream.number in told and told[stream.number].is_over for stream in batch):
                return
            await asyncio.sleep(_LOOKS_EVERY_S)

    async def _until_nothing_is_held(self, credits: CreditsEngine) -> None:
        async with asyncio.timeout(_ENDS_WITHIN_S):
            while True:
                await credits.wait_recorded(timeout_ms=int(_ENDS_WITHIN_S * 1_000))
                if not (await balance_sheet(self._database)).reserved:
                    return
                await asyncio.sleep(_LOOKS_EVERY_S)

    async def _started_application(self) -> tuple[ServerProcess, int]:
        log = self._folder / "application.log"
        log.unlink(missing_ok=True)
        arguments = (*self._urls, str(self._config), str(self._notes))
        server = start_server((sys.executable, "-m", "tests.streams.application", *arguments), log)
        await server.wait_until(lambda: log.read_text().endswith("\n"))
        return server, int(log.read_text().split()[-1])

    def _started_worker(self) -> ServerProcess:
        redis_url, database_url = self._urls
        environment = {
            "CREDITS_REDIS_URL": redis_url,
            "CREDITS_DATABASE_URL": database_url,
            "CREDITS_CONFIG": str(self._config),
            "CREDITS_LOG_LEVEL": "error",
        }
        command = (sys.executable, "-m", "credits_fast.sync")
        return start_server(command, self._folder / "worker.log", environment=environment)


class Reader:
    """Reads one stream; leaves it where it is one that is left.

    Attributes:
        pieces: How many pieces have come.

    Args:
        port: Where the application listens.
        stream: What is read.
    """

    def __init__(self, port: int, stream: Stream) -> None:
        self.pieces = 0
        self._port = port
        self._stream = stream

    async def read(self) -> None:
        """Read until it ends, however it does."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._read(reader, writer)
        finally:
            writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = f"GET {self._stream.target} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
        writer.write(request.encode())
        await reader.readuntil(b"\r\n\r\n")
        while got := await reader.read(65_536):
            self.pieces += got.count(b".")
            if self._stream.ending == "left" and self.pieces >= self._stream.at:
                return
