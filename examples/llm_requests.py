"""An LLM product that charges its requests: refusals, failed requests, a payment told twice, a statement.

    python examples/llm_requests.py [FOLDER]

It needs no server: `CreditsEngine.embedded` starts a Valkey of its own and keeps its ledger in SQLite.
Run again on the same folder, it finds what it left there, and every key it used is still known.
"""

import asyncio
import sys
import tempfile

from credits_fast import (
    CreditsEngine,
    InsufficientCreditsError,
    MembershipRequiredError,
)

CONFIG = {
    "costs": {
        "chat": {
            "default": "{input} * 0.003 + {output} * 0.015",
            "pro": "{input} * 0.002 + {output} * 0.01",
        },
        "report": {"default": 25},
    },
    "membership": {
        "tiers": {"free": 0, "pro": 1},
        "credits_caps": {"free": 10, "pro": 500},
        "requirements": {"report": "pro"},
    },
}


async def answer(
    credits: CreditsEngine, user: str, request_id: str, tokens: int, *, fails: bool = False
) -> str:
    """What a request handler says: the answer, or why there is none."""
    try:
        charge = await credits.charge(
            user,
            "chat",
            variables={"input": tokens, "output": 200},
            idempotency_key=request_id,
            metadata={"model": "small-1"},
        )
    except InsufficientCreditsError as refusal:
        return f"402 payment required: it costs {refusal.required:.2f}, you have {refusal.available:.2f}"
    if fails:
        # Bound to the request, so that a repeated clean-up gives nothing back twice.
        key = f"{request_id}:refund"
        back = await credits.refund(
            user, charge.cost, "chat", transaction_id=charge.transaction_id, idempotency_key=key
        )
        return (
            f"502 the model failed, {back.amount:.2f} given back, you have {back.balance_after:.2f}"
        )
    return f"200 it cost {charge.cost:.2f}, you have {charge.balance_after:.2f}"


async def payment_arrived(credits: CreditsEngine, user: str, payment_id: str, amount: int) -> str:
    """What a webhook does; payment providers deliver the same event more than once."""
    grant = await credits.grant(user, amount, "purchase", idempotency_key=payment_id)
    known = "known already" if grant.replayed else "new"
    return f"{grant.amount:.2f} credits, {known}, you have {grant.balance_after:.2f}"


async def main(folder: str) -> None:
    """One user's first day."""
    async with CreditsEngine.embedded(folder, CONFIG) as credits:
        await credits.create_user("ada", credits=10, tier="free", idempotency_key="signup:ada")
        print("request 1:", await answer(credits, "ada", "request-1", 1_000))
        print("repeated: ", await answer(credits, "ada", "request-1", 1_000))
        print("request 2:", await answer(credits, "ada", "request-2", 100, fails=True))
        print("request 3:", await answer(credits, "ada", "request-3", 2_000))
        print("payment:  ", await payment_arrived(credits, "ada", "payment-7", 50))
        print("told twice:", await payment_arrived(credits, "ada", "payment-7", 50))
        try:
            await credits.validate_access("ada", "report")
        except MembershipRequiredError as refusal:
            print("report:   ", f"403 needs {refusal.required}, you are {refusal.current}")
        await credits.upgrade_tier("ada", "pro", idempotency_key="upgrade:ada")
        print("report:   ", await credits.validate_access("ada", "report"))
        print("request 4:", await answer(credits, "ada", "request-4", 2_000))

        await credits.wait_recorded()
        print("\nstatement of ada")
        page = await credits.get_history("ada")
        for row in page.transactions:
            what = f"{row.sequence:3} {row.kind:8} {row.action:14}"
            print(f"{what} {row.amount:+10.2f} {row.balance_after:10.2f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else temporary))
