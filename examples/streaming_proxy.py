"""A proxy that streams a model's answers and charges their tokens, also those of a reader who leaves.

    pip install 'credits-fast[embedded,fastapi]' uvicorn
    python examples/streaming_proxy.py [FOLDER] [PORT]

    curl -N localhost:8000/v1/chat/completions -H 'Authorization: Bearer ada-secret' \
        -H 'Content-Type: application/json' -d '{"prompt": "Count to ten", "max_tokens": 10}'
    curl localhost:8000/account -H 'Authorization: Bearer ada-secret'

The model is in this file, so it needs no provider; the engine starts a Valkey of its own and keeps its
ledger in SQLite.
"""

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, Field

from credits_fast import CreditsEngine
from credits_fast.web.on_fastapi import Credits, credits_lifespan, install

CONFIG = {
    "costs": {"chat": {"default": "{input} * 0.01 + {output} * 0.02"}},
    "membership": {"tiers": {"free": 0}, "credits_caps": {"free": 10}},
}
API_KEYS = {"ada-secret": "ada"}
SECONDS_A_TOKEN = 0.005


class Prompt(BaseModel):
    """What a client asks, and how long the answer may be."""

    prompt: Annotated[str, Field(min_length=1, max_length=1_000)]
    max_tokens: Annotated[int, Field(ge=1, le=100_000)] = 100


# --- a model, as providers have them -----------------------------------------------------------


async def model(prompt: str, max_tokens: int) -> AsyncGenerator[dict[str, Any], None]:
    """Chunks of an answer, one token each; the last one says what was used."""
    for number in range(1, max_tokens + 1):
        await asyncio.sleep(SECONDS_A_TOKEN)
        yield {"id": "answer", "choices": [{"delta": {"content": f"{number} "}}], "usage": None}
    read = tokens_of(prompt)
    used = {
        "prompt_tokens": read,
        "completion_tokens": max_tokens,
        "total_tokens": read + max_tokens,
    }
    yield {"id": "answer", "choices": [], "usage": used}


def tokens_of(text: str) -> int:
    """How many tokens a text has; a real proxy asks the model's tokenizer."""
    return len(text.split())


# --- the proxy ---------------------------------------------------------------------------------


async def answer(credits: CreditsEngine, user: str, asked: Prompt) -> AsyncGenerator[str, None]:
    """The events of an answer, each charged before it is handed on.

    However the stream ends, what was consumed by then is charged, and the rest is given back.
    """
    read = tokens_of(asked.prompt)
    estimate = {"input": read, "output": asked.max_tokens}
    async with credits.hold(user, "chat", estimate=estimate) as hold:
        yield ": held\n\n"
        await hold.consume(variables={"input": read})
        async for chunk in model(asked.prompt, asked.max_tokens):
            await hold.consume(variables={"output": len(chunk["choices"])})
            yield f"data: {json.dumps(chunk)}\n\n"
    yield "data: [DONE]\n\n"


def current_user(
    bearer: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())],
) -> str:
    """Who pays: the owner of the API key."""
    user = API_KEYS.get(bearer.credentials)
    if user is None:
        raise HTTPException(401, "unknown API key")
    return user


async def chat(
    asked: Prompt, credits: Credits, user: Annotated[str, Depends(current_user)]
) -> StreamingResponse:
    """Answer a prompt; who cannot pay hears of it before the stream begins."""
    events = answer(credits, user, asked)
    held = await anext(events)  # raises where the credits do not suffice: a problem, and no stream

    async def stream() -> AsyncGenerator[str, None]:
        yield held
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()

    return StreamingResponse(stream(), media_type="text/event-stream")


async def account(credits: Credits, user: Annotated[str, Depends(current_user)]) -> dict[str, str]:
    """What the user has, and what is held of it."""
    found = await credits.get_user(user)
    return {"credits": f"{found.credits:f}", "reserved": f"{found.reserved:f}"}


def create_app(folder: str) -> FastAPI:
    """The application, with its data in a folder."""
    opened = credits_lifespan(lambda: CreditsEngine.embedded(folder, CONFIG))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        async with opened(app):
            credits: CreditsEngine = app.state.credits
            await credits.create_user("ada", credits=50, idempotency_key="signup:ada")
            yield

    app = FastAPI(title="A streaming proxy", lifespan=lifespan)
    app.post("/v1/chat/completions")(chat)
    app.get("/account")(account)
    install(app)
    return app


if __name__ == "__main__":
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 8_000  # noqa: PLR2004
    with tempfile.TemporaryDirectory() as temporary:
        data = sys.argv[1] if len(sys.argv) > 1 else temporary
        uvicorn.run(create_app(data), host="127.0.0.1", port=port)
