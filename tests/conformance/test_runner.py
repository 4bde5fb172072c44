"""The runner can do whatever the notation can say, and says no where the answer is no.

Cases of our own, in the notation of the case file, for what that file happens not to hold; and for
every part of an outcome a case whose expectation is wrong and must fail.
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from tests.conformance.cases import Object, case_of
from tests.conformance.judging import Verdict, judged
from tests.conformance.runner import chains
from tests.servers import Servers

_CONFIG: Object = {
    "costs": {
        "chat": {"default": 10, "pro": 8},
        "tokens": {"default": "{n} * 2"},
        "either": {"default": 5, "pro": "{n} * 2"},
    },
    "membership": {
        "tiers": {"free": 0, "pro": 1},
        "requirements": {"vip": "pro"},
        "creditsCaps": {"free": 100, "pro": 1000},
    },
    "retry": {
        "enabled": True,
        "maxAttempts": 3,
        "initialDelay": 1,
        "maxDelay": 2,
        "backoffMultiplier": 1,
    },
    "idempotency": {"enabled": True, "ttl": 60},
    "audit": {"enabled": True},
}
_ADA: Object = {"id": "ada", "credits": 100, "membershipTier": None, "membershipExpiresAt": None}
_PRO: Object = {**_ADA, "membershipTier": "pro"}
_CHARGE: Object = {"op": "charge", "args": {"userId": "ada", "action": "chat"}}
_KEYED: Object = {"op": "charge", "args": {**_CHARGE["args"], "idempotencyKey": "k"}}
_GRANT: Object = {"op": "grant", "args": {"userId": "ada", "amount": 5, "action": "gift"}}
_ON = {"config": _CONFIG, "users": [_ADA]}
_NOBODY: Object = {"config": _CONFIG, "users": []}
_SECOND: Object = {"op": "advance_clock", "args": {"seconds": 1}}
_DECEMBER = {"$date": "2026-12-31T00:00:00.000Z"}


def _rows(number: int, **more: Any) -> list[Object]:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    return [
        {
            "id": f"t{at}",
            "userId": "ada",
            "action": "a",
            "amount": -1,
            "createdAt": {"$date": (start + timedelta(days=at / 100)).isoformat()},
            **more,
        }
        for at in range(number)
    ]


def _fault(method: str, **more: Any) -> Object:
    return {**_ON, "faults": [{"method": method, "on_call": "all", "message": "down", **more}]}


def _without(section: str, field: str) -> Object:
    values = {name: value for name, value in _CONFIG[section].items() if name != field}
    return {"config": {**_CONFIG, section: values}}


def _priced(price: Any, **more: Any) -> Object:
    return {"costs": {"act": {"default": price, **more}}}


def _price(**args: Any) -> Object:
    return {"op": "price", "args": {"action": "act", **args}}


def _call(op: str, **args: Any) -> Object:
    return {"op": op, "args": args}


def _error(name: str, **more: Any) -> Object:
    return {"error": {"class": name, **more}}


_LONG_FORMULA = " + ".join(["{n}"] * 40)

_CASES: list[tuple[str, Verdict, Object, Any, Object]] = [
    # --- operations the case file happens not to use
    ("a balance", "passed", _ON, _call("queryBalance", userId="ada"), {"result": 100}),
    (
        "the balance of nobody",
        "passed",
        _NOBODY,
        _call("queryBalance", userId="ada"),
        _error("UserNotFoundError", userId="ada"),
    ),
    (
        "an evaluation",
        "passed",
        {},
        _call("evaluate", formula="-{x} / 4", variables={"x": 1}),
        {"result": Decimal("-0.25")},
    ),
    (
        "an evaluation of what is no formula",
        "passed",
        {},
        _call("evaluate_formula", formula="{x} ^ 2", variables={"x": 1}),
        _error("ConfigurationError", rule="formula.characters"),
    ),
    (
        "an undefined variable is there and no number",
        "passed",
        _priced("{n}"),
        _price(variables={"n": {"$special": "undefined"}}),
        _error("FormulaEvaluationError", cause_kind="invalid_variable"),
    ),
    (
        "options of history in an object of their own",
        "passed",
        {**_ON, "transactions": _rows(3)},
        _call("getHistory", userId="ada", options={"limit": 1, "offset": 1}),
        {"result": [{"id": "t1", "metadata": {"$exact": {}}}]},
    ),
    (
        "a status in a retry",
        "passed",
        {},
        _call("retry_execute", config=_CONFIG["retry"], outcomes=[{"statusCode": 503}, None]),
        {"result": {"attempts": 2, "succeeded": True}},
    ),
    ("what nobody knows", "skipped", _ON, _call("transfer", userId="ada"), {"result": 1}),
    # --- the storage adapter
    (
        "nobody is nothing",
        "passed",
        _NOBODY,
        _call("storage.getUserById", userId="x"),
        {"result": None},
    ),
    (
        "a user",
        "passed",
        {"users": [_PRO]},
        _call("storage.getUserById", userId="ada"),
        {"result": {"credits": 100, "membershipTier": "pro"}},
    ),
    (
        "a row of the ledger",
        "passed",
        {"users": []},
        _call(
            "storage.createTransaction",
            userId="x",
            action="a",
            amount=-1,
            balanceBefore=5,
            balanceAfter=4,
        ),
        {
            "result": {
                "id": {"$any": "string"},
                "amount": -1,
                "balanceBefore": 5,
                "balanceAfter": 4,
                "metadata": {"$exact": {}},
            }
        },
    ),
    (
        "rows of the ledger",
        "passed",
        {"users": [_ADA], "transactions": _rows(2)},
        _call("storage.getTransactions", userId="ada"),
        {"result": [{"id": "t1"}, {"id": "t0"}]},
    ),
    (
        "everything there is",
        "passed",
        {"users": [_ADA], "transactions": _rows(2)},
        [
            _call("storage.getAllUsers"),
            _call("storage.getAllTransactions"),
            _call("storage.getAuditLogs"),
            _call("storage.getAllIdempotencyRecords"),
        ],
        {
            "steps": [
                {"result": [{"id": "ada"}]},
                {"result": {"$count": 2}},
                {"result": []},
                {"result": []},
            ]
        },
    ),
    (
        "a row of the audit log for a refusal",
        "deviating",
        {"users": []},
        _call("storage.createAuditLog", userId="x", action="a", status="failed", errorMessage="m"),
        {"result": {"errorMessage": "m"}},
    ),
    (
        "the same tier again",
        "passed",
        {"users": [_PRO]},
        _call("storage.updateUserMembership", userId="ada", membershipTier="pro", credits=7),
        {"result": {"membershipTier": "pro", "credits": 7, "membershipExpiresAt": None}},
    ),
    (
        "no tier any more",
        "skipped",
        {"users": [_PRO]},
        _call("storage.updateUserMembership", userId="ada", membershipTier=None, credits=7),
        {"result": {"membershipTier": None}},
    ),
    (
        "a user overwritten",
        "deviating",
        {"users": [_ADA]},
        _call("storage.createUser", id="ada", credits=1),
        {"result": {"credits": 1}},
    ),
    ("a record by itself", "skipped", {}, _call("storage.createIdempotencyRecord"), {}),
    # --- faults
    (
        "a ledger that cannot be written takes nothing",
        "passed",
        _fault("createTransaction"),
        _CHARGE,
        {
            "error": {"code": "SCRIPT_FAILED"},
            "atomic": True,
            "users": [{"id": "ada", "credits": 100}],
            "transactions": [],
        },
    ),
    (
        "only the second change cannot be written",
        "passed",
        _fault("updateUserCredits", on_call=2),
        [_CHARGE, _SECOND, _GRANT, _GRANT],
        {
            "steps": [{"result": {}}, None, {"error": {}}, {"result": {}}],
            "atomic": True,
            "transactions": {"$count": 2},
        },
    ),
    (
        "an account that cannot be read",
        "passed",
        _fault("getUserById"),
        _CHARGE,
        {"error": {"code": "SCRIPT_FAILED"}, "atomic": True},
    ),
    (
        "a record that cannot be read",
        "passed",
        _fault("getIdempotencyRecord"),
        _KEYED,
        {"error": {"code": "SCRIPT_FAILED"}, "atomic": True},
    ),
    (
        "a plain error without a code",
        "deviating",
        _fault("getUserById"),
        _CHARGE,
        _error("Error", message="down", code=None),
    ),
    (
        "a reply that is lost charges once",
        "passed",
        _fault("createIdempotencyRecord", on_call=1),
        [_KEYED, _SECOND, _KEYED],
        {
            "steps": [{"result": {"cost": 10}}, None, {"result_equals_first": True}],
            "users": [{"id": "ada", "credits": 90}],
            "transactions": {"$count": 1},
            "idempotency_records": {"$count": 1},
        },
    ),
    (
        "every reply is lost",
        "passed",
        _fault("createIdempotencyRecord"),
        _KEYED,
        {"error": {"code": "OUTCOME_UNKNOWN"}, "users": [{"id": "ada", "credits": 90}]},
    ),
    (
        "a connection that is lost once",
        "passed",
        _fault("getUserById", on_call=1, code="ECONNRESET"),
        _CHARGE,
        {"result": {"cost": 10}, "atomic": True},
    ),
    (
        "an audit log that is back after the first row",
        "passed",
        _fault("createAuditLog", on_call=1),
        _CHARGE,
        {"result": {"cost": 10}, "audit": [{"status": "success"}], "transactions": {"$count": 1}},
    ),
    (
        "an audit log that is away for good",
        "passed",
        _fault("createAuditLog"),
        _CHARGE,
        {"result": {"cost": 10}, "audit": [], "transactions": {"$count": 1}},
    ),
    ("a fault of another kind", "skipped", _fault("sendMail"), _CHARGE, {"result": {}}),
    # --- flags and things that happen at the same time
    (
        "ten charges for one",
        "passed",
        {"config": _CONFIG, "users": [{**_ADA, "credits": 90}]},
        {"concurrent": [_CHARGE] * 10},
        {
            "one_fails": True,
            "ledger_chain": True,
            "atomic": True,
            "users": [{"id": "ada", "credits": 0}],
        },
    ),
    (
        "not one of them fails",
        "failed",
        _ON,
        {"concurrent": [_CHARGE, _CHARGE]},
        {"one_fails": True},
    ),
    (
        "in any order, but not anything",
        "failed",
        _ON,
        {"concurrent": [_CHARGE, _GRANT]},
        {"steps": [{"concurrent_any_order": [{"result": {"cost": 10}}, {"error": {}}]}]},
    ),
    (
        "with one key at the same time",
        "passed",
        _ON,
        {"concurrent": [_KEYED, _KEYED]},
        {"second_call": {"result_equals_first": True}, "transactions": {"$count": 1}},
    ),
    (
        "without a key there is no first",
        "failed",
        _ON,
        {"concurrent": [_CHARGE, _CHARGE]},
        {"second_call": {"result_equals_first": True}},
    ),
    ("a flag in prose", "skipped", _ON, _CHARGE, {"money_rains": True}),
    (
        "a refusal outlives a rollback",
        "passed",
        _NOBODY,
        _CHARGE,
        {"audit_survives_rollback": True, "error": {"code": "USER_NOT_FOUND"}},
    ),
    (
        "a success is no refusal",
        "failed",
        _ON,
        _CHARGE,
        {"audit_survives_rollback": True},
    ),
    (
        "what is expected at the same time, by itself",
        "passed",
        _ON,
        {"concurrent": [_GRANT, _CHARGE]},
        {"concurrent_any_order": [{"result": {"cost": 10}}, {"result": {"amount": 5}}]},
    ),
    (
        "a flag in words",
        "passed",
        _ON,
        {"concurrent": [_GRANT, _CHARGE]},
        {"ledger_chain": "each row begins where the one before it ended"},
    ),
    (
        "a membership at its last moment",
        "passed",
        {
            "config": _CONFIG,
            "users": [{**_PRO, "membershipExpiresAt": {"$date": "2026-01-15T12:00:00.000Z"}}],
        },
        [_CHARGE, _call("advance_clock", seconds=Decimal("0.001")), _CHARGE],
        {"steps": [{"result": {"cost": 8}}, None, {"result": {"cost": 10}}]},
    ),
    (
        "the code of a stranger's refusal",
        "passed",
        _NOBODY,
        [_CHARGE, _GRANT],
        {
            "audit": [
                {"action": "charge", "metadata": {"errorCode": "USER_NOT_FOUND"}},
                {"action": "grant", "metadata": {"errorCode": "USER_NOT_FOUND"}},
            ]
        },
    ),
    # --- calls
    (
        "a charge without a key",
        "passed",
        {**_ON, "record_calls": True},
        {"op": "charge", "args": {**_CHARGE["args"], "txn": "TX"}},
        {
            "calls": [
                {"method": "getUserById", "txn": "TX"},
                {"method": "updateUserCredits", "txn": "TX"},
                {"method": "createTransaction", "txn": "TX"},
                {"method": "createAuditLog", "txn": "TX"},
            ]
        },
    ),
    (
        "history",
        "passed",
        {**_ON, "record_calls": True},
        _call("getHistory", userId="ada"),
        {"calls": [{"method": "getTransactions"}]},
    ),
    (
        "a balance looks once",
        "passed",
        {**_ON, "record_calls": True},
        _call("queryBalance", userId="ada"),
        {"calls": [{"method": "getUserById"}]},
    ),
    (
        "a stranger",
        "passed",
        {**_NOBODY, "record_calls": True},
        _CHARGE,
        {"calls": [{"method": "getUserById"}, {"method": "createAuditLog"}]},
    ),
    (
        "a write too few",
        "failed",
        {**_ON, "record_calls": True},
        _CHARGE,
        {"calls": [{"method": "getUserById"}, {"method": "createTransaction"}]},
    ),
    (
        "a read too many",
        "failed",
        {**_ON, "record_calls": True},
        _call("queryBalance", userId="ada"),
        {"calls": [{"method": "getIdempotencyRecord"}, {"method": "getUserById"}]},
    ),
    (
        "a write more",
        "failed",
        {**_ON, "record_calls": True},
        _call("queryBalance", userId="ada"),
        {"calls": [{"method": "getUserById"}, {"method": "createAuditLog"}]},
    ),
    (
        "a bad amount is not audited",
        "deviating",
        {**_ON, "record_calls": True},
        _call("grant", userId="ada", amount=0, action="gift"),
        {**_error("ConfigurationError"), "calls": [{"method": "createAuditLog"}]},
    ),
    # --- stories
    (
        "a charge that is undone",
        "deviating",
        {
            "storage": "PostgreSQL",
            "scenario": "charge(10) for a user with 50 inside an outer transaction, rolls back",
        },
        {"op": "scenario"},
        {"users": [{"id": "u1", "credits": 50}], "transactions": []},
    ),
    (
        "once upon a time",
        "skipped",
        {"storage": "PostgreSQL", "scenario": "once upon a time"},
        {"op": "scenario"},
        {"users": []},
    ),
    # --- keys that are remembered already
    (
        "a refund that was made",
        "passed",
        {
            **_NOBODY,
            "idempotency_records": [
                {
                    "key": "k",
                    "result": {"transactionId": "t", "amount": 5, "balanceAfter": 9},
                    "expiresAt": _DECEMBER,
                }
            ],
        },
        _call("refund", userId="ada", amount=5, action="r", idempotencyKey="k"),
        {
            "result": {
                "$exact": {"success": True, "transactionId": "t", "amount": 5, "balanceAfter": 9}
            }
        },
    ),
    (
        "an upgrade that was made",
        "passed",
        {
            **_NOBODY,
            "idempotency_records": [
                {
                    "key": "k",
                    "result": {
                        "transactionId": "t",
                        "oldTier": None,
                        "newTier": "pro",
                        "oldCredits": Decimal("0.5"),
                        "newCredits": 1000,
                    },
                    "expiresAt": _DECEMBER,
                }
            ],
        },
        _call("upgradeTier", userId="ada", targetTier="pro", idempotencyKey="k"),
        {"result": {"oldTier": None, "newTier": "pro", "creditsDelta": Decimal("999.5")}},
    ),
    (
        "a record that has ended",
        "passed",
        {
            **_ON,
            "idempotency_records": [
                {
                    "key": "k",
                    "result": {"transactionId": "t"},
                    "expiresAt": _rows(1)[0]["createdAt"],
                }
            ],
        },
        _KEYED,
        {"result": {"cost": 10}, "users": [{"id": "ada", "credits": 90}]},
    ),
    # --- configuration
    (
        "a rule nobody knows",
        "passed",
        {"config": {**_CONFIG, "costs": {"a": {"default": -1}}}},
        {"op": "construct"},
        _error("ConfigurationError", rule="costs.not_below_zero", subject="a"),
    ),
    (
        "a rule we know, of another action",
        "failed",
        {"config": {**_CONFIG, "costs": {"a": {"default": -1}}}},
        {"op": "construct"},
        _error("ConfigurationError", rule="costs.default_negative", subject="b"),
    ),
    (
        "a configuration that is fine",
        "failed",
        {"config": _CONFIG},
        {"op": "construct"},
        {"config_error": {"class": "ConfigurationError"}},
    ),
    (
        "a warning of a price",
        "passed",
        _priced("0.001"),
        _price(),
        {"warning": "the formula '0.001' has no variables and is rounded to 0"},
    ),
    ("no warning", "failed", {"config": _CONFIG}, {"op": "construct"}, {"warning": "tier"}),
    (
        "audit is left out",
        "deviating",
        {"config": {name: value for name, value in _CONFIG.items() if name != "audit"}},
        {"op": "construct"},
        _error("ConfigurationError", rule="audit.required"),
    ),
    (
        "the time to live is left out",
        "deviating",
        _without("idempotency", "ttl"),
        {"op": "construct"},
        _error("ConfigurationError", rule="idempotency.ttl_missing"),
    ),
    (
        "requirements are left out",
        "deviating",
        _without("membership", "requirements"),
        {"op": "construct"},
        _error("ConfigurationError", rule="membership.requirements_required"),
    ),
    (
        "what is left out excuses nothing else",
        "failed",
        {"config": {**_without("audit", "enabled")["config"], "costs": {"a": {"default": 1}}}},
        {"op": "construct"},
        _error("ConfigurationError", rule="costs.default_negative", subject="a"),
    ),
    # --- deviations
    (
        "an amount as text",
        "deviating",
        _ON,
        _call("refund", userId="ada", amount="5", action="r"),
        {"error": {"code": "INVALID_AMOUNT"}},
    ),
    (
        "an amount beyond the ledger",
        "deviating",
        _ON,
        _call("grant", userId="ada", amount=9_007_199_254_740_991, action="gift"),
        {"result": {"success": True}},
    ),
    (
        "an amount finer than the ledger",
        "deviating",
        _ON,
        _call("grant", userId="ada", amount=Decimal("0.0000001"), action="gift"),
        {"result": {"success": True}},
    ),
    (
        "a grant of nothing",
        "deviating",
        _NOBODY,
        _call("grant", userId="ada", amount=0, action="gift"),
        {**_error("ConfigurationError"), "audit": [{"status": "failed"}]},
    ),
    (
        "an empty key in a refund",
        "deviating",
        _ON,
        _call("refund", userId="ada", amount=5, action="r", idempotencyKey=""),
        {"users": [{"id": "ada", "credits": 105}]},
    ),
    (
        "a long key",
        "deviating",
        _ON,
        {"op": "charge", "args": {**_CHARGE["args"], "idempotencyKey": "k" * 300}},
        {"result": {"cost": 10}},
    ),
    (
        "much metadata",
        "deviating",
        _ON,
        {"op": "charge", "args": {**_CHARGE["args"], "metadata": {"text": "x" * 5_000}}},
        {"result": {"cost": 10}},
    ),
    (
        "a long formula",
        "deviating",
        _priced(_LONG_FORMULA),
        _price(variables={"n": 1}),
        {"result": {"cost": 40}},
    ),
    (
        "two signs",
        "deviating",
        {},
        _call("validate_formula", formula="{a}--{b}"),
        _error("ConfigurationError", rule="formula.syntax"),
    ),
    (
        "a sign too many",
        "passed",
        {},
        _call("validate_formula", formula="{a}--"),
        _error("ConfigurationError", rule="formula.syntax"),
    ),
    (
        "a price nobody can pay",
        "deviating",
        _priced("{n}"),
        _price(variables={"n": 10**13}),
        {"result": {"cost": 10**13}},
    ),
    (
        "details of a formula that was not used",
        "deviating",
        _priced(50, pro="{n} * 2"),
        _price(tier="pro"),
        {"result": {"cost": 50, "details": {"isDynamic": True, "formula": "{n} * 2"}}},
    ),
    (
        "a page beyond measure",
        "deviating",
        {**_ON, "transactions": _rows(1)},
        _call("getHistory", userId="ada", limit=-1),
        {"result": []},
    ),
    (
        "a page without a measure",
        "deviating",
        {**_ON, "transactions": _rows(60)},
        _call("getHistory", userId="ada"),
        {"result": {"$count": 60}},
    ),
    (
        "rows of one moment",
        "deviating",
        {**_ON, "transactions": _rows(3, createdAt=_rows(1)[0]["createdAt"])},
        _call("getHistory", userId="ada"),
        {"result": [{"id": "t0"}, {"id": "t1"}, {"id": "t2"}]},
    ),
    (
        "a message that mentions a number",
        "deviating",
        {},
        _call("retry_execute", config=_CONFIG["retry"], outcomes=[{"message": "took 500"}]),
        {"result": {"attempts": 3}},
    ),
    # --- every part can fail
    ("a wrong result", "failed", _ON, _CHARGE, {"result": {"cost": 11}}),
    ("a result more", "failed", _ON, _CHARGE, {"result": {"$exact": {"cost": 10}}}),
    ("no error", "failed", _ON, _CHARGE, _error("InsufficientCreditsError")),
    ("an error", "failed", _NOBODY, _CHARGE, {"result": {}}),
    ("another error", "failed", _NOBODY, _CHARGE, _error("MembershipRequiredError")),
    (
        "another fact of the error",
        "failed",
        _NOBODY,
        _CHARGE,
        _error("UserNotFoundError", userId="bob"),
    ),
    ("another balance", "failed", _ON, _CHARGE, {"users": [{"id": "ada", "credits": 100}]}),
    ("another user", "failed", _ON, _CHARGE, {"users": [{"id": "bob"}]}),
    ("nobody at all", "failed", _ON, _CHARGE, {"users": []}),
    ("no row", "failed", _ON, _CHARGE, {"transactions": []}),
    ("another row", "failed", _ON, _CHARGE, {"transactions": [{"amount": 10}]}),
    ("no audit", "failed", _ON, _CHARGE, {"audit": []}),
    ("another audit", "failed", _ON, _CHARGE, {"audit": [{"status": "failed"}]}),
    ("a key nobody used", "failed", _ON, _CHARGE, {"idempotency_records": [{"key": "k"}]}),
    ("a step less", "failed", _ON, [_CHARGE, _SECOND], {"steps": [{"result": {}}]}),
    ("another step", "failed", _ON, [_CHARGE, _SECOND], {"steps": [{"error": {}}, None]}),
    ("a wrong deviation", "failed", _NOBODY, _call("grant", userId="ada"), _error("Error")),
]


@pytest.mark.parametrize(
    ("verdict", "given", "when", "then"),
    [row[1:] for row in _CASES],
    ids=[row[0].replace(" ", "-") for row in _CASES],
)
async def test_a_case_is_judged_rightly(
    verdict: Verdict, given: Object, when: Any, then: Object, servers: Servers
) -> None:
    values = {"id": "OWN", "title": "of our own", "given": given, "when": when, "then": then}

    judgement = await judged(case_of(values, "own"), servers)

    assert verdict == judgement.verdict, judgement.reason


async def test_a_fault_that_nothing_met_is_an_error(servers: Servers) -> None:
    values = {"id": "OWN", "given": _fault("createTransaction", on_call=2), "when": _CHARGE}

    with pytest.raises(AssertionError, match="never met"):
        await judged(case_of({**values, "then": {}}, "own"), servers)


def test_what_is_better_counts_and_not_what_is() -> None:
    values = {"id": "OWN", "when": _CHARGE, "then": {"result": 1}, "better": {"then": {"error": 2}}}

    assert {"error": 2} == case_of(values, "own").expected


def _row(user: str, before: int, amount: int, after: int) -> Object:
    return {"userId": user, "balanceBefore": before, "amount": amount, "balanceAfter": after}


def test_rows_chain_user_by_user() -> None:
    assert chains([_row("a", 5, -1, 4), _row("b", 0, 2, 2), _row("a", 4, 1, 5)])


@pytest.mark.parametrize(
    "rows",
    [[_row("a", 0, 5, 5), _row("a", 0, 7, 7)], [_row("a", 0, 5, 6)]],
    ids=["another-beginning", "another-sum"],
)
def test_rows_that_disagree_do_not_chain(rows: list[Object]) -> None:
    assert not chains(rows)
