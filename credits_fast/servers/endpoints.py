"""How to reach what is more than one server: the URLs and clients of clusters and of Sentinels.

    redis+cluster://[user:password@]host[:6379][,host2[:port2]…][/0][?options]
    redis+sentinel://[user:password@]host[:26379][,host2[:port2]…]/service[/database][?options]

`rediss+…` is the same with TLS, `valkey+…` and `valkeys+…` are synonyms. User, password, TLS and the
options of redis-py go to every node. Sentinels get the TLS options, and a user and password of their
own: `?sentinel_username=…&sentinel_password=…`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import parse_qsl, unquote, urlencode

from redis.asyncio import RedisCluster
from redis.asyncio.connection import Connection, ConnectionPool, SSLConnection
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import RedisError

from credits_fast.errors import CreditsError, RedisUnavailableError, UnsuitableServerError
from credits_fast.servers.lane import Endpoint, unusable
from credits_fast.servers.server_errors import translated
from credits_fast.servers.topology import Address

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["AnyEndpoint", "ClusterEndpoint", "SentinelEndpoint", "endpoint_from_url", "endpoint_of"]

_TLS: Final = {"redis": "redis", "valkey": "redis", "rediss": "rediss", "valkeys": "rediss"}
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]@\s]+)(?::(\d{1,5}))?")
_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_PORT_MAX: Final = 65_535
_ANSWER_S: Final = 2.0
"""Seconds a Sentinel, or the server it names, has to say what it is."""
_NOT_OF_A_NODE: Final = (  # what a RedisCluster keeps among the arguments of its connections
    "connection_class",
    "max_connections",
    "redis_connect_func",
    "response_callbacks",
)


class ClusterEndpoint:
    """How to reach a cluster: by any of its nodes that answers.

    Args:
        node: How to reach a node, host and port aside.
        seeds: The nodes that are known beforehand.
        remap: Another address for one that a node announces, where a client was made with that.
    """

    def __init__(
        self,
        node: Endpoint,
        seeds: Sequence[Address],
        remap: Callable[[tuple[str, int]], tuple[str, int]] | None = None,
    ) -> None:
        self.seeds = tuple(seeds)
        self._node = node
        self._remap = remap

    @property
    def address(self) -> str:
        """Where it is, for people and logs; never with a password."""
        return ",".join(map(str, self.seeds))

    def at(self, address: Address) -> Endpoint:
        """How to reach the node that announces this address."""
        host, port = address if self._remap is None else self._remap(address)
        return self._node.but(host=host, port=port)


class SentinelEndpoint(Endpoint):
    """How to reach the primary that Sentinels name, asked anew for every connection.

    Args:
        primary: How to reach a primary, host and port aside.
        sentinels: How to reach each Sentinel.
        service: The name under which they watch it.
        host: The host to use instead of the one they name, "" for none.
    """

    def __init__(
        self, primary: Endpoint, sentinels: Sequence[Endpoint], service: str, host: str = ""
    ) -> None:
        self._primary = primary
        self._sentinels = [*sentinels]
        self._service = service
        self._host = host
        self._named: Endpoint | None = None

    @property
    def address(self) -> str:
        """The primary that was named last, or where the Sentinels are."""
        if self._named is not None:
            return f"{self._named.address} ({self._service})"
        sentinels = ",".join(sentinel.address for sentinel in self._sentinels)
        return f"{self._service} of the Sentinels {sentinels}"

    async def connect(self) -> Any:
        """A new connection to the primary of this moment.

        Raises:
            RedisUnavailableError: No Sentinel names a server that answers and says it is a primary.
            UnsuitableServerError: The server or a Sentinel does not let us in.
        """
        problem: CreditsError | None = None
        for sentinel in [*self._sentinels]:
            try:
                named = await self._ask(sentinel)
                connection = await _primary(named)
            except RedisUnavailableError as error:
                problem = error
                continue
            self._named = named
            self._sentinels.remove(sentinel)
            self._sentinels.insert(0, sentinel)  # who knows it is asked first the next time
            return connection
        raise RedisUnavailableError(
            f"the primary of {self._service!r} cannot be reached: {problem}"
        ) from problem

    async def _ask(self, sentinel: Endpoint) -> Endpoint:
        connection = await sentinel.connect()
        words = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
        named = await _answer(connection, sentinel.address, *words)
        await connection.disconnect()
        if named is None:
            raise RedisUnavailableError(
                f"the Sentinel at {sentinel.address} does not know {self._service!r}"
            )
        host, port = (part.decode() for part in named)
        return self._primary.but(host=self._host or host, port=int(port))


AnyEndpoint: TypeAlias = Endpoint | ClusterEndpoint
"""How to reach whatever keeps the partitions."""


def endpoint_from_url(url: str) -> AnyEndpoint:
    """The endpoint of a URL: of a single server, a cluster, or a primary that Sentinels watch.

    Raises:
        ConfigurationError: It is none of these.
    """
    scheme, separator, rest = url.partition("://")
    scheme, _, kind = scheme.partition("+")
    if not separator or scheme not in _TLS or kind not in {"cluster", "sentinel"}:
        return Endpoint.from_url(url)
    return (_cluster if kind == "cluster" else _sentinel)(_TLS[scheme], rest)


def endpoint_of(client: Redis | RedisCluster | AnyEndpoint) -> AnyEndpoint:
    """The endpoint an existing redis-py client talks to; an endpoint is its own.

    Raises:
        ConfigurationError: It is made for replicas.
    """
    if isinstance(client, Endpoint | ClusterEndpoint):
        return client
    if isinstance(client, RedisCluster):
        return _like_cluster(client)
    pool = client.connection_pool
    if isinstance(pool, SentinelConnectionPool):
        return _like_sentinel(pool)
    return Endpoint.of(client)


def _like_cluster(client: RedisCluster) -> ClusterEndpoint:
    manager: Any = client.nodes_manager
    given: dict[str, Any] = client.connection_kwargs
    nodes: list[Any] = [*manager.startup_nodes.values()]
    arguments = {name: value for name, value in given.items() if name not in _NOT_OF_A_NODE}
    pool: ConnectionPool = ConnectionPool(given["connection_class"], **arguments)
    seeds = [Address(str(node.host), int(node.port)) for node in nodes]
    return ClusterEndpoint(Endpoint(pool), seeds, getattr(manager, "address_remap", None))


def _like_sentinel(pool: Any) -> SentinelEndpoint:
    if not pool.is_master:
        raise unusable("the client reads from replicas; make it by master_for")
    manager: Any = pool.sentinel_manager
    arguments: dict[str, Any] = dict(pool.connection_kwargs)
    del arguments["connection_pool"]
    of_tls = issubclass(pool.connection_class, SSLConnection)
    primary: ConnectionPool = ConnectionPool(SSLConnection if of_tls else Connection, **arguments)
    sentinels = [Endpoint.of(sentinel) for sentinel in manager.sentinels]
    host = getattr(manager, "_force_master_ip", None) or ""
    return SentinelEndpoint(Endpoint(primary), sentinels, str(pool.service_name), host)


def _cluster(scheme: str, rest: str) -> ClusterEndpoint:
    credentials, hosts, path, query = _parts(rest, _PORT)
    node = Endpoint.from_url(f"{scheme}://{credentials}host?{query}")
    if path.strip("/") not in {"", "0"} or node.database:
        raise unusable("a cluster has only database 0")
    return ClusterEndpoint(node, hosts)


def _sentinel(scheme: str, rest: str) -> SentinelEndpoint:
    credentials, hosts, path, query = _parts(rest, _SENTINEL_PORT)
    options = dict(parse_qsl(query, keep_blank_values=True))
    of_sentinels = {
        "db": 0,
        "username": options.pop("sentinel_username", None),
        "password": options.pop("sentinel_password", None),
    }
    service, _, database = path.partition("/")
    if not service:
        raise unusable("it names no service: write redis+sentinel://host:26379/service")
    primary = Endpoint.from_url(f"{scheme}://{credentials}host/{database}?{urlencode(options)}")
    sentinels = [primary.but(host=host, port=port, **of_sentinels) for host, port in hosts]
    return SentinelEndpoint(primary, sentinels, unquote(service))


def _parts(rest: str, default_port: int) -> tuple[str, list[Address], str, str]:
    """Credentials with their `@`, hosts, path and options of a URL behind its scheme."""
    beginning, _, query = rest.partition("?")
    authority, _, path = beginning.partition("/")
    credentials, at, names = authority.rpartition("@")
    hosts: list[Address] = []
    for name in names.split(","):
        found = _HOST.fullmatch(name)
        port = int(found[2] or default_port) if found else 0
        if found is None or not 0 < port <= _PORT_MAX:
            raise unusable(
                "its hosts are not host:port,host:port; "
                "a password's / # ? @ : are written %2F and so on",
            )
        hosts.append(Address(found[1].strip("[]"), port))
    return credentials + at, hosts, path, query


async def _primary(server: Endpoint) -> Any:
    """A new connection to a server that says it is a primary."""
    connection = await server.connect()
    role = await _answer(connection, server.address, "ROLE")
    if role[0] != b"master":
        await connection.disconnect()
        raise RedisUnavailableError(f"Redis at {server.address} is not a primary now")
    return connection


async def _answer(connection: Any, address: str, *words: str) -> Any:
    try:
        async with asyncio.timeout(_ANSWER_S):
            await connection.send_command(*words)
            return await connection.read_response()
    except (RedisError, OSError) as error:
        await connection.disconnect()
        problem = translated(error, address)
        if isinstance(problem, UnsuitableServerError):
            raise problem from error
        raise RedisUnavailableError(f"{address} does not answer {words[0]}: {error}") from error
