"""open, load, trim, refuse, remember, evict: what keeps a partition going."""

from __future__ import annotations

import pytest

from credits_fast.protocol.entries import RefusedItem
from credits_fast.protocol.hold_wire import release_call, reserve_call
from credits_fast.protocol.wire import charge_call, grant_call, refund_call
from tests.scripts.conftest import NOW_US, Bench, priced


async def opened(
    bench: Bench,
    *,
    epoch: bytes = b"1",
    partitions: bytes = b"1",
    create: bytes = b"0",
) -> str:
    keys = (bench.keys.gate, bench.keys.meta, bench.keys.journal)
    reply = await bench.lane.run_script("open", keys, (epoch, partitions, b"0.1.0", create))
    return str(reply.decode().replace("\0", " "))


async def test_opening_names_the_server_and_changes_nothing_else(bench: Bench) -> None:
    await bench.gate(run="another-server")
    await bench.meta(generation="7", synced="1-5")

    assert "opened" == await opened(bench)
    fields = (b"generation", b"synced")
    assert [b"7", b"1-5"] == await bench.lane.execute(b"HMGET", bench.keys.meta, *fields)
    gate = b"1 %b 1 0.1.0" % bench.lane.run.encode()
    assert gate == await bench.lane.execute(b"GET", bench.keys.gate)


@pytest.mark.parametrize(
    ("meta", "asked", "reply"),
    [
        ({"format": "2", "library": "9.9.9"}, {"partitions": b"4"}, "incompatible 2 9.9.9"),
        ({"partitions": "8"}, {"epoch": b"2"}, "partitions 8"),
        ({"epoch": "3"}, {}, "epoch 3"),
    ],
)
async def test_opening_is_refused_where_something_does_not_fit(
    bench: Bench,
    meta: dict[str, str],
    asked: dict[str, bytes],
    reply: str,
) -> None:
    await bench.gate(run="another-server")
    await bench.meta(**meta)

    assert reply == await opened(bench, **asked)
    assert b"another-server" in await bench.lane.execute(b"GET", bench.keys.gate)


async def test_a_partition_the_ledger_knows_is_never_created_anew(bench: Bench) -> None:
    await bench.lane.execute(b"DEL", bench.keys.meta)

    assert "missing" == await opened(bench)
    await bench.lane.execute(b"XADD", bench.keys.journal, b"1-1", b"v", b"1")
    assert "missing" == await opened(bench, create=b"1")


async def generation_of(bench: Bench) -> bytes:
    return bytes(await bench.lane.execute(b"HGET", bench.keys.meta, b"generation"))


async def load(
    bench: Bench,
    *,
    generation: bytes | None = None,
    balance: bytes = b"5",
    holds: bytes = b"",
) -> str:
    """Loaded as of a generation; None for the one that is there."""
    known = await generation_of(bench) if generation is None else generation
    keys = (
        bench.keys.gate,
        bench.keys.meta,
        bench.keys.holds,
        bench.keys.account(b"ada"),
    )
    facts = (b"ada", balance, b"2", b"7", b"pro", b"123", holds)
    (reply,) = await bench.lane.run_script("load", keys, (known, *facts))
    return str(reply.decode())


async def test_loading_brings_an_account_once(bench: Bench) -> None:
    assert "loaded" == await load(bench)
    assert "present" == await load(bench, balance=b"999")
    expected = {"l": "1-0", "b": "5", "r": "2", "s": "7", "t": "pro", "x": "123"}
    assert expected == await bench.fields()


async def begun(bench: Bench, *, epoch: bytes = b"2", closed: bool = True) -> str:
    """Begin an epoch, as a repair does: the gate is closed first."""
    if closed:
        await bench.lane.execute(b"UNLINK", bench.keys.gate)
    keys = (bench.keys.gate, bench.keys.meta, bench.keys.journal, bench.keys.holds)
    facts = (epoch, epoch + b"-0", b"%d" % NOW_US, b"1", b"0.1.0")
    reply = await bench.lane.run_script("begin", keys, facts)
    return str(reply.decode().replace("\0", " "))


async def test_a_new_epoch_makes_everything_of_the_old_one_cold(bench: Bench) -> None:
    await bench.account(b=100)
    await bench.run(charge_call(bench.operation("t1"), priced(1)))
    known = (bench.keys.gate, bench.keys.refunded(b"c"))
    await bench.lane.run_script("load_charge", known, (b"ada", b"50", b"0", b"60000"))

    assert "begun" == await begun(bench)
    (first,) = await bench.journal()
    assert ("2-0", NOW_US, ()) == (str(first.id), first.time_us, first.items)
    assert ["cold"] == await bench.run(charge_call(bench.operation("t2"), priced(1)))
    assert "loaded" == await load(bench, balance=b"70")
    refund = refund_call(bench.operation("t3"), 5, b"c", bounded=True)
    assert ["cold_charge"] == await bench.run(refund)
    assert [b"loaded"] == await bench.lane.run_script(
        "load_charge", known, (b"ada", b"50", b"9", b"60000")
    )
    assert ["ok 5 75"] == await bench.run(refund)
    assert "2-1" == (await bench.fields())["l"]


