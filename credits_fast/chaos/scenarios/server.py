"""Scenarios that break the server that decides: killed, out of memory, busy, without its scripts."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError

from credits_fast.chaos.checker import Window
from credits_fast.chaos.history import Outcome
from credits_fast.chaos.scenario import Scenario
from credits_fast.errors import MisconfiguredError
from credits_fast.servers.scripts import source
from credits_fast.servers.versions import version_of

if TYPE_CHECKING:
    from credits_fast.chaos.arena import Arena
    from credits_fast.chaos.servers import ValkeyServer
    from credits_fast.engine import CreditsEngine

__all__ = [
    "ACL_HOLE",
    "ACL_TORN",
    "BUSY_SCRIPT",
    "KILL9_ALWAYS",
    "KILL9_EVERYSEC",
    "OOM",
    "SCRIPT_FLUSH",
    "WRONGTYPE",
]

_HELD_BACK_S: Final = 2
"""How long the server may hold writes back behind an fsync that is under way."""
_USER, _PASSWORD = "chaos-app", "a-word"  # of a server that lives for seconds
_COMMANDS: Final = sorted({*re.findall(r"redis\.call\('(\w+)'", source("probe"))} - {"TIME"})
"""What the scripts call; the probe is a page of all of it."""
_LOOPS: Final = "while true do end"


async def _kills(arena: Arena) -> None:
    """The server is killed under load and started again on what its append-only file holds."""
    async with arena.load.asking():
        for _ in range(arena.size.rounds):
            await arena.calls()
            await arena.turns()
            async with arena.outage("SIGKILL of the server"):
                await arena.stage.valkey.restart(signal.SIGKILL)
            await arena.acknowledgements(10)


async def _kills_everysec(arena: Arena) -> None:
    """As before, less often; what was acknowledged while a write was held back may be lost."""
    async with arena.load.asking():
        for _ in range(max(1, arena.size.rounds // 3)):
            await arena.calls(4 * arena.size.calls)  # so that most are outside the bound
            await arena.turns()
            async with arena.outage("SIGKILL of the server"):
                await arena.stage.valkey.stop(signal.SIGKILL)
                now = time.monotonic_ns()
                arena.may_lose.append(Window(now - _HELD_BACK_S * 1_000_000_000, now))
                await arena.stage.valkey.start()
            await arena.acknowledgements(10)


async def _script_flush(arena: Arena) -> None:
    """The server forgets every script, again and again, while callers ask."""
    async with arena.load.asking():
        for _ in range(arena.size.rounds * 5):
            await arena.stage.valkey.ask("SCRIPT", "FLUSH")
            arena.faults["SCRIPT FLUSH"] += 1
            await arena.calls(arena.size.calls // 5)


async def _oom(arena: Arena) -> None:
    """The memory limit falls below what is used; the worker still drains; then it is raised again."""
    valkey, drained = arena.stage.valkey, 0
    async with arena.load.asking():
        for _ in range(arena.size.rounds):
            await arena.calls()
            async with arena.outage("maxmemory below what is used"):
                await valkey.ask("CONFIG", "SET", "maxmemory", "1mb")
                await arena.calls(arena.size.calls // 5)
                await arena.recorded()
                drained += 1
                await valkey.ask("CONFIG", "SET", "maxmemory", "0")
            await arena.acknowledgements(10)
    denied = sum(one.outcome is Outcome.UNAVAILABLE for one in arena.load.history)
    arena.expect("calls were refused for want of memory", is_met=denied > 0)
    arena.expect("the worker recorded all there was meanwhile", is_met=drained == arena.size.rounds)


async def _acl_hole(arena: Arena) -> None:
    """A start without each permission in turn; then scripts and journal are forbidden under load."""
    valkey = arena.stage.valkey
    for missing in _COMMANDS:
        await _allow(arena, f"-{missing}")
        arena.faults["start without a permission"] += 1
        arena.expect(
            f"a start without {missing} is refused, by its name",
            is_met=await _is_refused(arena.stage.new_engine(f"{_USER}:{_PASSWORD}@"), missing),
        )
    async with arena.load.asking():
        for forbidden in ("xadd", "evalsha"):
            await arena.calls()
            async with arena.outage(f"{forbidden} forbidden while callers ask"):
                await valkey.ask("ACL", "SETUSER", "default", f"-{forbidden}")
                await arena.calls(arena.size.calls // 5)
                await valkey.ask("ACL", "SETUSER", "default", f"+{forbidden}")
            await arena.acknowledgements(10)
    denied = sum(one.outcome is Outcome.UNAVAILABLE for one in arena.load.history)
    arena.expect("calls were refused for want of a permission", is_met=denied > 0)


async def _acl_torn(arena: Arena) -> None:
    """A permission of a command in the middle of a script goes away while callers ask."""
    valkey = arena.stage.valkey
    inner = [[name] for name in _COMMANDS if name in {"HSET", "SET", "MSET"}]
    if version_of(await valkey.fields("server")).has_msetex:
        inner += [
            ["MSETEX"],
            ["MSETEX", "SET"],
        ]  # without the first, records are written by the other
    async with arena.load.asking():
        for forbidden in inner:
            await arena.calls()
            async with arena.outage(f"{' and '.join(forbidden)} forbidden while callers ask"):
                await valkey.ask("ACL", "SETUSER", "default", *(f"-{name}" for name in forbidden))
                await arena.calls(arena.size.calls // 5)
                await valkey.ask("ACL", "SETUSER", "default", *(f"+{name}" for name in forbidden))
            await arena.acknowledgements(10)


async def _allow(arena: Arena, *rules: str) -> None:
    words = ("reset", "on", f">{_PASSWORD}", "~*", "+@all", *rules)
    await arena.stage.valkey.ask("ACL", "SETUSER", _USER, *words)


async def _is_refused(engine: CreditsEngine, missing: str) -> bool:
    """Whether an engine does not start, and names the command."""
    try:
        await engine.start()
    except MisconfiguredError as error:
        return missing.lower() in error.message.lower()
    await engine.close()
    return False


async def _wrongtype(arena: Arena) -> None:
    """A user's account becomes a list; when everything is recorded an operator deletes it."""
    stage, partitions = arena.stage, arena.stage.engine.partitions
    victim = arena.chance.choice([*arena.wishes.openings])
    key = partitions.of(victim.encode()).account(victim.encode())
    async with arena.load.asking():
        await arena.calls()
    await arena.recorded()
    await stage.valkey.ask("DEL", key)
    await stage.valkey.ask("RPUSH", key, "not an account")
    arena.faults["an account of a wrong type"] += 1
    broken = len(arena.load.history)
    async with arena.load.asking():
        await arena.calls(arena.size.calls * arena.size.rounds)
        since = arena.load.history[broken:]
        others = sum(
            one.outcome is Outcome.ACKNOWLEDGED
            for one in since
            if partitions.of(one.asked.user.encode()) != partitions.of(victim.encode())
        )
        arena.expect("users of other partitions were served meanwhile", is_met=others > 0)
        async with arena.outage("an account of a wrong type"):
            if await stage.valkey.ask("TYPE", key) == b"list":
                await stage.valkey.ask("DEL", key)
        await arena.acknowledgements(10)
        asked = arena.wishes.next()._replace(user=victim, verb="grant")
        attempt = await arena.load.ask(asked, stage.engine)
        arena.expect("the user is served again", is_met=attempt.outcome is Outcome.ACKNOWLEDGED)


