"""What the servers or the program are to blame for, told to the operator while the client hears little."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from credits_fast.web.problems import is_our_fault

if TYPE_CHECKING:
    from credits_fast.errors import CreditsError

__all__ = ["log_fault"]


def log_fault(log: logging.Logger, method: str, path: str, error: CreditsError) -> None:
    """A line in the log, where it is no fault of the client: transient errors without their traceback.

    Args:
        log: The logger of the integration.
        method: The request's method.
        path: Its path.
        error: What it ended with.
    """
    if not is_our_fault(error):
        return
    log.log(
        logging.WARNING if error.transient else logging.ERROR,
        "%s %s: %s: %s",
        method,
        path,
        error.code,
        error,
        exc_info=None if error.transient else error,
    )
