"""`python -m tests.streams`: more than a thousand streams, ended in every way.

    python -m tests.streams                              1,280 streams, 240 of them whole
    python -m tests.streams --lives 8 --seed 7 --json streams.json

It starts a Valkey and a PostgreSQL of its own, prints what it counted, and ends with 1 where a charge is
not what was consumed, or anything is still held.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from credits_fast.ledger.database import connect
from tests.servers import Servers
from tests.streams.driver import Theatre, program
from tests.streams.judged import Verdict, judged

_LIVES = 80
_AT_ONCE = 16


def main(words: Sequence[str] | None = None) -> int:
    """The exit code: 0, or 1 where a promise is contradicted."""
    parser = argparse.ArgumentParser(prog="python -m tests.streams", description=__doc__)
    parser.add_argument("--lives", type=int, default=_LIVES, help="of 16 streams each")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args(words)
    servers = Servers.start()
    try:
        began = time.monotonic()
        verdict = asyncio.run(_played(servers, given.lives, given.seed))
        seconds = time.monotonic() - began
    finally:
        servers.stop()
    sys.stdout.write(_told(verdict, given.seed, seconds))
    if given.json is not None:
        given.json.write_text(json.dumps(verdict.document, default=str, indent=2) + "\n")
    return int(bool(verdict.problems))


async def _played(servers: Servers, lives: int, seed: int) -> Verdict:
    url = (await servers.empty_database("asyncpg")).render_as_string(hide_password=False)
    database = connect(url)
    batches = program(lives, _AT_ONCE, seed)
    try:
        with tempfile.TemporaryDirectory(prefix="cf-streams-") as folder:
            theatre = Theatre(servers.redis_url, url, database, Path(folder), seed)
            return await judged(database, batches, await theatre.play(batches, _tell))
    finally:
        await database.dispose()


def _tell(words: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{words} ")


def _told(verdict: Verdict, seed: int, seconds: float) -> str:
    ended = ", ".join(f"{number} {ending}" for ending, number in verdict.streams.items())
    open_holds, reserved = verdict.open
    lines = [
        f"{sum(verdict.streams.values()):,} streams in {seconds:.0f} s, seed {seed}: {ended}",
        f"{verdict.kills} times SIGKILL, with {verdict.held_at_kills:,} credits held then",
        f"{verdict.holds:,} holds, {verdict.charges:,} charges",
        f"consumed {verdict.consumed:,}, charged {verdict.charged:,}",
        f"the most that one stream that died was not charged: {verdict.unsettled}",
        f"open in the end: {open_holds} holds, {reserved} credits reserved",
        f"contradicted: {len(verdict.problems)}",
    ]
    return "\n".join([*lines, *verdict.problems[:20]]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
