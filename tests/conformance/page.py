"""The page for people who come from the reference, made from the tables the cases are held to.

python -m tests.conformance.page > docs/deviations.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Final

from tests.conformance.cases import built_in
from tests.conformance.deviations import DEVIATIONS, Topic
from tests.conformance.improvements import IMPROVEMENTS
from tests.conformance.storage import WITHOUT_COUNTERPART

__all__ = ["page"]

_INTRODUCTION: Final = """\
# Deviations from the reference

`credits-fast` keeps the operations, results, errors and rules of the reference Credit SDK. This page
lists what it does otherwise. The names in brackets are cases of the conformance tests
(`tests/conformance/cases.json`); `pytest tests/conformance -k CHG-037` runs one.
"""
_OTHERWISE: Final = """\
## Done otherwise on purpose

The reference's behaviour may well be meant; ours differs all the same.
"""
_BETTER: Final = """\
## Mended

The reference is wrong here, or contradicts its own documents.
"""
_NOWHERE: Final = """\
## Without a counterpart

Calls of the reference's storage adapter that nothing corresponds to.
"""


def page() -> str:
    """The text of `docs/deviations.md`."""
    cases = built_in()
    shown = [
        (one.topic, one.what, one.why, _ids(case.id for case in cases if one.then(case)))
        for one in DEVIATIONS
    ]
    mended = [(one.topic, one.what, one.why, _ids(one.cases.split())) for one in IMPROVEMENTS]
    nowhere = [
        f"- `{call.removeprefix('storage.')}`: {why}" for call, why in WITHOUT_COUNTERPART.items()
    ]
    parts = [_INTRODUCTION, _OTHERWISE, *_listed(shown), _BETTER, *_listed(mended), _NOWHERE]
    return "\n".join([*parts, *nowhere]) + "\n"


def _listed(entries: Sequence[tuple[Topic, str, str, str]]) -> Iterable[str]:
    for topic in Topic:
        lines = [f"- {what} {why}{ids}" for its, what, why, ids in entries if its is topic]
        if lines:
            yield f"### {topic}\n"
            yield from lines
            yield ""


def _ids(ids: Iterable[str]) -> str:
    names = ", ".join(ids)
    return f" ({names})" if names else ""


if __name__ == "__main__":
    sys.stdout.write(page())
