"""The product's own script without its client: requests encoded beforehand, in a namespace of its own.

The requests are made by the product's functions, so that the server does for them exactly what it does
for a charge of the engine, with a new idempotency key for every item. The ledger never hears of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from credits_fast.amounts import MICROS_PER_CREDIT
from credits_fast.benchmarks.users import load_users
from credits_fast.benchmarks.workload import CHARGED, OPENING, PRICE, Request, user_name
from credits_fast.calls.operations import Operations
from credits_fast.prices.pricing import PriceList
from credits_fast.protocol import wire
from credits_fast.protocol.keys import Partitions
from credits_fast.resp import pack
from credits_fast.servers.lane import Endpoint, Lane
from credits_fast.version import __version__

if TYPE_CHECKING:
    from credits_fast.config import CreditsConfig
    from credits_fast.protocol.wire import Call

__all__ = ["Bare"]

_CREATED: Final = (b"created", b"opened")


class Bare:
    """Charges as bytes; open it with `open`.

    Attributes:
        partitions: The partitions of its namespace.
        lane: Its connection.

    Args:
        config: The product's configuration; its namespace with a suffix is the one used here.
        lane: An open connection.
    """

    def __init__(self, config: CreditsConfig, lane: Lane) -> None:
        self.partitions = Partitions(f"{config.namespace}-bare", config.partitions)
        self.lane = lane
        self._operations = Operations(config, self.partitions)
        self._quote = PriceList(config).quote(CHARGED)

    @classmethod
    async def connect(cls, config: CreditsConfig, redis_url: str) -> Bare:
        """It, with a connection of its own."""
        return cls(config, await Lane.open(Endpoint.from_url(redis_url)))

    async def open(self, users: int) -> None:
        """Open the partitions and load so many users.

        Raises:
            RuntimeError: A partition does not open.
        """
        for number in range(len(self.partitions)):
            partition = self.partitions[number]
            facts = (b"1", b"%d" % len(self.partitions), __version__.encode(), b"1")
            keys = (partition.gate, partition.meta, partition.journal)
            reply = await self.lane.run_script("open", keys, facts)
            if reply not in _CREATED:
                raise RuntimeError(f"partition {number} does not open: {reply!r}")
        await load_users(self.lane, self.partitions, range(1, users + 1))

    def requests(self, charges: Iterable[Request], items: int) -> list[bytes]:
        """The charges as script calls of so many items each; those that do not fill one are left out.

        The calls of the partitions alternate as their charges come.
        """
        return [self._request(calls) for calls in self._gathered(charges, items)]

    async def missing(self, users: int, charges: int) -> int:
        """Credits that are not where so many charges should have left them; 0 is right."""
        has = 0
        for start in range(1, users + 1, 1_000):
            names = (user_name(n).encode() for n in range(start, min(start + 1_000, users + 1)))
            looks = (pack((b"GET", self.partitions.of(n).account(n))) for n in names)
            replies: list[Any] = await self.lane.execute_all(*looks)
            has += sum(wire.held(reply).balance for reply in replies)
        return abs((users * OPENING - charges * PRICE) * MICROS_PER_CREDIT - has)

    async def close(self) -> None:
        """End the connection."""
        await self.lane.close()

    def _gathered(self, charges: Iterable[Request], items: int) -> Iterator[list[Call]]:
        waiting: dict[int, list[Call]] = {}
        for user, action, key, _ in charges:
            operation = self._operations.new("charge", user, action, key, None, "", "")
            call = wire.charge_call(operation, self._quote)
            calls = waiting.setdefault(call.partition.number, [])
            calls.append(call)
            if len(calls) == items:
                yield waiting.pop(call.partition.number)

    def _request(self, calls: list[Call]) -> bytes:
        sha = self.lane.scripts["charge"].sha
        return wire.request(sha, calls)
