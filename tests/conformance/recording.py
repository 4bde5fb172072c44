"""Which calls an operation makes to the store, under the reference's names.

The reference's storage has a method for each table, and hands one database context to all calls of
an operation. Ours is one script call. So the real server's MONITOR is read while a step runs, and
the commands inside the script get the names of the methods they stand for:

    MGET record      getIdempotencyRecord      XADD item         createTransaction
    MGET account     getUserById                 if audited      createAuditLog
    GET account      getUserById                 and the account updateUserCredits
    SELECT users     getUserById                 or with a tier  updateUserMembership
    SELECT ledger    getTransactions           SET record        createIdempotencyRecord

What MSET then does to the account stands in the item already, and in the item alone: which fields
changed cannot be seen in an account's text.

A record under an operation's own id is how a repeated attempt is recognised; only one under the
caller's key is an idempotency record of the reference.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

from sqlalchemy import event

from credits_fast.protocol.entries import RefusedItem, decode
from credits_fast.servers.lane import Endpoint
from tests.conformance.cases import Case, Object
from tests.conformance.world import World

__all__ = ["Line", "Recorder", "calls_of", "phases"]

_LINE: Final = re.compile(rb"[\d.]+ \[\d+ (.*?)\] (\".*)", re.DOTALL)
_WORD: Final = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE: Final = re.compile(rb"\\(x[0-9a-f]{2}|.)", re.DOTALL)
_ESCAPES: Final = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b"}
_NO_SCRIPT: Final = -1
_WRITES: Final = frozenset(
    {
        "createTransaction",
        "createAuditLog",
        "updateUserCredits",
        "updateUserMembership",
        "createIdempotencyRecord",
    }
)


class Line(NamedTuple):
    """A line of MONITOR.

    Attributes:
        client: Who sent the command; `lua` inside a script.
        words: The command and its arguments.
    """

    client: bytes
    words: list[bytes]

    @classmethod
    def parse(cls, text: bytes) -> Line:
        """The line of a text such as `1768478400.000001 [0 lua] "GET" "key"`.

        Raises:
            AssertionError: It is none.
        """
        match = _LINE.fullmatch(text)
        if match is None:
            raise AssertionError(f"not a line of MONITOR: {text!r}")
        return cls(match[1], [_ESCAPE.sub(_unescaped, word) for word in _WORD.findall(match[2])])


class Recorder:
    """Records the calls of one case, step by step."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._record_keys = _record_keys(world)
        self.calls: list[str] = []

    @asynccontextmanager
    async def step(self) -> AsyncGenerator[None, None]:
        """Record what is done inside.

        Raises:
            AssertionError: The step changed something in more than one script call, or read
                something after it had begun to write.
        """
        statements: list[str] = []

        def executed(*arguments: Any) -> None:
            statements.append(arguments[2])

        engine = self._world.kit.database.sync_engine
        event.listen(engine, "before_cursor_execute", executed)
        endpoint = self._world.kit.engine.endpoint
        assert isinstance(endpoint, Endpoint)
        monitor = await endpoint.connect()
        await monitor.send_command("MONITOR")
        await monitor.read_response()
        try:
            yield
        finally:
            event.remove(engine, "before_cursor_execute", executed)
            lines = await self._lines(monitor)
            await monitor.disconnect()
        self.calls += calls_of(lines, statements, self._record_keys)

    async def _lines(self, monitor: Any) -> list[Line]:
        """Everything the server was told, up to a mark of our own."""
        lane = await self._world.kit.engine.lane()
        mark = b"end of the step"
        await lane.execute(b"ECHO", mark)
        lines: list[Line] = []
        while True:
            line = Line.parse(await monitor.read_response())
            if line.words == [b"ECHO", mark]:
                return lines
            lines.append(line)


def calls_of(
    lines: Iterable[Line], statements: Iterable[str], record_keys: frozenset[bytes]
) -> list[str]:
    """The calls of one step: what was read, then what was written, each once.

    Args:
        lines: What the server was told.
        statements: What the database was told.
        record_keys: The records under keys of the caller.

    Raises:
        AssertionError: It was not one script call that wrote, or something was read after a write.
    """
    reads = [name for statement in statements for name in _of_statement(statement)]
    writes: list[str] = []
    writers: set[int] = set()
    scripts = 0
    for line in lines:
        scripts += line.words[0] == b"EVALSHA"
        for name in _of_command(line.words, record_keys):
            if name in _WRITES:
                writers.add(scripts if line.client == b"lua" else _NO_SCRIPT)
                writes.append(name)
            elif writers:
                raise AssertionError(f"{name} after the first write")
            else:
                reads.append(name)
    if len(writers) > 1 or _NO_SCRIPT in writers:
        raise AssertionError(f"the change is not one script call: {writes}")
    return [*dict.fromkeys(reads), *dict.fromkeys(writes)]


def phases(calls: Iterable[str]) -> list[Object]:
    """The calls as phases: reads, then the set of writes, then perhaps reads again."""
    found: list[Object] = []
    for call in calls:
        if call in _WRITES:
            if not found:
                found.append({"reads": {}, "writes": {}})
            found[-1]["writes"][call] = True
        else:
            if not found or found[-1]["writes"]:
                found.append({"reads": {}, "writes": {}})
            found[-1]["reads"][call] = True
    return found


def _record_keys(world: World) -> frozenset[bytes]:
    case: Case = world.case
    keys: set[bytes] = set()
    for step in case.steps:
        args: Object = step.get("args") or {}
        if args.get("idempotencyKey"):
            user = str(args["userId"]).encode()
            partition = world.kit.engine.partitions.of(user)
            keys.add(partition.record(user, b"key:" + str(args["idempotencyKey"]).encode()))
    return frozenset(keys)


def _of_command(words: list[bytes], record_keys: frozenset[bytes]) -> list[str]:
    command, key = words[0].upper(), words[1] if len(words) > 1 else b""
    if command == b"XADD":
        return _of_entry(words)
    if command in {b"GET", b"MGET"}:
        looked_at = {"getUserById": any(b"}:a:" in word for word in words[1:])}
        looked_at["getIdempotencyRecord"] = not record_keys.isdisjoint(words[1:])
        return [name for name, is_so in looked_at.items() if is_so]
    if command == b"SET" and key in record_keys:
        return ["createIdempotencyRecord"]
    return []


def _of_entry(words: list[bytes]) -> list[str]:
    names: list[str] = []
    for item in decode(b"0-1", words[3:]).items:
        if isinstance(item, RefusedItem):
            names.append("createAuditLog")
        else:
            names += ["createTransaction", *(["createAuditLog"] if item.audited else [])]
            names.append("updateUserMembership" if item.tier else "updateUserCredits")
    return names


def _of_statement(statement: str) -> list[str]:
    words = statement.split()
    if words[0] != "SELECT" or "FROM" not in words:
        return []
    table = words[words.index("FROM") + 1]
    return [name for known, name in _TABLES if known == table]


_TABLES: Final = (("users", "getUserById"), ("transactions", "getTransactions"))


def _unescaped(match: re.Match[bytes]) -> bytes:
    escaped = match[1]
    if len(escaped) > 1:
        return bytes.fromhex(escaped[1:].decode())
    return _ESCAPES.get(escaped, escaped)
