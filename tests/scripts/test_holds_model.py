"""Holds against a plain model: random calls on users of three partitions, compared after every one.

The model is what the headers of the scripts say, with dicts. Beside it the journal is read as the worker
reads it; what it makes of the accounts has to be the same, and is what cold accounts are loaded from.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final, Literal

import pytest

from credits_fast.calls.open_holds import open_holds
from credits_fast.protocol.entries import HoldFacts, HoldItem, Item, TransactionItem, decode
from credits_fast.protocol.hold_wire import (
    WHOLE,
    OpenHold,
    capture_call,
    extend_call,
    packed_holds,
    release_call,
    reserve_call,
)
from credits_fast.protocol.keys import PartitionKeys, Partitions
from credits_fast.protocol.wire import (
    AUDIT_SUCCESS,
    Call,
    HeldAccount,
    charge_call,
    grant_call,
    held,
)
from credits_fast.types import AboveHold
from tests.scripts.conftest import NOW_MS, Bench, priced

SEEDS: Final = (1, 2, 3, 4)
STEPS: Final = 600
KEYS: Final = Partitions("test", 3)
USERS: Final = ("ada", "ad", "a*", "a", "[ad]", "ad\\", "ad?", "é" * 90)
"""Some are in one partition, and as patterns some would mean others."""
TTL_MS: Final = 60_000
ABOVE: Final[tuple[AboveHold, ...]] = ("debt", "cap", "refuse")
Spoilt = Literal["journal", "holds", "hdel"]
"""What is of the wrong type for a call, or the command that nobody may use during it."""


@dataclass
class Account:
    """A user, as the model and as the journal have it."""

    balance: int = 0
    sequence: int = 0
    lapses: int | None = None
    holds: dict[str, OpenHold] = field(default_factory=dict[str, OpenHold])

    @property
    def reserved(self) -> int:
        return sum(one.reserved for one in self.holds.values())

    def copied(self) -> Account:
        return replace(self, holds={**self.holds})

    def finish(self, hold_id: str) -> None:
        del self.holds[hold_id]
        if not self.holds:
            self.lapses = None


@dataclass
class Asked:
    """An item of a call, and what the model does with it."""

    user: str
    name: str
    call: Call
    fingerprint: bytes
    decide: Callable[[Account, int], str]
    reads_holds: bool
    writes_holds: bool


@dataclass
class Model:
    """What should be there."""

    accounts: dict[str, Account]
    warm: set[str] = field(default_factory=set[str])
    records: dict[tuple[str, str], tuple[bytes, int, str]] = field(
        default_factory=dict[tuple[str, str], tuple[bytes, int, str]]
    )

    def answer(self, asked: Asked, now: int, *, is_unread: bool) -> str:
        fingerprint, expires, result = self.records.get((asked.user, asked.name), (b"", 0, ""))
        is_remembered = bool(asked.call.record)
        if fingerprint and now <= expires and is_remembered:
            if fingerprint != asked.fingerprint:
                return f"idempotency_key_conflict {asked.name}"
            return f"replayed {asked.name} {result}"
        if asked.user not in self.warm:
            return "cold"
        if is_unread and asked.reads_holds:
            return "failed"
        reply = asked.decide(self.accounts[asked.user], now)
        if reply.startswith("ok ") and is_remembered:
            result = reply.removeprefix("ok ")
            self.records[asked.user, asked.name] = (asked.fingerprint, now + TTL_MS, result)
        return reply

    def answers(self, items: Sequence[Asked], now: int, spoilt: Spoilt | None) -> list[str]:
        """Of one partition: whole, or not at all where what has to be written is spoilt."""
        before = {user: account.copied() for user, account in self.accounts.items()}
        records = {**self.records}
        replies = [self.answer(one, now, is_unread=spoilt == "holds") for one in items]
        is_denied = (
            spoilt == "journal"
            or (spoilt == "holds" and items[0].writes_holds)
            or (spoilt == "hdel" and any(map(self.has_lost, before, before.values())))
        )
        if is_denied and any(reply.startswith("ok ") for reply in replies):
            self.accounts, self.records = before, records
            return ["failed"] * len(items)
        return replies

    def has_lost(self, user: str, before: Account) -> bool:
        return not self.accounts[user].holds.keys() >= before.holds.keys()


def short(account: Account, required: int, told: int) -> str:
    reply = f"insufficient_credits {required} {account.balance - account.reserved}"
    return f"{reply} {told}" if told else reply


def is_overdue(account: Account, now: int) -> bool:
    return account.lapses is not None and now > account.lapses


def charge(cost: int) -> Callable[[Account, int], str]:
    def decide(account: Account, now: int) -> str:
        if account.balance - account.reserved < cost:
            return "overdue" if is_overdue(account, now) else short(account, cost, account.reserved)
        account.balance -= cost
        account.sequence += 1
        return f"ok {cost} {account.balance}"

    return decide


def grant(amount: int) -> Callable[[Account, int], str]:
    def decide(account: Account, _: int) -> str:
        account.balance += amount
        account.sequence += 1
        return f"ok {amount} {account.balance}"

    return decide


def reserve(name: str, cost: int, hold_ms: int, open_max: int) -> Callable[[Account, int], str]:
    def decide(account: Account, now: int) -> str:
        is_short = open_max > 0 and account.balance - account.reserved < cost
        is_full = 0 < open_max <= len(account.holds)
        if (is_short or is_full) and is_overdue(account, now):
            return "overdue"
        if is_short:
            return short(account, cost, account.reserved)
        if is_full:
            return f"hold_limit {open_max}"
        ends = now + hold_ms
        account.holds[name] = OpenHold(name, cost, cost, 0, ends, audited=True, tier="")
        account.lapses = min(account.lapses or ends, ends)
        return f"ok {cost} {ends} {account.balance} {account.reserved}"

    return decide


def of_open_hold(
    hold_id: str, decide: Callable[[Account, OpenHold, int], str]
) -> Callable[[Account, int], str]:
    """What is decided of a hold that is open; and before that, whether it is."""

    def found(account: Account, now: int) -> str:
        hold = account.holds.get(hold_id)
        if hold is None:
            return "unknown_hold"
        if now > hold.expires_ms:
            return f"hold_expired {hold_id}"
        return decide(account, hold, now)

    return found


def extend(hold_id: str, more: int, hold_ms: int | None) -> Callable[[Account, int], str]:
    def decide(account: Account, hold: OpenHold, now: int) -> str:
        if more > 0 and account.balance - account.reserved < more:
            others = account.reserved - hold.reserved
            return "overdue" if is_overdue(account, now) else short(account, more, others)
        ends = hold.expires_ms if hold_ms is None else max(hold.expires_ms, now + hold_ms)
        kept = hold.reserved + more
        account.holds[hold_id] = hold._replace(
            amount=hold.amount + more, reserved=kept, expires_ms=ends
        )
        return f"ok {more} {kept} {ends} {account.balance} {account.reserved}"

    return of_open_hold(hold_id, decide)


def capture(
    hold_id: str, price: int | None, *, final: bool, above: AboveHold
) -> Callable[[Account, int], str]:
    def decide(account: Account, hold: OpenHold, _: int) -> str:
        asked = hold.reserved if price is None else price
        if asked > hold.reserved and above == "refuse":
            return f"capture_exceeds_hold {hold_id} {asked} {hold.reserved}"
        cost = min(asked, hold.reserved) if above == "cap" else asked
        left = 0 if final else hold.reserved - min(cost, hold.reserved)
        account.balance -= cost
        account.sequence += 1
        account.holds[hold_id] = hold._replace(reserved=left, captured=hold.captured + cost)
        if final:
            account.finish(hold_id)
        return f"ok {cost} {account.balance} {asked} {left} {final:d}"

    return of_open_hold(hold_id, decide)


def release(hold_id: str) -> Callable[[Account, int], str]:
    def decide(account: Account, hold: OpenHold, _: int) -> str:
        account.finish(hold_id)
        return f"ok {hold.reserved} {account.balance} {account.reserved}"

    return of_open_hold(hold_id, decide)


class Play:
    """One random course of events."""

    def __init__(self, bench: Bench, seed: int) -> None:
        self.bench = bench
        self.random = Random(seed)  # seeded on purpose
        self.now = NOW_MS
        self.model = Model({user: Account() for user in USERS})
        self.ledger = {user: Account() for user in USERS}
        self.read = dict.fromkeys(KEYS, b"0-0")
        self.epochs = dict.fromkeys(KEYS, 1)
        self.made: list[str] = []
        self.asked: list[Asked] = []
        self.seen: set[str] = set()

    async def begin(self) -> None:
        for keys in KEYS:
            names = (keys.gate, keys.meta, keys.journal)
            await self.bench.lane.run_script("open", names, (b"1", b"3", b"0.1.0", b"1"))
        for user in USERS:
            await self.load(user)

    async def step(self) -> None:
        self.now += self.random.choice((0, 0, 1, 5, 5, 20))
        user = self.random.choice(USERS)
        chance = self.random.random()
        if chance < 0.12:
            await self.expire(self.random.sample(USERS, 3))
        elif chance < 0.2:
            await self.evict(user)
        elif chance < 0.3:
            await self.load(user)
        elif chance < 0.31:
            await self.begin_epoch(KEYS.of(user.encode()))
        else:
            await self.call()

    # --- calls of a batch ---------------------------------------------------------------------------

    async def call(self) -> None:
        verb = self.random.choice(
            ("charge", "grant", *("reserve", "extend", "capture") * 2, "release")
        )
        items = [self.item(verb) for _ in range(self.random.randint(1, 9))]
        before = [one for one in self.asked[-60:] if one.call.script == verb]
        items += self.random.sample(before, min(len(before), self.random.choice((0, 1, 2))))
        items.sort(key=lambda one: one.call.partition.number)
        self.asked += items
        by_partition: dict[PartitionKeys, list[Asked]] = {}
        for one in items:
            by_partition.setdefault(one.call.partition, []).append(one)
        spoilt: Spoilt | None = None
        victim = self.random.choice([*by_partition])
        if self.random.random() < (0.5 if verb == "capture" else 0.2):
            spoilt = self.random.choice(("journal", "holds", "hdel", "hdel"))
        expected: list[str] = []
        for keys, of_partition in by_partition.items():
            is_hit = spoilt == "hdel" or keys == victim
            expected += self.model.answers(of_partition, self.now, spoilt if is_hit else None)

        async with self.spoiling(victim, spoilt):
            replies = await self.bench.run(*(one.call for one in items), now_us=self.now * 1_000)
        told = ["failed" if reply.startswith("failed ") else reply for reply in replies]
        assert expected == told, (verb, spoilt)
        self.seen |= {f"{verb} {reply.split()[0]}" for reply in told}

    @asynccontextmanager
    async def spoiling(
        self, victim: PartitionKeys, spoilt: Spoilt | None
    ) -> AsyncGenerator[None, None]:
        execute = self.bench.lane.execute
        if spoilt is None:
            yield
            return
        if spoilt == "hdel":
            await execute(b"ACL", b"SETUSER", b"default", b"-hdel")
            yield
            await execute(b"ACL", b"SETUSER", b"default", b"+hdel")
            return
        key = victim.journal if spoilt == "journal" else victim.holds
        is_there = await execute(b"EXISTS", key)
        if is_there:
            await execute(b"RENAME", key, key + b":aside")
        await execute(b"SET", key, b"spoilt")
        yield
        await execute(b"DEL", key)
        if is_there:
            await execute(b"RENAME", key + b":aside", key)

    def item(self, verb: str) -> Asked:
        user = self.random.choice(USERS)
        name = f"{verb}-{len(self.asked)}-{self.random.random()}"
        fingerprint = b"f"
        if self.asked and self.random.random() < 0.05:
            other = self.random.choice(self.asked)
            user, name, fingerprint = other.user, other.name, b"other"
        bench = replace(self.bench, keys=KEYS.of(user.encode()))
        operation = bench.operation(
            name, user=user, fingerprint=fingerprint, ttl_ms=TTL_MS, audited=AUDIT_SUCCESS
        )
        amount = self.random.choice((0, 1, 3, 10, 40))
        hold_id = self.random.choice([*self.model.accounts[user].holds] or self.made or ["none"])
        if self.random.random() < 0.05 and self.made:
            hold_id = self.random.choice(self.made)
        hold, ends = hold_id.encode(), self.random.choice((0, 5, 60, 400))
        if verb == "charge":
            call, decide = charge_call(operation, priced(amount)), charge(amount)
        elif verb == "grant":
            call, decide = grant_call(operation, amount), grant(amount)
        elif verb == "reserve":
            most = self.random.choice((0, 1, 2, 6))
            call = reserve_call(operation, priced(amount), hold_ms=ends, open_max=most)
            decide = reserve(name, amount, ends, most)
            self.made.append(name)
        elif verb == "extend":
            more = self.random.choice((ends, None))
            call = extend_call(operation, hold, micros=amount, hold_ms=more)
            decide = extend(hold_id, amount, more)
        elif verb == "capture":
            price = self.random.choice((amount, None))
            final, above = self.random.random() < 0.5, self.random.choice(ABOVE)
            quote = WHOLE if price is None else priced(price)
            call = capture_call(operation, hold, quote, final=final, above=above)
            decide = capture(hold_id, price, final=final, above=above)
        else:
            call, decide = release_call(operation, hold), release(hold_id)
        reads = verb in {"extend", "capture", "release"}
        return Asked(user, name, call, fingerprint, decide, reads, reads or verb == "reserve")

    # --- everything else ----------------------------------------------------------------------------

    async def expire(self, users: Sequence[str]) -> None:
        """Of each partition in one call: those that are named, or all there are."""
        most, is_named = self.random.choice((1, 2, 500)), self.random.random() < 0.5
        for keys in KEYS:
            theirs = [user for user in users if KEYS.of(user.encode()) == keys]
            if not theirs:
                continue
            names: dict[str, list[str]] = {}
            for user in theirs:
                known = self.model.accounts[user].holds
                names[user] = [one for one in known if is_named and self.random.random() < 0.7]
                names[user] += [one for one in self.made[-2:] if is_named and one not in known]
            before = {user: self.model.accounts[user].copied() for user in theirs}
            replies = await self.run_expire(keys, names, most)
            gone = await self.follow(keys)
            left = most
            for user, reply in zip(theirs, replies, strict=True):
                if user not in self.model.warm:
                    assert reply == "cold"
                    continue
                seen = names[user] or [*before[user].holds]
                open_ones = [before[user].holds[one] for one in seen if one in before[user].holds]
                due = {one.hold_id for one in open_ones if self.now > one.expires_ms}
                finished = [hold_id for owner, hold_id in gone if owner == user]
                assert reply == f"expired {min(left, len(due))}"
                assert (len(finished), {*finished} <= due) == (min(left, len(due)), True)
                left -= len(finished)
                account = self.model.accounts[user]
                for hold_id in finished:
                    account.finish(hold_id)
                if len(open_ones) == len(before[user].holds):
                    ends = [one.expires_ms for one in account.holds.values()]
                    account.lapses = min(ends, default=None)
                self.seen.add("expire some" if finished else "expire none")

    async def run_expire(
        self, keys: PartitionKeys, names: dict[str, list[str]], most: int
    ) -> list[str]:
        words: list[bytes] = []
        for user, ids in names.items():
            words += (f"{user}\0expire\0\0\0".encode(), "\0".join(ids).encode())
        accounts = [keys.account(user.encode()) for user in names]
        replies = await self.bench.lane.run_script(
            "expire",
            (keys.journal, keys.gate, keys.holds, *accounts),
            (b"%d" % (self.now * 1_000), b"%d" % most, *words),
        )
        return [reply.decode().replace("\0", " ") for reply in replies]

    async def evict(self, user: str) -> None:
        keys = KEYS.of(user.encode())
        await self.bench.lane.execute(
            b"HSET", keys.meta, b"synced", b"%d-999999" % self.epochs[keys]
        )
        before = await self.generation(keys)
        names = (keys.gate, keys.meta, keys.account(user.encode()))
        (reply,) = await self.bench.lane.run_script("evict", names, ())
        expected = "held" if self.model.accounts[user].holds else "evicted"
        # An account of an earlier epoch is dropped; to everybody else it was not there either.
        allowed = {expected} if user in self.model.warm else {"absent", "evicted"}
        assert reply.decode() in allowed
        if reply == b"evicted":
            self.model.warm.discard(user)
            self.model.accounts[user].lapses = None
            assert await self.load(user, before) == "stale"
        self.seen.add(f"evict {reply.decode()}")

    async def load(self, user: str, generation: bytes | None = None) -> str:
        """From what the journal says."""
        keys, row = KEYS.of(user.encode()), self.ledger[user]
        facts = (
            generation or await self.generation(keys),
            user.encode(),
            b"%d" % row.balance,
            b"%d" % row.reserved,
            b"%d" % row.sequence,
            b"",
            b"",
            packed_holds(row.holds.values()),
        )
        names = (keys.gate, keys.meta, keys.holds, keys.account(user.encode()))
        (reply,) = await self.bench.lane.run_script("load", names, facts)
        if generation is None:
            assert reply == (b"present" if user in self.model.warm else b"loaded")
        if reply == b"loaded":
            self.model.warm.add(user)
            account = self.model.accounts[user]
            ends = [one.expires_ms for one in account.holds.values()]
            account.lapses = min(ends, default=None)
            self.seen.add("load holds" if ends else "load none")
        return str(reply.decode())

    async def begin_epoch(self, keys: PartitionKeys) -> None:
        await self.bench.lane.execute(b"DEL", keys.gate)
        self.epochs[keys] += 1
        first = b"%d-0" % self.epochs[keys]
        names = (keys.gate, keys.meta, keys.journal, keys.holds)
        words = (b"%d" % self.epochs[keys], first, b"1", b"3", b"0.1.0")
        assert await self.bench.lane.run_script("begin", names, words) == b"begun"
        self.read[keys] = first
        for user in USERS:
            if KEYS.of(user.encode()) == keys:
                self.model.warm.discard(user)
                self.model.accounts[user].lapses = None

    async def generation(self, keys: PartitionKeys) -> bytes:
        return await self.bench.lane.execute(b"HGET", keys.meta, b"generation") or b"0"

    # --- what is there ------------------------------------------------------------------------------

    async def follow(self, keys: PartitionKeys) -> list[tuple[str, str]]:
        """Read the journal on; users and holds that have expired."""
        gone: list[tuple[str, str]] = []
        start = b"(" + self.read[keys]
        for name, fields in await self.bench.lane.execute(b"XRANGE", keys.journal, start, b"+"):
            self.read[keys] = name
            for item in decode(name, fields).items:
                self.note(item)
                if isinstance(item, HoldItem) and item.verb == "expire":
                    gone.append((item.user_id, item.hold.hold_id))
        return gone

    def note(self, item: Item) -> None:
        assert isinstance(item, (HoldItem, TransactionItem))
        row = self.ledger[item.user_id]
        if isinstance(item, TransactionItem):
            row.balance += item.delta
            row.sequence += 1
            assert (row.balance, row.sequence) == (item.balance_after, item.sequence)
        else:
            assert row.balance == item.balance
        if item.hold is not None:
            self.note_hold(row, item.hold)

    def note_hold(self, row: Account, hold: HoldFacts) -> None:
        name = hold.hold_id
        before = row.holds.get(name)
        now = (hold.amount, hold.reserved, hold.captured, hold.expires_ms)
        assert hold.change == hold.reserved - (before.reserved if before else 0)
        row.holds[name] = OpenHold(name, *now, audited=True, tier="")
        if hold.state != "reserved":
            assert before is not None
            assert hold.reserved == 0
            del row.holds[name]
        assert row.reserved == hold.total

    async def compare(self, where: str) -> None:
        for keys in KEYS:
            await self.follow(keys)
            there = await open_holds(self.bench.lane.execute, keys)
            users = [user for user in USERS if KEYS.of(user.encode()) == keys]
            warm = [user for user in users if user in self.model.warm]
            expected = {user: self.model.accounts[user].holds for user in warm}
            assert {user: ones for user, ones in expected.items() if ones} == there, where
            for user in users:
                account, row = self.model.accounts[user], self.ledger[user]
                assert replace(account, lapses=None) == row, (where, user)
                if user in self.model.warm:
                    await self.compare_account(keys, user, account)

    async def compare_account(self, keys: PartitionKeys, user: str, account: Account) -> None:
        found = await self.bench.lane.execute(b"GET", keys.account(user.encode()))
        assert held(found) == HeldAccount(
            self.epochs[keys],
            account.balance,
            account.reserved,
            account.sequence,
            None,
            None,
            account.lapses,
            len(account.holds),
        )

    async def end(self) -> None:
        """All holds expire, and nothing is left of any."""
        self.now += 1_000
        for user in USERS:
            if user not in self.model.warm:
                await self.load(user)
        for keys in KEYS:
            users = [user for user in USERS if KEYS.of(user.encode()) == keys]
            replies = await self.run_expire(keys, {user: [] for user in users}, 500)
            open_ones = [len(self.model.accounts[user].holds) for user in users]
            assert [f"expired {number}" for number in open_ones] == replies
            assert await self.bench.lane.execute(b"EXISTS", keys.holds) == 0
            for user in users:
                self.model.accounts[user] = replace(
                    self.model.accounts[user], lapses=None, holds={}
                )
        await self.compare("the end")


EVERYTHING: Final = {
    *(f"{verb} ok" for verb in ("charge", "grant", "reserve", "extend", "capture", "release")),
    *(f"{verb} overdue" for verb in ("charge", "reserve", "extend")),
    *(
        f"{verb} {reply}"
        for verb in ("extend", "capture", "release")
        for reply in ("unknown_hold", "hold_expired")
    ),
    *(
        f"{verb} {reply}"
        for verb in ("reserve", "extend", "capture")
        for reply in ("failed", "replayed", "cold")
    ),
    "reserve hold_limit",
    "reserve insufficient_credits",
    "extend insufficient_credits",
    "capture capture_exceeds_hold",
    "capture idempotency_key_conflict",
    "expire some",
    "expire none",
    "evict held",
    "evict evicted",
    "load holds",
}
"""What the courses of events have to come by, all together, to show anything."""


@pytest.mark.parametrize("bench", ["real"], indirect=True)
async def test_whatever_happens_holds_are_what_a_plain_model_says(bench: Bench) -> None:
    seen: set[str] = set()
    for seed in SEEDS:
        await bench.lane.execute(b"FLUSHALL")
        play = Play(bench, seed)
        await play.begin()
        for step in range(STEPS):
            await play.step()
            await play.compare(f"seed {seed}, step {step}")
        await play.end()
        seen |= play.seen

    assert set() == EVERYTHING - seen
