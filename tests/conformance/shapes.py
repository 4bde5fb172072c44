"""Our values in the reference's shape: results, refusals, rows; names in camel case.

Nothing is decided here: a fact keeps its value and gets the reference's name. What the reference's
results do not have, such as the balance before a grant, is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from pydantic.alias_generators import to_camel

from credits_fast import (
    ChargeResult,
    ConfigurationError,
    CreditsError,
    GrantResult,
    HistoryPage,
    RefundResult,
    TierChangeResult,
    Transaction,
)
from tests.conformance.cases import Object
from tests.conformance.matching import WithEquivalents

__all__ = ["audit_shape", "camel", "error_shape", "json_value", "result_shape", "transaction_shape"]


def result_shape(result: Any) -> Any:
    """What an operation returned, as the reference would return it."""
    match result:
        case ChargeResult():
            return {
                "success": True,
                "transactionId": result.transaction_id,
                "cost": result.cost,
                "balanceBefore": result.balance_before,
                "balanceAfter": result.balance_after,
            }
        case RefundResult() | GrantResult():
            return {
                "success": True,
                "transactionId": result.transaction_id,
                "amount": result.amount,
                "balanceAfter": result.balance_after,
            }
        case TierChangeResult():
            return {
                "success": True,
                "transactionId": result.transaction_id,
                "oldTier": result.old_tier,
                "newTier": result.new_tier,
                "oldCredits": result.old_credits,
                "newCredits": result.new_credits,
                "creditsDelta": result.credits_delta,
            }
        case HistoryPage():
            return [transaction_shape(row) for row in result]
        case _:
            return result


def error_shape(error: CreditsError) -> Object:
    """A refusal with its class, its code and its facts."""
    shape: Object = {"class": type(error).__name__, "code": error.code}
    for name, value in vars(error).items():
        shape[to_camel(name)] = shape[name] = value
    if isinstance(error, ConfigurationError):
        shape["problems"] = [
            {"rule": problem.rule, "text": str(problem)} for problem in error.problems
        ]
    return shape


def transaction_shape(row: Transaction) -> Object:
    """A row of the ledger."""
    return {
        "id": row.id,
        "userId": row.user_id,
        "action": row.action,
        "amount": row.amount,
        "balanceBefore": row.balance_before,
        "balanceAfter": row.balance_after,
        "metadata": row.metadata,
        "createdAt": row.created_at,
    }


def audit_shape(row: Mapping[str, Any]) -> Object:
    """A row of the audit log. Its code has a column of its own; the reference looks in metadata."""
    code = row["error_code"]
    shape: Object = {
        "id": str(row["id"]),
        "userId": row["user_id"],
        "action": row["action"],
        "status": row["status"],
        "metadata": WithEquivalents(
            json_value(row["metadata"]), {} if code is None else {"errorCode": code}
        ),
        "createdAt": row["created_at"],
    }
    if row["error_message"] is not None:
        shape["errorMessage"] = row["error_message"]
    return shape


def camel(row: Mapping[str, Any], *, json_columns: frozenset[str] = frozenset()) -> Object:
    """Any other row, column by column."""
    return {
        to_camel(name): json_value(value) if name in json_columns else value
        for name, value in row.items()
    }


def json_value(text: str) -> Any:
    """JSON from the database, with exact numbers."""
    return json.loads(text, parse_float=Decimal)
