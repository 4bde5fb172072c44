"""What one account, one remembered key and one journal entry take in Redis, by weighing many of each.

The server's memory is read before and after. Users are loaded, each is charged once by a call of its
own, then the journals are deleted: the three differences hold the three weights. What a first charge
adds to the account itself is asked of the server key by key. A connection that has carried much has
buffers, which would be weighed too, so it is closed before the server is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from credits_fast.benchmarks.readings import Weights
from credits_fast.benchmarks.users import load_users
from credits_fast.benchmarks.workload import CHARGED, Request, user_name
from credits_fast.resp import pack
from credits_fast.servers.lane import Endpoint, Lane, info_fields

if TYPE_CHECKING:
    from credits_fast.benchmarks.bare import Bare

__all__ = ["weigh"]

_AT_ONCE: Final = 500
_SAMPLE: Final = 200
_LOOK_S: Final = 0.005
_FORGOTTEN_WITHIN_S: Final = 30


async def weigh(bare: Bare, redis_url: str, numbers: range, tag: str) -> Weights:
    """The weights, on average over so many new users.

    Args:
        bare: Charges without the client.
        redis_url: The server.
        numbers: The numbers of the users; none of them exists yet.
        tag: What the keys begin with.
    """
    number, sample = len(numbers), [user_name(one).encode() for one in numbers[:_SAMPLE]]
    empty = await _used(bare.lane)
    async with _for_once(bare.lane, redis_url) as lane:
        await load_users(lane, bare.partitions, numbers)
    loaded, before = await _used(bare.lane), await _accounts(bare, sample)
    charges = [Request(user_name(one), CHARGED, f"{tag}-{one}") for one in numbers]
    requests = bare.requests(charges, 1)
    async with _for_once(bare.lane, redis_url) as lane:
        for start in range(0, number, _AT_ONCE):
            await lane.execute_all(*requests[start : start + _AT_ONCE])
    charged = await _used(bare.lane)
    grown = (await _accounts(bare, sample) - before) / len(sample)
    journals = [bare.partitions[one].journal for one in range(len(bare.partitions))]
    lengths = (pack((b"XLEN", journal)) for journal in journals)
    entries = sum(await bare.lane.execute_all(*lengths))
    await bare.lane.execute(b"DEL", *journals)
    without_journals = await _used(bare.lane)
    return Weights(
        account=(loaded - empty) / number + grown,
        idempotency_key=(without_journals - loaded) / number - grown,
        journal_entry=(charged - without_journals) / entries,
    )


@asynccontextmanager
async def _for_once(other: Lane, redis_url: str) -> AsyncGenerator[Lane, None]:
    """A connection the server has forgotten again when this is over."""
    clients = await _clients(other)
    lane = await Lane.open(Endpoint.from_url(redis_url))
    try:
        yield lane
    finally:
        await lane.close()
    async with asyncio.timeout(_FORGOTTEN_WITHIN_S):
        while await _clients(other) > clients:  # noqa: ASYNC110  # the server cannot be awaited
            await asyncio.sleep(_LOOK_S)


async def _clients(lane: Lane) -> int:
    return int(info_fields(await lane.execute(b"INFO", b"clients"))["connected_clients"])


async def _used(lane: Lane) -> int:
    memory = info_fields(await lane.execute(b"INFO", b"memory"))
    return int(memory["used_memory"]) - int(memory.get("mem_aof_buffer", 0))


async def _accounts(bare: Bare, users: Sequence[bytes]) -> int:
    """What some accounts take, by the server's own account of each key."""
    looks = (pack((b"MEMORY", b"USAGE", bare.partitions.of(user).account(user))) for user in users)
    return sum(await bare.lane.execute_all(*looks))
