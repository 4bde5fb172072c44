"""FastAPI: the engine opens with the application, requests are charged, errors become problems.

    app = FastAPI(lifespan=credits_lifespan(lambda: CreditsEngine.embedded("data", "credits.toml")))
    install(app)

    @app.post("/image")
    async def image(charge: Annotated[Charged, Depends(charged("image", user=current_user))]) -> Image: ...

    @app.post("/chat")
    async def chat(body: Chat, meter: Annotated[Meter, Depends(metered(user=current_user))]) -> Answer:
        charge = await meter.charge("chat", variables={"tokens": count(body)})

`user` is a dependency of the application's own that says who pays, such as the owner of an API key:
never what a client merely names.

FastAPI runs dependencies before it has checked the request's body. `Meter.charge`, which the handler
calls, is after that check. `charged` takes the credits before it and gives them back where the check
fails; a body that its `variables` depend on is checked first.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import FormData, UploadFile

from credits_fast.engine import CreditsEngine
from credits_fast.errors import (
    CreditsError,
    EngineClosedError,
    MisconfiguredError,
    RepeatedRequestError,
)
from credits_fast.holds.hold import Hold
from credits_fast.web.faults import log_fault
from credits_fast.web.headers import PREFIX, charge_headers
from credits_fast.web.idempotency import FIELD, Keys, read_key, request_fingerprint, stored_key
from credits_fast.web.problems import TYPES, problem_response

if TYPE_CHECKING:
    from credits_fast.amounts import Amount
    from credits_fast.types import ChargeResult, Metadata, RefundResult, Variables

__all__ = [
    "Charged",
    "Credits",
    "Held",
    "Keys",
    "Meter",
    "Repeats",
    "charged",
    "credits_lifespan",
    "get_credits",
    "get_hold",
    "install",
    "metered",
]

_log: Final = logging.getLogger(__name__)

Repeats: TypeAlias = Literal["refuse", "serve"]
"""What becomes of a request that was charged before under its key: 409, or the handler once more."""


@dataclass(frozen=True, slots=True)
class _Settings:
    types: str = TYPES
    header_prefix: str | None = PREFIX


# --- the application ---------------------------------------------------------------------------


def credits_lifespan(
    make_engine: Callable[[], CreditsEngine],
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """A lifespan of a FastAPI application: the engine is open as long as the application runs.

    An application with a lifespan of its own enters this one inside it:
    `async with credits_lifespan(make_engine)(app): yield`.

    Args:
        make_engine: Makes the engine; called at each start of the application.

    Raises:
        CreditsError: At the start: what `CreditsEngine.start` raises.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        async with make_engine() as engine:
            app.state.credits = engine
            try:
                yield
            finally:
                del app.state.credits

    return lifespan


def install(
    app: FastAPI,
    *,
    types: str = TYPES,
    header_prefix: str | None = PREFIX,
) -> None:
    """Errors of the library become problem documents, in this application.

    What the servers or the program are to blame for is logged under `credits_fast.web`: a transient error
    as a warning, any other with its traceback.

    Args:
        app: The application.
        types: What the documents' `type` begins with, such as `https://example.com/problems/`.
        header_prefix: What the names of a charge's headers begin with, None for no such headers.
    """
    app.state.credits_settings = _Settings(types, header_prefix)

    async def answer(request: Request, error: Exception) -> Response:
        # The signature is Starlette's: a WebSocket comes here too, and cannot be answered by a document.
        if not isinstance(error, CreditsError) or request.scope["type"] != "http":
            raise error
        log_fault(_log, request.method, request.url.path, error)
        response = problem_response(error, types=types)
        return Response(response.body, response.status, response.headers)

    app.add_exception_handler(CreditsError, answer)


def get_credits(request: Request) -> CreditsEngine:
    """The application's engine, as a dependency.

    Raises:
        EngineClosedError: The application runs without `credits_lifespan`.
    """
    engine = getattr(request.app.state, "credits", None)
    if not isinstance(engine, CreditsEngine):
        raise EngineClosedError("the application has no open engine: it needs credits_lifespan")
    return engine


Credits: TypeAlias = Annotated[CreditsEngine, Depends(get_credits)]
"""The annotation of a handler's parameter that is the application's engine."""


