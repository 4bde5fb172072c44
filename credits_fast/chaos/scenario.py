"""A scenario: a name, a promise, what is done to break it, and the stage it is done on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from credits_fast.chaos.load import Manners
from credits_fast.chaos.wishes import Mix

if TYPE_CHECKING:
    from credits_fast.chaos.arena import Arena

__all__ = ["Play", "Scenario"]

Play: TypeAlias = "Callable[[Arena], Awaitable[None]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A scenario.

    Attributes:
        name: Its name on the command line.
        promise: What is promised, and the bound where that is not zero; one sentence.
        play: What is done, while callers ask.
        is_in_smoke: Whether the smoke set has it.
        workers: Worker processes on its stage.
        engines: Engines on its stage.
        is_clustered: Whether Redis is a cluster, which is reached past the proxies.
        persistent: Whether the server writes an append-only file.
        valkey_options: More words for the server's command line.
        config: What differs of the configuration, section by section.
        mix: Of what the operations are made.
        manners: How callers behave.
        limit_s: Seconds within which charges go on after a fault, and everything is recorded.
    """

    name: str
    promise: str
    play: Play
    is_in_smoke: bool = False
    workers: int = 1
    engines: int = 1
    is_clustered: bool = False
    persistent: bool = True
    valkey_options: Sequence[str] = ()
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    mix: Mix = field(default_factory=Mix)
    manners: Manners = field(default_factory=Manners)
    limit_s: float = 30.0
