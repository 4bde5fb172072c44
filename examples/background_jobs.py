"""Background jobs that are charged: threads without `await`, and jobs that a queue delivers twice.

    python examples/background_jobs.py [FOLDER]

It needs no server: `BlockingCreditsEngine.embedded` starts a Valkey of its own and keeps its ledger in
SQLite. In a task queue that forks its workers, such as Celery, open the engine in each worker after the
fork (`worker_process_init`), and close it as the worker ends.
"""

import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from credits_fast import InsufficientCreditsError
from credits_fast.blocking import BlockingCreditsEngine

CONFIG = {
    "costs": {"report": {"default": "{pages} * 0.5"}},
    "membership": {"tiers": {"free": 0}, "credits_caps": {"free": 10}},
}


class Job(NamedTuple):
    """What a queue delivers; its id is the same however often it is delivered."""

    id: str
    user: str
    pages: int


JOBS = [
    Job("job-1", "ada", 10),
    Job("job-2", "bob", 4),
    Job("job-3", "bob", 400),
    Job("job-4", "ada", 6),
    Job("job-1", "ada", 10),
]
"""The last one again, as a queue does whose worker died before it could say that it was done."""


def run(credits: BlockingCreditsEngine, job: Job) -> str:
    """What a worker does with a job: the charge first, under the job's id, then the work."""
    try:
        charge = credits.charge(
            job.user, "report", variables={"pages": job.pages}, idempotency_key=job.id
        )
    except InsufficientCreditsError as refusal:
        return f"{job.id}: not done, it costs {refusal.required:.2f}, there are {refusal.available:.2f}"
    # A job that was charged before was perhaps not done: it is done again, and not charged again.
    charged = "charged before" if charge.replayed else "charged now"
    return f"{job.id}: done, {charge.cost:.2f} {charged}"


def main(folder: str) -> None:
    """A few jobs on a few threads."""
    with BlockingCreditsEngine.embedded(folder, CONFIG) as credits:
        for user in ("ada", "bob"):
            credits.create_user(user, credits=20, idempotency_key=f"signup:{user}")
        with ThreadPoolExecutor(max_workers=4) as workers:
            print(*workers.map(partial(run, credits), JOBS[:-1]), sep="\n")
        print(run(credits, JOBS[-1]))

        credits.wait_recorded()
        for user in ("ada", "bob"):
            rows = credits.get_history(user, action="report")
            print(f"{user} has {credits.query_balance(user):.2f}, {len(rows)} jobs were charged")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(sys.argv[1] if len(sys.argv) > 1 else temporary)
