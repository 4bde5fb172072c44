"""Callers: charges whose replies may be lost, repeats under the same id, and another id under the same key.

A call that meets a closed partition or a cold account changes nothing; opening and loading are steps of
their own, and the call is made again after them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tests.model import scripts
from tests.model.state import Transaction
from tests.model.steps import Step, on_primary

if TYPE_CHECKING:
    from tests.model.design import Design
    from tests.model.state import Bounds, Client, State

__all__ = ["steps"]


def steps(design: Design, bounds: Bounds, state: State) -> Iterator[Step]:
    """What callers may do next. They are alike, so they begin in the order of their keys."""
    for key, client in enumerate(state.clients):
        if key and state.clients[key - 1] == state.clients[key] and not client.attempts:
            return
        if client.outcome in {"acknowledged", "refused"}:
            continue
        if client.attempts < bounds.attempts:
            yield from _attempts(design, state, key, client)
        if client.outcome == "unknown" and client.number + 1 < bounds.calls:
            again = client._replace(attempts=0, number=client.number + 1)
            yield Step(f"caller {key} calls again with its key", _with(state, key, again))


def _attempts(design: Design, state: State, key: int, client: Client) -> Iterator[Step]:
    transaction = Transaction("charge", key, client.number)
    reply, data = scripts.charge(design, state.primary, transaction, state.happened)
    if reply in {"closed", "cold"}:
        return
    verb = "repeats" if client.attempts else "charges"
    after = on_primary(state, data)
    if reply == "insufficient":
        refused = client._replace(outcome="refused", attempts=client.attempts + 1)
        yield Step(f"caller {key} {verb}: insufficient credits", _with(after, key, refused))
        return
    known = client._replace(outcome="acknowledged", attempts=client.attempts + 1)
    yield Step(f"caller {key} {verb}: {reply}", _with(after, key, known))
    if reply == "ok":
        unknown = client._replace(outcome="unknown", attempts=client.attempts + 1)
        yield Step(f"caller {key} {verb}: executed, the reply is lost", _with(after, key, unknown))


def _with(state: State, key: int, client: Client) -> State:
    clients = state.clients
    return state._replace(clients=(*clients[:key], client, *clients[key + 1 :]))
