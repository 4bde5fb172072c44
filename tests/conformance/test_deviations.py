"""The page of deviations says what the cases are held to, and there are few."""

from pathlib import Path

import pytest

from tests.conformance.cases import Case, built_in
from tests.conformance.deviations import deviation_of
from tests.conformance.improvements import IMPROVEMENTS
from tests.conformance.page import page

_PAGE = Path(__file__).parents[2] / "docs" / "deviations.md"
_CASES = built_in()


def test_the_page_is_what_the_tables_make_it() -> None:
    assert page() == _PAGE.read_text(encoding="utf-8"), (
        "write it anew: python -m tests.conformance.page > docs/deviations.md"
    )


def test_at_least_95_percent_of_the_cases_do_not_deviate() -> None:
    deviating = [case.id for case in _CASES if deviation_of(case)]

    assert 0.05 >= len(deviating) / len(_CASES), deviating


def test_every_case_where_the_reference_is_wrong_is_explained() -> None:
    wrong = sorted(case.id for case in _CASES if case.better is not None and not deviation_of(case))
    explained = sorted(name for entry in IMPROVEMENTS for name in entry.cases.split())

    assert wrong == explained


def test_the_case_file_is_whole() -> None:
    assert 311 == len({case.id for case in _CASES})


@pytest.mark.parametrize("case", [c for c in _CASES if deviation_of(c)], ids=lambda case: case.id)
def test_a_deviation_expects_something_else_than_the_case(case: Case) -> None:
    deviation = deviation_of(case)

    assert deviation is not None
    assert case.expected != deviation[1]
