"""The demo's verdict can fail: a fault is planted in a run that was sound, and must be found."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import delete, func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from credits_fast.cli.demo import play
from credits_fast.cli.demo.books import Acknowledged, Books
from credits_fast.cli.demo.run import Run
from credits_fast.cli.demo.scenario import Tokens, config_text, draw_tokens, scenario
from credits_fast.cli.demo.verify import Verdict, verify
from credits_fast.config import CreditsConfig, load_config
from credits_fast.engine import CreditsEngine
from credits_fast.ledger.database import writing
from credits_fast.sync.tables import audit_logs, transactions, users
from credits_fast.testing import CreditsKit, open_kit
from tests.cli.conftest import Program

USER = "user-0001"


@dataclass(frozen=True)
class Played:
    """A run that has ended, on fakeredis and SQLite."""

    kit: CreditsKit
    books: Books

    async def verdict(self) -> Verdict:
        return await verify(self.books, self.kit.engine, self.kit.database)

    def a_charge(self) -> str:
        """A transaction of the busiest user, from the middle."""
        entries = self.books.entries.items()
        ids = [id_ for id_, entry in entries if (entry.user, entry.kind) == (USER, "charge")]
        return ids[len(ids) // 2]


@pytest.fixture
def config(tmp_path: Path) -> CreditsConfig:
    path = tmp_path / "credits.toml"
    path.write_text(config_text("demo"))
    return load_config(path)


@pytest.fixture
async def played(config: CreditsConfig) -> AsyncIterator[Played]:
    async with open_kit(config) as kit:
        run = Run(kit.engine, scenario(1, 10, [*draw_tokens(1, 120)]), callers=8, speed=None)
        await run.create_people()
        await run.perform()
        await with_worker(kit, run.give_back())
        await kit.sync()
        yield Played(kit, run.books)


async def with_worker(kit: CreditsKit, work: Awaitable[None]) -> None:
    """Do what waits for the ledger, while a worker carries into it."""
    stop = asyncio.Event()
    working = asyncio.create_task(kit.worker.run(stop))
    try:
        await work
    finally:
        stop.set()
        await working


async def lose_a_row(database: AsyncEngine, id_: str) -> None:
    async with writing(database) as connection:
        await connection.execute(delete(transactions).where(transactions.c.id == id_))


async def double_a_row(database: AsyncEngine, id_: str) -> None:
    columns = transactions.c
    copied = ("user_id", "kind", "action", "amount", "balance_before", "balance_after", "metadata")
    row = select(
        literal("another"),
        columns.sequence + 10_000,
        columns.created_at,
        *(columns[name] for name in copied),
    ).where(columns.id == id_)
    statement = insert(transactions).from_select(["id", "sequence", "created_at", *copied], row)
    async with writing(database) as connection:
        await connection.execute(statement)


async def alter_a_row(database: AsyncEngine, id_: str) -> None:
    columns = transactions.c
    async with writing(database) as connection:
        await connection.execute(
            update(transactions)
            .where(columns.id == id_)
            .values(amount=Decimal(0), balance_after=columns.balance_before)
        )


async def rename_a_row(database: AsyncEngine, id_: str) -> None:
    async with writing(database) as connection:
        await connection.execute(
            update(transactions).where(transactions.c.id == id_).values(kind="refund")
        )


async def change_a_balance(database: AsyncEngine, _id: str) -> None:
    async with writing(database) as connection:
        await connection.execute(
            update(users).where(users.c.id == USER).values(credits=Decimal("0.000001"))
        )


async def lose_an_audited_success(database: AsyncEngine, id_: str) -> None:
    async with writing(database) as connection:
        await connection.execute(delete(audit_logs).where(audit_logs.c.transaction_id == id_))


async def lose_an_audited_refusal(database: AsyncEngine, _id: str) -> None:
    refused = select(func.min(audit_logs.c.id)).where(audit_logs.c.status == "failed")
    async with writing(database) as connection:
        await connection.execute(
            delete(audit_logs).where(audit_logs.c.id == refused.scalar_subquery())
        )


async def test_a_sound_run_has_no_problems(played: Played) -> None:
    verdict = await played.verdict()

    assert [] == verdict.problems
    assert ((), (), Decimal(0)) == (verdict.lost, verdict.duplicated, verdict.drift)
    assert sum(verdict.counts.values()) == verdict.sheet.transactions == verdict.acknowledged


@pytest.mark.parametrize(
    ("plant", "findings"),
    [
        (lose_a_row, ["1 acknowledged operations are not in", "the differences add up to"]),
        (double_a_row, ["1 ledger rows were never asked for", "the differences add up to"]),
        (alter_a_row, ["1 ledger rows say something else", "the differences add up to"]),
        (rename_a_row, ["1 ledger rows say something else"]),
        (
            change_a_balance,
            [
                "1 users have another balance than their rows",
                "1 users differ between Redis and the ledger",
                "the ledger does not conserve credits",
            ],
        ),
        (lose_an_audited_success, [r"the audit log has \d+ successes for \d+ operations"]),
        (lose_an_audited_refusal, [r"the audit log has \d+ failures for \d+ refusals"]),
    ],
)
async def test_a_planted_fault_is_found(
    played: Played,
    plant: Callable[[AsyncEngine, str], Awaitable[None]],
    findings: list[str],
) -> None:
    await plant(played.kit.database, played.a_charge())
    problems = (await played.verdict()).problems

    unfound = [text for text in findings if not any(re.match(text, p) for p in problems)]
    assert [] == unfound, problems


async def test_a_balance_that_is_wrong_in_redis_is_found(played: Played) -> None:
    lane = await played.kit.engine.lane()
    account = played.kit.engine.partitions.of(USER.encode()).account(USER.encode())
    entry, balance, rest = (await lane.execute(b"GET", account)).split(b" ", 2)
    await lane.execute(b"SET", account, b"%b %d %b" % (entry, int(balance) + 1, rest))
    verdict = await played.verdict()

    assert ({USER}, Decimal("0.000001")) == (set(verdict.redis.differing), verdict.drift)
    assert verdict.problems


async def test_a_user_that_redis_does_not_know_is_not_passed_over(played: Played) -> None:
    lane = await played.kit.engine.lane()
    await lane.execute(
        b"DEL", played.kit.engine.partitions.of(USER.encode()).account(USER.encode())
    )

    assert "Redis knows 9 of 10 users" in (await played.verdict()).problems


async def test_an_operation_that_was_never_recorded_is_lost(played: Played) -> None:
    played.books.acknowledge("never-recorded", USER, "charge", Decimal(-3))
    verdict = await played.verdict()

    assert (("never-recorded",), Decimal(3)) == (verdict.lost, verdict.drift)


async def test_a_used_key_that_charges_again_is_a_duplicate(played: Played) -> None:
    played.books.again.append("charged-again")

    assert ("charged-again",) == (await played.verdict()).duplicated


async def test_the_ledger_settles_what_was_never_answered(played: Played) -> None:
    id_ = played.a_charge()
    entry = played.books.entries.pop(id_)
    unsettled = await played.verdict()
    played.books.unknown.add(id_)
    settled = await played.verdict()

    assert ((id_,), []) == (unsettled.duplicated, settled.problems)
    assert entry == played.books.entries[id_]


async def test_a_paced_run_takes_every_step(config: CreditsConfig) -> None:
    requests = [Tokens(float(second), 100, 10) for second in range(40)]
    async with open_kit(config) as kit:
        drawn = scenario(1, 10, requests)
        run = Run(kit.engine, drawn, callers=4, speed=1_000_000.0)
        await run.create_people()
        await run.perform()

    assert len(drawn.steps) == run.meter.steps


@pytest.mark.parametrize("plant", [lose_a_row, double_a_row, change_a_balance])
def test_a_demo_that_does_not_agree_says_so_and_ends_with_7(
    program: Program,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    plant: Callable[[AsyncEngine, str], Awaitable[None]],
) -> None:
    async def planted(books: Books, engine: CreditsEngine, database: AsyncEngine) -> Verdict:
        await plant(database, Played(None, books).a_charge())  # type: ignore[arg-type]
        return await verify(books, engine, database)

    monkeypatch.setattr(play, "verify", planted)
    sizes = ("--users", "3", "--requests", "30", "--folder", str(tmp_path / "data"))
    ended = program("demo", *sizes, "--json", "-")

    assert (7, False) == (ended.code, ended.json["verified"])
    assert "It does not agree:" in ended.err
    assert ended.json["lost"] or ended.json["duplicated"] or ended.json["drift"]


def test_a_replay_is_counted_and_changes_nothing() -> None:
    books = Books()
    books.acknowledge("one", "ada", "charge", Decimal(-2))
    books.acknowledge("one", "ada", "charge", Decimal(-2), replayed=True)

    assert {"one": Acknowledged("ada", "charge", Decimal(-2))} == books.entries
    assert (1, {"ada": Decimal(-2)}) == (books.replays["charge"], books.balances())
