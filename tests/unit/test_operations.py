"""Operations: who a caller names is looked at anew, however often the same user is named."""

from __future__ import annotations

from typing import Any

import pytest

from credits_fast import InvalidArgumentError, UserNotFoundError
from credits_fast.calls.operations import Operations
from credits_fast.config import CreditsConfig
from credits_fast.protocol.keys import Partitions

CONFIG = CreditsConfig.parse({"costs": {}, "membership": {"tiers": {}}})


class Name(str):
    """Text of a type of its own."""

    __slots__ = ()


@pytest.fixture
def operations() -> Operations:
    return Operations(CONFIG, Partitions("credits", 16))


@pytest.mark.parametrize("user", ["ada", "é😀", Name("ada")])
def test_a_user_is_in_one_partition_however_often_it_is_named(
    operations: Operations, user: str
) -> None:
    partitions = Partitions("credits", 16)

    for _ in range(2):
        operation = operations.new("charge", user, "chat", None, None)
        assert user.encode() == operation.user
        assert partitions.of(user.encode()) == operation.partition


@pytest.mark.parametrize("user", [[], {}, 5, None, b"ada", "a\0b", "x" * 257])
def test_what_names_no_user_is_refused_each_time(operations: Operations, user: Any) -> None:
    for _ in range(2):
        with pytest.raises(InvalidArgumentError, match="user_id"):
            operations.new("charge", user, "chat", None, None)


def test_an_empty_id_is_nobodys_each_time(operations: Operations) -> None:
    for _ in range(2):
        with pytest.raises(UserNotFoundError):
            operations.new("charge", "", "chat", None, None)
