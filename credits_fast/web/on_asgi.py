"""ASGI: credits are held while a request is served, and charged where its response ends.

    async def hold_for(scope: Scope) -> HoldFor | None:
        if scope["path"] != "/chat":
            return None  # not metered
        return HoldFor(owner_of_the_key(scope), "chat", estimate={"tokens": 4_000})

    app = HoldMiddleware(app, credits=lambda scope: scope["state"]["credits"], hold_for=hold_for)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        hold = scope["credits"]
        async for chunk in model(prompt):
            hold.used(variables={"tokens": chunk.tokens_so_far})
            await send({"type": "http.response.body", "body": chunk.text, "more_body": True})

It needs no framework and buffers no response: each part is passed on as it comes. The credits are taken
before the last part is, so a client that has all of an answer was charged for it, and the answer to one
that could not be charged is cut off. `settling` says what is charged for a response that has no such end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from credits_fast.errors import CreditsError, InvalidArgumentError, RequestInProgressError
from credits_fast.web.faults import log_fault
from credits_fast.web.headers import PREFIX, hold_headers
from credits_fast.web.idempotency import FIELD, Keys, read_key, request_fingerprint, stored_key
from credits_fast.web.problems import TYPES, problem_response
from credits_fast.web.settling import is_charged

if TYPE_CHECKING:
    from credits_fast.amounts import Amount
    from credits_fast.engine import CreditsEngine
    from credits_fast.holds.hold import Hold
    from credits_fast.types import AboveHold, Metadata, Variables
    from credits_fast.web.settling import End

__all__ = ["BODY_BYTES_MAX", "Application", "HoldFor", "HoldMiddleware", "Receive", "Scope", "Send"]

_log: Final = logging.getLogger(__name__)

Scope: TypeAlias = MutableMapping[str, Any]
"""What the server says of a connection."""
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_BYTES_MAX: Final = 10_000_000
"""Bytes of a body that is read before its request is served, because it belongs to its key."""

_STREAMED: Final = frozenset(("http.response.body", "http.response.zerocopysend"))
_AT_ONCE: Final = "http.response.pathsend"


@dataclass(frozen=True, slots=True)
class HoldFor:
    """What is held for a request; as the arguments of `CreditsEngine.hold`.

    Attributes:
        user_id: Who pays: the owner of the API key, never a user the client merely names.
        action: The action, whose price the configuration knows.
        estimate: Values for the variables of a price formula, as far as they are known before.
        amount: The credits to hold, instead of the configured price.
        ttl_ms: Milliseconds until the hold expires; more than the request may take.
        above: What becomes of a price above what is held, None for the configured policy.
        metadata: Kept with the hold, the transaction and the audit entries.
    """

    user_id: str
    action: str
    estimate: Variables | None = None
    amount: Amount | None = None
    ttl_ms: int | None = None
    above: AboveHold | None = None
    metadata: Metadata | None = None


class HoldMiddleware:
    """An ASGI application around another one: holds credits for its requests, and settles them.

    The application finds the `Hold` as `scope["credits"]` and says by `used` what is to be charged. The
    response has `X-Credits-…` headers of the reservation. Errors of the library become problem documents
    where the response has not begun; later they go on to the server, which cuts the response off.

    Args:
        app: The application.
        credits: Gives the open engine for a connection.
        hold_for: Says what to hold for a request by its scope, None for one that is not metered. It may
            raise errors of the library, which are answered.
        keys: Whether metered requests have to have an `Idempotency-Key`.
        types: What the problem documents' `type` begins with.
        header_prefix: What the names of the headers begin with, None for no such headers.
        body_bytes_max: Bytes of the body of a request with a key: it is read before the application runs.
    """

    def __init__(
        self,
        app: Application,
        *,
        credits: Callable[[Scope], CreditsEngine],  # noqa: A002  # the engine is called credits
        hold_for: Callable[[Scope], Awaitable[HoldFor | None]],
        keys: Keys = "optional",
        types: str = TYPES,
        header_prefix: str | None = PREFIX,
        body_bytes_max: int = BODY_BYTES_MAX,
    ) -> None:
        self._app = app
        self._credits = credits
        self._hold_for = hold_for
        self._keys_required = keys == "required"
        self._types = types
        self._prefix = header_prefix
        self._body_bytes_max = body_bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection; those that are not HTTP, or not metered, are passed on as they are."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(receive, send)
        try:
            wanted = await self._hold_for(scope)
            if wanted is not None:
                await self._serve_metered(scope, exchange, wanted)
        except CreditsError as error:
            if exchange.status:
                raise
            await self._tell(scope, send, error)
            return
        if wanted is None:
            await self._app(scope, receive, send)

    async def _serve_metered(self, scope: Scope, exchange: _Exchange, wanted: HoldFor) -> None:
        key = read_key(_values(scope, FIELD), required=self._keys_required)
        fingerprint = None
        if key is not None:
            body = await exchange.read_body(self._body_bytes_max)
            if body is None:
                return
            fingerprint = request_fingerprint(scope["method"], _target(scope), [body])
        hold = self._credits(scope).hold(
            wanted.user_id,
            wanted.action,
            estimate=wanted.estimate,
            amount=wanted.amount,
            ttl_ms=wanted.ttl_ms,
            above=wanted.above,
            idempotency_key=None if key is None else stored_key(key),
            fingerprint=fingerprint,
            metadata=wanted.metadata,
        )
        await hold.__aenter__()
        if hold.replayed:
            raise RequestInProgressError(key or "", hold.id)
        headers = (
            {} if self._prefix is None else hold_headers(hold.reservation, prefix=self._prefix)
        )
        await exchange.run(self._app, scope, hold, headers)

    async def _tell(self, scope: Scope, send: Send, error: CreditsError) -> None:
        log_fault(_log, scope["method"], scope["path"], error)
        problem = problem_response(error, types=self._types)
        headers = [*problem.headers.items(), ("Content-Length", str(len(problem.body)))]
        start = {"type": "http.response.start", "status": problem.status, "headers": _raw(headers)}
        await send(start)
        await send({"type": "http.response.body", "body": problem.body})


class _NotChargedError(Exception):
    """What gives a hold back where no exception of the application's does."""


