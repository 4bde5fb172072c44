"""The names of the calls come from what the server was really told, and a second step is noticed."""

import pytest

from tests.conformance.recording import Line, calls_of, phases

_ACCOUNT = b"{credits:0.1}:a:ada"
_RECORD = b"{credits:0.1}:i:digest"
_KEYS = frozenset({_RECORD})
_SCRIPT = Line(b"unix:", [b"EVALSHA", b"sha"])
_READ = Line(b"lua", [b"MGET", b"{credits:0.1}:g", _ACCOUNT, _RECORD])
_ENTRY = [b"XADD", b"{credits:0.1}:j", b"1-*", b"v", b"1", b"t", b"1", b"i"]
_TRANSACTION = b"t1\x001\x00-1\x009\0f\x0060000\x000\0"
_TAIL = b"ada\0chat\0\0\0"
_CREDITS = Line(b"lua", [*_ENTRY, b"grant\0" + _TRANSACTION + _TAIL])
_TIER = Line(b"lua", [*_ENTRY, b"tier\0" + _TRANSACTION + b"upgradeTier\0\0pro\0\0keep\0" + _TAIL])


def test_a_line_of_the_monitor_is_read_with_its_escapes() -> None:
    line = Line.parse(rb'1.5 [0 unix:/tmp/a b.sock] "set" "a\"\\b" "\x00\xff\r\n" ""')

    assert b"unix:/tmp/a b.sock" == line.client
    assert [b"set", b'a"\\b', b"\x00\xff\r\n", b""] == line.words


def test_what_is_no_line_of_the_monitor_is_an_error() -> None:
    with pytest.raises(AssertionError, match="not a line"):
        Line.parse(b"OK")


def test_one_script_reads_and_then_writes() -> None:
    put = Line(b"lua", [b"SET", _RECORD, b"x"])

    assert [
        "getUserById",
        "getIdempotencyRecord",
        "createTransaction",
        "updateUserCredits",
        "createIdempotencyRecord",
    ] == calls_of([_SCRIPT, _READ, _CREDITS, put], [], _KEYS)


def test_a_record_under_an_operations_own_id_is_none_of_the_references() -> None:
    own = Line(b"lua", [b"SET", b"{credits:0.1}:i:own", b"x"])

    assert [] == calls_of([_SCRIPT, own], [], _KEYS)


def test_a_change_of_tier_is_one_call() -> None:
    assert ["createTransaction", "updateUserMembership"] == calls_of([_SCRIPT, _TIER], [], _KEYS)


def test_statements_count_as_reads() -> None:
    statements = ["BEGIN", "SELECT users.credits \nFROM users \nWHERE x", "SELECT 1"]

    assert ["getUserById"] == calls_of([], statements, _KEYS)


@pytest.mark.parametrize(
    "lines",
    [
        [_SCRIPT, _CREDITS, _SCRIPT, _CREDITS],
        [Line(b"unix:", _CREDITS.words)],
        [_SCRIPT, _CREDITS, _READ],
    ],
    ids=["two-scripts", "no-script", "a-read-after-a-write"],
)
def test_a_change_in_more_than_one_step_is_an_error(lines: list[Line]) -> None:
    with pytest.raises(AssertionError):
        calls_of(lines, [], _KEYS)


def test_phases_tell_reads_from_writes_and_one_step_from_the_next() -> None:
    found = phases(["getUserById", "createAuditLog", "createTransaction", "getUserById"])

    assert [
        {
            "reads": {"getUserById": True},
            "writes": {"createAuditLog": True, "createTransaction": True},
        },
        {"reads": {"getUserById": True}, "writes": {}},
    ] == found
