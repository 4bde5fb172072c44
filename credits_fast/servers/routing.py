"""Which open lane leads to a partition: the only one, or that of the node its slot is on.

Here the way is chosen by how the servers are reached: `server_routing` has that to a single server,
`cluster_routing` that to the nodes of a cluster.
"""

from __future__ import annotations

from credits_fast.servers.cluster_routing import ClusterRouter
from credits_fast.servers.endpoints import AnyEndpoint, ClusterEndpoint
from credits_fast.servers.server_routing import Router

__all__ = ["Router", "router_to"]


def router_to(endpoint: AnyEndpoint, *, is_patient: bool = True) -> Router:
    """A router for an endpoint.

    Args:
        endpoint: How the server or the cluster is reached.
        is_patient: Whether callers wait for a node of a cluster that is away; see `ClusterRouter`.
    """
    if isinstance(endpoint, ClusterEndpoint):
        return ClusterRouter(endpoint, is_patient=is_patient)
    return Router(endpoint)
