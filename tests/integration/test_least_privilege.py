"""A Redis user with exactly the permissions that `docs/operating.md` lists can do everything."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from credits_fast import MisconfiguredError
from credits_fast.servers.lane import Endpoint, Lane
from credits_fast.servers.scripts import source
from credits_fast.testing import kit_on
from tests.integration.conftest import CONFIG
from tests.servers import Servers

PAGE = Path(__file__).parents[2] / "docs" / "operating.md"
USER = "credits-app"
PASSWORD = "a-word"
_OF_SCRIPTS = sorted({*re.findall(r"redis\.call\('(\w+)'", source("probe"))} - {"TIME"})


def documented_commands() -> list[str]:
    """What the page says the user needs."""
    (sentence,) = re.findall(r"With ACLs its user needs.*?\n\n", PAGE.read_text(), flags=re.DOTALL)
    return [name for name in re.findall(r"`([^`]+)`", sentence) if name == name.upper()]


async def endpoint_of(servers: Servers, commands: list[str]) -> Endpoint:
    """The server, as a user who may do only this."""
    rules = [f"+{command}" for command in commands]
    lane = await Lane.open(Endpoint.from_url(servers.redis_url))
    words = ("ACL", "SETUSER", USER, "reset", "on", f">{PASSWORD}", "~{credits:*", *rules)
    await lane.execute(*(word.encode() for word in words))
    await lane.close()
    scheme, rest = servers.redis_url.split("://", 1)
    return Endpoint.from_url(f"{scheme}://{USER}:{PASSWORD}@{rest.rpartition('@')[2]}")


@pytest.mark.usefixtures("redis_endpoint")
async def test_the_documented_permissions_are_enough(
    servers: Servers, sqlite_database: AsyncEngine
) -> None:
    endpoint = await endpoint_of(servers, documented_commands())
    async with kit_on(CONFIG, endpoint, sqlite_database, None) as kit:
        credits = kit.engine
        await credits.create_user("ada", credits=100, tier="basic")
        charge = await credits.charge("ada", "image", idempotency_key="k")
        await kit.sync()
        await credits.refund("ada", 5, "image", transaction_id=charge.transaction_id)
        await credits.grant("ada", 5, "bonus")
        await credits.upgrade_tier("ada", "pro")
        await kit.assert_balanced()


@pytest.mark.usefixtures("redis_endpoint")
@pytest.mark.parametrize("missing", ["EVALSHA", "SCRIPT|LOAD", *_OF_SCRIPTS])
async def test_one_that_is_missing_is_told_in_a_clear_error(
    servers: Servers, sqlite_database: AsyncEngine, missing: str
) -> None:
    commands = [command for command in documented_commands() if command != missing]
    endpoint = await endpoint_of(servers, commands)

    async def charged() -> None:
        async with kit_on(CONFIG, endpoint, sqlite_database, None) as kit:
            await kit.engine.create_user("ada", credits=100)
            await kit.engine.charge("ada", "image")

    with pytest.raises(MisconfiguredError, match=f"(?i)permission.*'{re.escape(missing)}'"):
        await charged()

    lane = await Lane.open(Endpoint.from_url(servers.redis_url))
    assert 0 == await lane.execute(b"DBSIZE")
    await lane.close()
