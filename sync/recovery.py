"""Recovery: a partition that a worker has set aside goes on, from what an operator says is right.

A worker mends what has one answer. It has none where the ledger does not lead to the journal: it was
restored from a backup older than all that the journal retains, a balance was changed by hand, or a user
is not there. Then the partition is set aside until somebody says what to go on from:

    ledger    what the ledger has, and what the journal has on top of it; what stood between them is undone
    redis     the same, and then every account in Redis is right: the ledger gets the difference as one
              transaction a user, with the membership and the open holds

It is a repair with a gap, and ends like one, with a new journal and a new epoch:

    take       the partition from its worker, whose commits are refused from here on
    park       the ledger's position where no journal has an entry, so that nobody opens the partition
    close      its gate, adopt the journal, settle up with the accounts, remember keys, begin

Ended in between, it is begun again, and no worker takes the partition before: what was adopted is known by
its id, and what was settled differs no more. What neither side has any more, such as an account that had
left Redis, is as the ledger has it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from sqlalchemy import select

from credits_fast.calls.open_holds import open_holds
from credits_fast.ids import operation_id
from credits_fast.ledger.database import reading
from credits_fast.protocol.entries import Entry, EntryId, MalformedEntryError, decode
from credits_fast.protocol.keys import FORMAT
from credits_fast.protocol.wire import held, to_ms
from credits_fast.sync.lease import Leases
from credits_fast.sync.ledger import Ledger, LedgerRefusedError, PositionLostError
from credits_fast.sync.repair import Repair, RepairWork
from credits_fast.sync.rows import ChainBrokenError
from credits_fast.sync.settlement import InLedger, numbered, settlement
from credits_fast.sync.tables import holds, sync_partitions, users

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from credits_fast.protocol.keys import PartitionKeys, Partitions
    from credits_fast.protocol.wire import HeldAccount
    from credits_fast.servers.lane import Lane
    from credits_fast.servers.routing import Router
    from credits_fast.sync.lease import Claim

__all__ = [
    "UNRECOVERABLE",
    "NotSetAsideError",
    "Recovered",
    "Recovery",
    "Trusted",
    "set_aside",
]

_log = logging.getLogger(__name__)

Trusted: TypeAlias = Literal["ledger", "redis"]
"""From which side a partition goes on."""

_LEASE_MS: Final = 600_000
"""How long a recovery is shown to own the partition; no worker has it back before it has ended."""
_KEYS_AT_ONCE: Final = b"500"
_ENTRIES_AT_ONCE: Final = b"500"


class NotSetAsideError(Exception):
    """No worker has set the partition aside: it is carried, or waits for a worker."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        super().__init__(f"partition {partition} is not set aside")


UNRECOVERABLE: Final = (
    ChainBrokenError,
    LedgerRefusedError,
    MalformedEntryError,
    NotSetAsideError,
    PositionLostError,
)
"""What keeps one partition from being recovered, and says nothing of the others."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a recovery did.

    Attributes:
        partition: The partition.
        trusted: From which side it goes on.
        epoch: The new epoch.
        entries: Entries that the journal held.
        adopted: Transactions of the journal that the ledger lacked.
        created: Users that the ledger lacked.
        settled: Users to whom Redis and ledger differed, and whom the ledger has like Redis now.
        added: Micro-credits that these got in all.
        taken: Micro-credits that were taken from these in all.
    """

    partition: int
    trusted: Trusted
    epoch: int
    entries: int
    adopted: int
    created: int
    settled: int
    added: int
    taken: int


@dataclass(slots=True)
class _Sums:
    settled: int = 0
    added: int = 0
    taken: int = 0


