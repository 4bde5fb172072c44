"""What the servers do to us: lag, die, change roles, restart, forget, come back from an older copy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tests.model import scripts
from tests.model.state import Data, Server
from tests.model.steps import Step, on_primary

if TYPE_CHECKING:
    from tests.model.state import State

__all__ = ["steps"]

_EMPTY = Data(None, (), None, frozenset())


def steps(state: State) -> Iterator[Step]:
    """Every fault that may still happen, and the replica and the archive keeping up."""
    faults, data = state.faults, state.primary.data
    may_be_promoted = faults.failovers or faults.switches or faults.cut_offs
    if may_be_promoted and state.replica.data != data:
        yield Step("the replica catches up", _replica(state, data))
    if faults.restores and state.archive != data:
        yield Step("a copy is put aside", state._replace(archive=data))
    if faults.failovers:
        yield _failover(state)
    if faults.switches:
        yield _switch(state, "switches", "demoted", state.replica.data)
    if faults.cut_offs:
        yield _switch(state, "cut_offs", "cut off", data)
    yield from _alone(state)


def _alone(state: State) -> Iterator[Step]:
    """What happens to the primary without its replica's doing."""
    faults, data = state.faults, state.primary.data
    if faults.restarts:
        yield _restarted(state, "restarts", "the primary restarts and has lost nothing", data)
    if faults.restores and state.archive is not None:
        words = "the primary restarts from the older copy"
        restored = _restarted(state, "restores", words, state.archive)
        yield restored._replace(state=_replica(restored.state, state.archive))
    if faults.wipes:
        emptied = on_primary(_counted(state, "wipes"), _EMPTY)
        yield Step("FLUSHALL", _replica(emptied, _EMPTY), loses=True)
    if faults.expiries:
        for record in sorted(data.records):  # in the same order in every run
            after = on_primary(_counted(state, "expiries"), scripts.expire(data, record))
            yield Step(
                f"the record of caller {record.key}'s {record.kind} is gone from Redis",
                after._replace(happened=state.happened),
            )


def _failover(state: State) -> Step:
    after = _counted(state, "failovers")
    promoted = Server(state.replica.process, after.happened, state.replica.data)
    fresh = Server(after.happened + 1, 0, state.replica.data)
    words = "the primary dies, the replica is promoted"
    return Step(words, after._replace(primary=promoted, replica=fresh), loses=True)


def _switch(state: State, fault: str, how: str, left: Data) -> Step:
    """Both processes live on: their connections, their identities, their script caches."""
    after = _counted(state, fault)
    promoted = Server(state.replica.process, after.happened, state.replica.data)
    demoted = state.primary._replace(data=left)
    words = f"server {promoted.process} is promoted, server {demoted.process} {how}"
    return Step(words, after._replace(primary=promoted, replica=demoted), loses=True)


def _restarted(state: State, fault: str, words: str, data: Data) -> Step:
    after = _counted(state, fault)
    restarted = Server(after.happened + 1, after.happened, data)
    return Step(words, after._replace(primary=restarted), loses=data is not state.primary.data)


def _replica(state: State, data: Data) -> State:
    return state._replace(replica=state.replica._replace(data=data))


def _counted(state: State, fault: str) -> State:
    left = getattr(state.faults, fault) - 1
    return state._replace(
        faults=state.faults._replace(**{fault: left}), happened=state.happened + 1
    )
