"""What the library logs of its decisions: under `credits_fast`, with structured fields, quiet by default.

Fields of every record: `user_id`, `action`, `amount` (credits, signed, None for a refusal), `verb`,
`transaction_id`, `idempotency_key`. A success is logged at DEBUG, a refusal at INFO; what an operator
must see is logged elsewhere at WARNING and above. No handler is installed but one that does nothing.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from decimal import Decimal

    from credits_fast.protocol.wire import Operation

__all__ = ["decided", "hears_decisions", "refused"]

_log: Final = logging.getLogger("credits_fast.decisions")
logging.getLogger("credits_fast").addHandler(logging.NullHandler())


hears_decisions: Final = partial(_log.isEnabledFor, logging.DEBUG)
"""Whether anybody hears of what took effect; else nothing has to be made ready for it."""


def decided(verb: str, operation: Operation, amount: Decimal, *, replayed: bool = False) -> None:
    """An operation took effect, or had before."""
    _log.debug(
        "%s %s: user %r, action %r, %s credits",
        verb,
        "replayed" if replayed else "done",
        operation.user_id,
        operation.action.decode(),
        amount,
        extra=_fields(verb, operation, amount),
    )


def refused(verb: str, operation: Operation, code: str) -> None:
    """An operation was refused."""
    if _log.isEnabledFor(logging.INFO):
        _log.info(
            "%s refused: user %r, action %r, %s",
            verb,
            operation.user_id,
            operation.action.decode(),
            code,
            extra=_fields(verb, operation, None) | {"code": code},
        )


def _fields(verb: str, operation: Operation, amount: Decimal | None) -> dict[str, object]:
    return {
        "verb": verb,
        "user_id": operation.user_id,
        "action": operation.action.decode(),
        "amount": amount,
        "transaction_id": operation.operation_id,
        "idempotency_key": operation.key.decode() or None,
    }
