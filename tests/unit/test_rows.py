"""Entries become rows: the reference's names, exact numbers, a chain that is checked."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from credits_fast import IncompatibleFormatError
from credits_fast.protocol.entries import (
    Entry,
    EntryId,
    HoldFacts,
    HoldItem,
    HoldVerb,
    MalformedEntryError,
    RefusedItem,
    TierFacts,
    TransactionItem,
    decode,
)
from credits_fast.protocol.refusals import Refusal
from credits_fast.sync.rows import Batch, ChainBrokenError, batch_of

MOMENT = datetime(2026, 1, 15, 12, tzinfo=UTC)
TIME_US = 1_768_478_400_000_000

CHARGE = TransactionItem(
    index=0,
    kind="charge",
    transaction_id="t1",
    sequence=3,
    delta=-13_460_000,
    balance_after=86_540_000,
    fingerprint="f",
    ttl_ms=60_000,
    audited=True,
    user_id="ada",
    action="chat",
    key="k",
    extra='{"t":3456}',
    metadata=b'{"r":"1","cost":0}',
    raw_cost="13.456",
    formula="{t} * 0.001 + 10",
)


def batch(*items: Any, sequence: int = 0) -> Batch:
    return batch_of(5, [Entry(EntryId((1, sequence)), TIME_US, items, (b"v", b"1"))])


def test_a_charge_becomes_a_transaction_an_audit_row_a_record_and_a_step() -> None:
    made = batch(CHARGE)

    (row,) = made.transactions
    assert ("t1", "ada", 3, -13_460_000, 100_000_000, 86_540_000) == (
        row.id,
        row.user_id,
        row.sequence,
        row.amount,
        row.balance_before,
        row.balance_after,
    )
    dynamic = '"rawCost":13.456,"finalCost":13.46'
    assert dynamic in row.metadata
    assert {"r": "1", "cost": 0} == {
        name: value for name, value in json.loads(row.metadata).items() if name != "dynamicCost"
    }
    (audit,) = made.audit
    assert {
        "r": "1",
        "operation": "chat",
        "cost": 13.46,
        "balanceBefore": 100,
        "balanceAfter": 86.54,
        "transactionId": "t1",
    } == json.loads(audit.metadata)
    record = made.records["ada", "k"]
    assert MOMENT + timedelta(minutes=1) == record[-1]
    step = made.accounts["ada"]
    assert (3, 100_000_000, 3, 86_540_000) == (
        step.first_sequence,
        step.balance_before,
        step.sequence,
        step.balance,
    )


def test_a_batch_moves_an_account_from_its_first_balance_to_its_last() -> None:
    second = replace(
        CHARGE, index=1, transaction_id="t2", sequence=4, balance_after=73_080_000, key=""
    )

    step = batch(CHARGE, second).accounts["ada"]

    assert (3, 4, 100_000_000, 73_080_000) == (
        step.first_sequence,
        step.sequence,
        step.balance_before,
        step.balance,
    )


@pytest.mark.parametrize("wrong", [{"sequence": 5}, {"balance_after": 73_080_001}, {"delta": -1}])
def test_what_does_not_chain_is_refused(wrong: dict[str, Any]) -> None:
    second = replace(CHARGE, transaction_id="t2", sequence=4, balance_after=73_080_000)

    with pytest.raises(ChainBrokenError, match="t2"):
        batch(CHARGE, replace(second, **wrong))


@pytest.mark.parametrize(
    "metadata",
    [
        b"{",
        b"[1]",
        b'"text"',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":"\\u0000"}',
        b'{"a":"\\\\\\u0000"}',
        b'{"a":"\\ud800"}',
        b'{"a":"\xff"}',
        b"[" * 5_000,
        b'{"a":"x\0y"}',
        b'{"a":1e-16384}',
        b'{"a":-0.5e-99999999999999999999}',
        b'{"a":0.' + b"1" * 16_384 + b"}",
        b'{"a":' + b"[" * 200 + b"]" * 200 + b"}",
    ],
    ids=range(16),
)
def test_unreadable_metadata_is_set_aside_and_the_amount_booked(metadata: bytes) -> None:
    made = batch(replace(CHARGE, metadata=metadata, formula=""))

    (letter,) = made.dead_letters
    assert (metadata, "1-0", "t1") == (letter.raw, letter.entry_id, letter.transaction_id)
    (row,) = made.transactions
    assert (-13_460_000, "{}") == (row.amount, row.metadata)
    assert "cost" in made.audit[0].metadata


def test_a_tower_of_lists_is_set_aside_wherever_python_gives_up_on_it() -> None:
    """A name of our own has the metadata read a second time, from further down the stack."""
    for depth in range(850, 1_000):
        metadata = b'{"cost":' + b"[" * depth + b"]" * depth + b"}"

        (letter,) = batch(replace(CHARGE, metadata=metadata)).dead_letters

        assert metadata == letter.raw


@pytest.mark.parametrize(
    "metadata",
    [
        b'{"a":"\\\\u0000"}',
        b'{"a":"\\u00e9"}',
        b'{"e":1E3}',
        b'{"e":1.5E-16382}',
        b'{"a":"' + b"[" * 201 + b'"}',
        b'{"a":' + b"[" * 198 + b"{}," + b'{"b":1}' + b"]" * 198 + b"}",
    ],
    ids=range(6),
)
def test_metadata_that_only_looks_unreadable_is_kept(metadata: bytes) -> None:
    made = batch(replace(CHARGE, metadata=metadata, formula=""))

    assert [] == made.dead_letters
    assert metadata.decode() == made.transactions[0].metadata


def test_a_key_used_twice_in_a_batch_keeps_its_first_record_unless_that_had_expired() -> None:
    later = replace(CHARGE, transaction_id="t2", sequence=4, balance_after=73_080_000)
    entries = [
        Entry(EntryId((1, 0)), TIME_US, (CHARGE,), (b"v", b"1")),
        Entry(EntryId((1, 1)), TIME_US + 60_000_000, (later,), (b"v", b"1")),
    ]
    assert "t1" == batch_of(5, entries).records["ada", "k"][3]

    entries[1] = replace(entries[1], time_us=TIME_US + 60_001_000)
    assert "t2" == batch_of(5, entries).records["ada", "k"][3]


@pytest.mark.parametrize(
    ("verb", "extra", "expiry", "facts"),
    [
        ("upgradeTier", "", "keep", {}),
        ("upgradeTier", "", "clear", {"membershipExpiresAt": None}),
        ("upgradeTier", "", "1768478400001", {"membershipExpiresAt": "2026-01-15T12:00:00.001Z"}),
        ("downgradeTier", "1", "clear", {"clearExpiration": True}),
        ("downgradeTier", "0", "keep", {"clearExpiration": False}),
    ],
)
def test_a_change_of_tier_tells_what_was_asked_of_the_expiry(
    verb: str,
    extra: str,
    expiry: str,
    facts: dict[str, Any],
) -> None:
    expires_ms = int(expiry) if expiry.isdigit() else None
    tier = TierFacts(verb, "", "pro", expires_ms, expiry)
    item = replace(CHARGE, kind="tier", tier=tier, extra=extra, formula="", metadata=b"")

    made = batch(item)

    expected = {
        "oldTier": None,
        "newTier": "pro",
        "oldCredits": 100,
        "newCredits": 86.54,
        "creditsDelta": -13.46,
        **facts,
    }
    assert expected == json.loads(made.transactions[0].metadata)
    assert {**expected, "transactionId": "t1"} == json.loads(made.audit[0].metadata)
    assert (verb, "pro") == (made.audit[0].action, made.accounts["ada"].tier)


@pytest.mark.parametrize(
    ("verb", "code", "details", "subject", "extra", "facts"),
    [
        (
            "charge",
            "insufficient_credits",
            ("10000000", "5000000", ""),
            "",
            "",
            {"operation": "act"},
        ),
        ("grant", "user_not_found", ("", "", ""), "5000000", "", {"operation": "act", "amount": 5}),
        ("refund", "cold", ("", "", ""), "1", "", None),
        ("upgradeTier", "undefined_tier", ("", "", ""), "gold", "", {"targetTier": "gold"}),
        (
            "downgradeTier",
            "invalid_tier_change",
            ("pro", "not_lower", ""),
            "max",
            "1",
            {"targetTier": "max", "clearExpiration": True},
        ),
        (
            "validateAccess",
            "membership_required",
            ("pro", "free", ""),
            "",
            "",
            {"targetAction": "act"},
        ),
        ("createUser", "user_already_exists", ("", "", ""), "", "", {}),
        (
            "charge",
            "unpriced",
            ("MISSING_VARIABLE", '{"error":"no t","formula":"{t}","missingVariable":"t"}', ""),
            "",
            '{"u":1}',
            {"operation": "act", "formula": "{t}", "missingVariable": "t", "variables": {"u": 1}},
        ),
    ],
)
def test_a_refusal_becomes_a_failed_audit_row_and_nothing_else(
    verb: str,
    code: str,
    details: tuple[str, str, str],
    subject: str,
    extra: str,
    facts: dict[str, Any] | None,
) -> None:
    refusal = Refusal(code, "ada", "k", subject, "", details)
    item = RefusedItem(0, verb, refusal, "act", extra, b'{"error":"mine"}')
    if facts is None:
        with pytest.raises(MalformedEntryError):
            batch(item)
        return

    made = batch(item)

    (row,) = made.audit
    assert ("failed", verb, "ada") == (row.status, row.action, row.user_id)
    assert {**facts, "error": row.error_message} == json.loads(row.metadata)
    assert (details[0] if code == "unpriced" else code.upper()) == row.error_code
    assert ([], {}, {}) == (made.transactions, made.accounts, made.records)


RESERVE = HoldItem(
    index=0,
    verb="reserve",
    operation_id="h1",
    balance=100_000_000,
    fingerprint="f",
    ttl_ms=60_000,
    audited=True,
    hold=HoldFacts(
        *("h1", "reserved", 30_000_000, 30_000_000, 0),
        *(TIME_US // 1_000 + 5, 30_000_000, 50_000_000),
    ),
    user_id="ada",
    action="chat",
    key="k",
    extra='{"t":3456}',
    metadata=b'{"r":"1","holdId":0}',
    tier="pro",
    raw_cost="29.999",
    formula="{t} * 1",
)
CAPTURE = replace(
    CHARGE,
    transaction_id="t1",
    delta=-13_000_000,
    balance_after=87_000_000,
    formula="",
    hold=HoldFacts(
        *("h1", "captured", 30_000_000, 0, 13_000_000),
        *(TIME_US // 1_000 + 5, -30_000_000, 20_000_000, 14_000_000),
    ),
)


def finished(verb: HoldVerb, **changes: Any) -> HoldItem:
    """The hold of `RESERVE`, given up."""
    state: Any = {"release": "released", "expire": "expired"}[verb]
    facts = replace(RESERVE.hold, state=state, reserved=0, change=-30_000_000, total=20_000_000)
    item = replace(RESERVE, verb=verb, operation_id="o1", hold=replace(facts, **changes))
    return replace(item, formula="", key="", metadata=b"", action=verb)


def test_a_reservation_becomes_a_hold_an_audit_row_and_a_record_and_no_transaction() -> None:
    made = batch(RESERVE)

    ends = MOMENT + timedelta(milliseconds=5)
    (row,) = made.new_holds
    assert ("h1", "ada", "chat", "reserved", 30_000_000, 30_000_000, 0, "pro", True) == row[:9]
    assert ("k", MOMENT, ends, None) == row[10:]
    assert {"r": "1", "holdId": 0} == {
        name: value for name, value in json.loads(row.metadata).items() if name != "dynamicCost"
    }
    assert '"rawCost":29.999,"finalCost":30' in row.metadata
    assert ([], {}) == (made.transactions, made.accounts)
    assert (20_000_000, 50_000_000) == (made.held["ada"].before, made.held["ada"].after)
    (audit,) = made.audit
    assert ("reserve", "success", None) == (audit.action, audit.status, audit.transaction_id)
    assert {
        "r": "1",
        "operation": "chat",
        "holdId": "h1",
        "amount": 30,
        "expiresAt": "2026-01-15T12:00:00.005Z",
        "balance": 100,
        "reserved": 50,
    } == json.loads(audit.metadata)
    record = made.records["ada", "k"]
    assert "h1" == record[3]
    told = f"30000000 {TIME_US // 1_000 + 5} 100000000 50000000"
    assert told == json.loads(record[4])["told"]


def test_a_capture_is_a_charge_that_names_its_hold_and_moves_both() -> None:
    made = batch(CAPTURE)

    (row,) = made.transactions
    assert ("charge", "h1", -13_000_000) == (row.kind, row.related_id, row.amount)
    (audit,) = made.audit
    facts = json.loads(audit.metadata)
    assert ("capture", "h1", 13, 14) == (
        *(audit.action, facts["holdId"], facts["cost"], facts["price"]),
    )
    assert "13000000 87000000 14000000 0 1" == json.loads(made.records["ada", "k"][4])["told"]
    step = made.holds["h1"]
    assert (30_000_000, 0) == step.before
    assert ("captured", 0, 13_000_000, MOMENT) == (
        *(step.row.state, step.row.reserved, step.row.captured),
        step.row.finished_at,
    )
    assert ([], 50_000_000, 20_000_000) == (
        *(made.new_holds, made.held["ada"].before, made.held["ada"].after),
    )


@pytest.mark.parametrize(("verb", "state"), [("release", "released"), ("expire", "expired")])
def test_a_hold_made_and_finished_in_one_batch_is_one_row_as_it_is_at_the_end(
    verb: HoldVerb, state: str
) -> None:
    made = batch(RESERVE, finished(verb))

    (row,) = made.new_holds
    assert (state, 30_000_000, 0, "k", MOMENT) == (
        *(row.state, row.amount, row.reserved, row.idempotency_key),
        row.finished_at,
    )
    assert (20_000_000, 20_000_000) == (made.held["ada"].before, made.held["ada"].after)
    assert ["reserve", verb] == [one.action for one in made.audit]
    assert 30 == json.loads(made.audit[1].metadata)["amount"]


@pytest.mark.parametrize(
    "items",
    [
        (RESERVE, replace(RESERVE, key="")),
        (RESERVE, finished("release", total=20_000_001)),
        (RESERVE, finished("release", change=-29_999_999, total=20_000_001)),
        (RESERVE, finished("release", captured=1)),
        (finished("release"), finished("expire", total=-10_000_000)),
        (RESERVE, finished("release"), replace(CAPTURE, key="")),
        (CAPTURE, replace(RESERVE, hold=replace(RESERVE.hold, total=50_000_000))),
    ],
    ids=range(7),
)
def test_holds_that_do_not_chain_are_refused(items: tuple[Any, ...]) -> None:
    with pytest.raises(ChainBrokenError, match="hold h1"):
        batch(*items)


GOOD = b"charge\0t1\x003\0-5\x0095\0f\x0060000\x002\0\0\0ada\0chat\0k\0\0"


def test_an_entry_is_decoded_field_by_field() -> None:
    entry = decode(b"2-7", [b"v", b"1", b"t", b"123", b"i", GOOD + b'{"a":1}'])

    assert ((2, 7), 123) == (tuple(entry.id), entry.time_us)
    (item,) = entry.items
    assert isinstance(item, TransactionItem)
    assert ("t1", 3, -5, 95, "ada", b'{"a":1}') == (
        item.transaction_id,
        item.sequence,
        item.delta,
        item.balance_after,
        item.user_id,
        item.metadata,
    )


HOLD = b"h1\0reserved\x0030\x0020\x0010\x00123\0-10\x0025"


def test_items_about_holds_are_decoded_field_by_field() -> None:
    tail = b"ada\0chat\0k\0{}\0"
    capture = (
        b"capture\0t1\x003\0-10\x0090\0f\x0060000\x002\0" + HOLD + b"\x0011\x001.5\0{x}\0" + tail
    )
    reserve = b"reserve\0h1\x0090\0f\x0060000\x002\0" + HOLD + b"\0pro\x001.5\0{x}\0" + tail
    release = b"release\0o1\x0090\0f\x0060000\x000\0" + HOLD + b"\0" + tail

    raw = b"\0".join((capture, reserve, release, release.replace(b"release", b"expire")))
    first, second, third, fourth = decode(b"1-1", [b"v", b"1", b"t", b"1", b"i", raw]).items

    facts = HoldFacts("h1", "reserved", 30, 20, 10, 123, -10, 25)
    assert isinstance(first, TransactionItem)
    assert ("charge", replace(facts, price=11), "1.5", "{x}", "{}") == (
        *(first.kind, first.hold, first.raw_cost, first.formula, first.extra),
    )
    assert isinstance(second, HoldItem)
    assert ("reserve", "h1", 90, facts, "pro", "1.5", "{x}", True) == (
        *(second.verb, second.operation_id, second.balance, second.hold, second.tier),
        *(second.raw_cost, second.formula, second.audited),
    )
    assert isinstance(third, HoldItem)
    assert isinstance(fourth, HoldItem)
    assert ("release", "expire", facts, False, "ada") == (
        *(third.verb, fourth.verb, third.hold, third.audited, fourth.user_id),
    )
    for wrong in (raw.replace(b"\0reserved", b"\0lost"), raw.replace(b"\x0030", b"\0x", 1)):
        with pytest.raises(MalformedEntryError):
            decode(b"1-1", [b"v", b"1", b"t", b"1", b"i", wrong])


def test_an_entry_may_have_many_items_of_every_kind() -> None:
    refused = b"refused\0grant\0user_not_found\0\0\0\x005\0bob\0gift\0\0\0"
    raw = b"\0".join((GOOD + b"{}", refused, GOOD))

    entry = decode(b"1-1", [b"v", b"1", b"t", b"1", b"i", raw])

    assert [TransactionItem, RefusedItem, TransactionItem] == [type(item) for item in entry.items]
    assert [0, 1, 2] == [item.index for item in entry.items]
    assert [b"{}", b"", b""] == [item.metadata for item in entry.items]


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [b"v", b"1"],
        [b"t", b"1", b"v", b"1"],
        [b"v", b"1", b"t", b"1"],
        [b"v", b"1", b"t", b"soon", b"i", GOOD],
        [b"v", b"1", b"t", b"1", b"0", GOOD],
        [b"v", b"1", b"t", b"1", b"i", GOOD, b"i", GOOD],
        [b"v", b"1", b"t", b"1", b"i", GOOD + b"\0"],
        [b"v", b"1", b"t", b"1", b"i"],
        [b"v", b"1", b"t", b"1", b"i", b"unknown\0x"],
        [b"v", b"1", b"t", b"1", b"i", GOOD.replace(b"\x003\0", b"\0three\0")],
        [b"v", b"1", b"t", b"1", b"i", GOOD.replace(b"\0chat", b"", 1)],
        [b"v", b"1", b"t", b"1", b"i", GOOD.replace(b"ada", b"\xff")],
    ],
    ids=range(13),
)
def test_what_the_scripts_cannot_have_written_is_never_skipped(fields: list[bytes]) -> None:
    with pytest.raises(MalformedEntryError):
        decode(b"1-1", fields)


def test_an_entry_in_another_format_is_not_touched() -> None:
    with pytest.raises(IncompatibleFormatError) as refused:
        decode(b"1-1", [b"v", b"2", b"t", b"1", b"i", b"?"])

    assert "2" == refused.value.found


@pytest.mark.parametrize("text", [b"x", b"1", b"1-", b"-1", b"1-x", b""])
def test_what_is_no_entry_id_is_refused(text: bytes) -> None:
    with pytest.raises(MalformedEntryError):
        decode(text, [b"v", b"1", b"t", b"1"])


def test_a_stamp_tells_two_executions_of_one_operation_apart() -> None:
    fields = [b"v", b"1", b"t", b"123", b"i", GOOD]
    stamps = {
        decode(b"1-1", fields).stamp,
        decode(b"1-2", fields).stamp,
        decode(b"1-1", [*fields[:3], b"124", *fields[4:]]).stamp,
        decode(b"1-1", [*fields[:5], GOOD + b"\0" + GOOD]).stamp,
    }

    assert 4 == len(stamps)


INTENT = "0" * 32 + "i"


@pytest.mark.parametrize("hold_id", [INTENT, INTENT[:-1] + "j"])
def test_a_hold_of_an_intent_settles_it_when_it_is_finished(hold_id: str) -> None:
    def settled(item: Any, **changes: Any) -> dict[str, str]:
        hold = replace(item.hold, hold_id=hold_id, **changes)
        return batch(replace(item, hold=hold)).settled

    assert {} == settled(RESERVE)
    assert {INTENT: "commit"} == settled(CAPTURE, state="captured")
    assert {} == settled(CAPTURE, state="reserved")
    assert {INTENT: "aborted"} == settled(finished("release"))
    assert {} == settled(finished("expire"))
    assert {} == batch(CAPTURE).settled  # a hold of nobody's intent


def test_a_grant_under_an_intents_id_settles_it() -> None:
    grant = replace(
        CHARGE, kind="grant", transaction_id=INTENT, delta=5_000_000, raw_cost="", formula=""
    )

    assert {INTENT: "commit"} == batch(grant).settled
    assert {} == batch(replace(grant, transaction_id="0" * 32)).settled
