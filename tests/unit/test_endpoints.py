"""URLs and clients of clusters and Sentinels: where they lead, and with what."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import SSLConnection
from redis.asyncio.sentinel import Sentinel as UntypedSentinel
from redis.cluster import LoadBalancingStrategy

from credits_fast import ConfigurationError
from credits_fast.servers.endpoints import (
    AnyEndpoint,
    ClusterEndpoint,
    SentinelEndpoint,
    endpoint_from_url,
    endpoint_of,
)
from credits_fast.servers.lane import Endpoint
from credits_fast.servers.topology import Address

Sentinel: Any = UntypedSentinel
SECRET = "hunter2"  # opens nothing
NODE = Address("10.0.0.7", 7007)


def arguments(endpoint: AnyEndpoint) -> dict[str, Any]:
    """What a connection to a node, or to the primary, is made with."""
    if isinstance(endpoint, ClusterEndpoint):
        endpoint = endpoint.at(NODE)
    elif isinstance(endpoint, SentinelEndpoint):
        endpoint = endpoint._primary
    return endpoint._arguments


def connection_class(endpoint: AnyEndpoint) -> type:
    if isinstance(endpoint, ClusterEndpoint):
        endpoint = endpoint.at(NODE)
    elif isinstance(endpoint, SentinelEndpoint):
        endpoint = endpoint._primary
    found: type = endpoint._class
    return found


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis+cluster://h", "h:6379"),
        ("redis+cluster://h:1,i:2,[::1]:3/0", "h:1,i:2,::1:3"),
        ("rediss+cluster://ada:hunter2@h:1", "h:1"),
        ("valkey+cluster://h", "h:6379"),
        ("redis+sentinel://s/main", "main of the Sentinels s:26379"),
        ("valkeys+sentinel://:hunter2@s:1,t:2/main/3", "main of the Sentinels s:1,t:2"),
        ("redis://h:1", "h:1"),
        ("valkey+unix:///run/s", "unix:/run/s"),
    ],
)
def test_a_url_leads_there_and_shows_no_password(url: str, address: str) -> None:
    assert address == endpoint_from_url(url).address


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        (f"redis+cluster://:{SECRET}@h/1", "only database 0"),
        (f"redis+cluster://:{SECRET}@h?db=1", "only database 0"),
        (f"redis+cluster://:{SECRET}@h,", "hosts"),
        (f"redis+cluster://:{SECRET}@h:0", "hosts"),
        (f"redis+cluster://h:{SECRET}", "hosts"),
        (f"redis+cluster://:{SECRET}/more@h", "hosts"),
        (f"redis+cluster://:{SECRET}#more@h", "port or an option"),
        (f"redis+cluster://h?{SECRET}=1", "options"),
        (f"redis+sentinel://:{SECRET}@h", "names no service"),
        (f"redis+sentinel://:{SECRET}@h/?db=1", "names no service"),
        (f"redis+sentinel://:{SECRET}@h:99999/main", "hosts"),
        (f"redis+sentinel://:{SECRET}@h/main?ssl_cert={SECRET}", "options"),
        (f"redis+unknown://:{SECRET}@h", "scheme"),
        (f"http+cluster://:{SECRET}@h", "scheme"),
        (f"redis://h?{SECRET}=1", "options"),
    ],
)
def test_a_url_that_cannot_be_used_is_one_clear_line(url: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^redis_url: cannot be used") as caught:
        endpoint_from_url(url)

    assert problem in caught.value.message
    assert SECRET not in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("kind", ["cluster://h:1,i:2", "sentinel://h:1,i:2/main"])
def test_credentials_and_tls_go_to_every_node(kind: str) -> None:
    url = f"rediss+{kind}?ssl_check_hostname=false".replace("h:1", f"ada:{SECRET}%2F@h:1")

    endpoint = endpoint_from_url(url)

    given = arguments(endpoint)
    assert ("ada", f"{SECRET}/") == (given["username"], given["password"])
    assert given["ssl_check_hostname"] is False
    assert connection_class(endpoint) is SSLConnection


def test_sentinels_have_credentials_of_their_own() -> None:
    url = f"redis+sentinel://ada:{SECRET}@s/main/3?sentinel_username=eve&sentinel_password=x%26y"

    endpoint: Any = endpoint_from_url(url)

    primary, (sentinel,) = arguments(endpoint), [one._arguments for one in endpoint._sentinels]
    assert ("ada", SECRET, 3) == (primary["username"], primary["password"], primary["db"])
    assert ("eve", "x&y", 0) == (sentinel["username"], sentinel["password"], sentinel["db"])


def test_the_name_and_password_of_the_primary_are_not_shown_to_sentinels() -> None:
    endpoint: Any = endpoint_from_url(f"redis+sentinel://ada:{SECRET}@s/main")

    (sentinel,) = endpoint._sentinels
    assert (None, None) == (sentinel._arguments["username"], sentinel._arguments["password"])


async def test_a_cluster_client_gives_its_nodes_and_its_way_of_connecting() -> None:
    nodes = [ClusterNode("10.0.0.1", 7001), ClusterNode("10.0.0.2", 7002)]
    client = RedisCluster(
        startup_nodes=nodes,
        username="ada",
        password=SECRET,
        ssl=True,
        ssl_check_hostname=False,
        load_balancing_strategy=LoadBalancingStrategy.ROUND_ROBIN,
        address_remap=lambda address: ("outside", address[1]),
    )

    endpoint = endpoint_of(client)

    assert isinstance(endpoint, ClusterEndpoint)
    assert "10.0.0.1:7001,10.0.0.2:7002" == endpoint.address
    given = arguments(endpoint)
    assert ("ada", SECRET, "outside", 7007) == tuple(
        given[name] for name in ("username", "password", "host", "port")
    )
    assert given["ssl_check_hostname"] is False
    assert not {"redis_connect_func", "response_callbacks"} & given.keys()
    assert connection_class(endpoint) is SSLConnection
    endpoint.at(NODE)._class(**given)
    await client.aclose()


async def test_a_client_of_sentinels_gives_them_and_their_service() -> None:
    sentinel = Sentinel(
        [("s", 1), ("t", 2)], sentinel_kwargs={"password": "of-sentinels"}, password=SECRET
    )

    endpoint: Any = endpoint_of(sentinel.master_for("main", ssl=True, db=3))

    assert "main of the Sentinels s:1,t:2" == endpoint.address
    given = arguments(endpoint)
    assert (SECRET, 3) == (given["password"], given["db"])
    assert connection_class(endpoint) is SSLConnection
    assert ["of-sentinels"] * 2 == [one._arguments["password"] for one in endpoint._sentinels]
    endpoint._primary._class(**given)
    await sentinel.aclose()


async def test_a_client_for_replicas_is_refused() -> None:
    sentinel = Sentinel([("s", 1)])

    with pytest.raises(ConfigurationError, match="master_for"):
        endpoint_of(sentinel.slave_for("main"))
    await sentinel.aclose()


async def test_a_client_of_a_single_server_and_an_endpoint_are_taken_as_they_are() -> None:
    client = Redis(host="h", port=1)
    endpoint = Endpoint.from_url("redis://h")

    assert "h:1" == endpoint_of(client).address
    assert endpoint is endpoint_of(endpoint)
    await client.aclose()
