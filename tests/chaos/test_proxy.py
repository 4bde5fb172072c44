"""The proxy does to each direction what its weather says, and the same for the same seed."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from credits_fast.chaos.proxy import CLEAR, FaultProxy, Weather

_WAIT_S = 10


class Echo:
    """A server that answers every line with the same line, and remembers what it got."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.got = b""
        self.connections = 0

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[None, None]:
        server = await asyncio.start_unix_server(self._connected, self.path, limit=1 << 20)
        yield
        server.close()

    async def until_it_got(self, expected: bytes) -> None:
        async with asyncio.timeout(_WAIT_S):
            while expected not in self.got:
                await asyncio.sleep(0)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(ConnectionError):
            while line := await reader.readline():
                self.got += line
                writer.write(line)
                await writer.drain()
        writer.close()


class Caller:
    """A connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, line: bytes) -> bytes:
        """The answer to a line, b"" where the connection ended."""
        await self.say(line)
        return await self.hear()

    async def say(self, line: bytes) -> None:
        self._writer.write(line)
        await self._writer.drain()

    async def hear(self) -> bytes:
        async with asyncio.timeout(_WAIT_S):
            return await self._reader.readline()

    async def close(self) -> None:
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


_callers: list[Caller] = []


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    with tempfile.TemporaryDirectory(prefix="cf-") as folder:
        server = Echo(Path(folder) / "s")
        async with server.serving():
            yield server


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(echo.path, seed="1") as opened:
        yield opened


async def call(proxy: FaultProxy) -> Caller:
    """A caller, whose connection is closed after the test."""
    caller = Caller(*await asyncio.open_connection("127.0.0.1", proxy.port))
    _callers.append(caller)
    return caller


@pytest.fixture(autouse=True)
async def _closed() -> AsyncIterator[None]:
    yield
    for caller in _callers:
        await caller.close()
    _callers.clear()


async def test_in_clear_weather_everything_passes(proxy: FaultProxy) -> None:
    caller = await call(proxy)
    line = b"x" * 300_000 + b"\n"

    assert b"one\n" == await caller.ask(b"one\n")
    assert not proxy.faults
    await caller.say(line)
    async with asyncio.timeout(_WAIT_S):
        assert line == await caller._reader.readexactly(len(line))


async def test_slices_and_latency_change_no_byte(proxy: FaultProxy) -> None:
    rough = Weather(latency_ms=1, slice_bytes=3)
    proxy.requests, proxy.replies = rough, rough
    caller = await call(proxy)

    for number in range(20):
        line = b"%d,%s\n" % (number, b"abcdefgh" * number)
        assert line == await caller.ask(line)
    assert {"requests sliced", "replies sliced", "requests delayed", "replies delayed"} == {
        *proxy.faults
    }


async def test_an_eaten_reply_ends_the_connection_after_the_server_has_acted(
    echo: Echo, proxy: FaultProxy
) -> None:
    proxy.replies = Weather(eats=1)
    caller = await call(proxy)

    assert b"" == await caller.ask(b"charge\n")
    assert b"charge\n" == echo.got
    assert {"replies eaten": 1} == proxy.faults


async def test_only_replies_to_what_is_named_are_eaten(proxy: FaultProxy) -> None:
    proxy.replies = Weather(eats=1, after=b"CHARGE")
    caller = await call(proxy)

    assert b"look\n" == await caller.ask(b"look\n")
    assert b"" == await caller.ask(b"CHARGE\n")


async def test_what_is_named_is_found_across_slices(proxy: FaultProxy) -> None:
    proxy.requests = Weather(slice_bytes=2)
    proxy.replies = Weather(eats=1, after=b"CHARGE")
    caller = await call(proxy)

    assert b"" == await caller.ask(b"a CHARGE here\n")


async def test_a_reset_is_a_reset(echo: Echo, proxy: FaultProxy) -> None:
    proxy.requests = Weather(resets=1)
    caller = await call(proxy)

    with pytest.raises(ConnectionResetError):
        await caller.ask(b"one\n")
    assert b"" == echo.got


async def test_all_connections_are_reset_at_once(proxy: FaultProxy) -> None:
    callers = [await call(proxy) for _ in range(3)]
    for caller in callers:
        await caller.ask(b"one\n")

    assert 3 == proxy.reset()
    for caller in callers:
        with pytest.raises(ConnectionResetError):
            await caller.hear()


async def test_a_half_open_connection_swallows_one_way_and_stays(
    echo: Echo, proxy: FaultProxy
) -> None:
    proxy.replies = Weather(is_deaf=True)
    caller = await call(proxy)
    await caller.say(b"one\n")
    await echo.until_it_got(b"one\n")
    async with asyncio.timeout(_WAIT_S):
        while not proxy.faults["replies swallowed"]:
            await asyncio.sleep(0)
    proxy.clear()

    assert b"two\n" == await caller.ask(b"two\n")
    assert b"one\ntwo\n" == echo.got


async def test_what_is_stalled_arrives_when_the_weather_changes(
    echo: Echo, proxy: FaultProxy
) -> None:
    proxy.requests = Weather(is_stalled=True)
    caller = await call(proxy)
    await caller.say(b"one\n")
    async with asyncio.timeout(_WAIT_S):
        while not proxy.faults["requests stalled"]:
            await asyncio.sleep(0)

    assert b"" == echo.got
    proxy.requests = CLEAR
    assert b"one\n" == await caller.hear()


async def test_one_piece_is_held_for_what_is_in_it_and_the_others_pass(
    echo: Echo, proxy: FaultProxy
) -> None:
    proxy.requests = Weather(holds=b"BEGIN")
    held, other = await call(proxy), await call(proxy)
    await held.say(b"BEGIN first\n")
    async with asyncio.timeout(_WAIT_S):
        while not proxy.is_holding:
            await asyncio.sleep(0)

    assert b"BEGIN second\n" == await other.ask(b"BEGIN second\n")
    proxy.clear()
    assert b"BEGIN first\n" == await held.hear()
    assert {"requests held": 1} == proxy.faults
    assert b"BEGIN second\nBEGIN first\n" == echo.got


async def test_bytes_are_rewritten_at_their_length(proxy: FaultProxy) -> None:
    proxy.requests = Weather(rewrites=((b"good", b"evil"),))
    caller = await call(proxy)

    assert b"evil, evil\n" == await caller.ask(b"good, good\n")
    assert {"requests rewritten": 2} == proxy.faults


def test_a_rewrite_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="keeps its length"):
        Weather(rewrites=((b"good", b"bad"),))


async def test_new_connections_are_refused_and_let_in_again(echo: Echo, proxy: FaultProxy) -> None:
    proxy.is_refusing = True
    refused = await call(proxy)

    assert b"" == await refused.hear()
    assert 0 == echo.connections
    proxy.clear()
    assert b"one\n" == await (await call(proxy)).ask(b"one\n")


async def test_new_connections_go_to_another_server(echo: Echo, proxy: FaultProxy) -> None:
    other = Echo(echo.path.with_name("other"))
    async with other.serving():
        before = await call(proxy)
        await before.ask(b"one\n")
        proxy.upstream = other.path
        after = await call(proxy)

        assert b"two\n" == await after.ask(b"two\n")
        assert b"three\n" == await before.ask(b"three\n")
        assert (b"one\nthree\n", b"two\n") == (echo.got, other.got)


async def test_a_server_that_is_away_is_an_end_of_the_connection(proxy: FaultProxy) -> None:
    proxy.upstream = proxy.upstream.with_name("nobody")
    caller = await call(proxy)

    assert b"" == await caller.hear()


async def eaten(echo: Echo, seed: str) -> list[bool]:
    """Which of twenty connections lose their first reply."""
    async with FaultProxy(echo.path, seed=seed) as proxy:
        proxy.replies = Weather(eats=0.5)
        return [await (await call(proxy)).ask(b"one\n") == b"" for _ in range(20)]


async def test_the_same_seed_breaks_the_same(echo: Echo) -> None:
    first = await eaten(echo, "7")

    assert first == await eaten(echo, "7")
    assert first != await eaten(echo, "8")
    assert {True, False} == {*first}