@pytest.mark.parametrize("epoch", [b"1", b"0"])
async def test_an_epoch_that_is_not_new_is_refused(bench: Bench, epoch: bytes) -> None:
    await bench.account(b=100)
    await bench.run(charge_call(bench.operation("t1"), priced(1)))

    assert "epoch 1" == await begun(bench, epoch=epoch)
    assert ["1-0"] == [str(entry.id) for entry in await bench.journal()]


async def test_an_epoch_is_not_begun_in_a_partition_that_was_opened_meanwhile(
    bench: Bench,
) -> None:
    await bench.account(b=100)
    await bench.run(charge_call(bench.operation("t1"), priced(1)))

    assert "unclosed" == await begun(bench, closed=False)
    assert ["1-0"] == [str(entry.id) for entry in await bench.journal()]


@pytest.mark.parametrize("put", [(b"LPUSH", b"x"), (b"SET", b"nonsense")])
async def test_what_is_no_account_is_not_overwritten_and_told(
    bench: Bench, put: tuple[bytes, bytes]
) -> None:
    await bench.lane.execute(put[0], bench.keys.account(b"ada"), put[1])

    assert ["cold"] == await bench.run(charge_call(bench.operation(), priced(1)))
    assert "malformed" == await load(bench)


async def test_loading_what_was_read_before_an_eviction_is_refused(bench: Bench) -> None:
    before = await generation_of(bench)
    await recorded_charge(bench)
    assert ["evicted"] == await evicted(bench)

    assert "stale" == await load(bench, generation=before)
    assert {} == await bench.fields()
    assert "loaded" == await load(bench)


async def recorded_charge(bench: Bench) -> None:
    """A user with one charge, which the ledger has."""
    await bench.account(b=100)
    await bench.run(charge_call(bench.operation("t1"), priced(1)))
    await bench.meta(synced="1-1")


async def evicted(bench: Bench) -> list[str]:
    keys = (bench.keys.gate, bench.keys.meta, bench.keys.account(b"ada"))
    return [reply.decode() for reply in await bench.lane.run_script("evict", keys, ())]


async def test_an_account_leaves_and_nothing_of_it_stays(bench: Bench) -> None:
    await recorded_charge(bench)

    assert ["evicted"] == await evicted(bench)

    assert {} == await bench.fields()
    assert ["cold"] == await bench.run(charge_call(bench.operation("t2"), priced(1)))
    assert ["absent"] == await evicted(bench)


@pytest.mark.parametrize("amount", [0, 5])
async def test_an_account_with_open_holds_stays(bench: Bench, amount: int) -> None:
    await recorded_charge(bench)
    hold = bench.operation("h1")
    await bench.run(reserve_call(hold, priced(amount), hold_ms=60_000, open_max=1))
    await bench.meta(synced="1-2")
    before = await generation_of(bench)

    assert ["held"] == await evicted(bench)
    assert before == await generation_of(bench)
    await bench.run(release_call(bench.operation("o1"), b"h1"))
    await bench.meta(synced="1-3")
    assert ["evicted"] == await evicted(bench)


@pytest.mark.parametrize("synced", ["1-0", "0-9"])
async def test_an_account_whose_last_change_is_not_recorded_stays(
    bench: Bench, synced: str
) -> None:
    await recorded_charge(bench)
    await bench.run(charge_call(bench.operation("t2"), priced(1)))
    await bench.meta(synced=synced)
    before = await generation_of(bench)

    assert ["unrecorded"] == await evicted(bench)
    assert "98" == (await bench.fields())["b"]
    assert before == await generation_of(bench)


async def test_an_account_of_a_history_that_was_lost_leaves_in_any_case(bench: Bench) -> None:
    await recorded_charge(bench)
    assert "begun" == await begun(bench)
    await bench.meta(synced="0-0")

    assert ["evicted"] == await evicted(bench)


async def test_nothing_leaves_a_closed_partition_and_nothing_strange_leaves(bench: Bench) -> None:
    await bench.lane.execute(b"SET", bench.keys.account(b"ada"), b"nonsense")
    assert ["malformed"] == await evicted(bench)
    await bench.lane.execute(b"DEL", bench.keys.account(b"ada"))
    await bench.lane.execute(b"LPUSH", bench.keys.account(b"ada"), b"x")
    assert ["malformed"] == await evicted(bench)
    await bench.lane.execute(b"DEL", bench.keys.account(b"ada"))

    await recorded_charge(bench)
    await bench.lane.execute(b"UNLINK", bench.keys.gate)
    assert ["unopened"] == await evicted(bench)


