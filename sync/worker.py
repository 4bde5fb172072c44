"""The worker: it owns partitions, and step by step carries their journals into the ledger.

A step reads what is new in every partition it owns, verifies that it continues what is recorded, and
writes all of it in one commit; then the journals are trimmed. Killed anywhere in between, it has
either written and will find so by the position, or has not and will read the same again.

While it is behind, the next batch is read and made ready as the one before is being written: one, never
more, so that two are in memory. It is written only if it still follows what is recorded by then, and
nobody has taken the partition meanwhile; else it is thrown away and read again.

A partition whose journal is not what was recorded has lost history and is repaired. One whose journal
cannot be carried is set aside with its reason and stays in the log: its charges go on, its journal
grows, and nothing of it is skipped.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from credits_fast.calls.admission import Admission
from credits_fast.errors import (
    IncompatibleFormatError,
    PartitionFencedError,
    RedisUnavailableError,
    UnavailableError,
)
from credits_fast.ids import operation_id
from credits_fast.protocol.entries import MalformedEntryError, decode
from credits_fast.protocol.keys import FORMAT
from credits_fast.servers.routing import router_to
from credits_fast.sync.eviction import Eviction
from credits_fast.sync.journal import ForkedError, Journal, Look, RawEntry, after
from credits_fast.sync.lease import Claim, Leases
from credits_fast.sync.ledger import (
    EXPIRED_MAX,
    Ledger,
    LedgerRefusedError,
    PositionLostError,
)
from credits_fast.sync.overdue import Overdue
from credits_fast.sync.pace import COMMIT_ITEMS_MAX, ITEM_BYTES_MAX, Pace, shares
from credits_fast.sync.repair import LedgerBehindError, Repair, Repaired, RepairWork
from credits_fast.sync.retention import Retention
from credits_fast.sync.reversal import Reversals
from credits_fast.sync.rows import Batch, ChainBrokenError
from credits_fast.sync.tally import Tally
from credits_fast.sync.undecided import Undecided

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from credits_fast.config import SyncConfig
    from credits_fast.protocol.keys import Partitions
    from credits_fast.servers.endpoints import AnyEndpoint

__all__ = ["SyncWorker"]

_log = logging.getLogger(__name__)

_SLICE_ITEMS: Final = 100
"""Decisions that are decoded before others on the event loop have their turn: a millisecond or two."""
_BACKOFF_MAX_S: Final = 5.0
_LEASE_RENEWALS: Final = 3
_UNCARRIABLE: Final = (
    ChainBrokenError,
    LedgerBehindError,
    LedgerRefusedError,
    MalformedEntryError,
)


@dataclass(slots=True)
class _Owned:
    """A partition this worker carries."""

    claim: Claim
    pace: Pace
    retention: Retention
    set_aside: str = ""
    has_forked: bool = False
    is_told: bool = False

    @property
    def is_carried(self) -> bool:
        return not self.set_aside and not self.has_forked


class SyncWorker:
    """Carries journals into the ledger.

    Attributes:
        id: The worker's own id, new with every start.
        carried: How many decisions it has carried so far.
        repaired: What its repairs did so far.
        tally: What else it has done so far.
        database: The ledger.
        partitions: The partitions as configured.
        router: Which connection leads to which partition; for looking, not for writing.

    Args:
        endpoint: The Redis server, or the cluster.
        database: The ledger, migrated.
        partitions: The partitions as configured.
        config: How to go about it.
        clock: The time by which idempotency records expire, None for this machine's; for tests.

    Example:
        >>> worker = SyncWorker(endpoint, database, Partitions("credits", 16), SyncConfig())
        >>> await worker.step()  # in tests; a program calls `run` instead
        3
    """

    def __init__(
        self,
        endpoint: AnyEndpoint,
        database: AsyncEngine,
        partitions: Partitions,
        config: SyncConfig,
        *,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        self.id = operation_id()
        self.carried = 0
        self.repaired: list[Repaired] = []
        self._config = config
        self._clock = clock or (lambda: datetime.now(UTC))
        self._is_clock_given = clock is not None
        self.tally = Tally()
        self.database = database
        self.partitions = partitions
        self.router = router_to(endpoint, is_patient=False)
        self.router.open()
        self._journal = Journal(partitions, self.router)
        self._ledger = Ledger(database, idle_ms=config.lease_ms)
        self._leases = Leases(database, self.id, config.lease_ms)
        self._admission = Admission(partitions, database, self.router)
        self._repair = Repair(partitions, self.router, database, self._ledger)
        self._overdue = Overdue(partitions, self.router, database)
        self._undecided = Undecided(endpoint, partitions, database, config)
        self._reversals = Reversals(partitions, self.router, database)
        self._eviction = Eviction(partitions, self.router)
        self._owned: dict[int, _Owned] = {}
        self._ahead: list[Batch] = []
        self._renew_at = 0.0
        self._clean_at = 0.0
        self._settle_at = 0.0
        self._evict_at = 0.0

    @property
    def owned(self) -> frozenset[int]:
        """The partitions this worker carries."""
        return frozenset(self._owned)

    @property
    def set_aside(self) -> dict[int, str]:
        """The partitions it cannot carry, each with the reason."""
        return {number: owned.set_aside for number, owned in self._owned.items() if owned.set_aside}

    async def start(self) -> None:
        """Register and open the partitions, so that charges can begin.

        Raises:
            UnavailableError: Redis or the database cannot be reached.
            MisconfiguredError: The set-up is wrong.
        """
        await self._admission.open_all()

    async def step(self) -> int:
        """How many decisions were carried: one batch of every partition that has something new.

        Raises:
            UnavailableError: Redis or the database cannot be reached; nothing is lost by it.
        """
        self._ahead = []
        return await self._carry(reads_ahead=False)

    async def run(self, stop: asyncio.Event) -> None:
        """Carry until told to stop; the step under way is finished. `close` releases the leases.

        While Redis or the database cannot be reached it waits, longer each time up to five seconds.
        """
        pause = 0.0
        while not stop.is_set():
            try:
                carried = await self._carry()
            except UnavailableError as error:
                pause = min(max(2 * pause, 0.05), _BACKOFF_MAX_S)
                _log.warning("the worker waits %.2f s: %s", pause, error)
                self._renew_at = 0.0
                self.tally.turn(error)
            else:
                self.tally.turn()
                pause = 0.0 if carried else self._config.poll_ms / 1_000
            if pause:
                await _wait(stop, pause)
        self._ahead = []

    async def drain(self) -> int:
        """How many decisions were carried until nothing new was found.

        Raises:
            UnavailableError: Redis or the database cannot be reached; nothing is lost by it.
        """
        total = 0
        while (carried := await self._carry()) or self._renew_at == 0.0:  # taken from us, and free
            total += carried
        return total

    async def close(self) -> None:
        """Release the leases and end the connections."""
        try:
            await self._leases.release(self._owned)
        except UnavailableError as error:
            _log.warning("the leases could not be released and end by themselves: %s", error)
        self._owned.clear()
        self._ahead = []
        await self._undecided.close()
        await self.router.close()

    # --- the parts of a step --------------------------------------------------------------------

    async def _carry(self, *, reads_ahead: bool = True) -> int:
        """How many decisions were carried; while behind, the next ones are read meanwhile."""
        await self._keep_leases()
        await self._settle()
        batches = self._still_following(self._ahead) or await self._read()
        self._ahead = []
        if reads_ahead and self._is_behind():
            written, self._ahead = await self._write_and_read(batches)
        else:
            written = await self._write(batches)
        await self._trim(written)
        await self._repair_forked()
        await self._tell()
        await self._evict()
        await self._clean()
        return sum(batch.items for batch in written)

    async def _write_and_read(self, batches: Sequence[Batch]) -> tuple[list[Batch], list[Batch]]:
        """What was written, and what was read meanwhile.

        An error of the writer ends the reader. One of the reader is raised after the batches were
        written.
        """
        reading = asyncio.create_task(self._read(batches), name="credits-fast reading ahead")
        try:
            written = await self._write(batches)
            return written, await reading
        finally:
            if not reading.done():
                reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    def _is_behind(self) -> bool:
        return any(owned.pace.is_behind for owned in self._owned.values() if owned.is_carried)

    def _still_following(self, ahead: Sequence[Batch]) -> list[Batch]:
        """Of what was read ahead, what follows what is recorded now, under the same claim."""
        return [
            batch
            for batch in ahead
            if (owned := self._owned.get(batch.partition)) is not None
            and owned.is_carried
            and owned.claim.fence == batch.fence
            and (owned.claim.last_id, owned.claim.last_stamp) == batch.follows
        ]

    async def _keep_leases(self) -> None:
        if time.monotonic() < self._renew_at:
            return
        still, claims = await self._leases.balance(self._owned)
        for lost in self._owned.keys() - still:
            _log.info("partition %d is carried by another worker now", lost)
        self._owned = {number: self._owned[number] for number in still}
        for claim in claims:
            self._owned[claim.partition] = _Owned(
                claim, Pace(self._config.batch_max), self._retention()
            )
        self._renew_at = time.monotonic() + self._config.lease_ms / 1_000 / _LEASE_RENEWALS

    async def _read(self, under_way: Sequence[Batch] = ()) -> list[Batch]:
        """A batch of every partition that has something new, after what is being written."""
        looks = self._looks({batch.partition: batch.ends for batch in under_way})
        found = await self._journal.read(looks) if looks else []
        batches: list[Batch] = []
        for look, raw in zip(looks, found, strict=True):
            if raw is None or look.partition not in self._owned:
                continue  # its node is away, or it was lost meanwhile; the others are not
            try:
                batch = await self._batch(look, after(look, raw))
            except IncompatibleFormatError as error:
                self._set_aside(look.partition, await self._told_by_whom(look.partition, error))
            except ForkedError as error:
                self._has_forked(look.partition, error)
            except _UNCARRIABLE as error:
                self._set_aside(look.partition, error)
            else:
                if batch.entries:
                    batches.append(batch)
        return batches

    def _looks(self, ends: Mapping[int, tuple[str, str]]) -> list[Look]:
        """Where to look: after what is recorded, or will be; and for how much."""
        ours = [pair for pair in sorted(self._owned.items()) if pair[1].is_carried]
        granted = shares([owned.pace.items for _, owned in ours], COMMIT_ITEMS_MAX)
        return [
            Look(
                number,
                *ends.get(number, (owned.claim.last_id, owned.claim.last_stamp)),
                owned.pace.entries(items),
                items,
            )
            for (number, owned), items in zip(ours, granted, strict=True)
        ]

    async def _batch(self, look: Look, entries: Sequence[RawEntry]) -> Batch:
        """As many of the entries as belong in a batch, ready to be written; others have their turn."""
        fence = self._owned[look.partition].claim.fence
        batch = Batch(look.partition, (look.last_id, look.last_stamp), fence)
        in_slice = 0
        for entry_id, fields in entries:
            entry = decode(entry_id, fields)
            is_full = batch.items + len(entry.items) > look.items_max
            if batch.entries and (is_full or batch.bytes > look.items_max * ITEM_BYTES_MAX):
                break
            batch.add(entry)
            in_slice += len(entry.items)
            if in_slice >= _SLICE_ITEMS:
                in_slice = 0
                self._ledger.encode(batch)
                await asyncio.sleep(0)
        more_waits = len(entries) >= look.entries_max or batch.entries < len(entries)
        if (owned := self._owned.get(look.partition)) is not None:
            owned.pace.learn(batch, more_waits=more_waits)
        self._ledger.complete(batch)
        await asyncio.sleep(0)
        return batch

    async def _write(self, batches: Sequence[Batch]) -> list[Batch]:
        """The batches that were written: all in one commit, or each alone where that fails."""
        if not batches:
            return []
        try:
            await self._ledger.write(batches)
        except (PositionLostError, ChainBrokenError, LedgerRefusedError) as error:
            if len(batches) > 1:
                alone = [await self._write([batch]) for batch in batches]
                return [batch for written in alone for batch in written]
            self._could_not_write(batches[0].partition, error)
            return []
        self.tally.commit(batches)
        for batch in batches:
            owned = self._owned[batch.partition]
            owned.claim.last_id, owned.claim.last_stamp = batch.ends
            owned.retention.record(owned.claim.last_id, batch.entries, time.monotonic())
            self.carried += batch.items
        return [*batches]

    async def _trim(self, written: Sequence[Batch]) -> None:
        """Drop what the ledger has had for long enough; a closed partition is opened on the way."""
        trimmed = await asyncio.gather(*map(self._trim_one, written), return_exceptions=True)
        for outcome in trimmed:
            if outcome is not None:
                raise outcome

    async def _trim_one(self, batch: Batch) -> None:
        retention = self._owned[batch.partition].retention
        try:
            if not retention.is_found:
                partition = self.partitions[batch.partition]
                retention.find(await self.router.execute(partition, b"XLEN", partition.journal))
            keep = retention.keep_from(time.monotonic())
            if not await self._journal.trim(batch, keep):
                await self._admission.open(self.partitions[batch.partition])
        except RedisUnavailableError as error:
            _log.debug("partition %d is trimmed another time: %s", batch.partition, error)
        except PartitionFencedError as error:
            self._has_forked(batch.partition, error)

    async def _repair_forked(self) -> None:
        """Give partitions that lost history one history again; what cannot be repaired is set aside.

        One whose server is away is repaired another time; the others go on meanwhile.
        """
        forked = [owned for owned in self._owned.values() if owned.has_forked]
        if not forked:
            return
        try:
            works = [work for owned in forked if (work := await self._adopted(owned)) is not None]
            await self._repair.remember(works, self._clock())
            for work in works:
                await self._begin(work)
        except RedisUnavailableError as error:
            _log.warning("a repair waits: %s", error)

    async def _adopted(self, owned: _Owned) -> RepairWork | None:
        """The repair of a partition up to where its keys are remembered; None where it has ended."""
        try:
            work = await self._repair.close(owned.claim)
            await self._repair.adopt(work)
        except (PositionLostError, *_UNCARRIABLE) as error:
            self._could_not_write(owned.claim.partition, error)
            return None
        return work

    async def _begin(self, work: RepairWork) -> None:
        try:
            repaired = await self._repair.begin(work)
        except PositionLostError as error:
            self._could_not_write(work.claim.partition, error)
            return
        self.repaired.append(repaired)
        self.tally.repair(adopted=repaired.adopted, restored=repaired.restored)
        owned = self._owned[work.claim.partition]
        owned.retention = self._retention()
        owned.has_forked = False

    async def _tell(self) -> None:
        """What was set aside is told where everybody can read it, unless it was taken from us meanwhile."""
        for number, owned in [*self._owned.items()]:
            if not owned.set_aside or owned.is_told:
                continue
            owned.is_told = await self._leases.set_aside(number, owned.claim.fence, owned.set_aside)
            if not owned.is_told:
                self._could_not_write(number, PositionLostError(number))

    async def _settle(self) -> None:
        """Have holds finished whose time is over, intents settled, and reversed what a key did twice.

        This very step carries what comes of it.
        """
        carried = [number for number, owned in self._owned.items() if owned.is_carried]
        if time.monotonic() < self._settle_at or not carried:
            return
        now = self._clock()
        now_us = b"%d" % round(now.timestamp() * 1_000_000) if self._is_clock_given else b""
        await self._overdue.finish(carried, now, now_us)
        await self._undecided.settle(carried, now)
        self.tally.stood_in = self._undecided.stood_in
        self.tally.reversals += await self._reversals.settle(carried, now, now_us)
        self._settle_at = time.monotonic() + self._config.expire_ms / 1_000

    async def _evict(self) -> None:
        """Have accounts leave Redis that nobody uses."""
        carried = [number for number, owned in self._owned.items() if owned.is_carried]
        if time.monotonic() < self._evict_at or not self._config.idle_ms or not carried:
            return
        self.tally.evictions += await self._eviction.evict(carried, self._config.idle_ms)
        self._evict_at = time.monotonic() + self._config.evict_ms / 1_000

    async def _clean(self) -> None:
        """Forget keys that have expired; where more of them wait, the next step goes on."""
        if time.monotonic() < self._clean_at or 0 not in self._owned:
            return
        if await self._ledger.forget_expired(self._clock()) < EXPIRED_MAX:
            self._clean_at = time.monotonic() + self._config.cleanup_ms / 1_000

    # --- details --------------------------------------------------------------------------------

    def _retention(self) -> Retention:
        """What stays of a journal that begins with us."""
        return Retention(
            retain_ms=self._config.retain_ms,
            retain_max=self._config.retain_max,
            begun_s=time.monotonic(),
        )

    def _could_not_write(self, partition: int, error: Exception) -> None:
        if isinstance(error, PositionLostError):
            _log.info("%s", error)
            del self._owned[partition]
            self._renew_at = 0.0
        else:
            self._set_aside(partition, error)

    def _has_forked(self, partition: int, error: Exception) -> None:
        if partition in self._owned:
            self._owned[partition].has_forked = True
            self.tally.forks += 1
            self.tally.fail(f"partition {partition} is closed and will be repaired: {error}")
            _log.error("partition %d is closed and will be repaired: %s", partition, error)

    async def _told_by_whom(
        self,
        partition: int,
        error: IncompatibleFormatError,
    ) -> IncompatibleFormatError:
        """The same with the version that opened the partition last: it wrote the entry."""
        keys = self.partitions[partition]
        library: bytes | None = await self.router.execute(keys, b"HGET", keys.meta, b"library")
        return IncompatibleFormatError(
            f"an entry of partition {partition}",
            found=error.found,
            expected=FORMAT,
            written_by=(library or b"").decode(errors="replace"),
        )

    def _set_aside(self, partition: int, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"
        if partition not in self._owned:  # lost meanwhile: whoever has it now finds out as well
            return
        self._owned[partition].set_aside = reason
        self.tally.fail(f"partition {partition} is set aside: {reason}")
        _log.error("partition %d is set aside, its journal waits: %s", partition, reason)


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
