"""`migrate`, `check-config`, `version`: what is done before anything is charged."""

from __future__ import annotations

import platform
import warnings
from pathlib import Path
from typing import Annotated

import typer

from credits_fast import formula
from credits_fast.cli.command import command
from credits_fast.cli.options import Ledger
from credits_fast.cli.output import Answer, problems_of
from credits_fast.config import CreditsConfig, Price, load_config
from credits_fast.errors import ConfigurationError
from credits_fast.exact import plain
from credits_fast.exit_codes import ExitCode, printable
from credits_fast.version import __version__

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the app."""
    command(app)(migrate)
    command(app, "check-config")(check_config)
    command(app)(version)


async def migrate(
    ledger: Ledger,
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; say whether there is work to do.")
    ] = False,
) -> Answer:
    """Bring the database to this version's schema."""
    from credits_fast.ledger import schema  # noqa: PLC0415  # SQLAlchemy only when used
    from credits_fast.ledger.database import address  # noqa: PLC0415

    database = ledger.database()
    try:
        before = await schema.revision(database)
        if check:
            await schema.check(database)
        after = schema.head() if check else await schema.upgrade(database)
    finally:
        await database.dispose()
    where = address(database)
    text = f"{where} is at {after}"
    if before != after:
        text = f"migrated {where} from {before or 'nothing'} to {after}"
    return Answer({"database": where, "from": before, "to": after}, text)


def check_config(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A TOML or JSON file.")],
) -> Answer:
    """Check a configuration: every mistake with its path, or a summary of what it says."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = load_config(file)
    except ConfigurationError as error:
        return _mistakes(file, error)
    lines = [f"warning: {printable(text)}" for text in config.warnings]
    data = {
        "file": str(file),
        "valid": True,
        "warnings": config.warnings,
        "namespace": config.namespace,
        "partitions": config.partitions,
        "tiers": {tier: {"level": level} for tier, level in config.membership.tiers.items()},
        "actions": {action: _prices(config, action) for action in config.costs},
    }
    return Answer(data, "\n".join([*lines, *_summary(file, config)]))


def version() -> Answer:
    """Show the version."""
    data = {"credits_fast": __version__, "python": platform.python_version()}
    return Answer(data, f"credits-fast {__version__}")


def _mistakes(file: Path, error: ConfigurationError) -> Answer:
    number = len(error.problems)
    lines = [printable(str(problem)) for problem in error.problems]
    lines.append(f"{file}: {number} {'mistake' if number == 1 else 'mistakes'}")
    data = {
        "file": str(file),
        "valid": False,
        "error": {"code": error.code, "message": error.message, "problems": problems_of(error)},
    }
    return Answer(data, "\n".join(lines), ExitCode.MISCONFIGURED)


def _prices(config: CreditsConfig, action: str) -> dict[str, object]:
    return {
        "requires": config.membership.requirements.get(action),
        "prices": {tier: _price(price) for tier, price in config.costs[action].items()},
    }


def _price(price: Price) -> dict[str, object]:
    if isinstance(price, str):
        return {"formula": price, "variables": formula.parse(price).variables}
    return {"fixed": price}


def _summary(file: Path, config: CreditsConfig) -> list[str]:
    membership = config.membership
    tiers = (
        f"  {tier}: level {plain(level)}, cap {plain(membership.credits_caps[tier])}"
        for tier, level in membership.tiers.items()
    )
    actions: list[str] = []
    for action, prices in config.costs.items():
        required = membership.requirements.get(action)
        actions.append(f"  {printable(action)}" + (f" (needs {required})" if required else ""))
        actions += (f"    {tier}: {_spoken(price)}" for tier, price in prices.items())
    counts = f"{len(config.costs)} actions, {len(membership.tiers)} tiers"
    where = f"namespace {config.namespace}, {config.partitions} partitions"
    return [f"{file} is valid: {counts}, {where}", "tiers", *tiers, "actions", *actions]


def _spoken(price: Price) -> str:
    if not isinstance(price, str):
        return plain(price)
    variables = ", ".join(formula.parse(price).variables) or "none"
    return f"{printable(price)}  (variables: {variables})"
