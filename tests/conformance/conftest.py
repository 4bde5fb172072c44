"""How many cases of each file hold: a line at the end of the run."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

import pytest

_VERDICTS = ("passed", "deviating", "skipped", "failed")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    files: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome in ("passed", "failed", "skipped", "error"):
        for report in terminalreporter.getreports(outcome):
            origin = dict(report.user_properties).get("conformance")
            if isinstance(origin, str):
                files[origin][_verdict(outcome, report)] += 1
    if files:
        terminalreporter.section("conformance")
    for origin, counts in files.items():
        terminalreporter.write_line(f"{origin}: {_counted(counts)}")


def _verdict(outcome: str, report: pytest.TestReport) -> str:
    if outcome != "skipped":
        return "passed" if outcome == "passed" else "failed"
    return "deviating" if "deviating: " in str(report.longrepr) else "skipped"


def _counted(counts: Counter[str]) -> str:
    total = counts.total()
    parts: Iterable[str] = (f"{counts[verdict]} {verdict}" for verdict in _VERDICTS)
    return f"{total} cases: {', '.join(parts)} ({counts['passed'] / total:.1%} passed)"
