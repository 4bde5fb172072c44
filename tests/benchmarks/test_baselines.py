"""The pure parts of the baselines: what is counted, copied and grouped."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from credits_fast.benchmarks.ceiling import reply_lines
from credits_fast.benchmarks.ceiling_driver import drive
from credits_fast.benchmarks.copy_floor import Rows, batches, grouped
from credits_fast.benchmarks.cpu import children_s, parse_stat, process_s
from credits_fast.benchmarks.ledger_copy import statements
from credits_fast.benchmarks.naive import redis_py_url

NO_PROCESS = 2**22 + 1
"""Above the largest process id of Linux."""


def test_the_last_balance_of_each_user_is_grouped_in_one_order() -> None:
    columns = ["user_id", "sequence", "balance_after", "created_at"]
    records = [("ada", 2, 8, "b"), ("bob", 1, 4, "c"), ("ada", 1, 9, "a"), ("ada", 3, 7, "d")]

    assert (["ada", "bob"], [7, 4], [3, 1], ["d", "c"]) == grouped(records, columns)


def test_batches_hold_all_rows_once_and_keep_the_kinds_together() -> None:
    made = batches(Rows([1, 2, 3], ["a", "b", "c"], ["x", "y", "z"]), 2)

    assert [Rows([1, 2], ["a", "b"], ["x", "y"]), Rows([3], ["c"], ["z"])] == made


def test_a_copy_of_the_ledger_has_its_foreign_key_into_itself() -> None:
    made = [*statements("floor")]

    assert "CREATE SCHEMA floor" == made[0]
    assert "CREATE TABLE floor.users (LIKE users INCLUDING ALL)" == made[1]
    assert [
        "ALTER TABLE floor.transactions ADD FOREIGN KEY (user_id) REFERENCES floor.users (id)"
    ] == made[5:]


@pytest.mark.parametrize(
    ("expected", "url"),
    [
        ("redis://a:1/2", "redis://a:1/2"),
        ("rediss://a", "valkeys://a"),
        ("unix:///s", "valkey+unix:///s"),
    ],
)
def test_redis_py_is_given_a_scheme_it_knows(expected: str, url: str) -> None:
    assert expected == redis_py_url(url)


def test_a_processes_cpu_time_counts_the_children_it_has_waited_for() -> None:
    line = "7 (post gres) S 3 7 7 0 -1 0 0 0 0 0 100 20 3 4 20 0 1 0 0"

    assert (3, 1.27) == parse_stat(line, ticks_per_s=100)


def test_a_process_that_is_gone_has_no_cpu_time() -> None:
    assert (None, None) == (process_s(NO_PROCESS), children_s(NO_PROCESS))


def test_the_cpu_time_with_children_is_at_least_ones_own() -> None:
    own, all_ = process_s(os.getpid()), children_s(os.getpid())

    assert (own is None) == (all_ is None)
    assert (all_ or 0) >= (own or 0)


@pytest.mark.parametrize(("expected", "calls", "items"), [(3, 1, 1), (5, 1, 2), (258, 2, 64)])
def test_a_reply_has_a_line_for_the_array_and_two_for_each_item(
    expected: int, calls: int, items: int
) -> None:
    assert expected == reply_lines(calls, items)


def test_the_driver_ends_when_all_lines_are_back_and_gives_what_came() -> None:
    ours, theirs = socket.socketpair()
    requests, answer = b"x" * 300_000, b"*1\r\n$4\r\nok\0a\r\n"

    def serve() -> None:
        left = len(requests)
        while left:
            left -= len(theirs.recv(65_536))
            theirs.sendall(b"")
        theirs.sendall(answer * 2)

    server = threading.Thread(target=serve)
    server.start()
    seconds, answers = drive(ours, requests, reply_lines(2, 1))
    server.join()
    for end in (ours, theirs):
        end.close()

    assert answer * 2 == answers
    assert seconds > 0


def test_the_driver_says_when_the_server_hangs_up() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()

    with pytest.raises(ConnectionError):
        drive(ours, b"", 1)
    ours.close()
