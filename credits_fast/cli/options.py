"""The options that commands share, in groups: a dataclass is a group, its fields are the options."""

from __future__ import annotations

import os
import warnings
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from credits_fast.cli.output import Answer, as_json, notice, say, say_json
from credits_fast.config import CreditsConfig, load_config
from credits_fast.engine import CreditsEngine
from credits_fast.errors import ConfigurationError, Problem
from credits_fast.exit_codes import printable
from credits_fast.log_output import log_to_stderr
from credits_fast.protocol.keys import Partitions
from credits_fast.servers.endpoints import endpoint_from_url
from credits_fast.servers.routing import router_to
from credits_fast.settings import PREFIX, Settings

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from credits_fast.servers.endpoints import AnyEndpoint
    from credits_fast.servers.routing import Router

__all__ = [
    "ConfigFile",
    "Connection",
    "DatabaseUrl",
    "Document",
    "EmbeddedFolder",
    "Ledger",
    "Logging",
    "Output",
    "RedisUrl",
    "Room",
    "Servers",
    "check_file",
    "configuration",
]

_WHERE = "Servers"
_HOW = "Output"
_STDOUT = "-"

RedisUrl: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--redis-url",
        metavar="URL",
        help="The Redis or Valkey server. [CREDITS_REDIS_URL]",
        rich_help_panel=_WHERE,
    ),
]
DatabaseUrl: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        metavar="URL",
        help="The ledger: PostgreSQL or SQLite. [CREDITS_DATABASE_URL]",
        rich_help_panel=_WHERE,
    ),
]
EmbeddedFolder: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--embedded",
        metavar="FOLDER",
        help="A folder with a Valkey and a ledger of its own, instead of URLs. [CREDITS_EMBEDDED]",
        rich_help_panel=_WHERE,
    ),
]
ConfigFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Prices and tiers, TOML or JSON. [CREDITS_CONFIG]",
        rich_help_panel=_WHERE,
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Logging:
    """What goes to stderr."""

    log_level: Annotated[
        str | None,
        typer.Option(
            metavar="LEVEL",
            help="debug, info, warning or error. [CREDITS_LOG_LEVEL]",
            rich_help_panel=_HOW,
        ),
    ] = None
    log_format: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT",
            help="text or json. [CREDITS_LOG_FORMAT]",
            rich_help_panel=_HOW,
        ),
    ] = None
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=_HOW),
    ] = False

    def begin(self, default_level: str) -> None:
        """Have the log written from now on."""
        level = self.log_level or os.environ.get(PREFIX + "LOG_LEVEL") or default_level
        format_ = self.log_format or os.environ.get(PREFIX + "LOG_FORMAT") or "text"
        log_to_stderr(level, format_)


