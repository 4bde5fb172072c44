"""A web API that charges its requests: statuses, idempotency keys, headers, a statement.

    pip install 'credits-fast[embedded,fastapi]' uvicorn
    python examples/fastapi_app.py [FOLDER] [PORT]

    curl -i localhost:8000/chat -H 'Authorization: Bearer ada-secret' -H 'Idempotency-Key: "1"' \
        -H 'Content-Type: application/json' -d '{"prompt": "What does a request cost?"}'
    curl localhost:8000/statement -H 'Authorization: Bearer ada-secret'

It needs no server: the engine starts a Valkey of its own and keeps its ledger in SQLite.
"""

import sys
import tempfile
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, Field

from credits_fast import CreditsEngine, RepeatedRequestError
from credits_fast.web.on_fastapi import Charged, Credits, charged, credits_lifespan, install

CONFIG = {
    "costs": {"chat": {"default": "1 + {characters} * 0.1"}},
    "membership": {"tiers": {"free": 0}, "credits_caps": {"free": 10}},
}
API_KEYS = {"ada-secret": "ada"}
ANSWERS_KEPT = 1_000


class Chat(BaseModel):
    """What a client asks."""

    prompt: Annotated[str, Field(min_length=1, max_length=1_000)]


class Answer(BaseModel):
    """What it is told."""

    text: str
    cost: str


class Row(BaseModel):
    """A transaction of the statement."""

    kind: str
    action: str
    amount: str
    balance_after: str
    idempotency_key: str | None


class Answers:
    """The last answers by the transaction that paid for them, for clients that lost theirs."""

    def __init__(self) -> None:
        self._answers: OrderedDict[str, Answer] = OrderedDict()

    def keep(self, transaction_id: str, answer: Answer) -> None:
        """Keep an answer, and let go of the oldest where there are too many."""
        self._answers[transaction_id] = answer
        while len(self._answers) > ANSWERS_KEPT:
            self._answers.popitem(last=False)

    def of(self, transaction_id: str) -> Answer | None:
        """The answer, None where it is not kept."""
        return self._answers.get(transaction_id)


def current_user(
    bearer: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())],
) -> str:
    """Who pays: the owner of the API key."""
    user = API_KEYS.get(bearer.credentials)
    if user is None:
        raise HTTPException(401, "unknown API key")
    return user


def characters(body: Chat) -> dict[str, int]:
    """What the price of a chat depends on."""
    return {"characters": len(body.prompt)}


chat_charge = charged(
    "chat", user=current_user, variables=characters, keys="required", repeats="serve"
)


async def chat(
    body: Chat, request: Request, charge: Annotated[Charged, Depends(chat_charge)]
) -> Answer:
    """Answer a prompt; by the time this runs it is paid for."""
    answers: Answers = request.app.state.answers
    transaction = charge.result.transaction_id
    if charge.replayed:
        kept = answers.of(transaction)
        if kept is None:
            raise RepeatedRequestError(request.headers["Idempotency-Key"], transaction)
        return kept
    answer = Answer(text=body.prompt[::-1], cost=f"{charge.result.cost:f}")  # a small model
    answers.keep(transaction, answer)
    return answer


async def statement(credits: Credits, user: Annotated[str, Depends(current_user)]) -> list[Row]:
    """The user's transactions, newest first."""
    await credits.wait_recorded()
    return [
        Row(
            kind=row.kind,
            action=row.action,
            amount=f"{row.amount:f}",
            balance_after=f"{row.balance_after:f}",
            idempotency_key=row.idempotency_key,
        )
        for row in await credits.get_history(user)
    ]


def create_app(folder: str) -> FastAPI:
    """The application, with its data in a folder."""
    opened = credits_lifespan(lambda: CreditsEngine.embedded(folder, CONFIG))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        async with opened(app):
            credits: CreditsEngine = app.state.credits
            await credits.create_user("ada", credits=10, idempotency_key="signup:ada")
            yield

    app = FastAPI(title="A charged API", lifespan=lifespan)
    app.state.answers = Answers()
    app.post("/chat")(chat)
    app.get("/statement")(statement)
    install(app)
    return app


if __name__ == "__main__":
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 8_000  # noqa: PLR2004
    with tempfile.TemporaryDirectory() as temporary:
        data = sys.argv[1] if len(sys.argv) > 1 else temporary
        uvicorn.run(create_app(data), host="127.0.0.1", port=port)
