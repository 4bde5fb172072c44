"""Every case of the case file, each a test of its own name.

Further cases in the same notation can be named: `CREDITS_CONFORMANCE_CASES=more.json`. A case in
which we deviate on purpose is checked against what must come of it instead, and then shown as an
expected failure with the reason; `docs/deviations.md` lists them.
"""

from collections.abc import Callable

import pytest

from tests.conformance.cases import Case, named_cases
from tests.conformance.judging import judged
from tests.servers import Servers

_CASES = named_cases()


@pytest.mark.parametrize("case", [case for _, case in _CASES], ids=[name for name, _ in _CASES])
async def test_the_case_holds(
    case: Case, servers: Servers, record_property: Callable[[str, object], None]
) -> None:
    record_property("conformance", case.origin)

    verdict, reason = await judged(case, servers)

    if verdict == "deviating":
        pytest.xfail(reason)
    if verdict == "skipped":
        pytest.skip(reason)
    assert "passed" == verdict, reason
