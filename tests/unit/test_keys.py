"""Keys: one slot a partition, an even share of the users, and no way to break out by a name."""

from __future__ import annotations

from collections import Counter

import pytest

from credits_fast.ids import operation_id
from credits_fast.protocol.keys import SLOTS, Partitions, fingerprint, slot

AWKWARD = [b"{x}", b"}{", b"a:b", b"\n", b"x" * 256, "é😀".encode(), b"{}", b"m", b"j"]


@pytest.mark.parametrize("user", AWKWARD)
def test_all_keys_of_a_partition_share_its_slot(user: bytes) -> None:
    keys = Partitions("credits", 16).of(user)

    names = [
        keys.meta,
        keys.journal,
        keys.account(user),
        keys.record(user, b"key:" + user),
        keys.refunded(user),
    ]
    assert 1 == len({slot(name) for name in names})
    assert len(names) == len(set(names))


@pytest.mark.parametrize("number", [1, 3, 16, 100])
def test_every_partition_has_its_own_equal_share_of_the_slots(number: int) -> None:
    partitions = Partitions("credits", number)

    shares = [slot(partitions[index].journal) * number // SLOTS for index in range(number)]
    assert [*range(number)] == shares


def test_users_spread_evenly() -> None:
    partitions = Partitions("credits", 16)

    load = Counter(partitions.of(b"user-%d" % number).number for number in range(32_000))
    assert 16 == len(load)
    assert max(load.values()) < 1.2 * min(load.values())


def test_the_partition_of_a_user_never_changes() -> None:
    partitions = Partitions("credits", 16)

    found = [partitions.of(user).number for user in (b"ada", b"bob", b"carol")]
    assert [14, 6, 4] == found
    assert b"{credits:0.2}:j" == partitions[0].journal


def test_two_namespaces_spread_the_same_user_differently_and_never_share_a_key() -> None:
    users = [b"user-%d" % number for number in range(100)]
    one, other = Partitions("one", 16), Partitions("other", 16)

    assert [one.of(user).number for user in users] != [other.of(user).number for user in users]
    assert not {one.of(user).account(user) for user in users} & {
        other.of(user).account(user) for user in users
    }


def test_records_of_keys_and_of_operations_never_meet() -> None:
    keys = Partitions("credits", 1)[0]

    records = {
        keys.record(b"ada", b"key:1"),
        keys.record(b"ada", b"id:1"),
        keys.record(b"adakey:", b"1"),
        keys.record(b"ad", b"akey:1"),
        keys.record(b"bob", b"key:1"),
    }
    assert 5 == len(records)


def test_slots_are_the_clusters() -> None:
    # Source: CLUSTER KEYSLOT of a Redis server.
    assert [12182, 5061, 12182] == [slot(b"foo"), slot(b"bar"), slot(b"x{foo}y{bar}")]
    assert slot(b"{}foo") != slot(b"foo")


def test_a_fingerprint_tells_parameters_apart() -> None:
    prints = {
        fingerprint("charge", "chat", "1"),
        fingerprint("charge", "chat", "2"),
        fingerprint("grant", "chat", "1"),
        fingerprint("charge", "chat1", ""),
        fingerprint("charge", "chat", "", "1"),
    }
    assert 5 == len(prints)
    assert {11} == {len(one) for one in prints}


def test_operation_ids_are_version_7_and_ascend() -> None:
    from uuid import UUID

    ids = [operation_id() for _ in range(1_000)]

    assert 1_000 == len(set(ids))
    assert {7} == {UUID(one).version for one in ids}
    assert sorted(one[:12] for one in ids) == [one[:12] for one in ids]


def test_a_forked_child_makes_other_ids() -> None:
    import multiprocessing

    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        ids = pool.map(_some_ids, range(2))

    assert not set(ids[0]) & set(ids[1])


def _some_ids(_: int) -> list[str]:
    return [operation_id()[13:] for _ in range(100)]
