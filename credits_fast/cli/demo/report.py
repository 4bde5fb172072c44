"""What the demo says at the end: for people a summary, for machines a document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from credits_fast.amounts import MICROS_PER_CREDIT
from credits_fast.checks.samples import percentile
from credits_fast.cli.history import ledger_table
from credits_fast.cli.words import amount
from credits_fast.version import __version__

if TYPE_CHECKING:
    from credits_fast.cli.demo.books import Books
    from credits_fast.cli.demo.run import Meter
    from credits_fast.cli.demo.scenario import Scenario
    from credits_fast.cli.demo.stage import Stage
    from credits_fast.cli.demo.verify import Verdict
    from credits_fast.types import Transaction

__all__ = ["Outcome", "document", "summary"]

_INDENT: Final = (0, 0, 0, 2)
_QUERY: Final = "SELECT kind, count(*), round(sum(amount), 2) FROM transactions GROUP BY 1"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything there is to say.

    Attributes:
        scenario: What was asked for.
        callers: How many at once.
        stage: Where.
        books: What was acknowledged.
        meter: How long it took.
        lag_ms: Samples of the sync lag.
        verdict: Whether all agrees.
        sample_user: A user whose rows are shown.
        sample: The user's last rows in the ledger.
    """

    scenario: Scenario
    callers: int
    stage: Stage
    books: Books
    meter: Meter
    lag_ms: Sequence[float]
    verdict: Verdict
    sample_user: str
    sample: Sequence[Transaction]

    @property
    def charges_per_s(self) -> float:
        """Acknowledged charges a second."""
        return self.verdict.counts["charge"] / self.meter.seconds if self.meter.seconds else 0.0


def document(outcome: Outcome) -> dict[str, object]:
    """The outcome for machines; the drift is a number of micro-credits, other amounts are credits."""
    verdict, sheet, meter = outcome.verdict, outcome.verdict.sheet, outcome.meter
    return {
        "verified": not verdict.problems,
        "problems": verdict.problems,
        "charges": verdict.counts["charge"],
        "grants": verdict.counts["grant"],
        "refunds": verdict.counts["refund"],
        "tier_changes": verdict.counts["tier"],
        "refusals": outcome.books.refusals.total(),
        "refusals_by_code": dict(outcome.books.refusals),
        "replays": outcome.books.replays.total(),
        "replays_by_kind": dict(outcome.books.replays),
        "unanswered": len(outcome.books.unknown),
        "ledger_rows": sheet.transactions,
        "audit_rows": sheet.audit_entries,
        "lost": len(verdict.lost),
        "duplicated": len(verdict.duplicated),
        "altered": len(verdict.altered),
        "drift": int(verdict.drift * MICROS_PER_CREDIT),
        "granted": sheet.granted,
        "refunded": sheet.refunded,
        "charged": sheet.charged,
        "tier_changes_sum": sheet.tier_changes,
        "balances": sheet.balances,
        "users": sheet.users,
        "redis_users_compared": verdict.redis.compared,
        "redis_users_differing": len(verdict.redis.differing),
        "charges_per_s": round(outcome.charges_per_s, 1),
        "p50_ms": round(percentile(meter.latencies_ms, 50), 3),
        "p99_ms": round(percentile(meter.latencies_ms, 99), 3),
        "sync_lag_p50_ms": round(percentile(outcome.lag_ms, 50), 1),
        "sync_lag_p99_ms": round(percentile(outcome.lag_ms, 99), 1),
        "sync_lag_samples": len(outcome.lag_ms),
        "seed": outcome.scenario.seed,
        "callers": outcome.callers,
        "seconds": round(meter.seconds, 3),
        "versions": {
            "credits_fast": __version__,
            "server": outcome.stage.server,
            "database": outcome.stage.database_server,
        },
        "ledger": outcome.stage.ledger,
        "folder": str(outcome.stage.folder),
    }


def summary(outcome: Outcome) -> RenderableType:
    """The outcome for people."""
    return Group(
        _headline(outcome),
        *_section("What happened", _happened(outcome)),
        *_section("Do the sums agree?", _equation(outcome), *_checks(outcome)),
        *_section(
            f"The last rows of {outcome.sample_user}", ledger_table(outcome.sample, with_ids=False)
        ),
        *_section("See for yourself", *_where(outcome)),
    )


def _headline(outcome: Outcome) -> Text:
    stage, scenario = outcome.stage, outcome.scenario
    return Text(
        f"\n{len(scenario.people):,} users, {len(scenario.steps):,} steps, {outcome.callers} callers "
        f"at once, {outcome.meter.seconds:.1f} s on {stage.server} and {stage.database_server} "
        f"(seed {scenario.seed})"
    )


