"""Intents in SQL: written in an application's own transaction, decided by their primary key alone.

An intent is a row that says what shall be done if its transaction commits. Whoever wants to know whether
it has committed tries to write the opposite under the same id: PostgreSQL lets the second of two such
rows wait for the first one's commit or rollback, so exactly one of them is ever there.
"""

from __future__ import annotations

from collections.abc import Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import ColumnElement, and_, func, insert, or_, select, text, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError, IntegrityError

from credits_fast.amounts import to_credits, to_micros
from credits_fast.errors import DatabaseUnavailableError, InvalidArgumentError, RepeatedRequestError
from credits_fast.ledger.database import reading, writing
from credits_fast.sync.tables import holds, intents, transactions
from credits_fast.transactions.intent_ids import intent_of, stand_in

if TYPE_CHECKING:
    from sqlalchemy import Row
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

__all__ = ["WITHOUT_END", "Home", "Intent", "Intents", "OpenIntents"]

WITHOUT_END: Final = datetime(5000, 1, 1, tzinfo=UTC)
"""A hold that lasts beyond this is one for an intent; nobody else's may last longer than ten years."""

_LOCK_MS: Final = 50
"""How long a decision waits for an application's transaction that is still open."""

_LOCK_NOT_AVAILABLE: Final = "55P03"
_HOME: Final = text(
    "SELECT system_identifier::text, current_database()::text, 'intents'::regclass::oid::text "
    "FROM pg_control_system()"
)


class Home(NamedTuple):
    """Which table `intents` is meant: the cluster of databases, the database, and the table in it."""

    system: str
    database: str
    table: str


@dataclass(frozen=True, slots=True)
class Intent:
    """What shall be done once a transaction has committed.

    Attributes:
        id: Its id; of a charge also the hold's, of the others also the transaction's to come.
        kind: `charge`, `grant` or `refund`.
        user_id: The user.
        action: The caller's action.
        micros: How much, in micro-credits.
        metadata: The caller's metadata as a JSON value.
        related_id: The charge a refund names.
        bounded: Whether a refund may not pass its charge.
        audited: Whether it is audited.
        key: The caller's key, None for none.
        fingerprint: What a repeated key must match.
        partition: The user's partition.
        state: `commit`, or `aborted`, where it was decided that it never will.
    """

    id: str
    kind: str
    user_id: str
    action: str
    micros: int
    metadata: Any
    related_id: str | None
    bounded: bool
    audited: bool
    key: str | None
    fingerprint: str
    partition: int
    state: str = "commit"

    @property
    def aborted(self) -> Intent:
        """The opposite: that it never takes effect."""
        return replace(self, state="aborted")

    def of_request(self, key: str | None, fingerprint: str) -> Intent:
        """The same under a caller's key."""
        return replace(self, key=key, fingerprint=fingerprint)

    def row(self) -> dict[str, Any]:
        """The values of its row."""
        return {
            "id": self.id,
            "kind": self.kind,
            "state": self.state,
            "user_id": self.user_id,
            "action": self.action,
            "amount": to_credits(self.micros),
            "metadata": self.metadata,
            "related_id": self.related_id,
            "bounded": self.bounded,
            "audited": self.audited,
            "idempotency_key": self.key,
            "fingerprint": self.fingerprint,
            "partition": self.partition,
        }

    @classmethod
    def of(cls, row: Row[Any]) -> Intent:
        """A row, read."""
        return cls(
            row.id,
            row.kind,
            row.user_id,
            row.action,
            to_micros(row.amount),
            row.metadata,
            row.related_id,
            row.bounded,
            row.audited,
            row.idempotency_key,
            row.fingerprint,
            row.partition,
            row.state,
        )


class OpenIntents(NamedTuple):
    """A page of what nobody has settled yet.

    Attributes:
        found: The intents; a hold whose transaction has left no row is an intent to charge.
        last_id: Where the next page begins, "" for the beginning.
    """

    found: list[Intent]
    last_id: str


