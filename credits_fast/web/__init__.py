"""What a web application says of credits: problems as documents, headers, idempotency keys of requests.

    problems.py      an error becomes a status and an `application/problem+json` document; pure
    headers.py       a charge becomes `X-Credits-…` headers; pure
    idempotency.py   the `Idempotency-Key` of a request, and what it stands for; pure
    on_fastapi.py    all of it in FastAPI; the extra `credits-fast[fastapi]`

The pure modules need no extra and fit any framework.
"""
