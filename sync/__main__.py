"""`python -m credits_fast.sync`: the worker without the command line, set up by the environment.

Reads CREDITS_REDIS_URL and CREDITS_DATABASE_URL, and where they are given CREDITS_CONFIG,
CREDITS_NAMESPACE, CREDITS_PARTITIONS, CREDITS_LOG_LEVEL and CREDITS_LOG_FORMAT.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

from credits_fast.config import load_config
from credits_fast.errors import CreditsError
from credits_fast.exit_codes import ExitCode, error_line, exit_code
from credits_fast.log_output import log_to_stderr
from credits_fast.settings import PREFIX, Settings
from credits_fast.sync.service import serve_until_signalled, worker_config

if TYPE_CHECKING:
    from collections.abc import Mapping


def main(environment: Mapping[str, str] = os.environ) -> int:
    """Serve until told to stop; the exit code."""
    try:
        log_to_stderr(
            environment.get(PREFIX + "LOG_LEVEL") or "info",
            environment.get(PREFIX + "LOG_FORMAT") or "text",
        )
        settings = Settings.of(environment)
        config = worker_config(
            load_config(settings.config) if settings.config else None,
            namespace=settings.namespace,
            partitions=settings.partitions,
        )
        asyncio.run(serve_until_signalled(settings, config))
    except CreditsError as error:
        sys.stderr.write(error_line(error) + "\n")
        return exit_code(error)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
