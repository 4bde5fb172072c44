"""Whether the hold of a request is charged or given back, by how the request came to its end. Pure.

    how it ended                                     charged is
    the whole body was sent, status below 400        what was said to be used, else what was held
    the whole body was sent, status 4xx              what was said to be used, else nothing
    the whole body was sent, status 5xx              nothing
    cut off: the client left, the task was cancelled what was said to be used so far, else nothing
    failed: an exception, or no end of the body      nothing

A reader who leaves just before the end has had nearly all of a stream, so leaving must not be a way to
have it for nothing; and one whose connection broke must not pay for what was merely estimated. Only the
application knows what was used by then, which is why it says so as it goes on. What it has consumed piece
by piece is charged in any case.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Literal, TypeAlias

__all__ = ["End", "is_charged"]

End: TypeAlias = Literal["whole", "cut_off", "failed"]
"""How a request ended: all of its body sent, ended from outside, or by the application's failure."""


def is_charged(end: End, status: int, *, is_measured: bool) -> bool:
    """Whether the hold is charged: with what was said to be used, else as a whole.

    Args:
        end: How the request ended.
        status: The status of the response; 0 where it had not begun.
        is_measured: Whether the application has said what was used.

    Example:
        >>> is_charged("whole", 200, is_measured=False)
        True
        >>> is_charged("cut_off", 200, is_measured=False)
        False
    """
    if end == "failed" or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return False
    if end == "cut_off" or status >= HTTPStatus.BAD_REQUEST:
        return is_measured
    return True
