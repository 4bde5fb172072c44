"""A command is a function from its options to an answer; what surrounds it is here, once.

    @command(app)
    async def balance(user: User, connection: Connection) -> Answer:
        ...

A parameter whose type is a dataclass is a group of options: its fields become options of the command,
and the function gets them as one value. Every command gets the options of `Output` besides.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Final, TypeVar, cast, get_type_hints

import typer

from credits_fast.cli.options import Output
from credits_fast.cli.output import Answer, reporting

__all__ = ["command"]

_Function = TypeVar("_Function", bound=Callable[..., Any])

_LOG_LEVEL: Final = "warning"


def command(
    app: typer.Typer,
    name: str | None = None,
    *,
    output: type[Any] = Output,
    log_level: str = _LOG_LEVEL,
) -> Callable[[_Function], _Function]:
    """Make a function a command of an app; the function itself stays as it is.

    Args:
        app: The app or group it belongs to.
        name: Its name, None for the function's.
        output: The group of options that say how it speaks.
        log_level: What goes to the log where nothing is said.
    """

    def register(function: _Function) -> _Function:
        groups = dict(_groups(function))

        def run(**given: Any) -> None:
            speaker = _taken(output, given)
            arguments = {name: _taken(group, given) for name, group in groups.items()}
            with reporting(speaker):
                speaker.begin(log_level)
                answer = _answer(function, {**arguments, **given})
                speaker.give(answer)
            raise typer.Exit(answer.code)

        run.__doc__ = function.__doc__
        run.__name__ = function.__name__
        cast("Any", run).__signature__ = inspect.Signature([*_parameters(function, groups, output)])
        app.command(name)(run)
        return function

    return register


def _answer(function: Callable[..., Any], arguments: dict[str, Any]) -> Answer:
    answer: Answer | Coroutine[Any, Any, Answer] = function(**arguments)
    return answer if isinstance(answer, Answer) else asyncio.run(answer)


def _groups(function: Callable[..., Any]) -> Iterator[tuple[str, type[Any]]]:
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        if is_dataclass(parameter.annotation):
            yield name, cast("type[Any]", parameter.annotation)


def _parameters(
    function: Callable[..., Any], groups: dict[str, type[Any]], output: type[Any]
) -> Iterator[inspect.Parameter]:
    """What typer sees: the function's own parameters first, then every option of its groups."""
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        if name not in groups:
            yield parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
    for group in (*groups.values(), output):
        types = get_type_hints(group, include_extras=True)
        for field in fields(group):
            yield inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if field.default is MISSING else field.default,
                annotation=types[field.name],
            )


def _taken(group: type[Any], given: dict[str, Any]) -> Any:
    """The options of a group as one value, taken out of what was given."""
    return group(**{field.name: given.pop(field.name) for field in fields(group)})
