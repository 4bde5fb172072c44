"""Are these servers fit to keep credits? Asked once, when an engine or a worker starts."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from credits_fast.errors import CreditsError, RedisUnavailableError, UnsuitableServerError
from credits_fast.servers.acknowledgement import counts_of
from credits_fast.servers.lane import LaneLostError, info_fields
from credits_fast.servers.server_errors import is_not_allowed, is_not_executed, translated
from credits_fast.servers.versions import version_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from credits_fast.protocol.keys import PartitionKeys, Partitions
    from credits_fast.servers.acknowledgement import Confirmation
    from credits_fast.servers.lane import Lane
    from credits_fast.servers.routing import Router

__all__ = ["check_confirmation", "check_server", "check_servers", "judge", "probe"]

_log = logging.getLogger(__name__)


async def check_servers(router: Router, partitions: Partitions) -> None:
    """Nothing, where every server that serves a partition and can be reached is fit.

    Raises:
        UnsuitableServerError: One of them may evict balances, is too old for the scripts, or its
            access rules forbid a command they need.
        RedisUnavailableError: None can be reached, or a connection ended.
    """
    for lane, served in (await router.reached(partitions)).items():
        await check_server(lane, served[0], in_cluster=router.is_cluster)


async def check_server(lane: Lane, partition: PartitionKeys, *, in_cluster: bool = False) -> None:
    """Nothing, where the server is fit.

    Args:
        lane: An open connection to it.
        partition: Any partition it serves.
        in_cluster: Whether it is used as a node of a cluster.

    Raises:
        UnsuitableServerError: It may evict balances, is too old for the scripts, or its access rules
            forbid a command they need.
        RedisUnavailableError: The connection ended.
    """
    await _check_information(lane, in_cluster=in_cluster)
    try:
        await probe(lane, partition, in_cluster=in_cluster)
    except RedisUnavailableError as error:
        if not lane.is_open:
            raise
        _log.warning("permissions at %s could not be tried: %s", lane.address, error)


async def probe(lane: Lane, partition: PartitionKeys, *, in_cluster: bool = False) -> None:
    """Nothing, where every command that a script uses may be used; nothing is changed by it.

    Args:
        lane: An open connection to a server.
        partition: Any partition it serves.
        in_cluster: Whether it is used as a node of a cluster.

    Raises:
        UnsuitableServerError: Its access rules forbid one of them.
        RedisUnavailableError: The connection ended, or the server cannot answer now.
    """
    if in_cluster:
        await lane.execute(b"ASKING")
    await lane.run_script("probe", (partition.absent,), ())


async def _check_information(lane: Lane, *, in_cluster: bool) -> None:
    try:
        server: bytes = await lane.execute(b"INFO", b"server")
        memory: bytes = await lane.execute(b"INFO", b"memory")
    except CreditsError as error:
        if not lane.is_open:
            raise
        _log.warning("the server at %s does not answer INFO, so it is not checked", lane.address)
        _log.debug("the answer was: %s", error)
        return
    judge(info_fields(server) | info_fields(memory), lane.address, in_cluster=in_cluster)


async def check_confirmation(
    router: Router, partitions: Partitions, confirmation: Confirmation
) -> None:
    """Nothing, where every server that can be reached knows how to confirm a level.

    One that has too few replicas now is only warned of: calls are then answered late, and told less.

    Raises:
        UnsuitableServerError: One of them does not know the command, is not set up for it, or its
            access rules forbid it.
        RedisUnavailableError: None can be reached, or a connection ended.
    """
    for lane in await router.reached(partitions):
        (answer,) = await lane.replies(confirmation.trial)
        if not isinstance(answer, Exception):
            _warn_of_replicas(answer, confirmation, lane.address)
        elif isinstance(answer, LaneLostError) or is_not_allowed(answer) or is_not_executed(answer):
            raise translated(answer, lane.address) from answer
        else:
            raise UnsuitableServerError(
                f"the server at {lane.address} cannot confirm the acknowledgement level "
                f"{confirmation.level!r}: {answer}",
            ) from answer


def _warn_of_replicas(answer: Any, confirmation: Confirmation, address: str) -> None:
    replicas = counts_of(answer)[-1]
    if replicas < confirmation.needed[-1]:
        _log.warning(
            "Redis at %s has %d replicas now, acknowledgement level %r needs %d: calls wait %d ms in vain",
            address,
            replicas,
            confirmation.level,
            confirmation.needed[-1],
            confirmation.timeout_ms,
        )


def judge(information: Mapping[str, str], address: str, *, in_cluster: bool = False) -> None:
    """Nothing, where a server with this information is fit.

    Args:
        information: The fields of INFO, sections `server` and `memory`.
        address: Where the server is, for the message.
        in_cluster: Whether it is used as a node of a cluster.

    Raises:
        UnsuitableServerError: It may evict balances, is too old for the scripts, or is a node of a
            cluster and not used as one.
    """
    version = version_of(information)
    name = version.name
    if not version.is_new_enough:
        raise UnsuitableServerError(
            f"{name} {version.text or 'of unknown version'} at {address} is too old: "
            f"{version.floor} or later is needed",
        )
    policy = information.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise UnsuitableServerError(
            f"{name} at {address} has maxmemory-policy {policy}, which evicts balances or "
            "idempotency records when memory is short; set it to noeviction",
        )
    if information.get("redis_mode") == "cluster" and not in_cluster:
        raise UnsuitableServerError(
            f"{name} at {address} is a node of a cluster; name the cluster by redis+cluster://, "
            "or give a RedisCluster client",
        )