def get_hold(request: Request) -> Hold:
    """The request's hold, as a dependency; `on_asgi.HoldMiddleware` makes and settles it.

    Raises:
        MisconfiguredError: The middleware does not stand around the application, or does not meter this
            request.
    """
    hold = request.scope.get("credits")
    if not isinstance(hold, Hold):
        raise MisconfiguredError(f"no hold for {request.url.path}: it needs HoldMiddleware")
    return hold


Held: TypeAlias = Annotated[Hold, Depends(get_hold)]
"""The annotation of a handler's parameter that is the request's hold."""


# --- a request ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Charged:
    """A request that was charged for.

    Attributes:
        user_id: Who paid.
        action: What for.
        result: The charge.
        headers: What the response says of it. FastAPI adds them to what a handler returns, but not to a
            `Response` the handler makes itself: that one has to be given them.
    """

    user_id: str
    action: str
    result: ChargeResult
    headers: Mapping[str, str]
    _engine: CreditsEngine

    @property
    def replayed(self) -> bool:
        """Whether it was charged before and not now: the same request came under the same key."""
        return self.result.replayed

    async def refund(self, *, metadata: Metadata | None = None) -> RefundResult | None:
        """Give the whole charge back, once however often it is called; None where it cost nothing.

        Args:
            metadata: Kept with the transaction and the audit entry.

        Raises:
            CreditsError: What `CreditsEngine.refund` raises.
        """
        if not self.result.cost:
            return None
        transaction = self.result.transaction_id
        return await self._engine.refund(
            self.user_id,
            self.result.cost,
            self.action,
            transaction_id=transaction,
            idempotency_key=f"refund:{transaction}",
            metadata=metadata,
        )


class Meter:
    """Charges one request; the dependency `metered` makes it.

    Attributes:
        credits: The engine.
        user_id: Who pays.
        key: The request's `Idempotency-Key`, None where it has none.
    """

    def __init__(
        self,
        request: Request,
        response: Response,
        credits: CreditsEngine,  # noqa: A002  # the engine is called credits, as users call it
        user_id: str,
        *,
        key: str | None,
        repeats: Repeats,
    ) -> None:
        self.credits = credits
        self.user_id = user_id
        self.key = key
        self._request = request
        self._response = response
        self._repeats = repeats

    async def charge(
        self,
        action: str,
        *,
        amount: Amount | None = None,
        variables: Variables | None = None,
        metadata: Metadata | None = None,
    ) -> Charged:
        """Take the price of an action for this request, once however often the request comes.

        The request's key stands for the whole request: its method, path, query and body, the action
        and the price. With a key a request is charged for one action; the same request again is
        refused, or served without a charge where the application said `repeats="serve"`.

        Args:
            action: The action, whose price the configuration knows.
            amount: The price in credits, instead of the configured one; 0 or more.
            variables: Values for the variables of a price formula.
            metadata: Kept with the transaction and the audit entry.

        Raises:
            RepeatedRequestError: The request was charged before, and is not to be served again.
            CreditsError: What `CreditsEngine.charge` raises.
        """
        result = await self.credits.charge(
            self.user_id,
            action,
            amount=amount,
            variables=variables,
            idempotency_key=None if self.key is None else stored_key(self.key),
            fingerprint=None if self.key is None else await _fingerprint(self._request),
            metadata=metadata,
        )
        if result.replayed and self._repeats == "refuse":
            raise RepeatedRequestError(self.key or "", result.transaction_id)
        prefix = _settings(self._request).header_prefix
        headers = {} if prefix is None else charge_headers(result, prefix=prefix)
        self._response.headers.update(headers)
        return Charged(self.user_id, action, result, headers, self.credits)


def metered(
    *,
    user: Callable[..., Any],
    keys: Keys = "optional",
    repeats: Repeats = "refuse",
) -> Callable[..., Meter]:
    """A dependency that is a `Meter`: the handler charges when it knows the price.

    Args:
        user: A dependency that says who pays.
        keys: Whether requests have to have an `Idempotency-Key`.
        repeats: What becomes of a request that was charged before under its key. `"refuse"` answers
            409, because its answer is not at hand and giving it anew would be for nothing; `"serve"`
            runs the handler, which looks at `Charged.replayed` and gives the answer it has kept. One that
            has kept none raises `RepeatedRequestError`, or serves whoever repeats a key for nothing.

    Raises:
        InvalidArgumentError: In a request: its key is malformed, or required and missing.
    """

    def meter(
        request: Request,
        response: Response,
        credits: CreditsEngine = Depends(get_credits),  # noqa: A002, B008  # as for user_id
        # A default, because the annotation of an inner function cannot name the outer one's argument.
        user_id: str = Depends(user),
    ) -> Meter:
        key = read_key(request.headers.getlist(FIELD), required=keys == "required")
        return Meter(request, response, credits, user_id, key=key, repeats=repeats)

    return meter


