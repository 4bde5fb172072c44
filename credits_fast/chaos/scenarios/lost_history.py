"""Scenarios in which the server loses history: cut off, torn, wiped, set back, or without its journals."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from credits_fast.chaos.checker import Window
from credits_fast.chaos.scenario import Scenario

if TYPE_CHECKING:
    from credits_fast.chaos.arena import Arena

__all__ = [
    "FLUSHALL",
    "JOURNAL_DELETED",
    "POWER_CUT",
    "RDB_ROLLBACK",
    "RECORD_GONE",
    "TORN_AOF",
]

_MULTI: Final = rb"\*1\r\n\$5\r\nMULTI\r\n"
_EXEC: Final = b"*1\r\n$4\r\nEXEC\r\n"
"""Around what a script has written, in an append-only file."""


async def _power_cut(arena: Arena) -> None:
    """The server is killed and its append-only file cut off at a random byte after a mark."""
    valkey = arena.stage.valkey
    async with arena.load.asking():
        for _ in range(arena.size.rounds):
            await arena.calls()
            marked_ns, mark = time.monotonic_ns(), valkey.append_only_file.stat().st_size
            await arena.calls()
            async with arena.outage("power cut"):
                await valkey.stop(signal.SIGKILL)
                arena.may_lose.append(Window(marked_ns, time.monotonic_ns()))
                written = valkey.append_only_file.stat().st_size
                with valkey.append_only_file.open("r+b") as file:
                    file.truncate(arena.chance.randint(mark, written))
                await valkey.start()
            await arena.calls()


async def _flushall(arena: Arena) -> None:
    """The server is emptied while callers ask."""
    async with arena.load.asking():
        for _ in range(arena.size.rounds):
            await arena.calls()
            recorded_ns = time.monotonic_ns()
            await arena.recorded()
            async with arena.outage("FLUSHALL"):
                await arena.stage.valkey.ask("FLUSHALL")
                arena.may_lose.append(Window(recorded_ns, time.monotonic_ns()))
            await arena.calls()


async def _rdb_rollback(arena: Arena) -> None:
    """The server is killed and comes back with a snapshot it wrote a while ago."""
    valkey = arena.stage.valkey
    async with arena.load.asking():
        for _ in range(arena.size.rounds):
            await arena.calls()
            saved_ns = time.monotonic_ns()
            await valkey.ask("SAVE")
            await arena.calls()
            async with arena.outage("set back to an earlier snapshot"):
                await valkey.stop(signal.SIGKILL)
                arena.may_lose.append(Window(saved_ns, time.monotonic_ns()))
                await valkey.start()
            await arena.calls()


async def _torn_aof(arena: Arena) -> None:
    """The server is killed and its append-only file cut off in the middle of what one script wrote."""
    valkey = arena.stage.valkey
    async with arena.load.asking():
        for _ in range(arena.size.rounds):
            await arena.calls()
            marked_ns, mark = time.monotonic_ns(), valkey.append_only_file.stat().st_size
            await arena.calls()
            async with arena.outage("append-only file cut inside a script"):
                await valkey.stop(signal.SIGKILL)
                arena.may_lose.append(Window(marked_ns, time.monotonic_ns()))
                _tear(arena, valkey.append_only_file, mark)
                await valkey.start()
            await arena.calls()
    arena.expect(
        "what a script had written was torn apart every time",
        is_met=arena.observations["scripts torn apart"] == arena.size.rounds,
    )


def _tear(arena: Arena, file: Path, mark: int) -> None:
    """Cut the file off behind the beginning of a transaction after the mark, and before its end."""
    written = file.read_bytes()
    begins = [found.end() for found in re.finditer(_MULTI, written) if found.start() >= mark]
    whole = [(start, end) for start in begins if (end := written.find(_EXEC, start)) > start]
    if whole:
        start, end = arena.chance.choice(whole)
        os.truncate(file, arena.chance.randint(start + 1, end))
        arena.observations["scripts torn apart"] += 1


async def _journal_deleted(arena: Arena) -> None:
    """Somebody deletes the journals when all is recorded; the server lives on, and charges come at once."""
    for _ in range(arena.size.rounds):
        async with arena.load.asking():
            await arena.calls()
        await arena.recorded()
        async with arena.outage("journals deleted"):
            for partition in arena.stage.engine.partitions:
                await arena.stage.valkey.ask("DEL", partition.journal)
        async with arena.load.asking():
            await arena.calls()


async def _record_gone(arena: Arena) -> None:
    """Redis forgets every operation before its time; callers use their keys again, the ledger remembers."""
    valkey = arena.stage.valkey
    arena.may_forget = True
    async with arena.load.asking():
        for _ in range(arena.size.rounds):
            await arena.calls()
            await arena.recorded()
            async with arena.outage("records of operations deleted"):
                await valkey.ask("DEL", *await valkey.ask("KEYS", "*:i:*"))
            await arena.calls()


POWER_CUT: Final = Scenario(
    name="power-cut",
    promise=(
        "A server that loses the end of its file loses nothing the ledger has, and of the rest what "
        "it had not synced: seconds."
    ),
    play=_power_cut,
    valkey_options=("--appendfsync", "always"),  # else the mark misses what the server holds back
)
FLUSHALL: Final = Scenario(
    name="flushall-under-load",
    promise=(
        "A server that is emptied acknowledges nothing until it is repaired, and loses what was not "
        "recorded: the lag at most."
    ),
    play=_flushall,
)
RDB_ROLLBACK: Final = Scenario(
    name="rdb-rollback",
    promise=(
        "A server that is set back to a snapshot loses nothing the ledger has, and of the rest what "
        "came after the snapshot."
    ),
    play=_rdb_rollback,
    persistent=False,
)
TORN_AOF: Final = Scenario(
    name="torn-aof",
    promise=(
        "A file that ends in the middle of a script leaves no half of a charge, and loses what was "
        "not synced."
    ),
    play=_torn_aof,
    valkey_options=("--appendfsync", "always"),  # else the mark misses what the server holds back
)
JOURNAL_DELETED: Final = Scenario(
    name="journal-deleted",
    promise=(
        "A journal that is deleted on a living server loses nothing the ledger has, and nothing of "
        "what is acknowledged afterwards."
    ),
    play=_journal_deleted,
)
RECORD_GONE: Final = Scenario(
    name="marker-expiry-retry",
    promise=(
        "A key that is used again after Redis has forgotten it, and while the ledger remembers, takes "
        "effect once, net of what is taken back."
    ),
    play=_record_gone,
)
