"""What the model's world consists of: two servers, the ledger, workers, callers, and what is under way.

One partition with one account. Every charge takes one credit. Time is a count of the faults so far: two
executions of one operation in one place of the journal differ in it, as they do in the server's
microseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias

__all__ = [
    "BEGINNING",
    "Account",
    "Batch",
    "Bounds",
    "Client",
    "Data",
    "Entry",
    "EntryId",
    "Faults",
    "Identity",
    "Ledger",
    "Loading",
    "Meta",
    "Opening",
    "Repair",
    "Row",
    "Server",
    "State",
    "Transaction",
    "Trimming",
    "Worker",
    "first_state",
]

EntryId: TypeAlias = tuple[int, int]
"""Epoch and number."""
Identity: TypeAlias = tuple[int, int]
"""A server's process, and when it was promoted last; 0 where that is not part of the identity."""
BEGINNING: Final[EntryId] = (0, 0)


class Transaction(NamedTuple):
    """What a caller sends: `number` counts the ids under one key, or names what a reversal reverses."""

    kind: Literal["charge", "reversal"]
    key: int
    number: int


class Entry(NamedTuple):
    """A journal entry; the head of an epoch, which a repair writes, has no transaction."""

    id: EntryId
    transaction: Transaction | None
    delta: int
    sequence: int
    balance: int
    moment: int


class Meta(NamedTuple):
    """A partition's meta; `opened_for` is None while it is closed."""

    opened_for: Identity | None
    epoch: int
    generation: int
    synced: EntryId


class Account(NamedTuple):
    """The account in Redis, and the entry of its last change."""

    balance: int
    sequence: int
    last: EntryId


class Data(NamedTuple):
    """What one server holds of the partition. An account of None is cold."""

    meta: Meta | None
    journal: tuple[Entry, ...]
    account: Account | None
    records: frozenset[Transaction]


class Server(NamedTuple):
    """A server process, the count of faults when it was promoted, and its data."""

    process: int
    promotion: int
    data: Data


class Row(NamedTuple):
    """A row of `transactions`."""

    transaction: Transaction
    delta: int
    sequence: int
    is_duplicate: bool


class Ledger(NamedTuple):
    """The ledger: position, rows, and the user's balance and sequence."""

    epoch: int
    position: Entry | None
    rows: tuple[Row, ...]
    balance: int
    sequence: int


class Batch(NamedTuple):
    """What a worker has read, and what it follows."""

    follows: Entry | None
    entries: tuple[Entry, ...]


class Trimming(NamedTuple):
    """What a worker has written and not trimmed yet."""

    last: Entry


class Worker(NamedTuple):
    """A worker: whether the partition is its own by the ledger, and what it has in hand."""

    owns: bool
    hand: Batch | Trimming | None


class Client(NamedTuple):
    """A caller with one key: what it knows, its attempts, and how many ids it has used before."""

    outcome: Literal["idle", "unknown", "acknowledged", "refused"]
    attempts: int
    number: int


class Loading(NamedTuple):
    """An account on its way from the ledger: read over a connection to one process."""

    process: int
    generation: int
    balance: int
    sequence: int


class Opening(NamedTuple):
    """A partition that was compared and is about to be opened, over a connection to one server."""

    identity: Identity
    process: int
    epoch: int
    creates: bool


class Repair(NamedTuple):
    """A repair under way: which server it closed, and the journal once it has been read."""

    epoch: int
    closed: Identity | None
    stage: Literal["close", "read", "record", "apply", "remember", "finish"]
    entries: tuple[Entry, ...]


class Faults(NamedTuple):
    """How many of each may still happen.

    A server that is demoted by a switch takes over the data of the new primary; one that is cut off keeps
    its own until it catches up. After a lost commit the worker does not know that it has written.
    """

    failovers: int = 0
    switches: int = 0
    cut_offs: int = 0
    restarts: int = 0
    wipes: int = 0
    restores: int = 0
    evictions: int = 0
    expiries: int = 0
    lost_commits: int = 0


class State(NamedTuple):
    """Everything at one moment."""

    primary: Server
    replica: Server
    archive: Data | None
    ledger: Ledger
    workers: tuple[Worker, ...]
    clients: tuple[Client, ...]
    loading: Loading | None
    opening: Opening | None
    under_repair: tuple[Repair, ...]
    repairs: int
    faults: Faults
    happened: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """How large the explored world is.

    Attributes:
        faults: How often each fault may happen.
        credits: What the account has at first.
        clients: Callers, each with an operation of its own.
        attempts: Attempts of an operation, under one id.
        calls: How many ids a caller may use under its key, after an outcome it does not know.
        workers: Workers.
        repairs: Repairs that may begin; one that is overtaken by the next may go on.
        slow_loads: Whether a load may be overtaken between the ledger's read and the script.
        slow_openings: Whether an opening may be overtaken between comparison and script.
        trims: Whether journals are trimmed.
    """

    faults: Faults = Faults()  # noqa: RUF009  # a NamedTuple cannot change
    credits: int = 2
    clients: int = 2
    attempts: int = 2
    calls: int = 1
    workers: int = 1
    repairs: int = 1
    slow_loads: bool = False
    slow_openings: bool = False
    trims: bool = True

    def __str__(self) -> str:
        faults = [f"{count} {name}" for name, count in self.faults._asdict().items() if count]
        extras = [
            name.replace("_", " ")
            for name in ("slow_loads", "slow_openings")
            if getattr(self, name)
        ]
        return ", ".join(
            [
                *(faults or ["no fault"]),
                f"{self.clients} callers",
                *([f"{self.calls} ids a key"] if self.calls > 1 else []),
                f"{self.credits} credits",
                f"{self.workers} workers",
                *extras,
            ]
        )


def first_state(bounds: Bounds) -> State:
    """A partition that has just been opened, with nothing recorded and its account in Redis."""
    account = Account(bounds.credits, 0, BEGINNING)
    data = Data(Meta((0, 0), 1, 0, BEGINNING), (), account, frozenset())
    return State(
        primary=Server(0, 0, data),
        replica=Server(1, 0, data),
        archive=data if bounds.faults.restores else None,
        ledger=Ledger(1, None, (), bounds.credits, 0),
        workers=(Worker(owns=False, hand=None),) * bounds.workers,
        clients=(Client("idle", 0, 0),) * bounds.clients,
        loading=None,
        opening=None,
        under_repair=(),
        repairs=bounds.repairs,
        faults=bounds.faults,
        happened=0,
    )
