"""Every scenario by its name, and the sets they are played in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from credits_fast.chaos.arena import Size
from credits_fast.chaos.scenarios import (
    callers,
    clustered,
    connections,
    failover,
    holding,
    ledger,
    lost_history,
    restored,
    server,
    workers,
)

if TYPE_CHECKING:
    from credits_fast.chaos.scenario import Scenario

__all__ = ["SCENARIOS", "SETS", "SIZES", "chosen"]

SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        connections.REPLY_EATER,
        connections.CANCEL_STORM,
        connections.SLOW_SLICE,
        server.KILL9_EVERYSEC,
        server.KILL9_ALWAYS,
        server.SCRIPT_FLUSH,
        server.OOM,
        server.ACL_HOLE,
        server.ACL_TORN,
        server.WRONGTYPE,
        server.BUSY_SCRIPT,
        workers.WORKER_KILL,
        workers.ZOMBIE_WORKER,
        ledger.PG_IMMEDIATE_STOP,
        ledger.COMMIT_AMBIGUOUS,
        ledger.PG_DOWN,
        ledger.PG_DOWN_UNTIL_FULL,
        restored.PG_RESTORE_OLD,
        restored.PG_RESTORE_BEYOND,
        ledger.CONFLICTING_COMMITS,
        callers.POISON_METADATA,
        callers.HYDRATE_RACE,
        callers.HOT_ACCOUNT,
        holding.HELD_CREDITS,
        lost_history.POWER_CUT,
        lost_history.FLUSHALL,
        lost_history.RDB_ROLLBACK,
        lost_history.TORN_AOF,
        lost_history.JOURNAL_DELETED,
        lost_history.RECORD_GONE,
        failover.LAG,
        failover.BEHIND_DB,
        failover.ID_REUSE,
        failover.NO_IDENTITY,
        failover.CLOCK_BACK,
        failover.SPLIT_BRAIN,
        failover.SPLIT_BRAIN_GUARDED,
        clustered.CLUSTER_FAILOVER,
        clustered.RESHARD,
    )
}
"""All of them; those that wait for something are in no set."""

_STANDARD: Final = tuple(SCENARIOS.values())
SETS: Final = {
    "smoke": tuple(one for one in _STANDARD if one.is_in_smoke),
    "standard": _STANDARD,
}
SIZES: Final = {
    "smoke": Size(rounds=2, calls=300),
    "standard": Size(rounds=6, calls=800),
}


def chosen(set_: str, names: Iterable[str]) -> tuple[Scenario, ...]:
    """The scenarios of these names, those of the set where none is named.

    Raises:
        KeyError: One is not known.

    Example:
        >>> [scenario.name for scenario in chosen("smoke", ["oom-noeviction"])]
        ['oom-noeviction']
    """
    named = [SCENARIOS[name] for name in dict.fromkeys(names)]
    return tuple(named) or SETS[set_]