def _section(title: str, *parts: RenderableType) -> Iterator[RenderableType]:
    yield Text(f"\n{title}", style="bold")
    for part in parts:
        yield Padding(part, _INDENT, expand=False)


def _happened(outcome: Outcome) -> Table:
    books, meter, counts = outcome.books, outcome.meter, outcome.verdict.counts
    latency = _percentiles(meter.latencies_ms)
    top_ups = counts["grant"] - len(outcome.scenario.people)
    moves = (_counted(number, move) for move, number in sorted(books.moves.items()))
    rows = (
        ("charges", counts["charge"], f"{outcome.charges_per_s:,.0f} per second, {latency}"),
        ("refusals", books.refusals.total(), _refusals(outcome)),
        ("replays", books.replays.total(), "the same key again: the first result, nothing taken"),
        ("grants", counts["grant"], f"first credits, and {top_ups:,} purchases of those run dry"),
        ("refunds", counts["refund"], "of a charge, given back in full"),
        ("tier changes", counts["tier"], ", ".join(moves) or "none"),
    )
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right", style="bold")
    for name, number, note in rows:
        table.add_row(name, f"{number:,}", Text(note, style="dim"))
    lag = f"{_percentiles(outcome.lag_ms)}, until a charge is in the ledger"
    table.add_row("sync lag", "", Text(lag, style="dim"))
    return table


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _refusals(outcome: Outcome) -> str:
    codes = outcome.books.refusals.most_common()
    return ", ".join(f"{number:,} {code}" for code, number in codes) or "none"


def _percentiles(samples: Sequence[float]) -> str:
    middle, high = (percentile(samples, percent) for percent in (50, 99))
    return f"p50 {middle:,.1f} ms, p99 {high:,.1f} ms"


def _equation(outcome: Outcome) -> Table:
    sheet = outcome.verdict.sheet
    rows = [
        (" ", sheet.granted, "granted"),
        ("+", sheet.refunded, "refunded"),
        ("-", sheet.charged, "charged"),
        ("+" if sheet.tier_changes >= 0 else "-", abs(sheet.tier_changes), "by changes of tier"),
    ]
    if sheet.opening:
        rows.append(("+", sheet.opening, "from nowhere"))
    made = sheet.granted + sheet.refunded - sheet.charged + sheet.tier_changes + sheet.opening
    table = Table.grid(padding=(0, 1))
    table.add_column()
    table.add_column(justify="right")
    for sign, credits_, name in rows:
        table.add_row(sign, amount(credits_), name)
    table.add_row("=", Text(amount(made), style="bold"), "")
    has = f"the sum of {sheet.users:,} balances"
    table.add_row(_sign(made == sheet.balances), Text(amount(sheet.balances), style="bold"), has)
    return table


def _sign(is_right: bool) -> Text:  # noqa: FBT001  # it is what the sign says
    return Text("=", style="green") if is_right else Text("≠", style="bold red")


def _checks(outcome: Outcome) -> Iterator[Text]:
    verdict, sheet, redis = outcome.verdict, outcome.verdict.sheet, outcome.verdict.redis
    if verdict.problems:
        yield Text("\nIt does not agree:", style="bold red")
        yield from (Text(f"✗ {problem}", style="red") for problem in verdict.problems)
        examples = [*verdict.lost, *verdict.duplicated, *verdict.altered]
        examples += [*sheet.differing.values(), *redis.differing.values()]
        yield from (Text(f"  {example}", style="red") for example in examples[:5])
        return
    facts = (
        f"ledger: {sheet.transactions:,} rows for {verdict.acknowledged:,} acknowledged operations",
        "0 operations lost, 0 duplicated, 0 altered, 0 credits of drift",
        f"Redis: {redis.compared:,} of {redis.users:,} users compared with the ledger, 0 differ",
        f"audit log: {sheet.audit_entries:,} rows, one for each operation and each refusal",
    )
    yield Text(" ")
    yield from (Text(f"✓ {fact}", style="green") for fact in facts)


def _where(outcome: Outcome) -> Iterator[Text]:
    stage, user = outcome.stage, outcome.sample_user
    if stage.is_embedded:
        yield Text(f"sqlite3 {stage.ledger} \\\n  {_QUERY!r}", overflow="fold")
        yield Text(f"credits-fast history {user} \\\n  --embedded {stage.folder}", overflow="fold")
        return
    yield Text(f"the ledger: {stage.ledger}\n  {_QUERY}", overflow="fold")
    yield Text(f"the configuration: {stage.config}", overflow="fold")