async def _busy_script(arena: Arena) -> None:
    """Somebody else's script keeps the server busy until an operator ends it."""
    valkey = arena.stage.valkey
    await valkey.ask("CONFIG", "SET", "busy-reply-threshold", 20)
    async with arena.load.asking():
        for _ in range(arena.size.rounds):
            await arena.calls()
            async with arena.outage("a foreign script that never ends"):
                busy = asyncio.create_task(valkey.ask("EVAL", _LOOPS, 0))
                await arena.calls(arena.size.calls // 10)
                await arena.until(partial(_is_ended, valkey, busy), "the foreign script is ended")
            await arena.acknowledgements(10)


async def _is_ended(valkey: ValkeyServer, busy: asyncio.Task[Any]) -> bool:
    """Whether the foreign script has ended; it is told to."""
    with suppress(RedisError):  # it has not begun, or has just ended
        await valkey.ask("SCRIPT", "KILL")
    if not busy.done():
        return False
    await asyncio.gather(busy, return_exceptions=True)
    return True


KILL9_EVERYSEC: Final = Scenario(
    name="redis-kill9-everysec",
    promise=(
        "A killed server that syncs every second loses nothing but what it held back behind an "
        "fsync: two seconds before the kill at most."
    ),
    play=_kills_everysec,
)
KILL9_ALWAYS: Final = Scenario(
    name="redis-kill9-always",
    promise="A killed server that syncs before it answers loses nothing, and charges go on by themselves.",
    play=_kills,
    is_in_smoke=True,
    valkey_options=("--appendfsync", "always"),
)
SCRIPT_FLUSH: Final = Scenario(
    name="script-flush",
    promise="A server that forgets its scripts again and again refuses no call and repeats none.",
    play=_script_flush,
    is_in_smoke=True,
)
OOM: Final = Scenario(
    name="oom-noeviction",
    promise="A server without memory refuses charges whole, and everything acknowledged is still recorded.",
    play=_oom,
)
ACL_HOLE: Final = Scenario(
    name="acl-hole",
    promise=(
        "A withheld permission is told at the start by its name; scripts or journal forbidden "
        "later refuse calls whole."
    ),
    play=_acl_hole,
)
ACL_TORN: Final = Scenario(
    name="acl-torn",
    promise="A permission that goes away in the middle of a script leaves no half of a charge behind.",
    play=_acl_torn,
)
WRONGTYPE: Final = Scenario(
    name="wrongtype",
    promise="A key of a wrong type stops at most its partition, and no longer than until it is deleted.",
    play=_wrongtype,
)
BUSY_SCRIPT: Final = Scenario(
    name="busy-script",
    promise="A foreign script that keeps the server busy delays calls or fails them, and doubles none.",
    play=_busy_script,
)
