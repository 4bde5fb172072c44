"""LiteLLM's proxy with credits: the owner of an API key pays for the tokens, streamed or not.

    pip install 'credits-fast[embedded,litellm]' 'litellm[proxy]'
    python examples/litellm_proxy.py [FOLDER] [PORT]

    curl localhost:4000/v1/chat/completions -H 'Authorization: Bearer ada-secret' \
        -H 'Content-Type: application/json' \
        -d '{"model": "small", "messages": [{"role": "user", "content": "hi"}]}'

The model answers by itself, so it needs no provider; keys are in this file instead of the proxy's
database; the engine starts a Valkey of its own and keeps its ledger in SQLite.
"""

import asyncio
import os
import secrets
import sys
import tempfile
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import uvicorn
from fastapi import HTTPException, Request

from credits_fast import CreditsEngine
from credits_fast.web.on_litellm import CreditsLogger

CREDITS = {
    "costs": {"chat": {"default": "{input} * 0.01 + {output} * 0.02"}},
    "membership": {"tiers": {"free": 0}, "credits_caps": {"free": 10}},
}
KeyOwner = import_module("litellm.proxy._types").UserAPIKeyAuth
API_KEYS = {"ada-secret": "ada", "bob-secret": "bob"}
PROXY = """
model_list:
  - model_name: small
    litellm_params:
      model: openai/small
      api_key: none
      mock_response: one two three four five
litellm_settings:
  callbacks: litellm_proxy.handler
general_settings:
  custom_auth: litellm_proxy.owner_of_key
"""

# --- what a proxy's own configuration names ----------------------------------------------------

credits = CreditsEngine.embedded(os.environ.get("CREDITS_FOLDER", "credits-data"), CREDITS)
handler = CreditsLogger(
    credits,
    action=lambda data: "chat",  # noqa: ARG005  # of the body; every request is metered
    estimate=lambda data: {"input": 100, "output": data.get("max_tokens") or 100},
)


async def owner_of_key(
    request: Request,  # noqa: ARG001  # LiteLLM's signature
    api_key: str,
) -> object:
    """Whose key it is: the proxy asks for every request."""
    if api_key not in API_KEYS:
        raise HTTPException(401, "no such API key")
    return KeyOwner(api_key=api_key, user_id=API_KEYS[api_key])


# --- the proxy -----------------------------------------------------------------------------------


async def serve(folder: Path, port: int) -> None:
    """Serve until told to stop; the engine is started by the first call, and closed here."""
    async with CreditsEngine.embedded(folder, CREDITS) as signing_up:
        await signing_up.create_user("ada", credits=50, idempotency_key="signup:ada")
        await signing_up.create_user("bob", credits=1, idempotency_key="signup:bob")
    config = folder / "proxy.yaml"
    config.write_text(PROXY)
    os.environ["CONFIG_FILE_PATH"] = str(config)
    os.environ.setdefault("LITELLM_MASTER_KEY", f"sk-{secrets.token_hex(32)}")  # nobody has it
    app = "litellm.proxy.proxy_server:app"
    try:
        await uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port)).serve()
    finally:
        await credits.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        os.environ["CREDITS_FOLDER"] = str(data)
        from litellm_proxy import serve as serve_once  # the module the proxy imports: one engine

        port = int(sys.argv[2]) if len(sys.argv) > 2 else 4_000  # noqa: PLR2004
        with suppress(KeyboardInterrupt):
            asyncio.run(serve_once(data, port))