async def test_a_generation_never_comes_back(bench: Bench) -> None:
    """Not after a wipe, nor where the clock of another server is behind."""
    await recorded_charge(bench)
    await evicted(bench)
    first = await generation_of(bench)
    await bench.lane.execute(b"FLUSHALL")
    assert "created" == await opened(bench, create=b"1")
    second = await generation_of(bench)
    await bench.lane.execute(b"HSET", bench.keys.meta, b"generation", b"8000000000000000")
    assert "begun" == await begun(bench)

    assert 0 < int(first) < int(second)
    assert b"8000000000000001" == await generation_of(bench)


async def test_loading_into_a_closed_partition_is_refused(bench: Bench) -> None:
    await bench.gate(run="another-server")

    assert "fenced" == await load(bench)
    assert {} == await bench.fields()


async def trimmed(bench: Bench, synced: str, keep: str, fields: tuple[bytes, ...]) -> str:
    keys = (bench.keys.gate, bench.keys.meta, bench.keys.journal)
    words = (synced.encode(), keep.encode(), *fields)
    reply = await bench.lane.run_script("trim", keys, words)
    return str(reply.decode().replace("\0", " "))


async def test_trimming_drops_what_is_before_keep_and_notes_the_position(bench: Bench) -> None:
    await bench.account(b=100)
    for number in range(4):
        await bench.run(charge_call(bench.operation(f"t{number}"), priced(1)))
    entries = await bench.journal()

    assert "ok 1" == await trimmed(bench, "1-2", "1-1", entries[2].fields)
    assert ["1-1", "1-2", "1-3"] == [str(entry.id) for entry in await bench.journal()]
    assert b"1-2" == await bench.lane.execute(b"HGET", bench.keys.meta, b"synced")
    assert "ok 1" == await trimmed(bench, "1-2", "1-2", entries[2].fields)
    assert ["1-2", "1-3"] == [str(entry.id) for entry in await bench.journal()]


async def test_nothing_is_trimmed_where_another_history_stands(bench: Bench) -> None:
    await bench.account(b=100)
    for number in range(3):
        await bench.run(charge_call(bench.operation(f"t{number}"), priced(1)))
    entry = (await bench.journal())[1]
    other_time = (*entry.fields[:3], b"%d" % (NOW_US + 1), *entry.fields[4:])

    for found in (other_time, entry.fields[:-2], (*entry.fields, b"1", b"x")):
        assert "forked" == await trimmed(bench, "1-1", "1-1", found)
    assert "forked" == await trimmed(bench, "1-9", "1-9", entry.fields)
    assert 3 == len(await bench.journal())


async def test_a_refusal_decided_outside_is_journalled_like_any_other(bench: Bench) -> None:
    operation = bench.operation(user="nobody")
    keys = (bench.keys.journal, bench.keys.gate)
    fields = (b"grant", b"5", operation.tail(), b"user_not_found", b"", b"", b"")

    reply = await bench.lane.run_script("refuse", keys, (b"%d" % NOW_US, *fields, *fields))

    assert b"ok\0002" == reply
    (entry,) = await bench.journal()
    assert 2 == len(entry.items)
    item = entry.items[0]
    assert isinstance(item, RefusedItem)
    assert ("grant", "user_not_found", "nobody", "5") == (
        item.verb,
        item.refusal.code,
        item.refusal.user_id,
        item.refusal.subject,
    )


async def test_remembering_never_overwrites(bench: Bench) -> None:
    keys = (bench.keys.gate, bench.operation(key="k").record_key)

    assert [b"remembered"] == await bench.lane.run_script("remember", keys, (b"first", b"60000"))
    assert [b"present"] == await bench.lane.run_script("remember", keys, (b"second", b"60000"))
    assert b"first" == await bench.lane.execute(b"GET", keys[1])


async def test_without_memory_nothing_is_half_done_and_replays_go_on(bench: Bench) -> None:
    """Only where the server knows memory: the journal entry is the first write, and the one denied."""
    if bench.lane.run == "hidden":
        return
    await bench.account(b=100)
    done = charge_call(bench.operation("t1", key="k"), priced(1))
    await bench.run(done)
    await bench.lane.execute(b"CONFIG", b"SET", b"maxmemory", b"1")
    try:
        (denied,) = await bench.run(grant_call(bench.operation("t2", key="k2"), 5))

        assert denied.startswith("failed OOM ")
        assert ["replayed t1 1 99"] == await bench.run(done)
    finally:
        await bench.lane.execute(b"CONFIG", b"SET", b"maxmemory", b"0")
    assert ("99", "1") == ((await bench.fields())["b"], (await bench.fields())["s"])
    assert 1 == len(await bench.journal())


async def test_the_probe_leaves_nothing(bench: Bench) -> None:
    before = await bench.lane.execute(b"DBSIZE")

    assert b"ok" == await bench.lane.run_script("probe", (bench.keys.absent,), ())
    assert before == await bench.lane.execute(b"DBSIZE")
