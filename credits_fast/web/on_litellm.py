"""LiteLLM: its proxy holds credits before a model is called, and charges the tokens that were used.

    # credits_proxy.py, named in the proxy's configuration: `callbacks: credits_proxy.handler`
    handler = CreditsLogger(
        CreditsEngine.from_url("redis://…", "postgresql://…", "credits.toml"),
        action=lambda data: "chat",
        estimate=lambda data: {"input": 8_000, "output": data.get("max_tokens") or 4_000},
    )

Who pays is the owner of the API key, as the proxy knows it: never the `user` of a request, which its
client writes. What a hold is found by travels with the request and is written over before it leaves
here; holds are kept in this process, and no other id than theirs is taken for one.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, cast

from fastapi import HTTPException

# Loaded where the extra is installed; checked without it.
from litellm.integrations.custom_logger import (  # pyright: ignore[reportMissingImports]
    CustomLogger,  # pyright: ignore[reportUnknownVariableType]
)

from credits_fast.errors import CreditsError, InvalidUsageError
from credits_fast.usage import usage_from_openai
from credits_fast.web.faults import log_fault
from credits_fast.web.problems import TYPES, problem_response

if TYPE_CHECKING:
    from credits_fast.engine import CreditsEngine
    from credits_fast.holds.hold import Hold
    from credits_fast.types import Variables

__all__ = ["CreditsLogger", "owner_of"]

_log: Final = logging.getLogger(__name__)

_FIELD: Final = "credits_fast_hold"
_METADATA: Final = ("litellm_metadata", "metadata")


def owner_of(key: Any) -> str | None:
    """The user an API key belongs to, None for a key without one.

    Args:
        key: What the proxy knows of the key, its `UserAPIKeyAuth`.
    """
    owner: object = key.user_id
    return owner if isinstance(owner, str) and owner else None


class CreditsLogger(CustomLogger):  # type: ignore[misc]  # without the extra it is Any
    """A callback of LiteLLM's proxy: reserves before a call, charges its tokens, gives back what failed.

    A call that is refused is answered with the status of `web.problems` and its document as the detail. One
    whose answer reports no usage is charged what was held, and a warning is logged. Attempts that
    LiteLLM repeats or hands to another deployment share the hold of their request.

    Args:
        credits: The engine, not yet started: the first call starts it, in the proxy's event loop.
        action: The action of a request, by its body; None for one that is not metered.
        estimate: Values for the price formula, by the body: as many tokens as the answer may need.
        owner: Who pays, by what the proxy knows of the API key; None is refused.
        types: What the problem documents' `type` begins with.
    """

    def __init__(
        self,
        credits: CreditsEngine,  # noqa: A002  # the engine is called credits, as users call it
        *,
        action: Callable[[Mapping[str, Any]], str | None],
        estimate: Callable[[Mapping[str, Any]], Variables],
        owner: Callable[[Any], str | None] = owner_of,
        types: str = TYPES,
    ) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self._credits = credits
        self._action = action
        self._estimate = estimate
        self._owner = owner
        self._types = types
        self._starting = asyncio.Lock()
        self._is_started = False
        self._holds: dict[str, Hold] = {}

    async def async_pre_call_hook(
        self,
        user_api_key_dict: Any,
        cache: Any,  # noqa: ARG002  # LiteLLM's signature
        data: dict[str, Any],
        call_type: str,
    ) -> None:
        """Hold the estimated price before the model is called.

        Raises:
            HTTPException: The key has no owner, its owner cannot pay, or credits are not available.
        """
        fields = _fields(data)
        for named in (data.get(name) for name in _METADATA):
            if isinstance(named, dict):
                cast("dict[str, Any]", named).pop(_FIELD, None)  # what a client has named
        action = self._action(data)
        if action is None:
            return
        user_id = self._owner(user_api_key_dict)
        if user_id is None:
            raise HTTPException(403, "the API key has no owner who could pay")
        try:
            await self._start()
            hold = self._credits.hold(user_id, action, estimate=self._estimate(data))
            await hold.__aenter__()
        except CreditsError as error:
            log_fault(_log, "POST", call_type, error)
            problem = problem_response(error, types=self._types)
            document = json.loads(problem.body)
            raise HTTPException(problem.status, document, problem.headers) from error
        self._forget_expired()
        self._holds[hold.id] = hold
        fields[_FIELD] = hold.id

    async def async_log_success_event(
        self,
        kwargs: dict[str, Any],
        response_obj: Any,
        start_time: Any,  # noqa: ARG002  # LiteLLM's signature
        end_time: Any,  # noqa: ARG002
    ) -> None:
        """Charge what an answer has used; of a stream, when it has ended or its reader has left."""
        hold = self._taken(kwargs.get("litellm_params") or {})
        if hold is None:
            return
        try:
            hold.used(variables=usage_from_openai(response_obj).variables())
        except InvalidUsageError as error:
            _log.warning("hold %s is charged as a whole: %s", hold.id, error)
        try:
            await hold.__aexit__(None, None, None)
        except CreditsError:
            _log.exception("hold %s is not charged", hold.id)

    async def async_post_call_failure_hook(
        self,
        request_data: dict[str, Any],
        original_exception: Exception,
        user_api_key_dict: Any,  # noqa: ARG002  # LiteLLM's signature
        traceback_str: str | None = None,  # noqa: ARG002
    ) -> None:
        """Give the hold of a request back that has failed for good."""
        hold = self._taken(request_data)
        if hold is not None:
            await hold.__aexit__(type(original_exception), original_exception, None)

    async def _start(self) -> None:
        async with self._starting:
            if not self._is_started:
                await self._credits.start()
                self._is_started = True

    def _taken(self, request: Mapping[str, Any]) -> Hold | None:
        """The hold of a request; a second word on it, such as a late failure, finds none."""
        for name in _METADATA:
            fields = request.get(name)
            if isinstance(fields, dict):
                found = self._holds.pop(str(cast("dict[str, Any]", fields).get(_FIELD)), None)
                if found is not None:
                    return found
        return None

    def _forget_expired(self) -> None:
        """Let go of holds nobody came back for; they are over, the oldest first."""
        now = datetime.now(UTC)
        while self._holds:
            oldest = next(iter(self._holds.values()))
            if oldest.expires_at > now:
                return
            del self._holds[oldest.id]


def _fields(data: dict[str, Any]) -> dict[str, Any]:
    """Where LiteLLM keeps what belongs to a request and is not for the model."""
    name = next((one for one in _METADATA if isinstance(data.get(one), dict)), "metadata")
    if not isinstance(data.get(name), dict):
        data[name] = {}
    return cast("dict[str, Any]", data[name])
