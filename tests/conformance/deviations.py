"""Where we do not do what a case asks for: by what the case does, what we do instead, and why.

A deviation is no excuse: it says in the notation of the case file what must come of the case here,
and the case fails where that does not come either. `docs/deviations.md` is made from the table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final, cast

from pydantic.alias_generators import to_camel

from credits_fast import AuditConfig, IdempotencyConfig, InvalidMetadataError, RetryConfig, formula
from credits_fast.amounts import MICROS_MAX, PLACES, to_credits
from credits_fast.arguments import IDENTIFIER_BYTES_MAX, metadata_json
from credits_fast.engine import PAGE_DEFAULT
from credits_fast.ledger.records import PAGE_MAX
from tests.conformance.cases import Case, Object, decoded
from tests.conformance.matching import number
from tests.conformance.operations import CHANGING, json_like
from tests.conformance.pure import TRANSIENT
from tests.conformance.scenarios import outer_transaction

__all__ = ["DEVIATIONS", "Deviation", "Topic", "deviation_of"]


class Topic(StrEnum):
    """What a difference is about, in the order of the page."""

    AMOUNTS = "Amounts and prices"
    CHARGING = "Charges and balances"
    TIERS = "Membership"
    KEYS = "Idempotency keys"
    CONFIGURATION = "Configuration"
    STORE = "Storage, history and audit"
    RETRIES = "Retries"


@dataclass(frozen=True)
class Deviation:
    """Something we do otherwise.

    Attributes:
        topic: The heading it stands under.
        what: What the reference does, and what we do.
        why: The reason, for people who use the library.
        then: What must come of a case here, None where the case is not about this.
    """

    topic: Topic
    what: str
    why: str
    then: Callable[[Case], Object | None]


def deviation_of(case: Case) -> tuple[Deviation, Object] | None:
    """What we do otherwise in a case, and what must come of it; None where nothing is."""
    for deviation in DEVIATIONS:
        then = deviation.then(case)
        if then is not None:
            return deviation, then
    return None


# --- what cases do -------------------------------------------------------------------------------


def _nothing_happened(case: Case) -> Object:
    """What was given is what is there."""
    users = [{"id": user["id"], "credits": user.get("credits", 0)} for user in case.given["users"]]
    return {"users": users, "transactions": {"$count": len(case.given.get("transactions", ()))}}


def _refused(case: Case, is_refused: Callable[[Object], bool], error: Object) -> Object | None:
    """Each step for which it is so is refused with this error, and changes nothing."""
    refused = [is_refused(step) for step in case.steps]
    if not any(refused) or any("concurrent" in step for step in case.when):
        return None
    steps = [{"error": error} if one else None for one in refused]
    unchanged = all(
        one or step["op"] not in CHANGING for one, step in zip(refused, case.steps, strict=True)
    )
    return {"steps": steps, **(_nothing_happened(case) if unchanged else {})}


def _argument(step: Object, name: str) -> Any:
    args: Object = step.get("args") or {}
    return args.get(name)


def _invalid_amount(case: Case) -> Object | None:
    error: Any = case.expected.get("error")
    last = case.steps[-1]
    if last["op"] != "grant" or not error or error.get("class") != "ConfigurationError":
        return None
    ours = {"class": "InvalidAmountError", "code": "INVALID_AMOUNT", "argument": "amount"}
    calls: Object = {"calls": []} if "calls" in case.expected else {}
    return {"error": ours, "audit": [], **_nothing_happened(case), **calls}


def _decimal_text(case: Case) -> Object | None:
    """An amount as text, where the case asks for a refusal."""
    last = case.steps[-1]
    amount = _argument(last, "amount")
    if last["op"] not in {"grant", "refund"} or not isinstance(amount, str):
        return None
    if not re.fullmatch(r"\d+(\.\d+)?", amount, re.ASCII) or "result" in case.expected:
        return None
    return {"result": {"amount": Decimal(amount)}}


def _beyond_the_ledger(case: Case) -> Object | None:
    if case.better is not None:
        return None
    error = {"code": "INVALID_AMOUNT"}
    return _refused(case, lambda step: _is_beyond(_argument(step, "amount")), error)


def _is_beyond(amount: Any) -> bool:
    exact = number(amount)
    if exact is None or not exact.is_finite():
        return False
    return abs(exact) > to_credits(MICROS_MAX) or round(exact, PLACES) != exact


def _finer_price(case: Case) -> Object | None:
    """A fixed price finer than a cent, which the case wants refused."""
    if [step["op"] for step in case.steps] != ["price"] or "config_error" not in case.expected:
        return None
    prices: list[Any] = [
        price
        for action in cast("Mapping[str, Any]", case.given["costs"]).values()
        for price in cast("Mapping[str, Any]", action).values()
    ]
    exact = [price for price in map(number, prices) if price is not None]
    if not any(round(price, 2) != price == round(price, PLACES) for price in exact):
        return None
    cost = case.then["result"]["cost"]
    return {"result": {"cost": cost, "details": {"isDynamic": False, "finalCost": cost}}}


def _formula_limits(case: Case) -> Object | None:
    """A formula that is refused for its size alone."""
    texts: list[Any] = [_argument(step, "formula") for step in case.steps]
    for prices in cast("Mapping[str, Any]", case.given.get("costs") or {}).values():
        texts += cast("Mapping[str, Any]", prices).values() if isinstance(prices, dict) else ()
    if not any(isinstance(text, str) and _is_too_large(text) for text in texts):
        return None
    error = {"class": "ConfigurationError", "code": "CONFIGURATION_ERROR"}
    return None if "error" in case.expected else {"error": error}


def _is_too_large(text: str) -> bool:
    try:
        formula.parse(text)
    except formula.FormulaError as error:
        return error.rule in {"too_long", "too_large", "too_deep"}
    return False


def _doubled_sign(case: Case) -> Object | None:
    """A formula with two signs side by side, which the host language takes for another operator."""
    last = case.steps[-1]
    text = _argument(last, "formula")
    if last["op"] != "validate_formula" or "error" not in case.expected:
        return None
    if not isinstance(text, str) or not re.search(r"--|\+\+", text):
        return None
    try:
        formula.parse(text)
    except formula.FormulaError:
        return None
    return {"result": {"ok": True}}


def _price_limit(case: Case) -> Object | None:
    expected: Any = case.expected.get("result")
    if case.steps[-1]["op"] != "price" or not isinstance(expected, dict):
        return None
    cost = number(cast("Object", expected).get("cost"))
    if cost is None or cost <= to_credits(MICROS_MAX):
        return None
    return {"error": {"class": "FormulaEvaluationError", "code": "FORMULA_EVALUATION_ERROR"}}


def _fallback_details(case: Case) -> Object | None:
    """A price that falls back to the number, and details that name the unused formula."""
    expected: Any = case.expected.get("result")
    if case.steps[-1]["op"] != "price" or not isinstance(expected, dict):
        return None
    details: Any = cast("Object", expected).get("details") or {}
    if not details.get("isDynamic", "formula" in details):
        return None
    args: Object = case.steps[-1]["args"]
    prices: Object = case.given["costs"][args["action"]]
    selected = prices.get(args.get("tier") or "default", prices["default"])
    default = number(prices["default"])
    if args.get("variables") or default is None or not isinstance(selected, str):
        return None
    ours = {"isDynamic": False, "finalCost": default, "formula": {"$absent": True}}
    return {"result": {"cost": default, "details": ours}}


def _empty_key(case: Case) -> Object | None:
    error = {"class": "InvalidArgumentError", "argument": "idempotency_key"}

    def refused(step: Object) -> bool:
        return step["op"] in CHANGING and _argument(step, "idempotencyKey") == ""

    return _refused(case, refused, {**error, "code": "INVALID_ARGUMENT"})


def _long_identifier(case: Case) -> Object | None:
    def refused(step: Object) -> bool:
        texts = (_argument(step, name) for name in _IDENTIFIERS)
        return any(isinstance(text, str) and _is_too_long(text) for text in texts)

    return _refused(case, refused, {"class": "InvalidArgumentError", "code": "INVALID_ARGUMENT"})


_IDENTIFIERS: Final = ("userId", "action", "idempotencyKey", "targetTier")


def _is_too_long(text: str) -> bool:
    return len(text.encode()) > IDENTIFIER_BYTES_MAX or "\0" in text


def _unfit_metadata(case: Case) -> Object | None:
    def refused(step: Object) -> bool:
        try:
            metadata_json(json_like(decoded(_argument(step, "metadata"))))
        except InvalidMetadataError:
            return step["op"] in CHANGING
        return False

    return _refused(case, refused, {"class": "InvalidMetadataError", "code": "INVALID_METADATA"})


def _grant_with_a_key(case: Case) -> Object | None:
    """The calls of a grant with a key, which the reference does not look at."""
    if "calls" not in case.expected or [step["op"] for step in case.steps] != ["grant"]:
        return None
    calls: list[Object] = case.expected["calls"]
    methods = [call["method"] for call in calls]
    if not _argument(case.steps[0], "idempotencyKey") or "createTransaction" not in methods:
        return None
    if "createIdempotencyRecord" in methods:
        return None
    ours = ["getIdempotencyRecord", *methods, "createIdempotencyRecord"]
    return {"calls": [{"method": method} for method in ours]}


# --- configuration -------------------------------------------------------------------------------

_DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "retry": {
        to_camel(name): getattr(RetryConfig(), name)
        for name in ("enabled", "max_attempts", "initial_delay", "max_delay", "backoff_multiplier")
    },
    "idempotency": {"enabled": IdempotencyConfig().enabled, "ttl": IdempotencyConfig().ttl},
    "audit": {"enabled": AuditConfig().enabled},
    "membership": {"requirements": {}},
}


def _left_out(case: Case) -> Object | None:
    """A section or a field with a default is left out, and the case wants that refused."""
    error: Any = case.expected.get("error")
    config: Any = case.given.get("config")
    if case.steps[-1]["op"] != "construct" or not error or not isinstance(config, dict):
        return None
    sections = cast("Object", config)
    named = str(error.get("rule", "")).partition(".")[0]
    missing = {
        section: {name: value for name, value in defaults.items() if name not in given}
        for section, defaults in _DEFAULTS.items()
        if isinstance(given := sections.get(section, {}), dict)
        and (section in sections or section != "membership")
    }
    missing = {section: names for section, names in missing.items() if names}
    if not missing or (named and named not in missing):
        return None
    return {"result": {"ok": True}, "config": missing}


# --- the rest ------------------------------------------------------------------------------------


def _in_every_case(_case: Case) -> Object | None:
    """Nothing a case can show: its ledger is looked at when it has caught up."""
    return None


def _untyped_failure(case: Case) -> Object | None:
    """A failing store, of which the reference raises a plain error without a code."""
    error: Any = case.expected.get("error")
    if case.better is not None or not error or "faults" not in case.given:
        return None
    if error.get("class") not in {"Error", "TypeError"}:
        return None
    return {"error": {"code": {"$any": "string"}}}


def _by_message(case: Case) -> Object | None:
    """A retry only because a message contains one of the listed texts."""
    last = case.steps[-1]
    if last["op"] != "retry_execute" or case.better is not None:
        return None
    args: Object = last["args"]
    options: Object = args.get("options") or {}
    listed = [str(name).lower() for name in options.get("retryableErrors", TRANSIENT)]
    first: Object = args["outcomes"][0] or {}
    names = {str(first.get(name)).lower() for name in ("name", "code", "statusCode")}
    message = str(first.get("message", "")).lower()
    if not names.isdisjoint(listed) or not any(name in message for name in listed):
        return None
    return {"result": {"attempts": 1, "succeeded": False}}


def _page_limits(case: Case) -> Object | None:
    if case.better is not None:
        return None

    def refused(step: Object) -> bool:
        limit, offset = _argument(step, "limit"), _argument(step, "offset")
        is_page = step["op"] in {"getHistory", "storage.getTransactions"}
        return is_page and (
            (isinstance(limit, int) and not 0 <= limit <= PAGE_MAX)
            or (isinstance(offset, int) and offset < 0)
        )

    return _refused(case, refused, {"class": "InvalidArgumentError"})


def _default_page(case: Case) -> Object | None:
    last = case.steps[-1]
    expected: Any = case.expected.get("result")
    if last["op"] != "getHistory" or _argument(last, "limit") is not None:
        return None
    if isinstance(expected, dict):
        count = int(cast("Object", expected).get("$count", 0))
    else:
        count = len(expected or ())
    return {"result": {"$count": PAGE_DEFAULT}} if count > PAGE_DEFAULT else None


def _same_moment(case: Case) -> Object | None:
    """Rows of one moment, which the reference's memory gives oldest first."""
    rows: list[Object] = case.given.get("transactions") or []
    expected: Any = case.expected.get("result")
    if case.steps[-1]["op"] != "getHistory" or not isinstance(expected, list):
        return None
    numbered = {row.get("id"): (row["createdAt"]["$date"], at) for at, row in enumerate(rows)}
    ids = [row.get("id") for row in cast("list[Object]", expected)]
    if case.better is not None or not set(ids) <= numbered.keys():
        return None
    if len({numbered[name][0] for name in ids}) == len(ids):
        return None
    newest_first = sorted(ids, key=lambda name: numbered[name], reverse=True)
    return {"result": [{"id": name} for name in newest_first]}


