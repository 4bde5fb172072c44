"""What the nodes of a cluster say of who serves what."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import AskError, MovedError

from credits_fast.protocol.keys import Partitions
from credits_fast.servers.topology import Address, Redirection, Topology

ASKED = Address("10.0.0.9", 7000)


def slots(*ranges: tuple[int, int, bytes | None, int]) -> list[Any]:
    """A reply to CLUSTER SLOTS; a replica stands behind every primary."""
    replica: list[Any] = [b"10.9.9.9", 7999, b"id", []]
    return [[first, last, [host, port, b"id", []], replica] for first, last, host, port in ranges]


def test_every_slot_has_the_primary_its_range_names() -> None:
    topology = Topology.of(
        slots((0, 99, b"10.0.0.1", 7001), (200, 16_383, b"node.example", 7002)), ASKED
    )

    found = [topology.primary(slot) for slot in (0, 99, 100, 199, 200, 16_383)]

    one, other = Address("10.0.0.1", 7001), Address("node.example", 7002)
    assert [one, one, None, None, other, other] == found
    assert (one, other) == topology.addresses


@pytest.mark.parametrize("host", [None, b"", b"?"])
def test_a_node_that_does_not_know_its_host_has_the_one_it_was_asked_at(host: bytes | None) -> None:
    topology = Topology.of(slots((0, 5, host, 7001)), ASKED)

    assert Address("10.0.0.9", 7001) == topology.primary(5)


def test_a_slot_that_has_moved_moves_alone() -> None:
    topology = Topology.of(slots((0, 16_383, b"10.0.0.1", 7001)), ASKED)
    topology.move(7, Address("10.0.0.2", 7002))

    assert [7001, 7002, 7001] == [
        address.port for address in map(topology.primary, (6, 7, 8)) if address
    ]


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        (MovedError("3999 10.0.0.2:7002"), (3999, ("10.0.0.2", 7002), True)),
        (AskError("3999 10.0.0.2:7002"), (3999, ("10.0.0.2", 7002), False)),
        (MovedError("1 :7002"), (1, ("10.0.0.9", 7002), True)),
        (MovedError("1 fe80::1:7002"), (1, ("fe80::1", 7002), True)),
        (MovedError("1 node.example:7002"), (1, ("node.example", 7002), True)),
    ],
)
def test_a_redirection_says_where_and_whether_for_good(refusal: AskError, expected: object) -> None:
    assert expected == Redirection.of(refusal, ASKED)


def test_the_keys_of_a_partition_are_in_its_slot() -> None:
    from credits_fast.protocol.keys import slot

    for partition in Partitions("credits", 16):
        keys = (partition.meta, partition.journal, partition.account(b"{a}"), partition.absent)
        assert {partition.slot} == {slot(key) for key in keys}
