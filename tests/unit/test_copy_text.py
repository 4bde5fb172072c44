"""Lines for COPY: what PostgreSQL reads from them is what was meant, whatever a caller wrote."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from credits_fast.sync.copy_text import ENCODERS
from credits_fast.sync.rows import (
    COLUMNS,
    AuditRow,
    Batch,
    DeadLetterRow,
    HoldRow,
    HoldStep,
    TransactionRow,
)

MOMENT: Final = datetime(2026, 1, 15, 12, tzinfo=UTC)
WORDS: Final = {"\\t": "\t", "\\n": "\n", "\\r": "\r", "\\\\": "\\"}


def read(lines: bytes) -> list[list[str | None]]:
    """What PostgreSQL reads (source: its documentation of COPY, text format)."""
    assert lines.endswith(b"\n") or not lines
    return [[field(text) for text in line.split("\t")] for line in lines.decode().split("\n")[:-1]]


def field(text: str) -> str | None:
    if text == "\\N":
        return None
    found, at = "", 0
    while at < len(text):
        step = 2 if text[at] == "\\" else 1
        found += WORDS[text[at : at + 2]] if step == 2 else text[at]
        at += step
    return found


def transaction(text: str, moment: datetime = MOMENT) -> TransactionRow:
    return TransactionRow(
        *(text, text, 3, "charge", text, -13_460_000, 100_000_000, 86_540_000),
        *(text, text, None, 1, 7, 2, moment),
    )


def hold(text: str) -> HoldRow:
    return HoldRow(
        *(text, text, text, "reserved", 30_000_000, 20_000_000, 10_000_000, text, True),
        *(text, text, MOMENT, MOMENT + timedelta(minutes=1), None),
    )


def test_a_hold_that_was_there_before_is_not_inserted_again() -> None:
    batch = Batch(5, holds={"h": HoldStep(None, hold("h")), "g": HoldStep((1, 0), hold("g"))})

    (line,) = read(ENCODERS["holds"](batch))

    assert {
        "id": "h",
        "state": "reserved",
        "reserved": "20000000e-6",
        "audited": "True",
        "expires_at": "2026-01-15T12:01:00+00:00",
        "finished_at": None,
        "partition": "5",
    }.items() <= dict(zip(COLUMNS["holds"], line, strict=True)).items()


def test_an_amount_is_its_micro_credits_and_what_is_absent_is_null() -> None:
    batch = Batch(5, transactions=[transaction("t")])

    (line,) = read(ENCODERS["transactions"](batch))

    assert {
        "amount": "-13460000e-6",
        "idempotency_key": "t",
        "related_id": None,
        "created_at": "2026-01-15T12:00:00+00:00",
        "partition": "5",
    }.items() <= dict(zip(COLUMNS["transactions"], line, strict=True)).items()


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_every_text_comes_back_as_it_was(text: str) -> None:
    letter = DeadLetterRow("1-1", 0, text, text, text.encode(), text, MOMENT)
    batch = Batch(
        5,
        transactions=[transaction(text)],
        audit=[AuditRow(text, text, "failed", text, text, text, text, MOMENT)],
        records={("", ""): (text, text, text, text, text, MOMENT, MOMENT)},
        holds={text: HoldStep(None, hold(text)), "known": HoldStep((1, 0), hold("known"))},
        dead_letters=[letter],
    )

    texts = {
        table: [value for value in line if value == text]
        for table, encode in ENCODERS.items()
        for line in read(encode(batch))
    }

    expected = {
        "transactions": 5,
        "audit_logs": 5,
        "idempotency_records": 5,
        "holds": 6,
        "dead_letters": 3,
    }
    assert expected.keys() == texts.keys()
    for table, number in expected.items():
        assert len(texts[table]) >= number, table


def test_every_row_has_its_own_moment() -> None:
    moments = [MOMENT, MOMENT, MOMENT + timedelta(seconds=1), MOMENT]
    batch = Batch(5, transactions=[transaction("t", moment) for moment in moments])

    lines = read(ENCODERS["transactions"](batch))

    assert [moment.isoformat() for moment in moments] == [line[-2] for line in lines]


def test_a_batch_without_rows_has_no_lines() -> None:
    assert {b""} == {encode(Batch(5)) for encode in ENCODERS.values()}
