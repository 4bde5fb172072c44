"""`verify`: do Redis, journal and ledger agree? Compared while charges go on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from credits_fast.cli.command import command
from credits_fast.cli.options import Servers
from credits_fast.cli.output import Answer
from credits_fast.cli.words import amount, name
from credits_fast.exit_codes import ExitCode, printable

if TYPE_CHECKING:
    import typer

    from credits_fast.checks.verification import Verification

__all__ = ["add_to"]

_NAMED_MAX: Final = 20
"""Users that are named for people; the document names all."""


def add_to(app: typer.Typer) -> None:
    """Add the command to the app."""
    command(app)(verify)


async def verify(servers: Servers) -> Answer:
    """Compare Redis, journal and ledger, and make every sum again, while charges go on."""
    from credits_fast.checks import verification  # noqa: PLC0415  # SQLAlchemy only when used
    from credits_fast.ledger import schema  # noqa: PLC0415  # SQLAlchemy only when used

    async with servers.looking() as room:
        await schema.check(room.database)
        found = await verification.verify(room.router, room.database, room.partitions)
    code = ExitCode.OK if found.is_verified else ExitCode.NOT_VERIFIED
    return Answer(_facts(found), "\n".join([*_counts(found), *_verdict(found)]), code)


def _facts(found: Verification) -> dict[str, object]:
    sheet = found.sheet
    return {
        "verified": found.is_verified,
        "users": found.users,
        "users_compared": found.compared,
        "users_cold": found.cold,
        "second_looks": found.second_looks,
        "holds_compared": found.holds_compared,
        "partitions": found.partitions,
        "entries": found.entries,
        "entries_recorded": found.entries_recorded,
        "transactions_compared": found.transactions_compared,
        "transactions_waiting": found.transactions_waiting,
        "transactions": sheet.transactions,
        "audit_entries": sheet.audit_entries,
        "opening": sheet.opening,
        "granted": sheet.granted,
        "refunded": sheet.refunded,
        "charged": sheet.charged,
        "tier_changes": sheet.tier_changes,
        "balances": sheet.balances,
        "ledger_conserves": sheet.conserves,
        "ledger_drift": sheet.drift,
        "ledger_differing": sheet.differing,
        "redis_drift": found.drift,
        "differing": found.differing,
        "forked": found.forked,
    }


def _counts(found: Verification) -> list[str]:
    sheet = found.sheet
    made = (
        ("opening", sheet.opening),
        ("granted", sheet.granted),
        ("refunded", sheet.refunded),
        ("charged", -sheet.charged),
        ("tier changes", sheet.tier_changes),
    )
    sums = " ".join(f"{word} {amount(credits_)}," for word, credits_ in made)
    ledger = f"{sheet.transactions:,} transactions of {sheet.users:,} users"
    compared = f"{found.transactions_compared:,} transactions compared with the ledger"
    in_redis = f"{found.compared:,} of {found.users:,} users compared with the ledger"
    waiting = f"{found.transactions_waiting:,} not recorded yet"
    looks = f"{found.second_looks:,} of them with the journal too, {found.cold:,} are cold"
    kept = f"{found.holds_compared:,} open holds compared one by one"
    return [
        f"ledger    {ledger}: {sums} balances {amount(sheet.balances)}",
        f"journal   {found.entries:,} entries in {found.partitions:,} partitions: {compared}, {waiting}",
        f"Redis     {in_redis}, {looks}; {kept}",
    ]


def _verdict(found: Verification) -> list[str]:
    if found.is_verified:
        return ["everything agrees"]
    lines = [f"partition {number}: {printable(why)}" for number, why in found.forked.items()]
    for where, differing in (
        ("the ledger with itself", found.sheet.differing),
        ("Redis, journal and ledger", found.differing),
    ):
        named = [*differing.items()][:_NAMED_MAX]
        lines += [f"{where}: {name(user)}: {printable(problem)}" for user, problem in named]
        if len(differing) > _NAMED_MAX:
            lines.append(f"{where}: {len(differing) - _NAMED_MAX:,} users more (--json names all)")
    if not found.sheet.conserves and not found.sheet.differing:
        lines.append(
            "the ledger does not conserve credits: the sums by kind do not make the balances"
        )
    drift = (
        f"drift of the ledger {amount(found.sheet.drift)}, of Redis {amount(found.drift)} credits"
    )
    return [*lines, f"NOT VERIFIED: {drift}"]