@dataclass(frozen=True, slots=True, kw_only=True)
class Output(Logging):
    """How an ordinary command speaks."""

    json: Annotated[
        bool,
        typer.Option("--json", help="One JSON document on stdout.", rich_help_panel=_HOW),
    ] = False

    @property
    def in_json(self) -> bool:
        """Whether stdout is for one JSON document."""
        return self.json

    def give(self, answer: Answer) -> None:
        """Write the answer."""
        if self.json:
            say_json(answer.data)
        else:
            say(answer.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document(Logging):
    """How a command speaks that has much to say: a summary, and a document beside it."""

    json: Annotated[
        str | None,
        typer.Option(
            "--json",
            metavar="FILE",
            help="Write the figures there as JSON; - is stdout, and the summary goes to stderr.",
            rich_help_panel=_HOW,
        ),
    ] = None

    @property
    def in_json(self) -> bool:
        """Whether stdout is for one JSON document."""
        return self.json == _STDOUT

    def begin(self, default_level: str) -> None:
        """Have the log written from now on; the file must be one that can be written."""
        Logging.begin(self, default_level)
        if self.json is not None and not self.in_json:
            check_file(Path(self.json), "--json")

    def give(self, answer: Answer) -> None:
        """Write the summary, and the document where one is wanted."""
        say(answer.text, stderr=self.in_json)
        if self.in_json:
            say_json(answer.data)
        elif self.json is not None:
            Path(self.json).write_text(as_json(answer.data) + "\n", encoding="utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """The ledger alone."""

    database_url: DatabaseUrl = None
    embedded: EmbeddedFolder = None

    @property
    def settings(self) -> Settings:
        """What the flags say, and the environment behind them."""
        flags = Settings(database_url=self.database_url, embedded=self.embedded)
        return flags.over(Settings.of(os.environ))

    def database(self) -> AsyncEngine:
        """An engine on the ledger.

        Raises:
            ConfigurationError: It is not named, or cannot be used.
        """
        from credits_fast.ledger.database import connect  # noqa: PLC0415  # SQLAlchemy only when used

        settings = self.settings
        if settings.embedded is not None:
            settings.embedded.mkdir(parents=True, exist_ok=True)
        return connect(settings.need_database_url())


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """The servers and the configuration of a command that works on credits."""

    redis_url: RedisUrl = None
    database_url: DatabaseUrl = None
    embedded: EmbeddedFolder = None
    config: ConfigFile = None

    @property
    def settings(self) -> Settings:
        """What the flags say, and the environment behind them."""
        flags = Settings(
            redis_url=self.redis_url,
            database_url=self.database_url,
            embedded=self.embedded,
            config=self.config,
        )
        return flags.over(Settings.of(os.environ))

    def engine(self) -> CreditsEngine:
        """The engine, to be opened with `async with`.

        Raises:
            ConfigurationError: Something is not named, or cannot be used.
        """
        settings = self.settings
        if settings.embedded is not None:
            return CreditsEngine.embedded(settings.embedded, configuration(settings.need_config()))
        if settings.redis_url is None and settings.database_url is None:
            raise ConfigurationError(Problem("servers", _NO_SERVERS, "missing"))
        return CreditsEngine.from_url(
            settings.need_redis_url(),
            settings.need_database_url(),
            configuration(settings.need_config()),
        )


@dataclass(frozen=True, slots=True)
class Room:
    """What there is to look at.

    Attributes:
        endpoint: How Redis is reached.
        router: The way to it, open.
        database: The ledger.
        partitions: The partitions as configured.
    """

    endpoint: AnyEndpoint
    router: Router
    database: AsyncEngine
    partitions: Partitions


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """The servers of a command that needs no prices; its configuration may be the defaults."""

    redis_url: RedisUrl = None
    database_url: DatabaseUrl = None
    config: ConfigFile = None
    namespace: Annotated[
        str | None, typer.Option(metavar="NAME", help="The set of users. [CREDITS_NAMESPACE]")
    ] = None
    partitions: Annotated[
        int | None, typer.Option(metavar="N", help="How many there are. [CREDITS_PARTITIONS]")
    ] = None

    @property
    def settings(self) -> Settings:
        """What the flags say, and the environment behind them."""
        flags = Settings(
            redis_url=self.redis_url,
            database_url=self.database_url,
            config=self.config,
            namespace=self.namespace,
            partitions=self.partitions,
        )
        return flags.over(Settings.of(os.environ))

    @property
    def configured(self) -> CreditsConfig | None:
        """The configuration that is named, None where none is.

        Raises:
            ConfigurationError: It cannot be read or has mistakes.
        """
        path = self.settings.config
        return None if path is None else configuration(path)

    @asynccontextmanager
    async def looking(self) -> AsyncGenerator[Room, None]:
        """Both servers, to look at.

        Raises:
            ConfigurationError: One is not named, or cannot be used.
        """
        from credits_fast.ledger.database import connect  # noqa: PLC0415  # SQLAlchemy only when used
        from credits_fast.sync.service import worker_config  # noqa: PLC0415

        settings = self.settings
        if settings.embedded is not None:
            raise ConfigurationError(Problem("embedded", _EMBEDDED, "embedded"))
        config = worker_config(
            self.configured, namespace=settings.namespace, partitions=settings.partitions
        )
        endpoint = endpoint_from_url(settings.need_redis_url())
        database = connect(settings.need_database_url())
        router = router_to(endpoint)
        router.open()
        try:
            partitions = Partitions(config.namespace, config.partitions)
            yield Room(endpoint, router, database, partitions)
        finally:
            await router.close()
            await database.dispose()


def check_file(path: Path, option: str) -> None:
    """Nothing, where a file can be written; it is empty then.

    Raises:
        typer.BadParameter: It cannot.
    """
    try:
        path.write_text("", encoding="utf-8")
    except OSError as error:
        problem = f"{path} cannot be written: {error.strerror}"
        raise typer.BadParameter(problem, param_hint=option) from error


def configuration(path: Path) -> CreditsConfig:
    """The configuration in a file; what is legal and probably not meant is told on stderr.

    Raises:
        ConfigurationError: The file cannot be read or has mistakes.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = load_config(path)
    for text in config.warnings:
        notice(f"warning: {path}: {printable(text)}")
    return config


_NO_SERVERS = (
    "are not named: give --redis-url and --database-url (CREDITS_REDIS_URL, CREDITS_DATABASE_URL), "
    "or a folder by --embedded (CREDITS_EMBEDDED)"
)
_EMBEDDED = (
    "folders are served only by the program that has them open, and ended with it; "
    "name its servers by --redis-url and --database-url"
)