class Intents:
    """The intents of one ledger."""

    def __init__(self, database: AsyncEngine) -> None:
        self._database = database
        self._home: Home | None = None

    # --- in the application's transaction -----------------------------------------------------------

    async def check_home(self, connection: AsyncConnection) -> None:
        """Nothing, where the connection writes into the very table that decisions are made in.

        Raises:
            InvalidArgumentError: It leads elsewhere, to no PostgreSQL, or commits by itself.
            DatabaseUnavailableError: The ledger cannot be reached.
        """
        if {connection.dialect.name, self._database.dialect.name} != {"postgresql"}:
            problem = "must be on the ledger's PostgreSQL: no other database can decide for both"
            raise InvalidArgumentError("session", problem)
        if _options(connection).get("isolation_level") == "AUTOCOMMIT":
            raise InvalidArgumentError(
                "session", "must not be in AUTOCOMMIT: nothing would be undone"
            )
        if self._home is None:
            async with reading(self._database) as own:
                self._home = Home(*(await own.execute(_HOME)).one())
        try:
            theirs = Home(*(await connection.execute(_HOME)).one())
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", "") != "42P01":  # there is no such table
                raise
            theirs = Home("", "", "")
        if theirs != self._home:
            raise InvalidArgumentError(
                "session", "is on another database, or schema, than the ledger"
            )

    async def of_key(self, connection: AsyncConnection, user_id: str, key: str) -> Intent | None:
        """The committed intent of this key, or this transaction's own; None where there is none."""
        columns = intents.c
        found = await connection.execute(
            select(intents).where(
                columns.user_id == user_id,
                columns.idempotency_key == key,
                columns.state == "commit",
            )
        )
        row = found.one_or_none()
        return None if row is None else Intent.of(row)

    async def write(self, connection: AsyncConnection, intent: Intent) -> None:
        """Write the intent; a plain INSERT, so that a lost race aborts the application's transaction.

        Raises:
            RepeatedRequestError: Another transaction has committed an intent of the same key meanwhile.
            DatabaseUnavailableError: It took so long that the hold was given up; the transaction can
                be repeated.
        """
        try:
            await connection.execute(insert(intents), intent.row())
        except IntegrityError as error:
            if "ix_intents_key" in str(error.orig):
                raise RepeatedRequestError(intent.key or "", intent.id) from error
            if "pk_intents" not in str(error.orig):
                raise
            problem = f"hold {intent.id} was given up before its transaction used it; repeat that"
            raise DatabaseUnavailableError(problem) from error

    # --- what became of it ----------------------------------------------------------------------

    async def decide(self, intent: Intent) -> str | None:
        """`commit` or `aborted`, for ever; None while the application's transaction is open.

        Raises:
            DatabaseUnavailableError: The database cannot be reached, or is a standby.
        """
        opposite = postgresql.insert(intents).values(**intent.aborted.row())
        with _locked() as lock:
            async with writing(self._database) as connection:
                await connection.exec_driver_sql(f"SET LOCAL lock_timeout = {_LOCK_MS:d}")
                done = await connection.execute(
                    opposite.on_conflict_do_nothing(index_elements=["id"])
                )
                if done.rowcount == 1:
                    return "aborted"
        return None if lock.was_met else await self.state(intent.id)

    async def state(self, intent_id: str) -> str | None:
        """`commit` or `aborted`; None where no transaction has committed a row so far.

        Raises:
            DatabaseUnavailableError: The database cannot be reached.
        """
        async with reading(self._database) as connection:
            query = select(intents.c.state).where(intents.c.id == intent_id)
            return (await connection.execute(query)).scalar_one_or_none()

    async def unsettled(
        self, partitions: Collection[int], before: datetime, after_id: str, *, most: int
    ) -> OpenIntents:
        """A page of the intents that nobody has settled, and of holds without one, oldest first.

        Args:
            partitions: Only these.
            before: Only what was made before this moment.
            after_id: Only what comes after it.
            most: How many of each.

        Raises:
            DatabaseUnavailableError: The database cannot be reached.
        """
        rows, kept = intents.c, holds.c
        of_rows = (
            select(intents)
            .where(
                rows.settled_at.is_(None),
                rows.problem.is_(None),
                rows.partition.in_(partitions),
                rows.created_at < before,
                rows.id > after_id,
            )
            .order_by(rows.id)
            .limit(most)
        )
        of_holds = (
            select(holds)
            .outerjoin(intents, rows.id == kept.id)
            .where(
                kept.state == "reserved",
                kept.expires_at >= WITHOUT_END,
                kept.partition.in_(partitions),
                kept.created_at < before,
                kept.id > after_id,
                rows.id.is_(None),
            )
            .order_by(kept.id)
            .limit(most)
        )
        async with reading(self._database) as connection:
            found = [Intent.of(row) for row in await connection.execute(of_rows)]
            alone = [_of_hold(row) for row in await connection.execute(of_holds)]
        page = sorted([*found, *alone], key=lambda intent: intent.id)[:most]
        last_id = page[-1].id if len(page) == most else ""
        # A hold that stands in for another one belongs to an intent that has a row.
        return OpenIntents([one for one in page if intent_of(one.id) == one.id], last_id)

    # --- what was done --------------------------------------------------------------------------

    async def settle(self, intent_id: str, *, problem: str | None = None) -> None:
        """Note that nothing is left to do; with a problem, that nothing can be done.

        Raises:
            DatabaseUnavailableError: The database cannot be reached.
        """
        change = update(intents).where(intents.c.id == intent_id, intents.c.settled_at.is_(None))
        values = {"settled_at": func.now()} if problem is None else {"problem": problem}
        async with writing(self._database) as connection:
            await connection.execute(change.values(**values))

    async def is_recorded(self, intent_id: str) -> bool:
        """Whether the ledger has what the intent says.

        Raises:
            DatabaseUnavailableError: The database cannot be reached.
        """
        names = (intent_id, stand_in(intent_id))
        captured: ColumnElement[bool] = and_(holds.c.id.in_(names), holds.c.state == "captured")
        query = select(
            or_(
                select(holds.c.id).where(captured).exists(),
                select(transactions.c.id).where(transactions.c.id == intent_id).exists(),
            )
        )
        async with reading(self._database) as connection:
            return bool((await connection.execute(query)).scalar_one())


def _of_hold(row: Row[Any]) -> Intent:
    """The intent that a hold without one would have had."""
    return Intent(
        row.id,
        "charge",
        row.user_id,
        row.action,
        to_micros(row.amount),
        {},
        None,
        bounded=False,
        audited=row.audited,
        key=None,
        fingerprint="",
        partition=row.partition,
    )


def _options(connection: AsyncConnection) -> Any:
    return connection.sync_connection.get_execution_options() if connection.sync_connection else {}


class _Lock:
    """Whether a lock was met that somebody else holds."""

    was_met = False


@contextmanager
def _locked() -> Generator[_Lock, None, None]:
    """A lock that is not to be had in time is no error."""
    lock = _Lock()
    try:
        yield lock
    except DatabaseUnavailableError as error:
        cause = error.__cause__
        orig = cause.orig if isinstance(cause, DBAPIError) else None
        if getattr(orig, "sqlstate", "") != _LOCK_NOT_AVAILABLE:
            raise
        lock.was_met = True
