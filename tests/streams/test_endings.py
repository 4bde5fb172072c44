"""A share of `python -m tests.streams` in every run, and proof that its judge can say no."""

from __future__ import annotations

import logging
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest

from credits_fast.ledger.database import connect
from tests.servers import Servers
from tests.streams.driver import ENDINGS, Played, Stream, Theatre, program
from tests.streams.judged import contradicted, judged
from tests.streams.notes import Story

_log = logging.getLogger(__name__)

LIVES = 4
AT_ONCE = 16
SEED = 20261123


@pytest.mark.usefixtures("redis_endpoint")
async def test_however_a_stream_ends_it_is_charged_what_it_consumed(
    servers: Servers, postgresql_url: str, tmp_path: Path
) -> None:
    database = connect(postgresql_url)
    lives = program(LIVES, AT_ONCE, SEED)
    theatre = Theatre(servers.redis_url, postgresql_url, database, tmp_path, SEED)
    played = await theatre.play(lives, _log.info)
    verdict = await judged(database, lives, played)

    assert [] == verdict.problems
    assert set(ENDINGS) == verdict.streams.keys()
    assert (1, (0, Decimal(0))) == (verdict.kills, verdict.open)
    assert verdict.held_at_kills > 0
    assert verdict.consumed > LIVES * AT_ONCE

    lied = {number: Story(one.consumed + 2, is_over=True) for number, one in played.stories.items()}
    contradicted = await judged(database, lives, Played(stories=lied))
    await database.dispose()
    assert len(lied) == len(contradicted.problems)


def test_more_than_a_thousand_streams_are_ended_before_they_end() -> None:
    streams = [stream for batch in program(80, AT_ONCE, SEED) for stream in batch]
    shares = Counter(stream.ending for stream in streams)

    assert {"whole": 240, "left": 240, "raises": 240, "cancelled": 240, "killed": 320} == shares


@pytest.mark.parametrize(
    ("ending", "story", "charged", "problems"),
    [
        ("whole", Story(Decimal(5), is_over=True), 5, 0),
        ("whole", Story(Decimal(5), is_over=True), 4, 1),
        ("whole", None, 0, 0),
        ("whole", None, 1, 1),
        ("killed", Story(Decimal(5), is_over=True), 6, 1),
        ("killed", Story(Decimal(5)), 6, 0),
        ("killed", Story(Decimal(5)), 7, 1),
        ("killed", Story(Decimal(5)), 3, 0),
        ("killed", Story(Decimal(5)), 2, 1),
        ("killed", None, 1, 0),  # it died between its first charge and its first word of it
        ("killed", None, 2, 1),
    ],
)
def test_only_a_stream_that_died_may_be_charged_other_than_it_said(
    ending: str, story: Story | None, charged: int, problems: int
) -> None:
    stream = Stream(1, "ada", amount=8, pieces=30, ending=ending, at=12)

    assert problems == len(contradicted(stream, story, Decimal(charged)))
