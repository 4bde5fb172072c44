"""A program of this library, run with some of the library's text changed: only in that process.

    python -P mutating.py EDITS MODULE [WORD ...]

EDITS is JSON: a list of `[file, old, new]`, the file as seen from the package's folder. What is old has to
stand there exactly once. A Python module is compiled from the changed text when it is imported, a Lua
script is changed when it is read; no file is written, and no other process sees anything of it.

It is run by its path, and imports nothing of the library, so that nothing is imported before the change.
"""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path, PurePosixPath
from types import CodeType, ModuleType
from typing import Final

__all__ = ["EditError", "changed", "main", "program"]

_PACKAGE: Final = "credits_fast"
_READS_SCRIPTS: Final = "credits_fast.servers.scripts"

_Edits = Sequence[tuple[str, str]]


def program(edits: Sequence[Sequence[str]], module: str, *words: str) -> list[str]:
    """The command that runs a module with these edits made; as it is, where there are none."""
    if not edits:
        return [sys.executable, "-m", module, *words]
    return [sys.executable, "-P", str(Path(__file__)), json.dumps(edits), module, *words]


class EditError(Exception):
    """What is to be changed does not stand there, or more than once."""


def changed(text: str, edits: _Edits, where: str) -> str:
    """The text with every edit made.

    Raises:
        EditError: What is old is not there exactly once.
    """
    for old, new in edits:
        found = text.count(old)
        if found != 1:
            raise EditError(f"{where} has {found} times what is to be changed: {old!r}")
        text = text.replace(old, new)
    return text


class _Changed(SourceFileLoader):
    """Loads a module from its changed text; what was compiled before is passed over."""

    def __init__(self, name: str, path: str, edits: _Edits) -> None:
        super().__init__(name, path)
        self._edits = edits

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        text = self.get_data(path).decode("utf-8")
        return self.source_to_code(changed(text, self._edits, path).encode(), path)


class _ReadsChanged(SourceFileLoader):
    """Loads the module that reads the scripts, and has it read changed ones."""

    def __init__(self, name: str, path: str, edits: _Edits) -> None:
        super().__init__(name, path)
        self._edits = edits

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        reads: Callable[[str], str] = module.source

        def source(name: str) -> str:
            """The script as changed; what of it is in another script is left out."""
            text = reads(name)
            return changed(text, [edit for edit in self._edits if edit[0] in text], name)

        module.source = source  # type: ignore[attr-defined]  # a module's own function


class _Finder(MetaPathFinder):
    """Finds changed modules before anybody else finds them as they are."""

    def __init__(self, loaders: Mapping[str, Callable[[str, str], SourceFileLoader]]) -> None:
        self._loaders = loaders

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        loader = self._loaders.get(fullname)
        spec = None if loader is None else PathFinder.find_spec(fullname, path, target)
        if loader is None or spec is None or spec.origin is None:
            return None
        spec.loader = loader(fullname, spec.origin)
        return spec


def _finder(edits: Sequence[Sequence[str]]) -> _Finder:
    scripts: list[tuple[str, str]] = []
    modules: dict[str, list[tuple[str, str]]] = {}
    for file, old, new in edits:
        path = PurePosixPath(file)
        if path.suffix == ".lua":
            scripts.append((old, new))
        else:
            name = ".".join((_PACKAGE, *path.with_suffix("").parts))
            modules.setdefault(name, []).append((old, new))
    loaders: dict[str, Callable[[str, str], SourceFileLoader]] = {
        name: partial(_Changed, edits=its) for name, its in modules.items()
    }
    if scripts:
        loaders[_READS_SCRIPTS] = partial(_ReadsChanged, edits=scripts)
    return _Finder(loaders)


def main(words: Sequence[str]) -> None:
    """Run a module with the edits made.

    Raises:
        EditError: What is to be changed is not there exactly once.
    """
    edits, module, *rest = words
    sys.meta_path.insert(0, _finder(json.loads(edits)))
    sys.argv = [str(Path(__file__)), *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
