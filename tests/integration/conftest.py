"""Engine and worker on a real Valkey and real databases."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from credits_fast.servers.lane import Endpoint
from credits_fast.testing import CreditsKit, kit_on

CONFIG: dict[str, Any] = {
    "costs": {
        "chat": {"default": "{tokens} * 0.001 + 10", "pro": "{tokens} * 0.0008 + 8"},
        "image": {"default": 20, "pro": 15},
        "free": {"default": 0},
        "members": {"default": 3},
    },
    "membership": {
        "tiers": {"basic": 0, "pro": 1, "max": 2},
        "credits_caps": {"basic": 100, "pro": 1_000, "max": 5_000},
        "requirements": {"members": "pro"},
    },
    "partitions": 4,
    "retry": {"initial_delay": 1, "max_delay": 5},
}


@pytest.fixture
async def kit(database: AsyncEngine, redis_endpoint: Endpoint) -> AsyncIterator[CreditsKit]:
    """An open engine on the servers' own clocks, and a worker that works when asked."""
    async with kit_on(CONFIG, redis_endpoint, database, None) as opened:
        yield opened


@pytest.fixture
async def sqlite_kit(
    redis_endpoint: Endpoint,
    sqlite_database: AsyncEngine,
) -> AsyncIterator[CreditsKit]:
    """The same on SQLite only, for what does not touch SQL much."""
    async with kit_on(CONFIG, redis_endpoint, sqlite_database, None) as opened:
        yield opened


def user_elsewhere(kit: CreditsKit, user: str) -> str:
    """A user of another partition than this one's."""
    return next(name for name, is_beside in _users(kit, user) if not is_beside)


def user_beside(kit: CreditsKit, user: str) -> str:
    """Another user of the same partition."""
    return next(name for name, is_beside in _users(kit, user) if is_beside)


def _users(kit: CreditsKit, user: str) -> Iterator[tuple[str, bool]]:
    """Others, and whether they are in the same partition."""
    partitions = kit.engine.partitions
    there = partitions.of(user.encode())
    names = (f"user-{number}" for number in range(100))
    return ((name, partitions.of(name.encode()) is there) for name in names)
