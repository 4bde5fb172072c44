"""Every finding of the doctor, alone: what is found in which facts, and how bad it is."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from credits_fast.checks import doctor, findings
from credits_fast.checks.findings import (
    ClockFacts,
    Finding,
    LedgerFacts,
    PoolerFacts,
    PostgresqlFacts,
    ServerFacts,
    SqliteFacts,
    of_clock,
    of_ledger,
    of_partitions,
    of_pooler,
    of_postgresql,
    of_server,
    of_sqlite,
    of_workers,
)
from credits_fast.checks.partition_states import PartitionState
from credits_fast.protocol.entries import EntryId

INFORMATION = {
    "redis_version": "7.2.4",
    "server_name": "valkey",
    "valkey_version": "9.1.0",
    "redis_mode": "standalone",
    "role": "master",
    "maxmemory_policy": "noeviction",
    "maxmemory": "1000",
    "used_memory": "500",
    "aof_enabled": "1",
    "aof_last_write_status": "ok",
    "aof_last_bgrewrite_status": "ok",
    "connected_slaves": "1",
    "min_slaves_good_slaves": "1",
}
SERVER = ServerFacts("here:6379", INFORMATION, appendfsync="everysec")
SETTINGS = {
    "server_version": "18.1",
    "server_encoding": "UTF8",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "default_transaction_read_only": "off",
}
POSTGRESQL = PostgresqlFacts("db", SETTINGS, in_recovery=False)
SET_UP = ("credits", 2, "1")
LEDGER = LedgerFacts("db", "credits_fast_0002", "credits_fast_0002", (SET_UP,), SET_UP)
STATE = PartitionState(
    number=0,
    slot=1,
    node="here:6379",
    state="open",
    partitions=2,
    epoch=1,
    journal_length=3,
    last=EntryId((1, 2)),
    synced=EntryId((1, 2)),
    lag_ms=0,
    owner="w",
    lease_left_ms=5_000,
    set_aside="",
    problem="",
)


def bad(those: Iterable[Finding]) -> list[tuple[str, str]]:
    """What is not ok; and a remedy stands with all of it, and with nothing else."""
    found = [*those]
    assert all(bool(one.remedy) == (one.severity != "ok") for one in found), found
    assert all(one.found and one.where for one in found)
    return [(one.severity, one.check) for one in found if one.severity != "ok"]


def told(**changed: str | None) -> ServerFacts:
    """A good server, but for some fields of INFO; None for one that is not told."""
    fields = {**INFORMATION, **changed}
    return replace(SERVER, information={n: v for n, v in fields.items() if v is not None})


def test_a_good_server_has_nothing_bad() -> None:
    assert [] == bad(of_server(SERVER))
    assert 10 == len([*of_server(SERVER)])


@pytest.mark.parametrize(
    ("severity", "check", "facts"),
    [
        ("error", "scripts", replace(SERVER, refused="no permission to run 'xadd'")),
        ("warning", "server_information", replace(SERVER, information={})),
        ("error", "version", told(valkey_version="7.1.9")),
        ("error", "version", told(valkey_version=None)),
        ("error", "version", told(server_name=None, valkey_version=None, redis_version="6.2.14")),
        ("error", "mode", told(redis_mode="cluster")),
        ("error", "role", told(role="slave")),
        ("error", "memory_policy", told(maxmemory_policy="allkeys-lru")),
        ("error", "memory_policy", told(maxmemory_policy="volatile-ttl")),
        ("warning", "memory_policy", told(maxmemory_policy=None)),
        ("advice", "memory_limit", told(maxmemory="0")),
        ("warning", "memory_limit", told(used_memory="800")),
        ("warning", "persistence", told(aof_enabled="0")),
        ("error", "last_write", told(aof_last_write_status="err")),
        ("warning", "last_rewrite", told(aof_last_bgrewrite_status="err")),
        ("warning", "appendfsync", replace(SERVER, appendfsync="no")),
        ("advice", "appendfsync", replace(SERVER, appendfsync="")),
        ("advice", "replicas", told(connected_slaves="0")),
        ("advice", "replicas", told(min_slaves_good_slaves=None)),
        ("warning", "identity", replace(SERVER, identity_hidden=True)),
    ],
)
def test_what_is_bad_about_a_server_is_told(severity: str, check: str, facts: ServerFacts) -> None:
    assert [(severity, check)] == bad(of_server(facts))


def test_without_a_file_and_without_a_replica_a_restart_loses_everything_that_waits() -> None:
    facts = told(aof_enabled="0", connected_slaves="0")

    assert [("error", "persistence"), ("advice", "replicas")] == bad(of_server(facts))


def test_a_node_of_a_cluster_that_is_named_as_one_is_good() -> None:
    assert [] == bad(of_server(replace(told(redis_mode="cluster"), in_cluster=True)))


@pytest.mark.parametrize(
    ("severity", "ahead_ms", "round_trip_ms"),
    [
        ("ok", 0, 0),
        ("ok", 999, 0),
        ("ok", 1_400, 1_000),
        ("warning", 1_000, 0),
        ("warning", -1_000, 0),
        ("warning", 29_999, 0),
        ("error", -30_000, 0),
    ],
)
def test_a_clock_is_judged_by_what_the_way_there_cannot_explain(
    severity: str, ahead_ms: int, round_trip_ms: int
) -> None:
    finding = of_clock(ClockFacts("the clock of here", ahead_ms, round_trip_ms))

    assert severity == finding.severity
    assert ("ahead of" if ahead_ms > 0 else "behind") in finding.found


@pytest.mark.parametrize(
    ("expected", "facts"),
    [
        ([], LEDGER),
        ([("error", "migrations")], replace(LEDGER, revision=None)),
        ([("error", "migrations")], replace(LEDGER, revision="credits_fast_0001")),
        ([("advice", "set_up")], replace(LEDGER, set_ups=())),
        ([("error", "set_up")], replace(LEDGER, set_ups=(("credits", 4, "1"),))),
        ([("error", "set_up")], replace(LEDGER, set_ups=(("other", 2, "1"),))),
        ([("error", "set_up")], replace(LEDGER, set_ups=(SET_UP, ("other", 2, "1")))),
        ([("error", "set_up")], replace(LEDGER, expected=("credits", 2, "2"))),
        ([("warning", "dead_letters")], replace(LEDGER, dead_letters=1)),
    ],
)
def test_what_is_bad_about_a_ledger_is_told(expected: list[Any], facts: LedgerFacts) -> None:
    assert expected == bad(of_ledger(facts))


@pytest.mark.parametrize(("expected", "alive"), [([("error", "workers")], 0), ([], 1)])
def test_a_worker_has_to_be_alive(expected: list[Any], alive: int) -> None:
    assert expected == bad([of_workers("db", alive)])


@pytest.mark.parametrize(
    ("expected", "changed"),
    [
        ([], {}),
        ([("error", "partition_open")], {"state": "away", "problem": "gone"}),
        ([("error", "partition_open")], {"state": "fenced"}),
        ([("advice", "partitions")], {"state": "unopened"}),
        ([("error", "partition_number")], {"partitions": 3}),
        ([("error", "partition_carried")], {"set_aside": "why"}),
        ([("warning", "leases")], {"lease_left_ms": -1}),
        ([("warning", "leases")], {"lease_left_ms": None, "owner": None}),
        ([("warning", "lag")], {"lag_ms": 10_000}),
        ([("error", "lag")], {"lag_ms": 300_000}),
    ],
)
def test_what_is_bad_about_a_partition_is_told(
    expected: list[Any], changed: dict[str, Any]
) -> None:
    states = [STATE, replace(STATE, number=1, **changed)]

    assert expected == bad(of_partitions(states))


def test_a_lag_that_nobody_can_tell_is_not_taken_for_none() -> None:
    states = [replace(STATE, number=number, lag_ms=None) for number in range(2)]

    assert [("warning", "lag")] == bad(of_partitions(states))


@pytest.mark.parametrize(
    ("expected", "name", "value"),
    [
        ([], "synchronous_commit", "local"),
        ([("warning", "synchronous_commit")], "synchronous_commit", "off"),
        ([("error", "fsync")], "fsync", "off"),
        ([("warning", "full_page_writes")], "full_page_writes", "off"),
        ([("error", "default_transaction_read_only")], "default_transaction_read_only", "on"),
        ([("error", "server_encoding")], "server_encoding", "LATIN1"),
    ],
)
def test_what_is_bad_about_postgresql_is_told(expected: list[Any], name: str, value: str) -> None:
    facts = replace(POSTGRESQL, settings={**SETTINGS, name: value})

    assert expected == bad(of_postgresql(facts))


def test_a_standby_is_no_ledger() -> None:
    assert [("error", "standby")] == bad(of_postgresql(replace(POSTGRESQL, in_recovery=True)))


@pytest.mark.parametrize(
    ("severity", "found", "facts"),
    [
        ("ok", "none is seen", PoolerFacts("db", is_between=False, moves=False)),
        ("ok", "by session", PoolerFacts("db", is_between=True, moves=False)),
        ("ok", "by transaction", PoolerFacts("db", is_between=True, moves=True)),
        ("error", "no such", PoolerFacts("db", is_between=True, moves=True, failure="no such")),
    ],
)
def test_a_pooler_is_bad_where_prepared_statements_do_not_survive_it(
    severity: str, found: str, facts: PoolerFacts
) -> None:
    finding = of_pooler(facts)

    assert (severity, True) == (finding.severity, found in finding.found)


@pytest.mark.parametrize(
    ("expected", "facts"),
    [
        ([("advice", "database")], SqliteFacts("f", "wal", 2, in_memory=False)),
        (
            [("advice", "database"), ("error", "synchronous")],
            SqliteFacts("f", "wal", 0, in_memory=False),
        ),
        ([("error", "database")], SqliteFacts("f", "memory", 2, in_memory=True)),
    ],
)
def test_what_is_bad_about_sqlite_is_told(expected: list[Any], facts: SqliteFacts) -> None:
    assert expected == bad(of_sqlite(facts))


def test_every_check_is_in_the_guide() -> None:
    sources = (inspect.getsource(module) for module in (findings, doctor))
    named = {name for text in sources for name in re.findall(r'Finding\(\s*"(\w+)"', text)}
    guide = (Path(__file__).parents[2] / "docs" / "operating.md").read_text(encoding="utf-8")
    section = guide.split("## Is it set up well?")[1].split("\n## ")[0]

    assert len(named) > 20
    assert set() == (named | {*findings._POSTGRESQL}) - {*re.findall(r"`(\w+)`", section)}
