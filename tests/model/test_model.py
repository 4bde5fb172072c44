"""The product against a dictionary: random operations, the same rules, nothing else.

The model is eighty lines. After every step the engine must answer what the model answers, and the
ledger must hold what the model holds: sums conserved, never below the floor, sequences without gaps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from credits_fast import CreditsError
from credits_fast.testing import CreditsKit, open_kit

T = TypeVar("T")

TIERS = {"basic": 0, "pro": 1, "max": 2}
CAPS = {"basic": 50, "pro": 200, "max": 300}
PRICES: dict[str, dict[str, int]] = {
    "chat": {"default": 10, "pro": 7},
    "members": {"default": 3},
}
REQUIRED = {"members": "pro"}
CONFIG: dict[str, Any] = {
    "costs": PRICES,
    "membership": {"tiers": TIERS, "credits_caps": CAPS, "requirements": REQUIRED},
    "idempotency": {"ttl": 60},
    "holds": {"ttl": 59, "above": "cap"},
    "sync": {"expire_ms": 0},
    "partitions": 2,
}

USERS = st.sampled_from(["ada", "bob", "nobody"])
KEYS = st.sampled_from([None, "k1", "k2", "k3"])
ACTIONS = st.sampled_from(["chat", "members", "nope"])
AMOUNTS = st.integers(1, 40)


@dataclass
class Held:
    """A hold: what it keeps, until when, and what it is."""

    user: str
    keeps: int
    until: int
    state: str = "reserved"


@dataclass
class Account:
    balance: Decimal
    tier: str | None = None
    sequence: int = 0
    keys: dict[str, tuple[int, tuple[Any, ...], Any]] = field(
        default_factory=dict[str, tuple[int, tuple[Any, ...], Any]]
    )


@dataclass
class Model:
    """What the product should do, in as few words as possible."""

    users: dict[str, Account]
    now: int = 0
    holds: list[Held] = field(default_factory=list[Held])

    def apply(self, verb: str, user: str, key: str | None, *what: Any) -> Any:
        account = self.users.get(user)
        if account is None:
            return "USER_NOT_FOUND"
        if key is not None and key in account.keys:
            until, first, result = account.keys[key]
            if self.now <= until:
                return result if first == (verb, *what) else "IDEMPOTENCY_KEY_CONFLICT"
        result = getattr(self, verb)(account, *what)
        if isinstance(result, str):
            return result
        account.sequence += verb != "reserve"
        if key is not None:
            account.keys[key] = (self.now + 60, (verb, *what), result)
        return result

    def charge(self, account: Account, action: str) -> Any:
        required = REQUIRED.get(action)
        if required and TIERS.get(account.tier or "", -1) < TIERS[required]:
            return "MEMBERSHIP_REQUIRED"
        if action not in PRICES:
            return "UNDEFINED_ACTION"
        cost = PRICES[action].get(account.tier or "", PRICES[action]["default"])
        if self.available(account) < cost:
            return "INSUFFICIENT_CREDITS"
        account.balance -= cost
        return account.balance

    def available(self, account: Account) -> Decimal:
        open_ones = (one for one in self.holds if one.state == "reserved" and self.now <= one.until)
        return account.balance - sum(
            one.keeps for one in open_ones if self.users[one.user] is account
        )

    def reserve(self, account: Account, amount: int) -> Any:
        if self.available(account) < amount:
            return "INSUFFICIENT_CREDITS"
        (user,) = (name for name, one in self.users.items() if one is account)
        self.holds.append(Held(user, amount, self.now + 59))
        return Decimal(amount)

    def finish(self, number: int, price: int | None, *, final: bool) -> Any:
        """A capture, or a release where there is no price: the balance, or why not."""
        hold = self.holds[number]
        account = self.users[hold.user]
        if hold.state != "reserved":
            return "HOLD_FINISHED"
        if self.now > hold.until:
            return "HOLD_EXPIRED"
        cost = 0 if price is None else min(price, hold.keeps)
        hold.keeps -= cost
        hold.state = "finished" if final else "reserved"
        account.balance -= cost
        account.sequence += price is not None
        return account.balance

    def add(self, account: Account, amount: int) -> Any:
        account.balance += amount
        return account.balance

    def change(self, account: Account, target: str, *, up: bool) -> Any:
        level = TIERS.get(account.tier or "", -1)
        if (TIERS[target] <= level) if up else (TIERS[target] >= level):
            return "INVALID_TIER_CHANGE"
        account.tier, account.balance = target, Decimal(CAPS[target])
        return account.balance

    def upgrade(self, account: Account, target: str) -> Any:
        return self.change(account, target, up=True)

    def downgrade(self, account: Account, target: str) -> Any:
        return self.change(account, target, up=False)

    grant = refund = add


class CreditsMachine(RuleBasedStateMachine):
    """The same operations on both; every answer and every sum must agree."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.unsynced = 0
        self.hold_ids: list[str] = []

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @initialize(ada=AMOUNTS, bob=AMOUNTS)
    def begin(self, ada: int, bob: int) -> None:
        self.kit: CreditsKit = self.run(self.stack.enter_async_context(open_kit(CONFIG)))
        self.model = Model({})
        for name, credits in (("ada", ada), ("bob", bob)):
            self.run(self.kit.engine.create_user(name, credits=credits))
            self.model.users[name] = Account(Decimal(credits), sequence=1)

    def compare(self, expected: Any, work: Coroutine[Any, Any, Any], result: str) -> None:
        try:
            answer = getattr(self.run(work), result)
        except CreditsError as error:
            answer = error.code
        assert expected == answer
        self.unsynced += 1

    @rule(user=USERS, action=ACTIONS, key=KEYS)
    def charge(self, user: str, action: str, key: str | None) -> None:
        expected = self.model.apply("charge", user, key, action)
        work = self.kit.engine.charge(user, action, idempotency_key=key)
        self.compare(expected, work, "balance_after")

    @rule(user=USERS, amount=AMOUNTS, key=KEYS)
    def grant(self, user: str, amount: int, key: str | None) -> None:
        expected = self.model.apply("grant", user, key, amount)
        work = self.kit.engine.grant(user, amount, "gift", idempotency_key=key)
        self.compare(expected, work, "balance_after")

    @rule(user=USERS, amount=AMOUNTS, key=KEYS)
    def refund(self, user: str, amount: int, key: str | None) -> None:
        expected = self.model.apply("refund", user, key, amount)
        work = self.kit.engine.refund(user, amount, "oops", idempotency_key=key)
        self.compare(expected, work, "balance_after")

    @rule(user=USERS, amount=AMOUNTS, key=KEYS)
    def reserve(self, user: str, amount: int, key: str | None) -> None:
        expected = self.model.apply("reserve", user, key, amount)

        async def reserved() -> Any:
            made = await self.kit.engine.reserve(user, "chat", amount=amount, idempotency_key=key)
            if not made.replayed:
                self.hold_ids.append(made.hold_id)
            return made

        self.compare(expected, reserved(), "amount")
        assert len(self.model.holds) == len(self.hold_ids)

    @precondition(lambda self: self.hold_ids)
    @rule(pick=st.integers(0, 99), price=st.integers(0, 50), final=st.booleans())
    def capture(self, pick: int, price: int, final: bool) -> None:  # noqa: FBT001  # drawn by name
        number = pick % len(self.hold_ids)
        expected = self.model.finish(number, price, final=final)
        user, hold = self.model.holds[number].user, self.hold_ids[number]
        work = self.kit.engine.capture(user, "chat", hold, amount=price, final=final)
        self.compare(expected, work, "balance_after")

    @precondition(lambda self: self.hold_ids)
    @rule(pick=st.integers(0, 99))
    def release(self, pick: int) -> None:
        number = pick % len(self.hold_ids)
        expected = self.model.finish(number, None, final=True)
        user, hold = self.model.holds[number].user, self.hold_ids[number]
        self.compare(expected, self.kit.engine.release(user, hold), "balance")

    @rule(user=USERS, tier=st.sampled_from([*TIERS]), key=KEYS)
    def upgrade(self, user: str, tier: str, key: str | None) -> None:
        expected = self.model.apply("upgrade", user, key, tier)
        work = self.kit.engine.upgrade_tier(user, tier, idempotency_key=key)
        self.compare(expected, work, "new_credits")

    @rule(user=USERS, tier=st.sampled_from([*TIERS]), key=KEYS)
    def downgrade(self, user: str, tier: str, key: str | None) -> None:
        expected = self.model.apply("downgrade", user, key, tier)
        work = self.kit.engine.downgrade_tier(user, tier, idempotency_key=key)
        self.compare(expected, work, "new_credits")

    @rule(actions=st.lists(st.sampled_from(["chat", "members"]), min_size=2, max_size=6))
    def charge_at_once(self, actions: list[str]) -> None:
        """Concurrent calls of one turn are decided in the order they came."""

        async def together() -> list[Any]:
            calls = (self.kit.engine.charge("ada", action) for action in actions)
            return await asyncio.gather(*calls, return_exceptions=True)

        expected = [self.model.apply("charge", "ada", None, action) for action in actions]
        answers = [
            one.code if isinstance(one, CreditsError) else one.balance_after
            for one in self.run(together())
        ]
        assert expected == answers
        self.unsynced += len(actions)

    @rule(seconds=st.sampled_from([1, 59, 60, 61]))
    def wait(self, seconds: int) -> None:
        assert self.kit.clock is not None
        self.kit.clock.advance(seconds=seconds)
        self.model.now += seconds

    @precondition(lambda self: self.unsynced)
    @rule()
    def sync(self) -> None:
        self.run(self.kit.assert_balanced())
        self.unsynced = 0
        for name, account in self.model.users.items():
            rows = self.run(self.kit.transactions(name))
            assert [*range(1, account.sequence + 1)] == [row.sequence for row in rows]
            assert account.balance == rows[-1].balance_after
            floor = min(row.balance_after for row in rows)
            assert floor >= 0 or any(row.related_id in self.hold_ids for row in rows)

    @invariant()
    def balances_agree(self) -> None:
        for name, account in getattr(self, "model", Model({})).users.items():
            user = self.run(self.kit.engine.get_user(name))
            assert (account.balance, account.tier, account.sequence) == (
                user.credits,
                user.membership_tier,
                user.sequence,
            )

    def teardown(self) -> None:
        if hasattr(self, "kit"):
            self.sync()
        self.run(self.stack.aclose())
        self.runner.close()


CreditsMachine.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
TestCredits = CreditsMachine.TestCase
