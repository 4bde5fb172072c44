"""An application with people of its own in the same database: who they are is its, what they have is ours.

    python examples/existing_user_table.py [FOLDER]

The application keeps `members`: names, mail addresses, whatever it likes. A member's id is the user's id in
`users`, the table of the library. Members who were there before get their first credits in the one SQL
statement that makes them users; members who sign up become users in the same commit as themselves, or not
at all. Redis learns of them on their first request. From then on the credits in `users` are written by
the worker alone: the application reads them, and changes them by `charge` and `grant`.

It needs no server: the engine starts a Valkey of its own, and the database is SQLite.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

from sqlalchemy import (
    Column,
    Integer,
    MetaData,
    String,
    Table,
    cast,
    func,
    insert,
    literal,
    select,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from credits_fast import CreditsEngine
from credits_fast.sync.tables import transactions, users

CONFIG = {
    "costs": {"image": {"default": 4}},
    "membership": {"tiers": {"free": 0}, "credits_caps": {"free": 10}},
}
FIRST_CREDITS = 10

members = Table(
    "members",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("name", String(80), nullable=False),
    Column("mail", String(200), nullable=False, unique=True),
)


async def take_over(database: AsyncEngine) -> int:
    """How many members have become users now: those who were none; again and again, if you like."""
    user_id = cast(members.c.id, String)
    # With the column's type, because SQLite keeps amounts as text with six places.
    missing = select(user_id, literal(FIRST_CREDITS, users.c.credits.type)).where(
        user_id.not_in(select(users.c.id))
    )
    async with database.begin() as connection:
        done = await connection.execute(insert(users).from_select(["id", "credits"], missing))
    return done.rowcount


async def sign_up(database: AsyncEngine, name: str, mail: str) -> bool:
    """Whether there is a new member, who is a user from the same commit on; not with a mail taken."""
    try:
        async with database.begin() as connection:
            new = insert(members).values(name=name, mail=mail).returning(members.c.id)
            member = (await connection.execute(new)).scalar_one()
            await connection.execute(insert(users).values(id=str(member), credits=FIRST_CREDITS))
    except IntegrityError:
        return False
    return True


async def user_of(database: AsyncEngine, mail: str) -> str:
    """The user id of a member."""
    async with database.connect() as connection:
        query = select(members.c.id).where(members.c.mail == mail)
        return str((await connection.execute(query)).scalar_one())


async def report(database: AsyncEngine) -> list[str]:
    """What a member has and has spent: a join of the application's table and the ledger's."""
    user_id = cast(members.c.id, String)
    query = (
        select(members.c.name, users.c.credits, func.count(transactions.c.id))
        .join(users, users.c.id == user_id)
        .outerjoin(transactions, transactions.c.user_id == users.c.id)
        .group_by(members.c.id, members.c.name, users.c.credits)
        .order_by(members.c.id)
    )
    async with database.connect() as connection:
        rows = (await connection.execute(query)).all()
    return [
        f"{name:6} {credits:6.2f} after {number} transactions" for name, credits, number in rows
    ]


async def main(folder: str) -> None:
    """The day an application begins to charge."""
    async with CreditsEngine.embedded(folder, CONFIG) as credits:
        database = create_async_engine(f"sqlite+aiosqlite:///{Path(folder) / 'credits.db'}")
        async with database.begin() as connection:
            await connection.run_sync(members.metadata.create_all)
            await connection.execute(
                insert(members).prefix_with("OR IGNORE"),
                [
                    {"name": "Ada", "mail": "ada@example.com"},
                    {"name": "Bob", "mail": "bob@example.com"},
                ],
            )
        print("taken over:", await take_over(database), "then", await take_over(database))

        for name in ("Eve", "Eve again"):
            new = await sign_up(database, name, "eve@example.com")
            print(f"{name}:", "signed up" if new else "the mail address is taken")
        eve, ada = [await user_of(database, f"{one}@example.com") for one in ("eve", "ada")]
        charge = await credits.charge(eve, "image", idempotency_key="image-1")
        print(f"Eve's first image: {charge.cost:.2f}, {charge.balance_after:.2f} left")
        await credits.grant(ada, 20, "purchase", idempotency_key="payment-1")

        await credits.wait_recorded()
        print(*await report(database), sep="\n")
        await database.dispose()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else temporary))
