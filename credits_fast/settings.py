"""Where a program finds its servers and its configuration: flags, then `CREDITS_*` variables.

    flag             variable               what it names
    --redis-url      CREDITS_REDIS_URL      the Redis or Valkey server
    --database-url   CREDITS_DATABASE_URL   the ledger
    --embedded       CREDITS_EMBEDDED       a folder with both, instead of the two URLs
    --config         CREDITS_CONFIG         the TOML or JSON file; in a folder its credits.toml
    --namespace      CREDITS_NAMESPACE      the set of users, where a worker has no configuration
    --partitions     CREDITS_PARTITIONS     how many there are, where a worker has none
    --listen         CREDITS_LISTEN         where a worker answers probes and scrapers

A flag wins over a variable: naming a server by a flag passes over an embedded folder in the
environment, and the other way round. Naming both in one place is a mistake.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from credits_fast.errors import ConfigurationError, Problem

__all__ = ["PREFIX", "Settings"]

PREFIX: Final = "CREDITS_"

_EMBEDDED_CONFIGS: Final = ("credits.toml", "credits.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where things are; what is not named is None.

    Attributes:
        redis_url: The Redis or Valkey server.
        database_url: The ledger.
        embedded: The folder of an embedded server and ledger.
        config: The configuration file.
        namespace: The set of users.
        partitions: How many partitions they fall into.
        listen: Where a worker answers, `host:port`.
    """

    redis_url: str | None = None
    database_url: str | None = None
    embedded: Path | None = None
    config: Path | None = None
    namespace: str | None = None
    partitions: int | None = None
    listen: str | None = None

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Settings:
        """What the environment says; an empty variable says nothing.

        Raises:
            ConfigurationError: CREDITS_PARTITIONS is not a number.
        """
        given = {
            name.removeprefix(PREFIX): value
            for name, value in environment.items()
            if value and name.startswith(PREFIX)
        }
        embedded, config, partitions = map(given.get, ("EMBEDDED", "CONFIG", "PARTITIONS"))
        return cls(
            redis_url=given.get("REDIS_URL"),
            database_url=given.get("DATABASE_URL"),
            embedded=Path(embedded) if embedded else None,
            config=Path(config) if config else None,
            namespace=given.get("NAMESPACE"),
            partitions=_number(partitions) if partitions else None,
            listen=given.get("LISTEN"),
        )

    def over(self, environment: Settings) -> Settings:
        """These settings, as flags gave them, with those of the environment behind them.

        Raises:
            ConfigurationError: Both an embedded folder and a server are named.
        """
        if self.embedded is not None:
            environment = replace(environment, redis_url=None, database_url=None)
        elif self.redis_url or self.database_url:
            environment = replace(environment, embedded=None)
        settings = Settings(
            redis_url=self.redis_url or environment.redis_url,
            database_url=self.database_url or environment.database_url,
            embedded=self.embedded or environment.embedded,
            config=self.config or environment.config,
            namespace=self.namespace or environment.namespace,
            partitions=self.partitions or environment.partitions,
            listen=self.listen or environment.listen,
        )
        if settings.embedded is not None and (settings.redis_url or settings.database_url):
            problem = "a folder has both servers; name it (--embedded) or their URLs, not both"
            raise ConfigurationError(Problem("embedded", problem, "embedded"))
        return settings

    def need_redis_url(self) -> str:
        """The Redis URL.

        Raises:
            ConfigurationError: It is not named.
        """
        return _needed("redis_url", self.redis_url, 0)

    def need_database_url(self) -> str:
        """The ledger's URL; for an embedded folder that of its file.

        Raises:
            ConfigurationError: It is not named.
        """
        if self.embedded is not None:
            return f"sqlite:///{self.embedded.absolute() / 'credits.db'}"
        return _needed("database_url", self.database_url, 1)

    def need_config(self) -> Path:
        """The configuration file; in an embedded folder its own, where none is named.

        Raises:
            ConfigurationError: It is not named.
        """
        if self.config is None and self.embedded is not None:
            for name in _EMBEDDED_CONFIGS:
                if (own := self.embedded / name).exists():
                    return own
        if self.config is None:
            raise ConfigurationError(Problem("config", _absent(3), "missing"))
        return self.config


_FLAGS: Final = ("--redis-url", "--database-url", "--embedded", "--config")
_VARIABLES: Final = tuple(
    PREFIX + flag.removeprefix("--").upper().replace("-", "_") for flag in _FLAGS
)


def _number(text: str) -> int:
    if not text.isdecimal():
        raise ConfigurationError(Problem(PREFIX + "PARTITIONS", f"{text!r} is not a number"))
    return int(text)


def _needed(name: str, value: str | None, index: int) -> str:
    if value is None:
        raise ConfigurationError(Problem(name, _absent(index), "missing"))
    return value


def _absent(index: int) -> str:
    return f"is not named: give {_FLAGS[index]} or {_VARIABLES[index]}"
