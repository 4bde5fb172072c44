"""What was charged, against what was consumed: the verdict on streams that were played."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from credits_fast.checks.balance_sheet import balance_sheet
from credits_fast.sync.tables import holds, transactions
from tests.streams.driver import CONFIG, Played, Stream
from tests.streams.notes import Story

__all__ = ["Verdict", "contradicted", "judged"]

_SHARE = Decimal(str(CONFIG["holds"]["settle_share"]))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of the streams; amounts in credits.

    Attributes:
        streams: How many there were, by how they ended.
        kills: How often the server was killed.
        held_at_kills: What holds kept whose server was killed, until their time was over.
        holds: How many holds were made.
        charges: How many charges there are for them.
        consumed: What the streams consumed, by what they said.
        charged: What was charged for them.
        unsettled: What streams that died had consumed and were not charged for, by the most one lost.
        open: Holds that are still open, and credits that are still reserved.
        problems: What contradicts the promise.
    """

    streams: dict[str, int]
    kills: int
    held_at_kills: Decimal
    holds: int
    charges: int
    consumed: Decimal
    charged: Decimal
    unsettled: Decimal
    open: tuple[int, Decimal]
    problems: list[str]

    @property
    def document(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


async def judged(
    database: AsyncEngine, lives: Sequence[Sequence[Stream]], played: Played
) -> Verdict:
    """The verdict; the streams have ended and everything is recorded."""
    streams = [stream for batch in lives for stream in batch]
    charged: dict[int, Decimal] = defaultdict(Decimal)
    async with database.connect() as connection:
        charges = (
            await connection.execute(
                select(transactions.c.metadata, transactions.c.amount).where(
                    transactions.c.kind == "charge"
                )
            )
        ).all()
        columns = holds.c
        kept = (
            await connection.execute(select(columns.state, columns.amount - columns.captured))
        ).all()
    states = Counter(state for state, _ in kept)
    for metadata, amount in charges:
        charged[metadata["stream"]] -= amount
    sheet = await balance_sheet(database)
    problems = [*played.differing, *(f"{u}: {p}" for u, p in sheet.differing.items())]
    for stream in streams:
        problems += contradicted(stream, played.stories.get(stream.number), charged[stream.number])
    consumed = {number: story.consumed for number, story in played.stories.items()}
    if sheet.reserved or states["reserved"]:
        problems.append(f"{states['reserved']} holds are open, {sheet.reserved} is reserved")
    return Verdict(
        streams=dict(Counter(stream.ending for stream in streams)),
        kills=played.kills,
        held_at_kills=sum((left for state, left in kept if state == "expired"), Decimal(0)),
        holds=states.total(),
        charges=len(charges),
        consumed=sum(consumed.values(), Decimal(0)),
        charged=sum(charged.values(), Decimal(0)),
        unsettled=max(
            (consumed.get(s.number, Decimal(0)) - charged[s.number] for s in streams),
            default=Decimal(0),
        ),
        open=(states["reserved"], sheet.reserved),
        problems=problems,
    )


def contradicted(stream: Stream, story: Story | None, charged: Decimal) -> list[str]:
    """What is wrong with what one stream was charged; none told a story that never began, or died first."""
    consumed = Decimal(0) if story is None else story.consumed
    has_died = stream.ending == "killed" if story is None else not story.is_over
    least, most = consumed, consumed
    if has_died:  # a part may not be charged yet, and a piece more than it could say of
        least, most = consumed - _step(stream), consumed + 1
    if least <= charged <= most:
        return []
    return [f"stream {stream.number} ({stream.ending}): consumed {consumed}, charged {charged}"]


def _step(stream: Stream) -> Decimal:
    """What may be consumed and not charged."""
    return stream.amount * _SHARE