class _Exchange:
    """One request and its response, and the hold that ends with them.

    Attributes:
        status: The status of the response; 0 before it has begun.
    """

    def __init__(self, receive: Receive, send: Send) -> None:
        self.status = 0
        self._server_receive = receive
        self._server_send = send
        self._body: bytes | None = None
        self._hold: Hold | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._client_left = False

    async def read_body(self, bytes_max: int) -> bytes | None:
        """The whole body, which the application will read once more; None where the client has left.

        Raises:
            InvalidArgumentError: It is larger than that.
        """
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message = await self._server_receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > bytes_max:
                raise InvalidArgumentError(FIELD, f"is for bodies of at most {bytes_max} bytes")
            more = message.get("more_body", False)
        self._body = b"".join(parts)
        return self._body

    async def run(
        self, app: Application, scope: Scope, hold: Hold, headers: Mapping[str, str]
    ) -> None:
        """Run the application with an entered hold, and leave the hold once, whatever happens."""
        self._hold = hold
        self._headers = _raw(headers.items())
        try:
            await app({**scope, "credits": hold}, self._receive, self._send)
        except BaseException as error:
            await self._settle_after(error)
            raise
        await self._settle("cut_off" if self._client_left else "failed")

    async def _receive(self) -> Message:
        """What the server says, after the body that was read before."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        message = await self._server_receive()
        self._client_left |= message["type"] == "http.disconnect"
        return message

    async def _send(self, message: Message) -> None:
        """Pass a part of the response on; before the last one the hold is settled."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), *self._headers]}
        elif _ends_the_body(message):
            await self._settle("whole")
        try:
            await self._server_send(message)
        except OSError:  # the specification's word for a client that has left
            self._client_left = True
            raise

    async def _settle_after(self, error: BaseException) -> None:
        """Settle where the application has failed or was cancelled, which counts more than a capture."""
        was_ended = self._client_left or isinstance(error, asyncio.CancelledError)
        try:
            await self._settle("cut_off" if was_ended else "failed")
        except CreditsError as failure:
            _log.warning("a request that was cut off is not charged: %s", failure)

    async def _settle(self, end: End) -> None:
        """Leave the hold once: charged, or given back. What could not be charged is still to be left."""
        hold, self._hold = self._hold, None
        if hold is None:
            return
        if not is_charged(end, self.status, is_measured=hold.is_measured):
            await hold.__aexit__(_NotChargedError, _NotChargedError(end), None)
            return
        try:
            await hold.__aexit__(None, None, None)
        except BaseException:
            if hold.captured is None:
                self._hold = hold
            raise


# --- the words of ASGI -------------------------------------------------------------------------


def _ends_the_body(message: Message) -> bool:
    kind = message["type"]
    return kind == _AT_ONCE or (kind in _STREAMED and not message.get("more_body", False))


def _values(scope: Scope, field: str) -> list[str]:
    """The values of all headers of a name."""
    name = field.lower().encode()
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]


def _target(scope: Scope) -> str:
    query = scope.get("query_string", b"").decode("latin-1")
    return f"{scope['path']}?{query}" if query else scope["path"]


def _raw(headers: Any) -> list[tuple[bytes, bytes]]:
    """Headers as ASGI has them: bytes, and names in lower case."""
    return [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