def charged(
    action: str,
    *,
    user: Callable[..., Any],
    amount: Amount | None = None,
    variables: Callable[..., Any] | None = None,
    keys: Keys = "optional",
    repeats: Repeats = "refuse",
    refund_on: tuple[type[Exception], ...] = (),
) -> Callable[..., AsyncGenerator[Charged, None]]:
    """A dependency that takes the price of an action before the handler runs, and is the `Charged`.

    Args:
        action: The action, whose price the configuration knows.
        user: A dependency that says who pays.
        amount: The price in credits, instead of the configured one.
        variables: A dependency that gives values for the variables of the price formula. What it
            takes of the body is checked before anything is charged.
        keys: Whether requests have to have an `Idempotency-Key`.
        repeats: As in `metered`.
        refund_on: Exceptions of the handler after which the credits go back, besides those of a request
            FastAPI finds invalid. The key stays used: the client's next attempt takes a new one.

    Raises:
        CreditsError: In a request: what `Meter.charge` raises.
    """
    gives_back: tuple[type[Exception], ...] = (RequestValidationError, *refund_on)

    async def charge(
        meter: Meter = Depends(metered(user=user, keys=keys, repeats=repeats)),  # noqa: B008
        values: Any = Depends(variables or _no_variables),  # noqa: B008
    ) -> AsyncGenerator[Charged, None]:
        taken = await meter.charge(action, amount=amount, variables=values)
        try:
            yield taken
        except gives_back as error:
            # What was charged before belongs to the request that came first.
            if not taken.replayed:
                await _give_back(taken, error)
            raise

    return charge


def _no_variables() -> None:
    """No values, where the price needs none."""


async def _give_back(taken: Charged, error: Exception) -> None:
    """A refund whose failure is told to the operator, while the client hears of the first error."""
    try:
        await taken.refund(metadata={"reason": type(error).__name__})
    except CreditsError:
        _log.exception(
            "charge %s of user %r is not given back", taken.result.transaction_id, taken.user_id
        )


def _settings(request: Request) -> _Settings:
    settings = getattr(request.app.state, "credits_settings", None)
    return settings if isinstance(settings, _Settings) else _Settings()


# --- what a key stands for ---------------------------------------------------------------------

_FORMS: Final = ("multipart/form-data", "application/x-www-form-urlencoded")


async def _fingerprint(request: Request) -> str:
    query = request.url.query
    target = f"{request.url.path}?{query}" if query else request.url.path
    return request_fingerprint(request.method, target, await _body(request))


async def _body(request: Request) -> list[bytes]:
    """The body; where FastAPI has read a form of it, the form's fields, for its boundary is random."""
    try:
        return [await request.body()]
    except (
        RuntimeError
    ):  # Starlette's, where the stream is consumed: by the form, or by the handler
        form = await _form(request)
    parts: list[bytes] = []
    for name, value in form.multi_items():
        parts.append(name.encode())
        if isinstance(value, UploadFile):
            position = value.file.tell()  # the handler may have read a part of it
            await value.seek(0)
            parts += [(value.filename or "").encode(), await value.read()]
            await value.seek(position)
        else:
            parts.append(value.encode())
    return parts


async def _form(request: Request) -> FormData:
    """The form that FastAPI has read.

    Raises:
        MisconfiguredError: The handler has taken the body as a stream, and nobody has it any more.
    """
    if request.headers.get("Content-Type", "").lower().startswith(_FORMS):
        with suppress(RuntimeError):
            return await request.form()
    raise MisconfiguredError(
        f"the body of {request.url.path} was taken as a stream before Meter.charge, whose key stands "
        "for it: charge first, or read request.body()"
    )
