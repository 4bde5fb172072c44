"""One script call with items of several partitions: each has its gate, its entry and its own fate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from credits_fast.protocol.hold_wire import capture_call, extend_call, release_call, reserve_call
from credits_fast.protocol.keys import PartitionKeys, Partitions
from credits_fast.protocol.wire import Call, Operation, charge_call, grant_call, refund_call
from tests.scripts.conftest import Bench, priced

KEYS = Partitions("test", 3)


@pytest.fixture
async def benches(bench: Bench) -> list[Bench]:
    """The same server seen from three open partitions; ada has 100 in each of them."""
    benches = [replace(bench, keys=keys) for keys in KEYS]
    for one in benches:
        keys = (one.keys.gate, one.keys.meta, one.keys.journal)
        await one.lane.run_script("open", keys, (b"1", b"3", b"0.1.0", b"1"))
        await one.account(b=100)
    return benches


def charges(benches: list[Bench], cost: int = 1) -> list[Call]:
    return [
        charge_call(one.operation(f"t{at}-{nth}"), priced(cost + nth))
        for at, one in enumerate(benches)
        for nth in range(2)
    ]


async def test_each_partition_gets_an_entry_of_its_own(benches: list[Bench]) -> None:
    replies = await benches[0].run(*charges(benches))

    assert ["ok 1 99", "ok 2 97"] * 3 == replies
    for at, one in enumerate(benches):
        (entry,) = await one.journal()
        ids = [item.transaction_id for item in entry.items if item.index < 2]  # type: ignore[union-attr]
        assert [f"t{at}-0", f"t{at}-1"] == ids
        assert {"b": "97", "s": "2", "l": str(entry.id)} == await one.fields()


async def test_a_closed_partition_stops_only_its_own_items(benches: list[Bench]) -> None:
    await benches[1].gate(run="another-server")

    replies = await benches[0].run(*charges(benches))

    assert ["ok 1 99", "ok 2 97", "fenced", "fenced", "ok 1 99", "ok 2 97"] == replies
    assert [1, 0, 1] == [len(await one.journal()) for one in benches]
    assert "100" == (await benches[1].fields())["b"]


@pytest.mark.parametrize("full", [0, 1, 2])
async def test_a_full_journal_stops_only_its_own_items(benches: list[Bench], full: int) -> None:
    await benches[full].run(charge_call(benches[full].operation("first"), priced(0)))

    replies = await benches[0].run(*charges(benches), journal_max=b"1")

    assert ["back_pressure 1"] * 2 == replies[2 * full : 2 * full + 2]
    assert ["ok 1 99", "ok 2 97"] * 2 == replies[: 2 * full] + replies[2 * full + 2 :]
    assert [1, 1, 1] == [len(await one.journal()) for one in benches]


@pytest.mark.parametrize("journal_max", [b"", b"9"], ids=["no limit", "a limit"])
@pytest.mark.parametrize("broken", [0, 1, 2])
async def test_a_journal_that_takes_no_entry_stops_only_its_own_items(
    benches: list[Bench], broken: int, journal_max: bytes
) -> None:
    journal: PartitionKeys = benches[broken].keys
    await benches[broken].lane.execute(b"SET", journal.journal, b"no stream")

    replies = await benches[0].run(*charges(benches), journal_max=journal_max)

    failed = replies[2 * broken : 2 * broken + 2]
    assert all(reply.startswith("failed ") and "WRONGTYPE" in reply for reply in failed)
    assert ["ok 1 99", "ok 2 97"] * 2 == [reply for reply in replies if reply not in failed]
    assert "100" == (await benches[broken].fields())["b"]
    record = benches[broken].operation(f"t{broken}-0").record_key
    assert 0 == await benches[broken].lane.execute(b"EXISTS", record)


WITH_A_HASH: dict[str, Callable[[Operation], Call]] = {
    "reserve": lambda o: reserve_call(o, priced(1), hold_ms=9, open_max=9),
    "extend": lambda o: extend_call(o, b"h", micros=1, hold_ms=None),
    "capture": lambda o: capture_call(o, b"h", priced(1), final=True, above="debt"),
    "release": lambda o: release_call(o, b"h"),
    "refund": lambda o: refund_call(o, 1, b"c", bounded=False),
}


@pytest.mark.parametrize("verb", WITH_A_HASH)
async def test_what_is_of_a_wrong_type_stops_only_its_own_items(
    benches: list[Bench], verb: str
) -> None:
    for key in (benches[1].keys.holds, benches[1].keys.refunded(b"c")):
        await benches[0].lane.execute(b"SET", key, b"no hash")

    calls = [WITH_A_HASH[verb](one.operation(f"t{at}")) for at, one in enumerate(benches)]
    replies = await benches[0].run(*calls)

    assert replies[1].startswith("failed ")
    assert "WRONGTYPE" in replies[1]
    assert not any(reply.startswith("failed") for reply in (replies[0], replies[2]))


async def test_a_refund_that_was_not_journalled_is_not_counted(benches: list[Bench]) -> None:
    for one in benches[:2]:
        known = (one.keys.gate, one.keys.refunded(b"c"))
        await one.lane.run_script("load_charge", known, (b"ada", b"50", b"0", b"60000"))
    await benches[0].lane.execute(b"SET", benches[0].keys.journal, b"no stream")
    refunds = [
        refund_call(one.operation(f"r{at}"), 20, b"c", bounded=True)
        for at, one in enumerate(benches[:2])
    ]

    replies = await benches[0].run(*refunds)

    assert replies[0].startswith("failed ")
    assert "ok 20 120" == replies[1]
    given = [
        await one.lane.execute(b"HGET", one.keys.refunded(b"c"), b"refunded") for one in benches[:2]
    ]
    assert [b"0", b"20"] == given


async def test_terms_in_common_travel_once_for_all_partitions(benches: list[Bench]) -> None:
    calls = [grant_call(one.operation(f"t{at}"), 5) for at, one in enumerate(benches)]

    assert ["ok 5 105"] * 3 == await benches[0].run(*calls)