class Recovery:
    """Recovers partitions.

    Args:
        partitions: The partitions as configured.
        router: Which lane leads to a partition.
        database: The ledger.
    """

    def __init__(self, partitions: Partitions, router: Router, database: AsyncEngine) -> None:
        self._partitions = partitions
        self._router = router
        self._database = database
        self._leases = Leases(database, operation_id(), _LEASE_MS)
        self._repair = Repair(partitions, router, database, Ledger(database, idle_ms=_LEASE_MS))

    async def recover(self, partition: int, trusted: Trusted) -> Recovered:
        """A partition that was set aside, open again.

        Raises:
            NotSetAsideError: No worker has set it aside.
            MalformedEntryError: An entry of the journal cannot be read; nothing was changed.
            PositionLostError: A worker has taken the partition back.
            ChainBrokenError: A user in the ledger was changed meanwhile.
            UnavailableError: A server cannot be reached; to be asked again.
        """
        keys = self._partitions[partition]
        await _readable(await self._router.lane(keys), keys)
        claim = await self._leases.take(partition)
        if claim is None:
            raise NotSetAsideError(partition)
        work = await self._closed(claim)
        await self._repair.adopt(work)
        sums = await self._settle_up(work) if trusted == "redis" else _Sums()
        await self._repair.remember([work], datetime.now(UTC))
        repaired = await self._repair.begin(work)
        await self._leases.set_aside(partition, claim.fence, None)
        await self._leases.release([partition])
        recovered = Recovered(
            partition,
            trusted,
            repaired.epoch,
            repaired.entries,
            repaired.adopted,
            work.created,
            sums.settled,
            sums.added,
            sums.taken,
        )
        _log.warning("partition %d goes on from what the %s has: %s", partition, trusted, recovered)
        return recovered

    async def _closed(self, claim: Claim) -> RepairWork:
        """The partition, closed and not to be opened by anybody else."""
        position = EntryId.parse(claim.last_id)
        epoch = 1 + await self._last_epoch(claim, position)
        await self._repair.move(claim, epoch, str(EntryId((epoch, 0))), "")
        work = await self._repair.close(claim, has_gap=True)
        work.position, work.creates_users = position, True
        return work

    async def _last_epoch(self, claim: Claim, position: EntryId) -> int:
        """The last epoch that ledger or journal know of."""
        keys = self._partitions[claim.partition]
        lane = await self._router.lane(keys)
        last = await lane.execute(b"XREVRANGE", keys.journal, b"+", b"-", b"COUNT", b"1")
        ends = [EntryId.parse(entry[0].decode()).epoch for entry in last]
        return max(position.epoch, await _epoch_of(lane, keys), *ends, 0)

    async def _settle_up(self, work: RepairWork) -> _Sums:
        """Give the ledger what the accounts in Redis have, page by page."""
        sums = _Sums()
        epoch = await _epoch_of(work.lane, work.keys)
        holds_of = await open_holds(work.lane.execute, work.keys)
        async for accounts in _accounts(work.lane, work.keys, epoch):
            await self._repair.create_users(work, accounts)
            named = {one for user in accounts for one in holds_of.get(user, ())}
            there = await self._in_ledger([*accounts], named)
            found = [
                settlement(user, account, holds_of.get(user, {}), there[user], operation_id())
                for user, account in accounts.items()
            ]
            items = numbered(item for of_user in found for item in of_user)
            if not items:
                continue
            name = EntryId((work.epoch, work.adopting))
            seconds, microseconds = await work.lane.execute(b"TIME")
            moment = b"%b%06d" % (seconds, int(microseconds))
            fields = (b"v", FORMAT.encode(), b"t", moment, b"i", b"")
            await self._repair.record(work, [Entry(name, int(moment), items, fields)])
            sums.settled += sum(map(bool, found))
            deltas = [getattr(item, "delta", 0) for item in items]
            sums.added += sum(delta for delta in deltas if delta > 0)
            sums.taken -= sum(delta for delta in deltas if delta < 0)
        return sums

    async def _in_ledger(self, names: Sequence[str], more: set[str]) -> dict[str, InLedger]:
        """Users as the ledger has them, with their open holds and with others that are named."""
        columns = holds.c
        open_ones = select(columns.id, columns.user_id).where(
            columns.user_id.in_(names), columns.state == "reserved"
        )
        memberships = select(
            users.c.id, users.c.membership_tier, users.c.membership_expires_at
        ).where(users.c.id.in_(names))
        async with reading(self._database) as connection:
            owners = {row.id: row.user_id for row in await connection.execute(open_ones)}
            rows = (await connection.execute(memberships)).all()
        known = await self._repair.known(names, {*owners} | more)
        finished = frozenset(
            hold_id for hold_id, facts in known.holds.items() if facts.state != "reserved"
        )
        of_user: dict[str, dict[str, str]] = {}
        for hold_id, user in owners.items():
            of_user.setdefault(user, {})[hold_id] = user
        return {
            row.id: InLedger(
                known.accounts[row.id],
                row.membership_tier,
                None if row.membership_expires_at is None else to_ms(row.membership_expires_at),
                {hold_id: known.holds[hold_id] for hold_id in of_user.get(row.id, ())},
                finished,
            )
            for row in rows
        }


async def set_aside(database: AsyncEngine) -> dict[int, str]:
    """The partitions that a worker has set aside, each with the reason."""
    columns = sync_partitions.c
    query = select(columns.partition, columns.set_aside).where(columns.set_aside.is_not(None))
    async with reading(database) as connection:
        return {row.partition: row.set_aside for row in await connection.execute(query)}


async def _readable(lane: Lane, keys: PartitionKeys) -> None:
    """Nothing, where every entry of the journal can be read.

    Raises:
        MalformedEntryError: One cannot.
    """
    start = b"-"
    while True:
        found = await lane.execute(b"XRANGE", keys.journal, start, b"+", b"COUNT", _ENTRIES_AT_ONCE)
        for entry_id, fields in found:
            decode(entry_id, fields)
        if not found:
            return
        start = b"(" + found[-1][0]


async def _epoch_of(lane: Lane, keys: PartitionKeys) -> int:
    """The epoch of the accounts in Redis, 0 where it has none."""
    return int(await lane.execute(b"HGET", keys.meta, b"epoch") or 0)


async def _accounts(
    lane: Lane, keys: PartitionKeys, epoch: int
) -> AsyncIterator[dict[str, HeldAccount]]:
    """The accounts of a partition that are of its epoch, by their users, page by page."""
    prefix, cursor = keys.account(b""), b"0"
    while True:
        cursor, names = await lane.execute(
            b"SCAN", cursor, b"MATCH", prefix + b"*", b"COUNT", _KEYS_AT_ONCE
        )
        texts: list[bytes | None] = await lane.execute(b"MGET", *names) if names else []
        found = {
            name.removeprefix(prefix).decode(): account
            for name, text in zip(names, texts, strict=True)
            if text is not None and (account := held(text)).epoch == epoch
        }
        if found:
            yield found
        if cursor == b"0":
            return
