"""Repair: a partition whose journal is not what the ledger recorded gets one history again.

After a wipe, a failover to a replica that lagged, or a snapshot that was restored, either side may have
what the other lacks. The ledger is the source of record, so it takes what it lacks, and Redis begins anew
from it:

    close the gate       nobody charges from here on
    read the journal     transactions the ledger lacks are adopted: recorded under a new epoch, on top
                         of what their users have there
    remember             the records of keys that still hold are put back into Redis
    begin                one commit moves the ledger's position to the first entry of a new journal, one
                         script begins that journal and opens the gate

By the new epoch every account in Redis is as good as absent, its holds with it, and is loaded from the
ledger when it is next needed, so the time until the partition is open does not depend on how many users
it has.

A repair may end anywhere, by a crash or because another worker has taken the partition over, and is done
again from its beginning: what was adopted is known by its transaction id, and the gate stays closed until
the last step. What neither side has cannot be saved, and nobody can tell it but its caller.

A ledger that is older than everything the journal still holds has lost history itself, for example in a
restored backup. Between the two, transactions are missing that nobody has; that is not mended here.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import func, insert, select, tuple_, update

from credits_fast.ledger.database import reading, writing
from credits_fast.protocol.entries import (
    NOTHING_YET,
    Entry,
    EntryId,
    HoldFacts,
    RefusedItem,
    decode,
    stamp,
)
from credits_fast.protocol.keys import FORMAT
from credits_fast.protocol.wire import to_ms
from credits_fast.resp import pack
from credits_fast.sync.adoption import (
    Known,
    KnownAccount,
    adopted,
    hold_ids,
    missing,
    transactions_of,
)
from credits_fast.sync.ledger import PositionLostError
from credits_fast.sync.rows import Batch
from credits_fast.sync.tables import (
    holds,
    idempotency_records,
    micros_of,
    sync_partitions,
    transactions,
    users,
)
from credits_fast.version import __version__

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from credits_fast.protocol.keys import PartitionKeys, Partitions
    from credits_fast.servers.lane import Lane
    from credits_fast.servers.routing import Router
    from credits_fast.sync.lease import Claim
    from credits_fast.sync.ledger import Ledger

__all__ = ["LedgerBehindError", "Repair", "RepairWork", "Repaired"]

_log = logging.getLogger(__name__)

_ENTRIES_AT_ONCE: Final = 200
_RECORDS_AT_ONCE: Final = 2_000


class LedgerBehindError(Exception):
    """The ledger is older than everything the journal holds: it has lost history itself."""


@dataclass(frozen=True, slots=True)
class Repaired:
    """What a repair did.

    Attributes:
        partition: The partition.
        epoch: The new epoch.
        entries: Entries that the journal still held.
        adopted: Transactions the ledger lacked and has now.
        restored: Transactions of the ledger that the journal did not have any more.
        remembered: Records of keys that were put back into Redis.
    """

    partition: int
    epoch: int
    entries: int
    adopted: int
    restored: int
    remembered: int


@dataclass(slots=True)
class RepairWork:
    """A repair under way: everything that is read and written in Redis is on one connection.

    Attributes:
        claim: The partition, and where the ledger is now.
        keys: The partition's keys.
        lane: The connection.
        epoch: The new epoch.
        common: The last entry that both sides have.
        position: Where the ledger was when it began.
        adopting: How many entries of the new epoch the ledger has already.
        creates_users: Whether users of the journal that the ledger lacks are created, with nothing;
            where not, they end it.
        entries: Entries that the journal held.
        adopted: Transactions the ledger lacked.
        restored: Transactions the journal did not have any more.
        remembered: Records of keys that were put back into Redis.
        created: Users that were created.
    """

    claim: Claim
    keys: PartitionKeys
    lane: Lane
    epoch: int
    common: EntryId
    position: EntryId
    adopting: int = 0
    creates_users: bool = False
    entries: int = 0
    adopted: int = 0
    restored: int = 0
    remembered: int = 0
    created: int = 0


class Repair:
    """Repairs partitions that a worker owns.

    Args:
        partitions: The partitions as configured.
        router: Which lane leads to a partition.
        database: The ledger.
        ledger: The ledger as the worker writes it.
    """

    def __init__(
        self, partitions: Partitions, router: Router, database: AsyncEngine, ledger: Ledger
    ) -> None:
        self._partitions = partitions
        self._router = router
        self._database = database
        self._ledger = ledger

    async def close(self, claim: Claim, *, has_gap: bool = False) -> RepairWork:
        """The partition, closed: no charge is accepted until `begin`.

        Args:
            claim: The partition.
            has_gap: Whether it is known, and to be mended, that the ledger has lost history itself.

        Raises:
            LedgerBehindError: The ledger has lost history itself; nothing is changed.
            UnavailableError: A server cannot be reached.
        """
        keys = self._partitions[claim.partition]
        lane = await self._router.lane(keys)
        position = EntryId.parse(claim.last_id)
        first = await lane.execute(b"XRANGE", keys.journal, b"-", b"+", b"COUNT", b"1")
        if first and str(position) != NOTHING_YET:
            oldest = EntryId.parse(first[0][0].decode())
            if oldest > position and not has_gap:
                raise LedgerBehindError(
                    f"the ledger is at entry {position} and the journal begins with {oldest}: "
                    "what stood between them is in neither; was an older backup restored? "
                    "`credits-fast recover` goes on from what one of them has",
                )
        await lane.execute(b"UNLINK", keys.gate)
        last = await lane.execute(b"XREVRANGE", keys.journal, b"+", b"-", b"COUNT", b"1")
        ends = [EntryId.parse(entry[0].decode()).epoch for entry in last]
        epoch = 1 + max(await self._epoch(claim), position.epoch, *ends, 0)
        return RepairWork(claim, keys, lane, epoch, EntryId((0, 0)), position=position)

    async def adopt(self, work: RepairWork) -> None:
        """Record what the journal has and the ledger lacks.

        Raises:
            PositionLostError: Another worker has taken the partition over.
            ChainBrokenError: A user of the journal is not in the ledger.
            MalformedEntryError: An entry was not written by these scripts.
            UnavailableError: A server cannot be reached.
        """
        async for page in _pages(work):
            recorded = await self._recorded(page)
            _compare(work, page, recorded)
            lacking = missing(page, recorded, work.position)
            if lacking:
                await self._record(work, lacking)
        work.restored = await self._ahead_of(work)

    async def remember(self, works: Sequence[RepairWork], now: datetime) -> None:
        """Put the records of keys that still hold back into Redis; what is there stays.

        Raises:
            UnavailableError: A server cannot be reached.
        """
        by_partition = {work.claim.partition: work for work in works}
        async for rows in self._records(now):
            requests: dict[int, list[bytes]] = {}
            for row in rows:
                user = row.user_id.encode()
                keys, result = self._partitions.of(user), _result(row)
                if keys.number in by_partition and result is not None:
                    request = _remembering(keys, user, row, result, now)
                    requests.setdefault(keys.number, []).append(request)
            for number, wanted in requests.items():
                work = by_partition[number]
                work.remembered += sum(
                    reply is not None for reply in await work.lane.execute_all(*wanted)
                )

    async def begin(self, work: RepairWork) -> Repaired:
        """The partition, open again in a new epoch.

        Raises:
            PositionLostError: Another worker has taken the partition over.
            UnavailableError: A server cannot be reached.
        """
        seconds, microseconds = await work.lane.execute(b"TIME")
        moment = b"%b%06d" % (seconds, int(microseconds))
        first = str(EntryId((work.epoch, work.adopting)))
        fields = (b"v", FORMAT.encode(), b"t", moment, b"i", b"")
        await self.move(work.claim, work.epoch, first, stamp(first, fields))
        reply = await work.lane.run_script(
            "begin",
            (work.keys.gate, work.keys.meta, work.keys.journal, work.keys.holds),
            (
                b"%d" % work.epoch,
                first.encode(),
                moment,
                b"%d" % len(self._partitions),
                __version__.encode(),
            ),
        )
        if reply != b"begun":
            raise PositionLostError(work.claim.partition)
        repaired = Repaired(
            work.claim.partition,
            work.epoch,
            work.entries,
            work.adopted,
            work.restored,
            work.remembered,
        )
        _log.warning(
            "partition %d had lost history and is repaired, in epoch %d: %d entries read, %d "
            "transactions adopted from the journal, %d restored from the ledger, %d keys remembered",
            *(getattr(repaired, name) for name in Repaired.__slots__),
        )
        return repaired

    # --- the ledger's side ------------------------------------------------------------------------

    async def _epoch(self, claim: Claim) -> int:
        columns = sync_partitions.c
        query = select(columns.epoch).where(columns.partition == claim.partition)
        async with reading(self._database) as connection:
            return int((await connection.execute(query)).scalar_one())

    async def _recorded(self, page: Sequence[Entry]) -> dict[str, EntryId]:
        """The transactions of these entries that the ledger has, and under which entry."""
        names = [item.transaction_id for item in transactions_of(page)]
        columns = transactions.c
        query = select(columns.id, columns.entry_epoch, columns.entry_sequence)
        async with reading(self._database) as connection:
            rows = await connection.execute(query.where(columns.id.in_(names)))
            return {row.id: EntryId((row.entry_epoch, row.entry_sequence)) for row in rows}

    async def _record(self, work: RepairWork, entries: Sequence[Entry]) -> None:
        """Adopt entries: one commit, on top of what their users have and their holds are."""
        items = (item for entry in entries for item in entry.items)
        names = {item.user_id for item in items if not isinstance(item, RefusedItem)}
        if work.creates_users:
            await self.create_users(work, names)
        known = await self.known(names, hold_ids(entries))
        moved: list[Entry] = []
        for entry in entries:
            one = adopted(entry, EntryId((work.epoch, work.adopting + len(moved))), known)
            if one is not None:
                moved.append(one)
        await self.record(work, moved)
        work.adopted += sum(1 for _ in transactions_of(entries))

    async def record(self, work: RepairWork, entries: Sequence[Entry]) -> None:
        """Record entries of the new epoch, in one commit.

        Raises:
            PositionLostError: Another worker has taken the partition over.
            ChainBrokenError: A user or hold in the ledger is not where they begin.
            DatabaseUnavailableError: The database cannot be reached.
        """
        if not entries:
            return
        claim = work.claim
        batch = Batch(claim.partition, (claim.last_id, claim.last_stamp), claim.fence)
        for entry in entries:
            batch.add(entry)
        await self._ledger.write([batch])
        claim.last_id, claim.last_stamp = batch.ends
        work.adopting += len(entries)

    async def create_users(self, work: RepairWork, names: Collection[str]) -> None:
        """Create users that the ledger lacks, with nothing.

        Raises:
            DatabaseUnavailableError: The database cannot be reached.
        """
        async with writing(self._database) as connection:
            there = {*await connection.scalars(select(users.c.id).where(users.c.id.in_(names)))}
            rows = [{"id": name} for name in sorted({*names} - there)]
            if rows:
                await connection.execute(insert(users), rows)
        work.created += len(rows)

    async def known(self, names: Collection[str], named_holds: Collection[str]) -> Known:
        """Users and holds as the ledger has them, by their ids."""
        accounts = select(
            users.c.id,
            micros_of(users.c.credits).label("balance"),
            users.c.sequence,
            micros_of(users.c.reserved).label("reserved"),
        ).where(users.c.id.in_(names))
        columns = holds.c
        open_or_not = select(
            columns.id,
            columns.state,
            micros_of(columns.amount).label("amount"),
            micros_of(columns.reserved).label("reserved"),
            micros_of(columns.captured).label("captured"),
            columns.expires_at,
        ).where(columns.id.in_(named_holds))
        known = Known()
        async with reading(self._database) as connection:
            for row in await connection.execute(accounts):
                known.accounts[row.id] = KnownAccount(
                    int(row.balance), int(row.sequence), int(row.reserved)
                )
            for row in await connection.execute(open_or_not):
                known.holds[row.id] = HoldFacts(
                    hold_id=row.id,
                    state=row.state,
                    amount=int(row.amount),
                    reserved=int(row.reserved),
                    captured=int(row.captured),
                    expires_ms=to_ms(row.expires_at),
                    change=0,
                    total=0,
                )
        return known

    async def _ahead_of(self, work: RepairWork) -> int:
        """Transactions of the ledger after the last entry that both had, adopted ones excepted."""
        columns = transactions.c
        entry = tuple_(columns.entry_epoch, columns.entry_sequence)
        query = (
            select(func.count())
            .select_from(transactions)
            .where(
                columns.partition == work.claim.partition,
                columns.entry_epoch < work.epoch,
                entry > tuple_(*work.common),
            )
        )
        async with reading(self._database) as connection:
            return int((await connection.execute(query)).scalar_one())

    async def _records(self, now: datetime) -> AsyncIterator[Sequence[Any]]:
        """The records of keys that still hold, with what a repeated call is told, page by page."""
        record, transaction = idempotency_records.c, transactions.c
        query = (
            select(
                record.user_id,
                record.key,
                record.fingerprint,
                record.transaction_id,
                record.expires_at,
                transaction.kind,
                micros_of(transaction.amount).label("amount"),
                micros_of(transaction.balance_after).label("balance_after"),
                record.result,
                users.c.membership_expires_at,
            )
            .outerjoin(transactions, transaction.id == record.transaction_id)
            .join(users, users.c.id == record.user_id)
            .where(record.expires_at > now)
            .order_by(record.user_id, record.key)
            .limit(_RECORDS_AT_ONCE)
        )
        page = query
        while True:
            async with reading(self._database) as connection:
                rows = (await connection.execute(page)).all()
            if rows:
                yield rows
            if len(rows) < _RECORDS_AT_ONCE:
                return
            last = rows[-1]
            page = query.where(tuple_(record.user_id, record.key) > tuple_(last.user_id, last.key))

    async def move(self, claim: Claim, epoch: int, last_id: str, last_stamp: str) -> None:
        """Set where the ledger is.

        Raises:
            PositionLostError: Another worker has taken the partition over.
            DatabaseUnavailableError: The database cannot be reached.
        """
        columns = sync_partitions.c
        async with writing(self._database) as connection:
            moved = await connection.execute(
                update(sync_partitions)
                .where(
                    columns.partition == claim.partition,
                    columns.fence == claim.fence,
                    columns.last_id == claim.last_id,
                )
                .values(epoch=epoch, last_id=last_id, last_stamp=last_stamp),
            )
        if not moved.rowcount:
            raise PositionLostError(claim.partition)
        claim.last_id, claim.last_stamp = last_id, last_stamp


# --- the journal's side -----------------------------------------------------------------------------


async def _pages(work: RepairWork) -> AsyncIterator[list[Entry]]:
    """Everything the journal holds, page by page."""
    start = b"-"
    count = b"%d" % _ENTRIES_AT_ONCE
    while True:
        found = await work.lane.execute(b"XRANGE", work.keys.journal, start, b"+", b"COUNT", count)
        if found:
            work.entries += len(found)
            yield [decode(entry_id, fields) for entry_id, fields in found]
        if len(found) < _ENTRIES_AT_ONCE:
            return
        start = b"(" + found[-1][0]


def _compare(work: RepairWork, page: Sequence[Entry], recorded: Mapping[str, EntryId]) -> None:
    """Note the last entry that both sides have."""
    for entry in page:
        names = [item.transaction_id for item in transactions_of([entry])]
        if names and all(recorded.get(name) == entry.id for name in names):
            work.common = max(work.common, entry.id)


def _remembering(keys: PartitionKeys, user: bytes, row: Any, result: str, now: datetime) -> bytes:
    """The request that puts a record back where there is none."""
    expires_ms = to_ms(row.expires_at)
    record = b"\0".join(
        (
            row.fingerprint.encode(),
            row.transaction_id.encode(),
            b"%d" % expires_ms,
            result.encode(),
        ),
    )
    life_ms = max(1, expires_ms - to_ms(now))
    key = keys.record(user, b"key:" + row.key.encode())
    return pack((b"SET", key, record, b"PX", b"%d" % life_ms, b"NX"))


def _result(row: Any) -> str | None:
    """What the script told the first caller, as it is remembered; None where it told nothing."""
    told: str | None = row.result.get("told")
    if told is not None:
        return told.replace(" ", "\0")
    if row.kind is None:  # a user who was created without first credits
        return None
    if row.kind != "tier":
        return f"{abs(row.amount)}\0{row.balance_after}"
    expires_at: datetime | None = row.membership_expires_at
    return "\0".join(
        (
            row.result.get("oldTier") or "",
            row.result.get("newTier") or "",
            str(row.balance_after - row.amount),
            str(row.balance_after),
            "" if expires_at is None else str(to_ms(expires_at)),
        ),
    )
