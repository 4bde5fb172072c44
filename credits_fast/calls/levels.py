"""Which way a call takes for the level of acknowledgement it asks for.

    memory, committed      the dispatcher of all calls
    replicated, fsynced    one of their own each, opened when the level is first asked for

A server that is being asked who has a write serves nobody else on that connection, so callers who ask
for less never wait on it. The servers are tried once before the first such call: one that does not know
the question would let every caller wait in vain.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, get_args

from credits_fast.calls.dispatch import Dispatcher
from credits_fast.errors import EngineClosedError, InvalidArgumentError
from credits_fast.servers.acknowledgement import Confirmation, confirmation_of
from credits_fast.servers.preflight import check_confirmation
from credits_fast.servers.routing import router_to
from credits_fast.types import Level

if TYPE_CHECKING:
    from collections.abc import Callable

    from credits_fast.config import AcknowledgeConfig
    from credits_fast.protocol.keys import Partitions
    from credits_fast.servers.endpoints import AnyEndpoint
    from credits_fast.servers.pressure import Pressure

__all__ = ["Levels"]

_LEVELS: Final = get_args(Level)


class Levels:
    """The ways of one engine.

    Args:
        config: The configured level, and what each needs.
        main: The dispatcher of all calls.
        endpoint: How the servers are reached.
        partitions: The partitions they serve.
        clock: Microseconds since 1970 for every call, None for the server's own time.
        pressure: Whether there is room for more.
    """

    def __init__(
        self,
        config: AcknowledgeConfig,
        main: Dispatcher,
        endpoint: AnyEndpoint,
        partitions: Partitions,
        *,
        clock: Callable[[], int] | None,
        pressure: Pressure,
    ) -> None:
        self._config = config
        self._main = main
        self._endpoint = endpoint
        self._partitions = partitions
        self._clock = clock
        self._pressure = pressure
        self._opened: dict[Level, Dispatcher] = {}
        self._opening = asyncio.Lock()
        self._is_open = False

    def asked(self, level: Level | None) -> Level:
        """The level of a call: its own, else the configured one.

        Raises:
            InvalidArgumentError: There is no such level.
        """
        if level is None:
            return self._config.level
        if level not in _LEVELS:
            raise InvalidArgumentError("acknowledge", f"is one of {', '.join(_LEVELS)}")
        return level

    async def start(self) -> None:
        """Be ready for the configured level.

        Raises:
            UnsuitableServerError: A server cannot confirm it.
            RedisUnavailableError: None can be reached.
        """
        self._is_open = True
        await self.way(self._config.level)

    async def way(self, level: Level) -> Dispatcher:
        """The dispatcher for calls of a level.

        Raises:
            UnsuitableServerError: A server cannot confirm it.
            RedisUnavailableError: None can be reached; nothing was sent.
            EngineClosedError: The engine is not open.
        """
        confirmation = confirmation_of(level, self._config)
        if confirmation is None:
            return self._main
        if not self._is_open:
            raise EngineClosedError("the engine is not open; enter it with `async with`")
        async with self._opening:
            if level not in self._opened:
                self._opened[level] = await self._open(confirmation)
        return self._opened[level]

    async def close(self) -> None:
        """End the connections of every way but the main one."""
        self._is_open = False
        async with self._opening:
            opened, self._opened = self._opened, {}
        for dispatcher in opened.values():
            await dispatcher.close()

    async def _open(self, confirmation: Confirmation) -> Dispatcher:
        router = router_to(self._endpoint)
        dispatcher = Dispatcher(
            router, clock=self._clock, confirmation=confirmation, pressure=self._pressure
        )
        dispatcher.open()
        try:
            await check_confirmation(router, self._partitions, confirmation)
        except BaseException:
            await dispatcher.close()
            raise
        return dispatcher
