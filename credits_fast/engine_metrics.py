"""An engine's figures for Prometheus: how many operations of this process ended how.

The worker cannot tell them: what a repeated call is answered, or refused without an audit entry, never
reaches the journal. It needs the extra `credits-fast[metrics]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from credits_fast.engine import CreditsEngine

__all__ = ["EngineMetrics"]


class EngineMetrics(Collector):
    """What an engine has carried out since it was made, for the registry of the application.

    `credits_fast_calls_total{verb,outcome}` counts the calls of every verb: `outcome` is `done`,
    `replayed` for one that was answered with the first result of its key, `cancelled` where the caller
    was, or the code of the error, such as `INSUFFICIENT_CREDITS`. A call whose arguments cannot be used is
    not among them: nothing was asked.

    Args:
        engine: The engine.

    Example:
        >>> prometheus_client.REGISTRY.register(EngineMetrics(credits))
    """

    def __init__(self, engine: CreditsEngine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """The counters as they stand."""
        calls = CounterMetricFamily(
            "credits_fast_calls", "Calls of this process.", labels=["verb", "outcome"]
        )
        for (verb, outcome), number in sorted(self._engine.calls.items()):
            calls.add_metric([verb, outcome], number)
        yield calls