def _audit_row_alone(case: Case) -> Object | None:
    last = case.steps[-1]
    if last["op"] != "storage.createAuditLog":
        return None
    row = {"id": {"$any": "string"}, "createdAt": {"$date": case.now.isoformat()}}
    has_message = {"$any": "string"} if last["args"]["status"] == "failed" else {"$absent": True}
    ours = {**row, "status": last["args"]["status"], "metadata": {"$any": "object"}}
    return {"result": {**ours, "errorMessage": has_message}}


def _user_again(case: Case) -> Object | None:
    known = {user["id"] for user in case.given.get("users", ())}
    error = {"class": "UserAlreadyExistsError", "code": "USER_ALREADY_EXISTS"}

    def refused(step: Object) -> bool:
        return step["op"] == "storage.createUser" and _argument(step, "id") in known

    return _refused(case, refused, error)


def _undone_by_rollback(case: Case) -> Object | None:
    """A charge that is not refused, inside an SQL transaction that is rolled back."""
    story = outer_transaction(case)
    if story is None or story.cost > story.balance:
        return None
    return {"users": [{"id": "u1", "credits": story.balance - story.cost}]}


# --- the table -----------------------------------------------------------------------------------

DEVIATIONS: Final = (
    Deviation(
        Topic.AMOUNTS,
        "A grant of zero or less raises `InvalidAmountError`, not `ConfigurationError`, "
        "and is not audited.",
        "The argument is wrong, not the configuration; it is refused before anything is sent.",
        _invalid_amount,
    ),
    Deviation(
        Topic.AMOUNTS,
        'An amount may be a decimal string such as `"13.5"`; it is read exactly.',
        "Decimal strings are how exact amounts travel in JSON and in forms.",
        _decimal_text,
    ),
    Deviation(
        Topic.AMOUNTS,
        "An amount beyond 9,000,000,000 credits, or with more than six decimal places, "
        "raises `InvalidAmountError`.",
        "Within these limits every sum is exact, in Redis and in SQL.",
        _beyond_the_ledger,
    ),
    Deviation(
        Topic.AMOUNTS,
        "A fixed price may have up to six decimal places and is charged and recorded as it is; "
        "only the value of a formula is rounded to cents.",
        "The ledger's unit is a millionth of a credit, so such a price is exact; "
        "a finer one is refused when the configuration is read.",
        _finer_price,
    ),
    Deviation(
        Topic.AMOUNTS,
        "A formula has at most 512 characters, 64 operands and operators, and 16 levels.",
        "Whoever writes prices cannot slow down those who are charged.",
        _formula_limits,
    ),
    Deviation(
        Topic.AMOUNTS,
        "Two signs may stand side by side in a formula: `{a}--{b}` is `{a} - (-{b})`.",
        "There is no operator `--` or `++` that it could be taken for.",
        _doubled_sign,
    ),
    Deviation(
        Topic.AMOUNTS,
        "A price beyond 9,000,000,000 credits raises `FormulaEvaluationError`.",
        "Nobody can have so many credits, and a larger number would not be exact.",
        _price_limit,
    ),
    Deviation(
        Topic.AMOUNTS,
        "Where a formula needs variables, none are given and the number of `default` is charged, "
        "the record names no formula.",
        "The record says which price was really used.",
        _fallback_details,
    ),
    Deviation(
        Topic.KEYS,
        "An empty idempotency key raises `InvalidArgumentError`; leave it out, or pass `None`, "
        "for no key.",
        "An empty key is nearly always a lost one, and the caller would be charged twice.",
        _empty_key,
    ),
    Deviation(
        Topic.KEYS,
        "A grant looks at its key and remembers it, like every other operation.",
        "A payment's webhook that is delivered twice must not grant twice.",
        _grant_with_a_key,
    ),
    Deviation(
        Topic.CONFIGURATION,
        "The sections `retry`, `idempotency` and `audit`, their fields, and `requirements` "
        "may be left out.",
        "The defaults that the reference documents then apply: "
        "three attempts, keys for a day, audit on.",
        _left_out,
    ),
    Deviation(
        Topic.CHARGING,
        "No operation takes a database context: a charge inside an SQL transaction of the "
        "application is not undone by its rollback.",
        "It was decided in Redis, at once and for every process; refund it where the work failed.",
        _undone_by_rollback,
    ),
    Deviation(
        Topic.CHARGING,
        "A user id, an action or an idempotency key has at most 256 bytes and no NUL character.",
        "They are part of names and rows; a longer one can be hashed first.",
        _long_identifier,
    ),
    Deviation(
        Topic.CHARGING,
        "Metadata is a JSON object of at most 4 KiB and eight levels.",
        "It travels with every charge and is kept for ever.",
        _unfit_metadata,
    ),
    Deviation(
        Topic.STORE,
        "History and audit follow what was decided by a moment; `wait_recorded` waits for it.",
        "A charge does not wait for the database.",
        _in_every_case,
    ),
    Deviation(
        Topic.STORE,
        "A failing store raises a typed error with a code, not a plain one without.",
        "Callers can tell what may be tried again from what may not.",
        _untyped_failure,
    ),
    Deviation(
        Topic.STORE,
        "A page of history has 0 to 1,000 rows; another limit, or a negative offset, "
        "raises `InvalidArgumentError`.",
        "Every answer has a bounded size; a cursor leads to the next page.",
        _page_limits,
    ),
    Deviation(
        Topic.STORE,
        "Without a limit, history gives 50 rows.",
        "A default without bound grows with the age of the account.",
        _default_page,
    ),
    Deviation(
        Topic.STORE,
        "Rows of history that share a millisecond come newest first, like all others.",
        "Every row has a number of its own, so the order never depends on the clock.",
        _same_moment,
    ),
    Deviation(
        Topic.STORE,
        "A row of the audit log always holds the facts of its operation; "
        "there is no call that writes one by itself.",
        "Rows are made from what was decided, so the log cannot say anything else.",
        _audit_row_alone,
    ),
    Deviation(
        Topic.STORE,
        "Creating a user again raises `UserAlreadyExistsError` instead of overwriting the user.",
        "Overwriting would change a balance without a row in the ledger.",
        _user_again,
    ),
    Deviation(
        Topic.RETRIES,
        "The text of a message never decides whether a failure is transient.",
        "A refusal that mentions 500 credits is not a server error.",
        _by_message,
    ),
)
"""What we do otherwise than the cases ask for; the first that applies to a case counts."""
