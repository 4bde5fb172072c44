"""An application that is killed: `python -m tests.integration.own_application REDIS DATABASE POINT KIND`.

It writes an order and a charge, grant or refund in one transaction of its own, and ends itself with
SIGKILL at the named point. It prints nothing; what is left is in the servers.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any, NoReturn
from unittest.mock import patch

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from credits_fast import CreditsEngine
from credits_fast.calls.carrying import Carrier
from credits_fast.ledger.database import connect
from credits_fast.transactions.intents import Intents
from credits_fast.transactions.own_transaction import OwnTransaction
from credits_fast.transactions.settling import Settling
from tests.integration.conftest import CONFIG


def die(*_: Any) -> NoReturn:
    """End as a process ends that nobody asks."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("nobody survives this")


def dying_after(owner: type, name: str) -> Any:
    """The method does its work, and nobody hears of it."""
    method = getattr(owner, name)

    async def done_unheard(*given: Any, **named: Any) -> None:
        await method(*given, **named)
        die()

    return patch.object(owner, name, done_unheard)


POINTS: dict[str, Any] = {
    "C1": lambda: patch.object(Carrier, "carry_out", die),
    "C2": lambda: dying_after(Carrier, "carry_out"),
    "C3": lambda: patch.object(Intents, "write", die),
    "C4": lambda: dying_after(Intents, "write"),
    "C4 flushed": lambda: patch.object(OwnTransaction, "_commit", die),
    "C5": lambda: dying_after(AsyncSession, "commit"),
    "C6": lambda: patch.object(OwnTransaction, "_resolve", die),
    "C7": lambda: dying_after(Settling, "resolve"),
    "C8": lambda: dying_after(OwnTransaction, "_resolve"),
    "C9": lambda: patch.object(OwnTransaction, "_resolve", die),
}
"""Where the application dies, by the name of the point in docs/transactions.md."""


class _OrderError(Exception):
    """The order cannot be had."""


async def main(redis_url: str, database_url: str, point: str, kind: str) -> None:
    """Order once, and die at the point."""
    database = connect(database_url)
    async with (
        CreditsEngine.from_url(redis_url, database_url, CONFIG) as credits,
        AsyncSession(database) as session,
    ):
        with POINTS[point]():
            async with credits.in_transaction(session) as purchase:
                await session.execute(text("INSERT INTO orders VALUES ('child')"))
                if kind == "charge":
                    await purchase.charge("ada", "image")
                elif kind == "grant":
                    await purchase.grant("ada", 20, "bonus")
                else:
                    await purchase.refund("ada", 20, "image")
                if point == "C9":
                    raise _OrderError


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
