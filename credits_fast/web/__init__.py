"""What a web application says of credits: problems as documents, headers, idempotency keys of requests.

    problems.py      an error becomes a status and an `application/problem+json` document; pure
    headers.py       a charge or a reservation becomes `X-Credits-…` headers; pure
    idempotency.py   the `Idempotency-Key` of a request, and what it stands for; pure
    settling.py      whether a hold is charged or given back, by how its request ended; pure
    faults.py        what the server is to blame for is logged
    on_asgi.py       credits held while a request is served, around any ASGI application
    on_fastapi.py    requests charged in FastAPI; the extra `credits-fast[fastapi]`
    on_litellm.py    calls of LiteLLM's proxy charged by their tokens; the extra `credits-fast[litellm]`

All but the last two need no extra, and the pure modules fit any framework.
"""
