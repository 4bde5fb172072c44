"""What the reference does wrongly and we do not: the cases with `better`, in words."""

from __future__ import annotations

from typing import Final, NamedTuple

from tests.conformance.deviations import Topic

__all__ = ["IMPROVEMENTS", "Improvement"]


class Improvement(NamedTuple):
    """Something the reference does wrongly and we do not; the cases with `better` show it."""

    topic: Topic
    what: str
    why: str
    cases: str


IMPROVEMENTS: Final = (
    Improvement(
        Topic.AMOUNTS,
        "The value of a formula is computed in exact decimals and rounded half up.",
        "Binary fractions lose some half cents and leave noise in records.",
        "PRC-085 PRC-087 PRC-089 PRC-095",
    ),
    Improvement(
        Topic.AMOUNTS,
        "Balances and amounts are exact decimals.",
        "With binary fractions, 0.3 credits do not pay three charges of 0.1.",
        "CHG-038 REF-012",
    ),
    Improvement(
        Topic.AMOUNTS,
        "Values of variables are numbers, not text pasted into the formula; "
        "white space means nothing.",
        "Negative values, line breaks and leading zeros give the price that is written there.",
        "PRC-124 PRC-125 PRC-128 PRC-136",
    ),
    Improvement(
        Topic.AMOUNTS,
        "A formula is refused when the configuration is read if it leaves out an operator, "
        "uses anything but the documented language, or has a comparison as its value.",
        "Price text is not a program: nothing of the host can be reached or exhausted by it.",
        "PRC-119 PRC-126 PRC-127 PRC-130 PRC-133 PRC-134 PRC-135 PRC-139 PRC-215",
    ),
    Improvement(
        Topic.AMOUNTS,
        "Every division by zero is an error, wherever it stands in a formula.",
        "An infinite divisor would make the price zero.",
        "PRC-123",
    ),
    Improvement(
        Topic.AMOUNTS,
        "The record of a price keeps the value before it was raised to zero, "
        "and says which price was used.",
        "An audit has to be able to follow the sum.",
        "CHG-010 CHG-013",
    ),
    Improvement(
        Topic.AMOUNTS,
        "Every operation refuses an amount that is no finite number, negative, or "
        "(a grant, a refund) zero.",
        "It would destroy the balance, or take where it should give.",
        "GRA-009",
    ),
    Improvement(
        Topic.CONFIGURATION,
        "Every mistake is a `ConfigurationError` with its path, formulas included.",
        "Plain errors without a code cannot be told apart.",
        "CFG-012 CFG-021 CFG-022 CFG-023",
    ),
    Improvement(
        Topic.CONFIGURATION,
        "Prices of all tiers, levels, caps and numbers of retries are checked, not only `default`.",
        "A negative price pays the user; what is no number passes every comparison.",
        "CFG-015 CFG-016 CFG-030 CFG-041 CFG-056 CHG-033",
    ),
    Improvement(
        Topic.CONFIGURATION,
        "A requirement names a defined tier or is null; a price for an unknown tier is warned of.",
        "A misspelt tier closes an action to everybody, or opens it.",
        "CFG-019 CFG-043 CHG-046",
    ),
    Improvement(
        Topic.CONFIGURATION,
        "Actions and tiers are looked up by their own names only.",
        "A name such as `toString` must not find something of the host language.",
        "PRC-150 TIE-032",
    ),
    Improvement(
        Topic.CHARGING,
        "Check, deduction, ledger row, audit row and key are one step.",
        "Concurrent charges can neither overspend nor leave rows that do not follow each other.",
        "CHG-039 GRA-010 SQL-006 STO-005",
    ),
    Improvement(
        Topic.TIERS,
        "An expired membership counts as none for prices and for changes of tier too.",
        "Access, price and change agree; who has expired can buy any tier again.",
        "CHG-037 TIE-018",
    ),
    Improvement(
        Topic.TIERS,
        "An upgrade of an expired membership needs a new expiry.",
        "Nobody pays for a tier that has ended already.",
        "TIE-017",
    ),
    Improvement(
        Topic.KEYS,
        "A key belongs to its user, and is bound to the operation and its parameters; "
        "with others it raises `IdempotencyKeyConflictError`.",
        "No result reaches another user, and nothing is skipped in silence.",
        "IDM-005 IDM-006 IDM-007",
    ),
    Improvement(
        Topic.KEYS,
        "A grant honours its key.",
        "A payment's webhook that is delivered twice must not grant twice.",
        "IDM-017",
    ),
    Improvement(
        Topic.KEYS,
        "A concurrent repetition gets the first result, and a key can be used anew after it ends.",
        "The record is written in the same step as the change, and an expired one gives way.",
        "SQL-001 SQL-002 TXN-017",
    ),
    Improvement(
        Topic.STORE,
        "A failing audit log changes no result; its rows come from the journal as soon as it is "
        "back.",
        "An operation that took effect must not look as if it had failed.",
        "ACC-011 CHG-042",
    ),
    Improvement(
        Topic.STORE,
        "Facts win over metadata of the caller with the same names, in the ledger and in audit.",
        "A request must not be able to write another amount into its own record.",
        "",
    ),
    Improvement(
        Topic.STORE,
        "The audit row of a refusal has its code, needs no existing user, "
        "and outlives a rollback of the application.",
        "Refusals are what an audit is asked about.",
        "CHG-029 SQL-004 TXN-003 TXN-015",
    ),
    Improvement(
        Topic.RETRIES,
        "Only errors that are transient by their kind are tried again.",
        "A refusal that mentions 500 credits is not a server error.",
        "RTY-013",
    ),
)
"""What the reference does wrongly; the cases that show it expect what we do."""
