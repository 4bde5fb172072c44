"""What is good and what is bad about a set-up: facts in, findings out. Pure; `doctor` gathers the facts.

ok        as it should be
advice    works, and could be better
warning   something can be lost or will stop, under an event that is named
error     something is lost or stopped, or will be
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from credits_fast.servers.versions import version_of

if TYPE_CHECKING:
    from credits_fast.checks.partition_states import PartitionState

__all__ = [
    "ClockFacts",
    "Finding",
    "LedgerFacts",
    "PoolerFacts",
    "PostgresqlFacts",
    "ServerFacts",
    "Severity",
    "SqliteFacts",
    "of_clock",
    "of_ledger",
    "of_partitions",
    "of_pooler",
    "of_postgresql",
    "of_server",
    "of_sqlite",
    "of_workers",
]

Severity: TypeAlias = Literal["ok", "advice", "warning", "error"]

MEMORY_FULL: Final = 0.8
"""The share of `maxmemory` from which on it is to be raised."""
CLOCK_WARNING_MS: Final = 1_000
CLOCK_ERROR_MS: Final = 30_000
LAG_WARNING_MS: Final = 10_000
LAG_ERROR_MS: Final = 300_000
_NAMED_MAX: Final = 5


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        check: What was looked at, in snake case.
        severity: How bad it is; see the module.
        where: The server, the database or the partition.
        found: What was found.
        remedy: What to do about it, "" where nothing is.
    """

    check: str
    severity: Severity
    where: str
    found: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """A Redis server.

    Attributes:
        address: Where it is.
        information: The fields of INFO, as far as it answers them; nothing where it does not.
        in_cluster: Whether it is used as a node of a cluster.
        appendfsync: The setting of that name, "" where it cannot be asked.
        refused: Why the scripts cannot run, "" where they can.
        identity_hidden: Whether it does not tell which process it is.
    """

    address: str
    information: Mapping[str, str]
    in_cluster: bool = False
    appendfsync: str = ""
    refused: str = ""
    identity_hidden: bool = False


class ClockFacts(NamedTuple):
    """A clock beside this machine's.

    Attributes:
        where: Whose it is.
        ahead_ms: How far it is ahead, in milliseconds.
        round_trip_ms: How long asking took; half of it is the error.
    """

    where: str
    ahead_ms: int
    round_trip_ms: int


@dataclass(frozen=True, slots=True)
class LedgerFacts:
    """What the ledger says about itself.

    Attributes:
        where: The database.
        revision: The revision of its schema, None where it has none of ours.
        head: The revision this version needs.
        set_ups: Namespace, number of partitions and format, as registered; nothing where nobody has.
        expected: The same as configured.
        dead_letters: Items of the journal whose metadata could not be read.
    """

    where: str
    revision: str | None
    head: str
    set_ups: tuple[tuple[str, int, str], ...]
    expected: tuple[str, int, str]
    dead_letters: int = 0


@dataclass(frozen=True, slots=True)
class PostgresqlFacts:
    """A PostgreSQL server.

    Attributes:
        where: The database.
        settings: Settings by name, as a connection of ours has them.
        in_recovery: Whether it is a standby.
    """

    where: str
    settings: Mapping[str, str]
    in_recovery: bool


@dataclass(frozen=True, slots=True)
class PoolerFacts:
    """What stands between us and PostgreSQL, as far as two connections can tell.

    Attributes:
        where: The database.
        is_between: Whether the process that greeted us is not the one that answers.
        moves: Whether one connection of ours was served by several processes.
        failure: What came of a prepared statement on another process, "" where it worked.
    """

    where: str
    is_between: bool
    moves: bool
    failure: str = ""


@dataclass(frozen=True, slots=True)
class SqliteFacts:
    """A SQLite database.

    Attributes:
        where: The file.
        journal_mode: Its journal, such as `wal`.
        synchronous: 0 off, 1 normal, 2 full, 3 extra.
        in_memory: Whether it ends with its program.
    """

    where: str
    journal_mode: str
    synchronous: int
    in_memory: bool


# --- Redis ----------------------------------------------------------------------------------------


def of_server(facts: ServerFacts) -> Iterator[Finding]:
    """The findings about a Redis server."""
    where, told = facts.address, facts.information
    yield _scripts(facts)
    if not told:
        yield Finding(
            "server_information",
            "warning",
            where,
            "the server does not answer INFO, so its settings cannot be looked at",
            "allow INFO to the user, or compare the settings with the guide by hand",
        )
        return
    yield _version(where, told)
    yield _mode(facts)
    yield _role(where, told)
    yield _memory_policy(where, told)
    yield _memory_limit(where, told)
    yield from _persistence(facts)
    yield _replicas(where, told)
    if facts.identity_hidden:
        yield Finding(
            "identity",
            "warning",
            where,
            "the server reports no run_id, so a restart is noticed by its journal only",
            "use a server that reports it, or wait for replication (min-replicas-to-write)",
        )


