"""What the ledger holds, in the order in which it came to be there, in the reference's shape.

The reference has one list of rows for all users. Ours number the rows of each user, so the order
across users is the order in which they were first seen: after every step of a case.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy import Text, cast, select

from credits_fast.ledger.database import reading
from credits_fast.ledger.records import transaction_of
from credits_fast.sync.ledger import Ledger
from credits_fast.sync.tables import audit_logs, idempotency_records, transactions, users
from credits_fast.testing import CreditsKit
from tests.conformance.cases import Object
from tests.conformance.shapes import audit_shape, camel, json_value, transaction_shape

__all__ = ["LedgerView", "audit_of", "records_of", "user_of", "users_of"]

_JSON: Final = frozenset({"result"})


class LedgerView:
    """The rows of the ledger seen so far.

    Args:
        given: The rows a case begins with.
    """

    def __init__(self, given: Iterable[Object] = ()) -> None:
        self._order = dict.fromkeys(row["id"] for row in given if "id" in row)

    async def transactions(self, kit: CreditsKit) -> list[Object]:
        """All rows of the ledger; what is new is new from now on."""
        rows = {row["id"]: row for row in await _transactions(kit)}
        self._order.update(dict.fromkeys(rows))
        return [rows[name] for name in self._order]


async def users_of(kit: CreditsKit) -> dict[str, Object]:
    """Every user, by id."""
    query = select(users).order_by(users.c.created_at, users.c.id)
    return {row["id"]: _user(row) for row in await _rows(kit, query)}


async def user_of(kit: CreditsKit, user_id: str) -> Object | None:
    """A user, None where the ledger does not know one."""
    return (await users_of(kit)).get(user_id)


async def audit_of(kit: CreditsKit) -> list[Object]:
    """Every row of the audit log, in the order of insertion."""
    query = _with_json_as_text(audit_logs, "metadata").order_by(audit_logs.c.id)
    return [audit_shape(row) for row in await _rows(kit, query)]


async def records_of(kit: CreditsKit) -> list[Object]:
    """Every key that is remembered now; what has expired is removed, as the worker does."""
    if kit.clock is not None:
        await Ledger(kit.database).forget_expired(kit.clock())
    columns = idempotency_records.c
    query = _with_json_as_text(idempotency_records, "result")
    query = query.order_by(columns.created_at, columns.user_id, columns.key)
    return [camel(row, json_columns=_JSON) for row in await _rows(kit, query)]


def _user(row: Object) -> Object:
    return camel({name: row[name] for name in row if name not in {"reserved", "sequence"}})


async def _transactions(kit: CreditsKit) -> list[Object]:
    columns = transactions.c
    query = _with_json_as_text(transactions, "metadata").order_by(
        columns.entry_epoch.is_not(None),
        columns.created_at,
        columns.user_id,
        columns.sequence,
    )
    async with reading(kit.database) as connection:
        found = [transaction_of(row) for row in await connection.execute(query)]
    return [{**transaction_shape(row), "metadata": json_value(str(row.metadata))} for row in found]


async def _rows(kit: CreditsKit, query: Any) -> list[Object]:
    async with reading(kit.database) as connection:
        found = (await connection.execute(query)).mappings()
        return [{str(name): value for name, value in row.items()} for row in found]


def _with_json_as_text(table: Any, name: str) -> Any:
    """All columns; JSON as the text it is, so that its numbers stay exact."""
    columns = [column for column in table.c if column.name != name]
    return select(*columns, cast(table.c[name], Text).label(name))
