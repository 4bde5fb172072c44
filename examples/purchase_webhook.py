"""A payment provider's webhook: a paid purchase becomes credits, once however often it is told.

    pip install 'credits-fast[embedded,fastapi]' httpx
    python examples/purchase_webhook.py [FOLDER]

Providers deliver an event again whenever they are not sure that it arrived, also at the same moment. The
payment's id is the idempotency key of the grant, so that every delivery after the first gives the first
result. The program plays the provider: it delivers one payment three times at once, then once more, a
forged one, and one for a user nobody knows.
"""

import asyncio
import hashlib
import hmac
import json
import sys
import tempfile
from typing import Annotated

import httpx
from fastapi import Depends, FastAPI, HTTPException, Request
from pydantic import BaseModel, ValidationError

from credits_fast import CreditsEngine
from credits_fast.web.on_fastapi import Credits, credits_lifespan, install

CONFIG = {
    "costs": {"chat": {"default": 1}},
    "membership": {"tiers": {"free": 0}, "credits_caps": {"free": 10}},
}
SECRET = b"shared with the provider"
CREDITS_PER_CENT = 2


class Payment(BaseModel):
    """What the provider tells of a payment."""

    payment_id: str
    user_id: str
    cents: int


def signature_of(body: bytes) -> str:
    """What proves that a delivery is the provider's."""
    return hmac.new(SECRET, body, hashlib.sha256).hexdigest()


async def payment_of(request: Request) -> Payment:
    """The payment of a delivery that is really the provider's."""
    body = await request.body()
    if not hmac.compare_digest(signature_of(body), request.headers.get("X-Signature", "")):
        raise HTTPException(401, "the signature is not the provider's")
    try:
        return Payment.model_validate_json(body)
    except ValidationError as error:
        raise HTTPException(400, "no payment") from error


async def paid(
    credits: Credits, payment: Annotated[Payment, Depends(payment_of)]
) -> dict[str, str]:
    """Turn a payment into credits; any answer but 2xx has the provider deliver it again."""
    grant = await credits.grant(
        payment.user_id,
        payment.cents * CREDITS_PER_CENT,
        "purchase",
        # The payment's id, not the delivery's: every delivery of a payment is the same purchase.
        idempotency_key=f"payment:{payment.payment_id}",
        metadata={"payment_id": payment.payment_id, "cents": payment.cents},
    )
    outcome = "known already" if grant.replayed else "granted"
    return {"outcome": outcome, "credits": f"{grant.amount:.2f}"}


def create_app(folder: str) -> FastAPI:
    """The application, with its data in a folder."""
    app = FastAPI(lifespan=credits_lifespan(lambda: CreditsEngine.embedded(folder, CONFIG)))
    app.post("/webhooks/payment")(paid)
    install(app)
    return app


async def deliver(provider: httpx.AsyncClient, payment: Payment, *, forged: bool = False) -> str:
    """What the provider does, and what it hears."""
    body = payment.model_dump_json().encode()
    signature = "0" * 64 if forged else signature_of(body)
    response = await provider.post(
        "/webhooks/payment", content=body, headers={"X-Signature": signature}
    )
    told = json.loads(response.content)
    return f"{response.status_code} {told.get('outcome') or told.get('code') or told['detail']}"


async def main(folder: str) -> None:
    """Deliveries of an afternoon."""
    app = create_app(folder)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://shop") as provider,
    ):
        credits: CreditsEngine = app.state.credits
        await credits.create_user("ada", credits=5, idempotency_key="signup:ada")
        payment = Payment(payment_id="pay-7", user_id="ada", cents=500)

        at_once = await asyncio.gather(*(deliver(provider, payment) for _ in range(3)))
        print("three at once:", *sorted(at_once), sep="\n  ")
        print("once more:    ", await deliver(provider, payment))
        print("forged:       ", await deliver(provider, payment, forged=True))
        changed = payment.model_copy(update={"cents": 900})
        print("another sum:  ", await deliver(provider, changed))
        unknown = Payment(payment_id="pay-8", user_id="nobody", cents=500)
        print("unknown user: ", await deliver(provider, unknown))

        await credits.wait_recorded()
        rows = await credits.get_history("ada", action="purchase")
        print(f"ada has {await credits.query_balance('ada'):.2f}, {len(rows)} purchase")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else temporary))