def _scripts(facts: ServerFacts) -> Finding:
    if facts.refused:
        return Finding("scripts", "error", facts.address, facts.refused, "correct the access rules")
    return Finding("scripts", "ok", facts.address, "every command of every script may be used")


def _version(where: str, told: Mapping[str, str]) -> Finding:
    version = version_of(told)
    found = f"{version.name} {version.text or 'of unknown version'}"
    if version.is_new_enough:
        return Finding("version", "ok", where, found)
    return Finding(
        "version", "error", where, f"{found} is too old", f"use {version.floor} or later"
    )


def _mode(facts: ServerFacts) -> Finding:
    mode = facts.information.get("redis_mode", "standalone")
    if mode == "cluster" and not facts.in_cluster:
        return Finding(
            "mode",
            "error",
            facts.address,
            "a node of a cluster that is not named as one",
            "name the cluster by redis+cluster://",
        )
    return Finding("mode", "ok", facts.address, mode)


def _role(where: str, told: Mapping[str, str]) -> Finding:
    role = told.get("role", "master")
    if role == "master":
        return Finding("role", "ok", where, "primary")
    return Finding(
        "role",
        "error",
        where,
        "a replica, which takes no charges",
        "name the primary, or what knows it: redis+sentinel:// or redis+cluster://",
    )


def _memory_policy(where: str, told: Mapping[str, str]) -> Finding:
    policy = told.get("maxmemory_policy", "")
    if policy == "noeviction":
        return Finding("memory_policy", "ok", where, policy)
    if not policy:
        return Finding(
            "memory_policy",
            "warning",
            where,
            "the server does not say what it does when memory is short",
            "see that maxmemory-policy is noeviction",
        )
    return Finding(
        "memory_policy",
        "error",
        where,
        f"{policy} drops balances or idempotency records when memory is short",
        "CONFIG SET maxmemory-policy noeviction, and in its configuration file",
    )


def _memory_limit(where: str, told: Mapping[str, str]) -> Finding:
    limit, used = _number(told, "maxmemory"), _number(told, "used_memory")
    if limit == 0:
        return Finding(
            "memory_limit",
            "advice",
            where,
            f"no maxmemory; {used:,} bytes are used",
            "set one below what the machine has, so that charges are refused and the server not killed",
        )
    share = used / limit
    found = f"{used:,} of {limit:,} bytes are used ({share:.0%})"
    if share < MEMORY_FULL:
        return Finding("memory_limit", "ok", where, found)
    remedy = "raise maxmemory; when it is reached every charge is refused"
    return Finding("memory_limit", "warning", where, found, remedy)


def _persistence(facts: ServerFacts) -> Iterator[Finding]:
    where, told = facts.address, facts.information
    if told.get("aof_enabled") != "1":
        has_replica = _number(told, "connected_slaves") > 0
        yield Finding(
            "persistence",
            "warning" if has_replica else "error",
            where,
            "no append-only file: a restart loses what is not recorded yet, and closes every partition",
            "CONFIG SET appendonly yes, and in its configuration file",
        )
        return
    yield Finding("persistence", "ok", where, "append-only file")
    status = told.get("aof_last_write_status", "ok")
    yield Finding(
        "last_write",
        "ok" if status == "ok" else "error",
        where,
        f"the last write to the append-only file: {status}",
        "" if status == "ok" else "look at the disk, and at the server's log",
    )
    if told.get("aof_last_bgrewrite_status", "ok") != "ok":
        yield Finding(
            "last_rewrite",
            "warning",
            where,
            "the append-only file could not be rewritten, so it only grows",
            "look at the disk, and at the server's log",
        )
    yield _fsync(where, facts.appendfsync)


def _fsync(where: str, appendfsync: str) -> Finding:
    match appendfsync:
        case "always":
            return Finding("appendfsync", "ok", where, "always")
        case "everysec":
            found = "everysec: the machine's end can cost a second of what is not recorded yet"
            return Finding("appendfsync", "ok", where, found)
        case "":
            remedy = "see that it is everysec or always"
            return Finding("appendfsync", "advice", where, "CONFIG GET is not allowed", remedy)
        case other:
            found = f"{other}: the machine's end can cost half a minute of what is not recorded yet"
            return Finding("appendfsync", "warning", where, found, "set it to everysec or always")


