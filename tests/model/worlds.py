"""The worlds that are explored: each small, each with what brings one kind of fault to light.

`WORLDS` are for every row of the table but those of a server without an identity: there more may be given
away than there is, so `ROOMY_WORLDS` have credits enough, and show what is violated besides. `DEEP_WORLDS`
are larger, for the whole design.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tests.model.state import Bounds, Faults

__all__ = ["BRANCHES", "DEEP_WORLDS", "ROOMY_WORLDS", "WORLDS"]

WORLDS: Final[Mapping[str, Bounds]] = {
    "lost commit": Bounds(faults=Faults(lost_commits=1), workers=2),
    "failover": Bounds(faults=Faults(failovers=1), credits=1),
    "failover, two workers": Bounds(faults=Faults(failovers=1), credits=1, workers=2),
    "failover, with room": Bounds(faults=Faults(failovers=1), credits=2),
    "failover, overtaken repair": Bounds(faults=Faults(failovers=1), attempts=1, repairs=2),
    "failover, record gone": Bounds(faults=Faults(failovers=1, expiries=1), clients=1),
    "wipe": Bounds(faults=Faults(wipes=1), credits=1),
    "wipe, key again": Bounds(faults=Faults(wipes=1), clients=1, calls=2),
    "wipe, evictions": Bounds(faults=Faults(wipes=1, evictions=2), clients=1, slow_loads=True),
    "older copy": Bounds(faults=Faults(restores=1), credits=1),
    "restart": Bounds(faults=Faults(restarts=1)),
    "there and back": Bounds(faults=Faults(switches=2), credits=1),
    "evictions": Bounds(faults=Faults(evictions=2), slow_loads=True),
    "record gone": Bounds(faults=Faults(expiries=1)),
    "record gone, key again": Bounds(faults=Faults(expiries=1), clients=1, calls=2),
    "slow opening": Bounds(faults=Faults(failovers=1, wipes=1), credits=1, slow_openings=True),
}

ROOMY_WORLDS: Final[Mapping[str, Bounds]] = {
    "failover, with room": WORLDS["failover, with room"],
    "failover, record gone": WORLDS["failover, record gone"],
    "failover, overtaken repair": WORLDS["failover, overtaken repair"],
    "failover, three callers": Bounds(faults=Faults(failovers=1), credits=3, clients=3, attempts=1),
    "failover, three callers repeat": Bounds(
        faults=Faults(failovers=1), credits=3, clients=3, repairs=0, trims=False
    ),
}

DEEP_WORLDS: Final[Mapping[str, Bounds]] = {
    "failover and wipe, two repairs, two workers": Bounds(
        faults=Faults(failovers=1, wipes=1), credits=1, repairs=2, workers=2
    ),
    "two failovers, two repairs": Bounds(faults=Faults(failovers=2), credits=1, repairs=2),
    "there and back, two repairs": Bounds(faults=Faults(switches=2), credits=1, repairs=2),
    "there and back, with room": Bounds(faults=Faults(switches=2), credits=2),
    "there and back, eviction": Bounds(
        faults=Faults(switches=2, evictions=1), credits=1, slow_loads=True
    ),
    "wipe, two evictions": Bounds(faults=Faults(wipes=1, evictions=2), slow_loads=True),
    "two wipes and a failover, slow opening": Bounds(
        faults=Faults(failovers=1, wipes=2), credits=1, slow_openings=True
    ),
    "failover, record gone, key again": Bounds(
        faults=Faults(failovers=1, expiries=1), clients=1, calls=2
    ),
    "failover, record gone, two callers": Bounds(faults=Faults(failovers=1, expiries=1)),
    "wipe, record gone, key again": Bounds(faults=Faults(wipes=1, expiries=1), calls=2),
    "failover, eviction": Bounds(faults=Faults(failovers=1, evictions=1), slow_loads=True),
    "failover, three callers": Bounds(faults=Faults(failovers=1), credits=2, clients=3),
    "two older copies": Bounds(faults=Faults(restores=2), credits=1),
    "older copy and failover, with room": Bounds(faults=Faults(failovers=1, restores=1)),
    "restart and failover, two workers": Bounds(
        faults=Faults(restarts=1, failovers=1), credits=1, workers=2
    ),
}

BRANCHES: Final = Bounds(faults=Faults(cut_offs=1, switches=1), credits=1)
"""A server that is cut off and promoted again with what it had, while another one has charged too."""
