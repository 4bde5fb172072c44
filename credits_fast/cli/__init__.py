"""The command line `credits-fast`; the extra `credits-fast[cli]` brings what it is made of."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from credits_fast.exit_codes import ExitCode

__all__ = ["main"]

_EXTRA = frozenset({"typer", "rich"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code.

    Args:
        arguments: The words after the program's name, None for those of this process.
    """
    try:
        from credits_fast.cli.app import run  # noqa: PLC0415  # an extra, perhaps absent
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA:
            raise
        problem = f"the command line needs {missing}: pip install 'credits-fast[cli]'"
        sys.stderr.write(f"error: USAGE: {problem}\n")
        return ExitCode.USAGE
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    return run(sys.argv[1:] if arguments is None else arguments)