def _replicas(where: str, told: Mapping[str, str]) -> Finding:
    replicas = _number(told, "connected_slaves")
    if not replicas:
        found = "none: the loss of the machine costs what is not recorded yet"
        return Finding("replicas", "advice", where, found, "give it one, with the same settings")
    if "min_slaves_good_slaves" in told:
        found = f"{replicas}, and writes wait for them (min-replicas-to-write)"
        return Finding("replicas", "ok", where, found)
    return Finding(
        "replicas",
        "advice",
        where,
        f"{replicas}, and writes go on without them: a primary cut off loses what it still takes",
        "CONFIG SET min-replicas-to-write 1, min-replicas-max-lag 10",
    )


# --- clocks, the ledger, its workers --------------------------------------------------------------


def of_clock(facts: ClockFacts) -> Finding:
    """The finding about a clock; what asking for it cannot tell is in its favour."""
    apart = max(0, abs(facts.ahead_ms) - facts.round_trip_ms // 2)
    way = "ahead of" if facts.ahead_ms > 0 else "behind"
    found = (
        f"{abs(facts.ahead_ms):,} ms {way} this machine, give or take {facts.round_trip_ms // 2} ms"
    )
    if apart < CLOCK_WARNING_MS:
        return Finding("clock", "ok", facts.where, found)
    severity: Severity = "error" if apart >= CLOCK_ERROR_MS else "warning"
    remedy = "synchronise the clocks (NTP): memberships, keys and leases end by them"
    return Finding("clock", severity, facts.where, found, remedy)


def of_ledger(facts: LedgerFacts) -> Iterator[Finding]:
    """The findings about the ledger's schema and set-up."""
    if facts.revision == facts.head:
        yield Finding("migrations", "ok", facts.where, f"at {facts.head}")
    else:
        found = f"at {facts.revision}" if facts.revision else "no credits-fast schema"
        remedy = f"credits-fast migrate brings it to {facts.head}"
        yield Finding("migrations", "error", facts.where, found, remedy)
        return
    yield _set_up(facts)
    if facts.dead_letters:
        yield Finding(
            "dead_letters",
            "warning",
            facts.where,
            f"{facts.dead_letters:,} items of the journal had metadata that could not be read",
            "look at the table dead_letters; the amounts are booked",
        )


def _set_up(facts: LedgerFacts) -> Finding:
    namespace, number, format_ = facts.expected
    if not facts.set_ups:
        found = "nobody has registered the partitions yet"
        return Finding("set_up", "advice", facts.where, found, "start an engine or a worker")
    if facts.set_ups == (facts.expected,):
        found = f"namespace {namespace}, {number} partitions, format {format_}"
        return Finding("set_up", "ok", facts.where, found)
    there = "; ".join(f"namespace {n}, {p} partitions, format {f}" for n, p, f in facts.set_ups)
    return Finding(
        "set_up",
        "error",
        facts.where,
        f"the ledger belongs to {there}; configured are namespace {namespace}, {number} partitions, "
        f"format {format_}",
        "correct the configuration; neither can be changed once written",
    )


def of_workers(where: str, alive: int) -> Finding:
    """The finding about the workers whose lease on life has not ended."""
    if alive:
        return Finding("workers", "ok", where, f"{alive} alive")
    found = "none is alive: nothing is recorded, and every journal grows"
    return Finding("workers", "error", where, found, "start credits-fast worker")


def of_partitions(states: Sequence[PartitionState]) -> Iterator[Finding]:
    """The findings about the partitions."""
    for state in states:
        where = f"partition {state.number}"
        if state.state == "away":
            yield Finding("partition_open", "error", where, state.problem, "start its server")
        if state.state == "fenced":
            yield Finding(
                "partition_open",
                "error",
                where,
                f"fenced at {state.node}: not compared with the ledger since the server started, or "
                "it has lost what the ledger knows",
                "start an engine or a worker, and read why it stays closed",
            )
        if state.partitions not in {None, len(states)}:
            found = f"Redis holds {state.partitions} partitions, configured are {len(states)}"
            yield Finding("partition_number", "error", where, found, "correct the configuration")
        if state.set_aside:
            remedy = "mend what it says, then restart the worker"
            yield Finding("partition_carried", "error", where, state.set_aside, remedy)
    yield _openness(states)
    yield _unowned(states)
    yield _lag(states)


def _openness(states: Sequence[PartitionState]) -> Finding:
    """How many are in which state; what is bad about it was told before."""
    number = dict.fromkeys(("open", "unopened", "fenced", "away"), 0)
    for one in states:
        number[one.state] += 1
    found = ", ".join(f"{count} {state}" for state, count in number.items() if count)
    if number["unopened"]:
        remedy = "start an engine or a worker"
        return Finding("partitions", "advice", "all partitions", found, remedy)
    return Finding("partitions", "ok", "all partitions", found)


def _unowned(states: Sequence[PartitionState]) -> Finding:
    orphans = [state.number for state in states if not state.is_owned]
    if not orphans:
        return Finding("leases", "ok", "all partitions", "each has a worker that owns it")
    found = f"no worker owns {len(orphans)} of {len(states)}: {_named(orphans)}"
    remedy = "a worker that died is followed after sync.lease_ms; is one running?"
    return Finding("leases", "warning", "all partitions", found, remedy)


def _lag(states: Sequence[PartitionState]) -> Finding:
    lags = [(state.lag_ms, state.number) for state in states if state.lag_ms is not None]
    if not lags:
        remedy = "see what else is found"
        return Finding("lag", "warning", "all partitions", "it cannot be told", remedy)
    lag_ms, number = max(lags)
    found = f"{lag_ms:,} ms at most, in partition {number}" if lag_ms else "nothing waits"
    if lag_ms < LAG_WARNING_MS:
        return Finding("lag", "ok", "all partitions", found)
    severity: Severity = "error" if lag_ms >= LAG_ERROR_MS else "warning"
    remedy = "is a worker alive, and the database fast enough? More workers share the partitions"
    return Finding("lag", severity, "all partitions", found, remedy)


# --- the database ---------------------------------------------------------------------------------

_POSTGRESQL: Final[Mapping[str, tuple[str, Severity, str]]] = {
    "fsync": ("on", "error", "the machine's end can ruin the whole database"),
    "full_page_writes": ("on", "warning", "the machine's end can ruin pages of the database"),
    "default_transaction_read_only": ("off", "error", "nothing can be recorded"),
    "server_encoding": ("UTF8", "error", "not every identifier can be kept"),
}
"""What a setting has to be, how bad another value is, and why."""


def of_postgresql(facts: PostgresqlFacts) -> Iterator[Finding]:
    """The findings about a PostgreSQL database."""
    yield Finding("database", "ok", facts.where, f"PostgreSQL {facts.settings['server_version']}")
    if facts.in_recovery:
        found, remedy = "a standby, which takes no writes", "name the primary"
        yield Finding("standby", "error", facts.where, found, remedy)
    for name, (expected, severity, why) in _POSTGRESQL.items():
        value = facts.settings.get(name, expected)
        if value == expected:
            yield Finding(name, "ok", facts.where, value)
        else:
            remedy = f"set it to {expected}"
            yield Finding(name, severity, facts.where, f"{value}: {why}", remedy)
    yield _synchronous_commit(facts)


def _synchronous_commit(facts: PostgresqlFacts) -> Finding:
    value = facts.settings.get("synchronous_commit", "on")
    if value != "off":
        return Finding("synchronous_commit", "ok", facts.where, value)
    return Finding(
        "synchronous_commit",
        "warning",
        facts.where,
        "off: the machine's end can cost the last commits; the worker records them again only "
        "while the journal retains them (sync.retain_ms)",
        "set it to on for the ledger's user: ALTER ROLE … SET synchronous_commit = on",
    )


def of_pooler(facts: PoolerFacts) -> Finding:
    """The finding about what pools connections."""
    if facts.failure:
        return Finding(
            "pooler",
            "error",
            facts.where,
            f"a pooler gives a connection to several clients, and prepared statements do not "
            f"survive it: {facts.failure}",
            "set max_prepared_statements in PgBouncer (1.21 or later), or end the URL with "
            "?prepared_statement_cache_size=0 (asyncpg)",
        )
    if facts.moves:
        found = "one that pools by transaction; prepared statements survive it"
    elif facts.is_between:
        found = "one that pools by session, or that had no reason to move us"
    else:
        found = "none is seen"
    return Finding("pooler", "ok", facts.where, found)


def of_sqlite(facts: SqliteFacts) -> Iterator[Finding]:
    """The findings about a SQLite database."""
    if facts.in_memory:
        found, remedy = "SQLite in memory: it ends with its program", "name a file, or PostgreSQL"
        yield Finding("database", "error", facts.where, found, remedy)
        return
    yield Finding(
        "database",
        "advice",
        facts.where,
        f"SQLite, journal {facts.journal_mode}: one machine and one writer at once",
        "PostgreSQL for several machines, or for more",
    )
    if facts.synchronous:
        yield Finding("synchronous", "ok", facts.where, str(facts.synchronous))
    else:
        found = "off: the machine's end can ruin the database"
        yield Finding("synchronous", "error", facts.where, found, "PRAGMA synchronous = FULL")


# --- details --------------------------------------------------------------------------------------


def _number(told: Mapping[str, str], name: str) -> int:
    value = told.get(name, "")
    return int(value) if value.isdecimal() else 0


def _named(numbers: Iterable[int]) -> str:
    words = [*map(str, numbers)]
    more = f" and {len(words) - _NAMED_MAX} more" if len(words) > _NAMED_MAX else ""
    return ", ".join(words[:_NAMED_MAX]) + more
