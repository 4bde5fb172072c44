"""The Lua scripts by name: read from their files, with their includes, compiled for one server.

The text of a script names the identity of the server process it was compiled for (`RUN` in
`lua/shared/gate.lua`). Its SHA is therefore known to that process only: a restarted or promoted
server answers NOSCRIPT, and the fence in the partition's meta decides whether the text compiled for
the new identity may act.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import sha1
from importlib.resources import files
from typing import Final, NamedTuple

from credits_fast.protocol.keys import FORMAT

__all__ = ["SCRIPTS", "Script", "compiled", "source"]

SCRIPTS: Final = (
    "begin",
    "capture",
    "charge",
    "evict",
    "expire",
    "extend",
    "grant",
    "load",
    "load_charge",
    "open",
    "probe",
    "refund",
    "refuse",
    "release",
    "remember",
    "reserve",
    "set_tier",
    "trim",
)
"""The verbs, each a file of its name."""

_INCLUDE: Final = re.compile(r'^--- @include "(\w+)"\n', re.MULTILINE)
_IDENTITY: Final = re.compile(r"[\w.-]{1,64}", re.ASCII)


class Script(NamedTuple):
    """A script's text and its SHA-1, by which the server finds it."""

    text: bytes
    sha: bytes


@lru_cache(maxsize=len(SCRIPTS))
def source(name: str) -> str:
    """A script's text with its includes pasted in, before it is compiled for a server."""
    folder = files("credits_fast") / "lua"
    text = (folder / f"{name}.lua").read_text(encoding="utf-8")
    return _INCLUDE.sub(
        lambda match: (folder / "shared" / f"{match[1]}.lua").read_text(encoding="utf-8"),
        text,
    )


@lru_cache(maxsize=64)
def compiled(run: str, *, has_msetex: bool = False) -> dict[str, Script]:
    """Every script for the server process with this identity.

    Args:
        run: The server's `run_id`; 1 to 64 letters, digits, `.`, `_` or `-`.
        has_msetex: Whether the server has the command `MSETEX`.
    """
    if not _IDENTITY.fullmatch(run):
        raise ValueError(f"not the identity of a server: {run!r:.80}")
    facts = {"@FORMAT@": FORMAT, "@RUN@": run, "@MSETEX@": "yes" if has_msetex else "no"}
    scripts: dict[str, Script] = {}
    for name in SCRIPTS:
        text = source(name)
        for place, fact in facts.items():
            text = text.replace(place, fact)
        packed = text.encode()
        scripts[name] = Script(packed, sha1(packed, usedforsecurity=False).hexdigest().encode())
    return scripts
