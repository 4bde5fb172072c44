"""Lanes: where the server is, who it is, and what its refusals mean."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import (
    BusyLoadingError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)

from credits_fast import ConfigurationError, RedisUnavailableError, UnsuitableServerError
from credits_fast.resp import pack
from credits_fast.servers.lane import Endpoint, Lane, LaneLostError, info_fields
from credits_fast.servers.preflight import judge
from credits_fast.servers.scripts import SCRIPTS, compiled
from credits_fast.servers.server_errors import is_not_executed, translated
from tests.servers import Servers


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://h:1/2", "h:1"),
        ("redis://user:secret@h:1", "h:1"),
        ("valkey://h", "h:6379"),
        ("unix:///run/s", "unix:/run/s"),
        ("valkey+unix:///run/s", "unix:/run/s"),
        ("rediss://h", "h:6379"),
    ],
)
def test_an_address_never_shows_a_password(url: str, address: str) -> None:
    assert address == Endpoint.from_url(url).address


@pytest.mark.parametrize("url", ["", "localhost:6379", "http://h", "redis://h:port"])
def test_what_is_no_url_is_a_mistake_of_the_configuration(url: str) -> None:
    with pytest.raises(ConfigurationError, match="redis_url"):
        Endpoint.from_url(url)


async def test_a_server_that_is_not_there_is_one_line_without_a_password() -> None:
    with pytest.raises(RedisUnavailableError) as refused:
        await Endpoint.from_url("redis://:secret@127.0.0.1:1").connect()

    assert "127.0.0.1:1" in refused.value.message
    assert "secret" not in refused.value.message
    assert "\n" not in refused.value.message


async def test_a_wrong_password_is_a_mistake_of_the_set_up(servers: Servers) -> None:
    url = servers.redis_url.replace("unix://", "unix://nobody:wrong@")

    with pytest.raises(UnsuitableServerError):
        await Endpoint.from_url(url).connect()


async def test_a_client_that_decodes_and_retries_is_not_imitated(servers: Servers) -> None:
    client = Redis.from_url(servers.redis_url, decode_responses=True, socket_timeout=0.001)

    lane: Any = await Lane.open(Endpoint.of(client))

    assert b"PONG" == await lane.execute(b"PING")
    assert 0 == lane._socket._connection.retry._retries
    await lane.close()
    await client.aclose()


async def test_a_lane_knows_the_server_process_it_belongs_to(servers: Servers) -> None:
    lane = await Lane.open(Endpoint.from_url(servers.redis_url))
    information = info_fields(await lane.execute(b"INFO", b"server"))

    assert information["run_id"] == lane.run
    assert {*SCRIPTS} == {*lane.scripts}
    exist = await lane.execute(b"SCRIPT", b"EXISTS", *(one.sha for one in lane.scripts.values()))
    assert [1] * len(SCRIPTS) == exist
    await lane.close()


def test_scripts_of_two_servers_have_only_the_probe_in_common() -> None:
    one, other = compiled("a" * 40), compiled("b" * 40)

    assert ["probe"] == [name for name in SCRIPTS if one[name].sha == other[name].sha]
    assert b"@" not in one["charge"].text.replace(b"@include", b"")


@pytest.mark.parametrize("run", ["", "x y", "'); redis.call('FLUSHALL", "a" * 65, "é"])
def test_only_an_identity_gets_into_the_text_of_a_script(run: str) -> None:
    with pytest.raises(ValueError, match="identity"):
        compiled(run)


async def test_a_command_the_server_refuses_is_an_error_and_the_lane_goes_on(
    servers: Servers,
) -> None:
    lane = await Lane.open(Endpoint.from_url(servers.redis_url))

    with pytest.raises(RedisUnavailableError, match="unknown command"):
        await lane.execute(b"NONSENSE")
    assert b"PONG" == await lane.execute(b"PING")
    await lane.close()
    with pytest.raises(RedisUnavailableError, match="lost"):
        await lane.execute(b"PING")


def test_a_request_is_packed_as_the_protocol_says() -> None:
    assert b"*2\r\n$4\r\nECHO\r\n$3\r\n\0\r\n\r\n" == pack((b"ECHO", b"\0\r\n"))


@pytest.mark.parametrize(
    ("error", "not_executed"),
    [
        (OutOfMemoryError("command not allowed"), True),
        (BusyLoadingError("loading"), True),
        (ReadOnlyError("replica"), True),
        (ResponseError("BUSY Redis is busy running a script"), True),
        (ResponseError("MISCONF errors writing to disk"), True),
        (ResponseError("NOREPLICAS Not enough good replicas"), True),
        (ResponseError("WRONGTYPE Operation against a key"), False),
        (ResponseError("ERR user_script:12: boom"), False),
    ],
)
def test_what_was_certainly_not_executed_is_known(error: Exception, *, not_executed: bool) -> None:
    assert not_executed == is_not_executed(error)


def test_what_the_access_rules_forbid_is_a_mistake_of_the_set_up() -> None:
    assert isinstance(translated(NoPermissionError("no"), "h:1"), UnsuitableServerError)
    assert isinstance(translated(ResponseError("no"), "h:1"), RedisUnavailableError)


@pytest.mark.parametrize(
    ("information", "message"),
    [
        ({"redis_version": "6.2.14"}, "Redis 6.2.14 at h:1 is too old: 7.0 or later is needed"),
        ({}, "Redis of unknown version at h:1 is too old"),
        (
            {"server_name": "valkey", "valkey_version": "7.1.9", "redis_version": "7.2.4"},
            "Valkey 7.1.9 at h:1 is too old: 7.2 or later is needed",
        ),
        (
            {"redis_version": "8.2.3", "maxmemory_policy": "allkeys-lru"},
            "Redis at h:1 has maxmemory-policy allkeys-lru",
        ),
        (
            {"redis_version": "7.0.0", "maxmemory_policy": "volatile-ttl"},
            "Redis at h:1 has maxmemory-policy volatile-ttl",
        ),
    ],
)
def test_an_unfit_server_is_refused_and_told_why(information: dict[str, str], message: str) -> None:
    with pytest.raises(UnsuitableServerError) as refused:
        judge(information, "h:1")

    assert refused.value.message.startswith(message)


@pytest.mark.parametrize(
    "information",
    [
        {"redis_version": "7.0.15", "maxmemory_policy": "noeviction"},
        {"redis_version": "10.0.0"},
        {"server_name": "valkey", "valkey_version": "9.1.2", "redis_version": "7.2.4"},
        {"redis_version": "7.2.4", "valkey_version": "8.0.0"},
    ],
)
def test_a_fit_server_is_accepted(information: dict[str, str]) -> None:
    judge(information, "h:1")


@asynccontextmanager
async def standing_in(
    answer: Callable[[list[bytes]], bytes | None],
) -> AsyncGenerator[Endpoint, None]:
    """A server that answers requests like this, and after None reads nothing any more."""
    released = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            words: list[bytes] = []
            for _ in range(int(line[1:])):
                size = int((await reader.readline())[1:])
                words.append((await reader.readexactly(size + 2))[:-2])
            reply = answer(words)
            if reply is None:
                await released.wait()
                break
            writer.write(reply)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield Endpoint.from_url(f"redis://{host}:{port}")
    finally:
        released.set()
        server.close()


def information(text: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text)


async def test_closing_does_not_wait_for_a_server_that_reads_nothing_any_more() -> None:
    """Nor does who needs the next lane: what has not left may not keep the connection open."""

    def answer(words: list[bytes]) -> bytes | None:
        if words[0] == b"INFO":
            return information(b"run_id:abc")
        return None if words[0] == b"STALL" else b"+OK\r\n"

    async with standing_in(answer) as endpoint:
        lane = await Lane.open(endpoint.but(socket_connect_timeout=0.05))
        large = pack((b"SET", b"k", bytes(30_000_000)))
        replies: list[Any] = []
        lane.send([pack((b"STALL",)), large], [replies.append] * 2)

        await lane.close()

    assert [LaneLostError] * 2 == [type(reply) for reply in replies]


@pytest.mark.parametrize("refusal", [b"-BUSY running a script\r\n", b"-LOADING the dataset\r\n"])
async def test_a_server_that_cannot_say_who_it_is_now_is_not_one_that_hides_it(
    refusal: bytes,
) -> None:
    """It may have its identity, and partitions open for it, a moment later."""
    identities = [refusal, information(b"run_id:abc")]

    def answer(words: list[bytes]) -> bytes:
        return identities.pop(0) if words[0] == b"INFO" else b"+OK\r\n"

    async with standing_in(answer) as endpoint:
        with pytest.raises(RedisUnavailableError, match="cannot answer"):
            await Lane.open(endpoint)
        lane = await Lane.open(endpoint)
        assert "abc" == lane.run
        await lane.close()


@pytest.mark.parametrize("refusal", [b"-NOPERM no\r\n", b"-ERR unknown command 'INFO'\r\n"])
async def test_a_server_that_does_not_say_who_it_is_hides_it(refusal: bytes) -> None:
    def answer(words: list[bytes]) -> bytes:
        return refusal if words[0] == b"INFO" else b"+OK\r\n"

    async with standing_in(answer) as endpoint:
        lane = await Lane.open(endpoint)
        assert "hidden" == lane.run
        await lane.close()
