"""How many cases of each file hold: a line at the end of the run."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

import pytest

_VERDICTS = {
    "passed": "passed",
    "xfailed": "deviating",
    "skipped": "skipped",
    "failed": "failed",
    "error": "failed",
}
_SHOWN = tuple(dict.fromkeys(_VERDICTS.values()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    files: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome, verdict in _VERDICTS.items():
        for report in terminalreporter.getreports(outcome):
            if not isinstance(report, pytest.TestReport):
                continue  # a file that was skipped, or could not be read, has no cases
            origin = dict(report.user_properties).get("conformance")
            if isinstance(origin, str):
                files[origin][verdict] += 1
    if files:
        terminalreporter.section("conformance")
    for origin, counts in files.items():
        terminalreporter.write_line(f"{origin}: {_counted(counts)}")


def _counted(counts: Counter[str]) -> str:
    total = counts.total()
    parts: Iterable[str] = (f"{counts[verdict]} {verdict}" for verdict in _SHOWN)
    return f"{total} cases: {', '.join(parts)} ({counts['passed'] / total:.1%} passed)"
