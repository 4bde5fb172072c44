"""Every sum of the ledger made again, and Redis, journal and ledger compared, while charges go on.

Nothing is stopped for it and nothing is written. The order of reading is what makes it right; what it
allows to conclude stands in `agreement`:

    1. the ledger with itself, as of one moment
    2. every journal from its first entry to where it ended then: what is recorded of it, item by item
       with the ledger's rows; of what is not, how far each user has got
    3. every user: the ledger, then Redis
    4. those whom that does not decide, for they are being charged: the journal beyond the ledger's
       position, then the ledger again; those who have not the same reserved: the ledger, then Redis again
    5. every open hold, one by one, and how many the accounts count

Memory holds one number for each user with unrecorded transactions, and the unrecorded transactions of
some thousand users at once; the open holds of one partition, and the names of all users who have any.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from sqlalchemy import select, tuple_

from credits_fast.amounts import to_credits
from credits_fast.checks.agreement import (
    Difference,
    Recorded,
    Step,
    apart_in_holds,
    at_first_sight,
    at_second_sight,
)
from credits_fast.checks.balance_sheet import BalanceSheet, balance_sheet
from credits_fast.checks.held import Held, held_accounts
from credits_fast.checks.hold_comparison import HoldComparison
from credits_fast.errors import IncompatibleFormatError, RedisUnavailableError
from credits_fast.ledger.database import reading
from credits_fast.ledger.recording import journal_ends, positions
from credits_fast.protocol.entries import (
    NOTHING_YET,
    Entry,
    EntryId,
    MalformedEntryError,
    TransactionItem,
    decode,
)
from credits_fast.sync.journal import ForkedError, Journal, Look, after
from credits_fast.sync.tables import micros_of, sync_partitions, transactions, users

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from credits_fast.protocol.keys import Partitions
    from credits_fast.servers.routing import Router

__all__ = ["Verification", "verify"]

_T = TypeVar("_T")

_USERS_AT_ONCE: Final = 1_000
_QUESTIONS_AT_ONCE: Final = 10_000
_ENTRIES_AT_ONCE: Final = 500
_IDS_AT_ONCE: Final = 500
_STANDINGS_MAX: Final = 50
"""How often a position is looked for that the worker has moved on from meanwhile."""
_RECORDED: Final = select(
    users.c.id, micros_of(users.c.credits), users.c.sequence, micros_of(users.c.reserved)
)
_UNREADABLE: Final = (MalformedEntryError, IncompatibleFormatError)


@dataclass(frozen=True, slots=True)
class Verification:
    """What was compared, and what does not agree.

    Attributes:
        sheet: The ledger summed up.
        partitions: How many partitions' journals were read.
        entries: How many journal entries were read.
        entries_recorded: How many of them the ledger's position had passed.
        transactions_compared: How many of their transactions were compared with the ledger's rows.
        transactions_waiting: How many transactions of the other entries were not recorded yet.
        users: How many users of the ledger were looked at.
        compared: How many of them Redis knows; the others are cold and are loaded from the ledger.
        second_looks: How many of them were ahead of the ledger at first sight.
        holds_compared: How many open holds of Redis were compared.
        differing: Users and what does not agree about each.
        forked: Partitions whose journal does not continue the ledger, or cannot be read, or whose holds
            cannot; with the reason.
        drift: The sum of the absolute differences of balances, in credits.
    """

    sheet: BalanceSheet
    partitions: int
    entries: int
    entries_recorded: int
    transactions_compared: int
    transactions_waiting: int
    users: int
    compared: int
    second_looks: int
    holds_compared: int = 0
    differing: dict[str, str] = field(default_factory=dict[str, str])
    forked: dict[int, str] = field(default_factory=dict[int, str])
    drift: Decimal = Decimal(0)

    @property
    def cold(self) -> int:
        """How many users Redis does not know; they agree with the ledger by being loaded from it."""
        return self.users - self.compared

    @property
    def is_verified(self) -> bool:
        """Whether everything agrees."""
        return self.sheet.conserves and not self.differing and not self.forked


async def verify(router: Router, database: AsyncEngine, partitions: Partitions) -> Verification:
    """What was compared, and what does not agree; charges and workers may go on meanwhile.

    Args:
        router: The way to Redis; an engine's, or one of one's own that is open.
        database: The ledger, migrated.
        partitions: The partitions as configured.

    Raises:
        DatabaseUnavailableError: The database cannot be reached.
        RedisUnavailableError: A server cannot be reached, so that not everything could be compared.

    Example:
        >>> found = await verify(credits.router, database, credits.partitions)
        >>> found.is_verified, found.users, found.differing
        (True, 1000, {})
    """
    sheet = await balance_sheet(database)
    comparison = _Comparison(router, database, partitions)
    await comparison.read_journals()
    await comparison.compare_users()
    await comparison.compare_holds()
    return comparison.result(sheet)


class _Row(NamedTuple):
    """A transaction as it can be compared: in the journal, or in the ledger."""

    user_id: str
    kind: str
    sequence: int
    amount: int
    balance_after: int
    place: tuple[int | None, ...]

    def __str__(self) -> str:
        amounts = f"{to_credits(self.amount)} ending at {to_credits(self.balance_after)}"
        partition, epoch, sequence, item = self.place
        return (
            f"{self.kind} {self.sequence} of {self.user_id} of {amounts}, "
            f"item {item} of entry {epoch}-{sequence} of partition {partition}"
        )


class _Question(NamedTuple):
    """A user whom the first sight does not decide."""

    user: str
    held: Held | None
    floor: int


class _Comparison:
    """A verification under way: what it counts and finds."""

    def __init__(self, router: Router, database: AsyncEngine, partitions: Partitions) -> None:
        self._router = router
        self._database = database
        self._partitions = partitions
        self._journal = Journal(partitions, router)
        self._floors: dict[str, int] = {}
        self._differing: dict[str, str] = {}
        self._forked: dict[int, str] = {}
        self._drift = 0
        self._entries = self._entries_recorded = 0
        self._compared_rows = self._waiting = 0
        self._users = self._compared = self._second_looks = self._holds = 0
        self._holders: dict[int, list[str]] = {}

    def result(self, sheet: BalanceSheet) -> Verification:
        """What came of it."""
        return Verification(
            sheet,
            partitions=len(self._partitions),
            entries=self._entries,
            entries_recorded=self._entries_recorded,
            transactions_compared=self._compared_rows,
            transactions_waiting=self._waiting,
            users=self._users,
            compared=self._compared,
            second_looks=self._second_looks,
            holds_compared=self._holds,
            differing=self._differing,
            forked=self._forked,
            drift=to_credits(self._drift),
        )

    # --- the journals -----------------------------------------------------------------------------

    async def read_journals(self) -> None:
        """Compare what is recorded of every journal, and note how far the rest of it goes."""
        for partition in self._partitions:
            try:
                await self._read_journal(partition.number)
            except (ForkedError, *_UNREADABLE) as error:
                self._forked[partition.number] = str(error)

    async def _read_journal(self, number: int) -> None:
        position = await self._standing(number)
        end = (await journal_ends(self._router, [self._partitions[number]])).get(number)
        if end is None:
            return
        async for entries in self._stretch(number, NOTHING_YET, end):
            recorded = [entry for entry in entries if entry.id <= position]
            self._entries += len(entries)
            self._entries_recorded += len(recorded)
            await self._compare_rows(number, recorded)
            for _, item in _items(entries[len(recorded) :]):
                self._waiting += 1
                self._floors[item.user_id] = max(item.sequence, self._floors.get(item.user_id, 0))

    async def _standing(self, number: int) -> EntryId:
        """The position of a partition whose journal holds the very entry recorded there.

        Raises:
            ForkedError: It does not.
        """
        columns = sync_partitions.c
        query = select(columns.last_id, columns.last_stamp).where(columns.partition == number)
        before: tuple[str, str] | None = None
        for _ in range(_STANDINGS_MAX):
            async with reading(self._database) as connection:
                row = (await connection.execute(query)).one_or_none()
            if row is None:
                raise ForkedError("the ledger does not know the partition; it was never opened")
            look = Look(number, row.last_id, row.last_stamp, entries_max=1, items_max=1)
            try:
                after(look, await self._found(look))
            except ForkedError:
                if before == (row.last_id, row.last_stamp):
                    raise
                before = (row.last_id, row.last_stamp)
            else:
                return EntryId.parse(row.last_id)
        raise RedisUnavailableError(
            f"partition {number} moves on too fast to be compared; raise sync.retain_ms"
        )

    async def _stretch(
        self, number: int, start: str, end: EntryId
    ) -> AsyncGenerator[list[Entry], None]:
        """The entries of a journal after one, up to and with another, some hundred at once.

        Raises:
            MalformedEntryError: One of them was not written by these scripts.
            IncompatibleFormatError: One of them was written in another format.
        """
        last = EntryId.parse(start)
        while last < end:
            look = Look(number, str(last), "", entries_max=_ENTRIES_AT_ONCE, items_max=1)
            found = [decode(*raw) for raw in await self._found(look)]
            entries = [entry for entry in found if last < entry.id <= end]
            if not entries:
                return
            yield entries
            last = entries[-1].id

    async def _found(self, look: Look) -> list[tuple[bytes, list[bytes]]]:
        (found,) = await self._journal.read([look])
        if found is None:
            raise RedisUnavailableError(f"partition {look.partition} cannot be read now")
        return found

    async def _compare_rows(self, number: int, entries: Sequence[Entry]) -> None:
        """What entries say that the ledger has recorded, with its rows."""
        told = {
            item.transaction_id: _Row(
                item.user_id,
                item.kind,
                item.sequence,
                item.delta,
                item.balance_after,
                (number, entry.id.epoch, entry.id.sequence, item.index),
            )
            for entry, item in _items(entries)
        }
        ids = [*told]
        for start in range(0, len(ids), _IDS_AT_ONCE):
            some = ids[start : start + _IDS_AT_ONCE]
            rows = await self._rows(some)
            for transaction_id in some:
                self._compared_rows += 1
                row, expected = rows.get(transaction_id), told[transaction_id]
                if row != expected:
                    self._note(expected.user_id, _difference(transaction_id, expected, row))

    async def _rows(self, ids: Sequence[str]) -> dict[str, _Row]:
        columns = transactions.c
        query = select(
            columns.id,
            columns.user_id,
            columns.kind,
            columns.sequence,
            micros_of(columns.amount).label("delta"),
            micros_of(columns.balance_after).label("balance"),
            columns.partition,
            columns.entry_epoch,
            columns.entry_sequence,
            columns.entry_item,
        ).where(columns.id.in_(ids))
        async with reading(self._database) as connection:
            rows = (await connection.execute(query)).all()
        return {
            row.id: _Row(
                row.user_id,
                row.kind,
                row.sequence,
                row.delta,
                row.balance,
                (row.partition, row.entry_epoch, row.entry_sequence, row.entry_item),
            )
            for row in rows
        }

    # --- the users --------------------------------------------------------------------------------

    async def compare_users(self) -> None:
        """Compare every user in Redis and in the ledger, and in the journal where that is needed."""
        unseen, questions = set(self._floors), list[_Question]()
        async for page in self._pages():
            unseen -= page.keys()
            questions += await self._compare(page)
            if len(questions) >= _QUESTIONS_AT_ONCE:
                await self._settle(questions)
                questions.clear()
        created_meanwhile = await self._recorded(sorted(unseen))
        for user in unseen - created_meanwhile.keys():
            self._note(user, Difference("the journal has transactions, the ledger no such user"))
        questions += await self._compare(created_meanwhile)
        for start in range(0, len(questions), _QUESTIONS_AT_ONCE):
            await self._settle(questions[start : start + _QUESTIONS_AT_ONCE])

    async def _pages(self) -> AsyncGenerator[dict[str, Recorded], None]:
        """The ledger's users, some thousand at once."""
        last: str | None = None
        query = _RECORDED.order_by(users.c.id).limit(_USERS_AT_ONCE)
        while True:
            page = query if last is None else query.where(users.c.id > last)
            async with reading(self._database) as connection:
                rows = (await connection.execute(page)).all()
            if rows:
                yield {name: Recorded(*facts) for name, *facts in rows}
                last = rows[-1][0]
            if len(rows) < _USERS_AT_ONCE:
                return

    async def _compare(self, page: Mapping[str, Recorded]) -> list[_Question]:
        """At first sight; those whom it does not decide."""
        questions: list[_Question] = []
        for start in range(0, len(page), _USERS_AT_ONCE):
            some = [*page][start : start + _USERS_AT_ONCE]
            accounts = await held_accounts(self._router, self._partitions, some)
            apart: dict[str, Held] = {}
            for user, held in zip(some, accounts, strict=True):
                floor = self._floors.get(user, 0)
                found = at_first_sight(held, page[user], floor)
                if isinstance(found, Difference):
                    self._note(user, found)
                elif not found:
                    questions.append(_Question(user, held, floor))
                elif held is not None and held.reserved != page[user].reserved:
                    apart[user] = held
                self._compared += held is not None
                if held is not None and held.open_holds:
                    number = self._partitions.of(user.encode()).number
                    self._holders.setdefault(number, []).append(user)
            await self._compare_reserved(apart)
        self._users += len(page)
        return questions

    async def _compare_reserved(self, before: Mapping[str, Held]) -> None:
        """What users have reserved of whom Redis and ledger did not agree at first sight."""
        if not before:
            return
        names = [*before]
        reached = await positions(self._database)
        recorded = await self._recorded(names)
        after = await held_accounts(self._router, self._partitions, names)
        for user, held in zip(names, after, strict=True):
            position = reached.get(self._partitions.of(user.encode()).number)
            if position is None:
                continue  # its journal is told to continue nothing
            found = apart_in_holds(before[user], recorded[user], position, held)
            if found is not None:
                self._note(user, found)

    async def compare_holds(self) -> None:
        """Compare every open hold; after the users, for their accounts say who has any."""
        comparison = HoldComparison(self._router, self._database, self._partitions)
        for partition in self._partitions:
            holders = self._holders.get(partition.number, [])
            found = await comparison.compare(partition, holders)
            self._holds += found.compared
            if found.problem:
                self._forked.setdefault(partition.number, found.problem)
            for user, difference in found.differing.items():
                self._note(user, difference)

    async def _settle(self, questions: Sequence[_Question]) -> None:
        """At second sight."""
        self._second_looks += len(questions)
        open_ones = {question.user: question for question in questions}
        at = await self._at(questions)
        waiting = {user for user, question in open_ones.items() if _is_waiting(question, at)}
        steps = await self._steps(waiting)
        recorded = await self._recorded([*open_ones])
        at |= await self._at([open_ones[user] for user in sorted(waiting)])
        for user, question in open_ones.items():
            held = question.held
            found = at_second_sight(
                held,
                recorded[user],
                question.floor,
                recorded_there=None if held is None else at.get((user, held.sequence)),
                steps=steps.get(user, {}),
            )
            if found is not None:
                self._note(user, found)

    async def _at(self, questions: Iterable[_Question]) -> dict[tuple[str, int], int]:
        """The balances after the transactions that Redis is at, of those the ledger has."""
        wanted = [(one.user, one.held.sequence) for one in questions if one.held is not None]
        columns = transactions.c
        query = select(columns.user_id, columns.sequence, micros_of(columns.balance_after))
        found: dict[tuple[str, int], int] = {}
        async with reading(self._database) as connection:
            for some in _chunks(wanted):
                pair = tuple_(columns.user_id, columns.sequence)
                for user, sequence, balance in await connection.execute(
                    query.where(pair.in_(some))
                ):
                    found[user, sequence] = balance
        return found

    async def _recorded(self, names: Sequence[str]) -> dict[str, Recorded]:
        async with reading(self._database) as connection:
            return {
                name: Recorded(*facts)
                for some in _chunks(names)
                for name, *facts in await connection.execute(_RECORDED.where(users.c.id.in_(some)))
            }

    async def _steps(self, wanted: set[str]) -> dict[str, dict[int, Step]]:
        """What the journals have of some users beyond the ledger's positions."""
        found: dict[str, dict[int, Step]] = {}
        if not wanted:
            return found
        numbers = {self._partitions.of(user.encode()).number for user in wanted}
        recorded = await positions(self._database)
        asked = [self._partitions[number] for number in sorted(numbers)]
        for number, end in (await journal_ends(self._router, asked)).items():
            start = str(recorded.get(number, NOTHING_YET))
            try:
                async for entries in self._stretch(number, start, end):
                    for _, item in _items(entries):
                        if item.user_id in wanted:
                            self._keep(found.setdefault(item.user_id, {}), item)
            except _UNREADABLE as error:
                self._forked.setdefault(number, str(error))
        return found

    def _keep(self, steps: dict[int, Step], item: TransactionItem) -> None:
        step = Step(item.delta, item.balance_after)
        if steps.setdefault(item.sequence, step) != step:
            twice = f"the journal has two transactions {item.sequence}"
            self._note(item.user_id, Difference(twice))

    def _note(self, user: str, difference: Difference) -> None:
        """The first difference of a user is named; the others mostly follow from it."""
        if self._differing.setdefault(user, difference.problem) is difference.problem:
            self._drift += difference.drift


def _is_waiting(question: _Question, at: Mapping[tuple[str, int], int]) -> bool:
    """Whether Redis is at a transaction that the ledger has not."""
    held = question.held
    return held is not None and (question.user, held.sequence) not in at


def _items(entries: Iterable[Entry]) -> Iterable[tuple[Entry, TransactionItem]]:
    """Every transaction of some entries, with its entry; refusals change no balance."""
    for entry in entries:
        for item in entry.items:
            if isinstance(item, TransactionItem):
                yield entry, item


def _difference(transaction_id: str, told: _Row, row: _Row | None) -> Difference:
    said = f"the journal has transaction {transaction_id}: {told}; the ledger"
    if row is None:
        return Difference(f"{said} has recorded that entry, but not the transaction")
    return Difference(f"{said} has {row}", abs(row.balance_after - told.balance_after))


def _chunks(values: Sequence[_T]) -> Iterable[Sequence[_T]]:
    for start in range(0, len(values), _IDS_AT_ONCE):
        yield values[start : start + _IDS_AT_ONCE]
