"""An operation under way: everything that is needed to send it again and to read what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from credits_fast.protocol.wire import Call, Operation

__all__ = ["Pending"]

R = TypeVar("R")


class Pending(NamedTuple, Generic[R]):
    """An operation under way; it can be copied and pickled.

    Attributes:
        verb: The operation's name, for log and audit.
        operation: What is carried out.
        call: The same as it travels; every attempt sends this very call.
        read: Makes the result of a reply, the operation and `facts`; raises what was refused.
        facts: What else it needs.
        subject: What a refusal's audit says of the request.
        extra: The verb's own part of the tail.
    """

    verb: str
    operation: Operation
    call: Call
    read: Callable[..., R]
    facts: tuple[Any, ...]
    subject: str = ""
    extra: bytes = b""

    def result(self, reply: bytes) -> R:
        """The result a reply holds.

        Raises:
            CreditsError: The refusal the script decided.
        """
        return self.read(reply, self.operation, *self.facts)
