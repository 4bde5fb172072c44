"""`CreditsEngine`: one method a verb. A question becomes a quote, a call, a reply, an answer.

The engine decides nothing itself: the scripts do, in Redis, and the worker records what they decided.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

from credits_fast import arguments, logs
from credits_fast.amounts import to_credits, to_micros
from credits_fast.calls import tier_changes
from credits_fast.calls.accounts import Accounts
from credits_fast.calls.carrying import Carrier
from credits_fast.calls.courier import Courier
from credits_fast.calls.dispatch import Dispatcher
from credits_fast.calls.levels import Levels
from credits_fast.calls.operations import GRACE_MS, Operations, asked_for
from credits_fast.calls.pending import Pending, under_way
from credits_fast.calls.retry import repeat
from credits_fast.config import CreditsConfig, load_config
from credits_fast.errors import (
    ConfigurationError,
    CreditsError,
    DatabaseUnavailableError,
    InvalidArgumentError,
    MembershipRequiredError,
    Problem,
    UndefinedActionError,
    UndefinedTierError,
    UserNotFoundError,
)
from credits_fast.holds.hold import Hold
from credits_fast.holds.holding import Holding
from credits_fast.prices import membership
from credits_fast.prices.pricing import PriceList
from credits_fast.protocol import wire
from credits_fast.protocol.keys import Partitions
from credits_fast.servers.endpoints import endpoint_from_url, endpoint_of
from credits_fast.servers.preflight import check_servers
from credits_fast.servers.pressure import Pressure
from credits_fast.servers.routing import router_to
from credits_fast.types import (
    UNCHANGED,
    AboveHold,
    AuditEntry,
    CaptureResult,
    Charge,
    ChargeResult,
    ExtendResult,
    GrantResult,
    HistoryPage,
    Level,
    Metadata,
    RefundResult,
    ReleaseResult,
    ReserveResult,
    Resolution,
    TierChangeResult,
    Unchanged,
    User,
    Variables,
)

if TYPE_CHECKING:
    from decimal import Decimal
    from types import TracebackType

    from redis.asyncio import Redis, RedisCluster
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

    from credits_fast.amounts import Amount
    from credits_fast.embedded import EmbeddedEngine
    from credits_fast.protocol.keys import PartitionKeys
    from credits_fast.protocol.wire import TierChange
    from credits_fast.servers.endpoints import AnyEndpoint
    from credits_fast.servers.lane import Lane
    from credits_fast.transactions.own_transaction import OwnTransaction

__all__ = ["Configuration", "CreditsEngine"]

Configuration: TypeAlias = CreditsConfig | Mapping[str, Any] | str | Path
"""A configuration, the values of one, or the path of a TOML or JSON file."""

PAGE_DEFAULT: Final = 50
"""Rows of a page of history, where the caller names no limit."""

_TEST_CLOCK_GRACE_MS: Final = 86_400_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class CreditsEngine:
    """Charges, grants and refunds of one set of users; open it with `async with`.

    Every changing operation takes an `idempotency_key`: repeating it with the same key and parameters
    gives the first result and changes nothing. It also takes `metadata`, a JSON object of at most
    4 KiB, which the ledger keeps. Amounts are an int, a `Decimal` or a decimal string, with at most
    six decimal places; a float is refused. Where it takes `acknowledge`, the result says in
    `acknowledged` how far the decision is known to have come.

    Every method may raise `UnavailableError` when Redis or, where it is needed, the database cannot
    be reached after the configured retries, and `MisconfiguredError` when the set-up is wrong.

    Attributes:
        config: The configuration, checked.
        partitions: The partitions its users fall into.
        endpoint: How the server or the cluster is reached.
        router: Which connection leads to which partition; for looking, not for writing.
        calls: How many operations ended how: by verb, and `done`, `replayed`, `cancelled` or the error's
            code; `EngineMetrics` shows them to Prometheus.

    Args:
        config: The configuration, its values, or the path of a TOML or JSON file.
        redis: An existing redis-py asyncio client: `Redis`, `RedisCluster`, or what `master_for` of a
            `Sentinel` gives. The engine makes connections like its own and never closes it.
        database: An existing SQLAlchemy asynchronous engine on the ledger; never disposed of.
        clock: The time for everything, None for the servers' own; for tests.

    Example:
        >>> async with CreditsEngine.embedded("./credits-data", "credits.toml") as credits:
        ...     await credits.create_user("ada", credits=100)
        ...     result = await credits.charge("ada", "chat", variables={"tokens": 1200})
        ...     print(result.balance_after)
    """

    def __init__(
        self,
        config: Configuration | None,
        *,
        redis: Redis | RedisCluster | AnyEndpoint | None,
        database: AsyncEngine | None,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        # SQLAlchemy comes with the database the caller has made; not with `import credits_fast`.
        from credits_fast.calls.admission import Admission  # noqa: PLC0415
        from credits_fast.calls.commits import Commits  # noqa: PLC0415
        from credits_fast.ledger.records import Records  # noqa: PLC0415
        from credits_fast.transactions.intents import Intents  # noqa: PLC0415
        from credits_fast.transactions.own_transaction import Parts  # noqa: PLC0415
        from credits_fast.transactions.settling import Settling  # noqa: PLC0415

        self.config = _configuration(config)
        if redis is None or database is None:
            missing = "redis" if redis is None else "database"
            problem = "is required: the engine needs a Redis and a ledger"
            raise ConfigurationError(Problem(missing, problem, "missing"))
        self._database = database
        self._owns_database = False
        self._clock = clock
        self.partitions = Partitions(self.config.namespace, self.config.partitions)
        self._prices = PriceList(self.config)
        grace_ms = GRACE_MS if clock is None else _TEST_CLOCK_GRACE_MS
        self._operations = Operations(self.config, self.partitions, grace_ms=grace_ms)
        self.endpoint = endpoint_of(redis)
        self.router = router_to(self.endpoint)
        microseconds = None if clock is None else lambda: _microseconds(clock())
        self._pressure = Pressure(self.config.back_pressure, self.router, self.partitions)
        self._dispatcher = Dispatcher(self.router, clock=microseconds, pressure=self._pressure)
        self._records = Records(database)
        self._admission = Admission(self.partitions, database, self.router)
        self._accounts = Accounts(self._records, self.router)
        self._commits = Commits(database, self._records)
        self._levels = Levels(
            self.config.acknowledge,
            self._dispatcher,
            self.endpoint,
            self.partitions,
            clock=microseconds,
            pressure=self._pressure,
        )
        self._courier = Courier(
            self._dispatcher, self._admission, self._accounts, self.config.retry
        )
        self._carrier = Carrier(
            self.config,
            courier=self._courier,
            levels=self._levels,
            commits=self._commits,
            records=self._records,
            router=self.router,
        )
        self.calls = self._carrier.calls
        self._holding = Holding(
            self.config,
            operations=self._operations,
            prices=self._prices,
            courier=self._courier,
            carrier=self._carrier,
            router=self.router,
            clock=clock,
        )
        intents = Intents(database)
        settling = Settling(
            self.config,
            intents=intents,
            operations=self._operations,
            carrier=self._carrier,
            records=self._records,
            router=self.router,
        )
        self._own_transactions = Parts(
            self.config,
            self._operations,
            self._prices,
            self._courier,
            self._carrier,
            self._records,
            self.router,
            intents,
            settling,
        )

    @classmethod
    def from_url(cls, redis_url: str, database_url: str, config: Configuration) -> Self:
        """An engine on servers that run elsewhere.

        The worker that records into the database is another program: `credits-fast worker`.

        Args:
            redis_url: `redis://`, `rediss://`, `unix://` or `valkey://` of a server;
                `redis+cluster://host,host` of a cluster; `redis+sentinel://host,host/service` of
                Sentinels; see docs/operating.md.
            database_url: A SQLAlchemy URL of PostgreSQL or SQLite; the driver is filled in.
            config: The configuration, its values, or the path of a TOML or JSON file.

        Raises:
            ConfigurationError: A URL or the configuration cannot be used.
        """
        from credits_fast.ledger.database import connect  # noqa: PLC0415  # SQLAlchemy only when used

        engine = cls(config, redis=endpoint_from_url(redis_url), database=connect(database_url))
        engine._owns_database = True
        return engine

    @classmethod
    def embedded(cls, path: str | Path, config: Configuration) -> EmbeddedEngine:
        """An engine with a real Valkey and SQLite of its own in a folder, and the worker inside.

        Nothing has to be installed or started besides the extra `credits-fast[embedded]`. Opened a
        second time, it finds its data again. One program at a time may open a folder. While it is open
        its `worker` can be watched.

        Args:
            path: The folder; it is made where it does not exist.
            config: The configuration, its values, or the path of a TOML or JSON file.

        Raises:
            ConfigurationError: The configuration cannot be used, or the extra is not installed.
        """
        from credits_fast.embedded import EmbeddedEngine  # noqa: PLC0415  # a door, not a layer below

        return EmbeddedEngine(path, config)

    # --- opening and closing ------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Connect, check that server and database are fit, and open the partitions.

        Raises:
            UnsuitableServerError: Redis may evict balances, is too old, forbids a command, or cannot
                confirm the configured level of acknowledgement.
            SchemaMismatchError: The database is not migrated, or belongs to another set-up.
            IncompatibleFormatError: Another version wrote the data in another format.
            RedisUnavailableError: Redis cannot be reached.
            DatabaseUnavailableError: The database cannot be reached.
        """
        from credits_fast.ledger import schema  # noqa: PLC0415  # Alembic only when used

        async def opened() -> None:
            await check_servers(self.router, self.partitions)
            await schema.check(self._database)
            await self._admission.open_all()
            await self._levels.start()
            await self._pressure.look()

        self._dispatcher.open()
        try:
            await repeat(opened, self.config.retry)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End connections and whatever is under way. Nothing acknowledged is lost."""
        await self._accounts.close()
        await self._courier.close()
        await self._commits.close()
        await self._pressure.close()
        await self._levels.close()
        await self._dispatcher.close()
        if self._owns_database:
            await self._database.dispose()

    async def lane(self, partition: PartitionKeys | None = None) -> Lane:
        """The open connection to the server of a partition; for looking, not for writing.

        Args:
            partition: The partition, None for the first; a single server has all of them.

        Raises:
            RedisUnavailableError: The server cannot be reached.
        """
        return await self.router.lane(partition or self.partitions[0])

    async def migrate(self) -> str:
        """Bring the database to this version's schema; may be called before the engine is opened.

        Returns:
            The revision the database is at now.
        """
        from credits_fast.ledger import schema  # noqa: PLC0415  # SQLAlchemy only when used

        return await schema.upgrade(self._database)

    # --- users --------------------------------------------------------------------------------

    async def create_user(
        self,
        user_id: str,
        *,
        credits: Amount = 0,  # noqa: A002  # the reference's word
        tier: str | None = None,
        membership_expires_at: datetime | None = None,
        idempotency_key: str | None = None,
        metadata: Metadata | None = None,
    ) -> User:
        """Create a user, in the ledger at once; first credits are a transaction of kind `grant`.

        Args:
            user_id: The application's id: 1 to 256 bytes, without NUL.
            credits: The first credits, 0 or more.
            tier: A defined tier, None for none.
            membership_expires_at: When the membership ends, None where it does not.
            idempotency_key: Repeating the call with it gives the user instead of an error.
            metadata: Kept with the transaction and the audit entry.

        Raises:
            UserAlreadyExistsError: The id is taken.
            IdempotencyKeyConflictError: The key was used for something else.
            UndefinedTierError: The tier is not defined.
            InvalidArgumentError: An argument cannot be used.
        """
        from credits_fast.calls.user_creation import UserCreation  # noqa: PLC0415  # SQLAlchemy when used

        micros = to_micros(credits, argument="credits")
        expires_at = membership_expires_at and arguments.moment(
            "membership_expires_at",
            membership_expires_at,
        )
        if tier is not None and tier not in self.config.membership.tiers:
            raise UndefinedTierError(tier)
        parameters = (str(micros), tier or "", str(expires_at or ""))
        operation = self._operations.new(
            "createUser", user_id, "create-user", idempotency_key, metadata, *parameters
        )
        creation = UserCreation(
            self._records,
            self._accounts,
            self._courier,
            self._dispatcher,
            self.config.retry,
        )
        await creation.create(operation, micros, tier, expires_at, self._now())
        logs.decided("createUser", operation, to_credits(micros))
        return await self.get_user(user_id)

    async def get_user(self, user_id: str) -> User:
        """The user's balance and membership at this moment.

        Raises:
            UserNotFoundError: Neither Redis nor the ledger knows the user.
        """
        account = await self._account(user_id)
        return User(
            id=user_id,
            credits=to_credits(account.balance),
            reserved=to_credits(account.reserved),
            membership_tier=account.tier,
            membership_expires_at=_moment(account.expires_ms),
            sequence=account.sequence,
        )

    async def query_balance(self, user_id: str) -> Decimal:
        """The user's credits at this moment, reserved ones included.

        Raises:
            UserNotFoundError: Neither Redis nor the ledger knows the user.
        """
        return to_credits((await self._account(user_id)).balance)

    # --- credits ------------------------------------------------------------------------------

    async def charge(
        self,
        user_id: str,
        action: str,
        *,
        amount: Amount | None = None,
        variables: Variables | None = None,
        idempotency_key: str | None = None,
        fingerprint: str | None = None,
        metadata: Metadata | None = None,
        acknowledge: Level | None = None,
    ) -> ChargeResult:
        """Take the price of an action, if the user may act and the credits cover it.

        Args:
            user_id: The user.
            action: The action, whose price the configuration knows.
            amount: The price in credits, instead of the configured one; 0 or more.
            variables: Values for the variables of a price formula: finite numbers.
            idempotency_key: Repeating the call with it gives the first result.
            fingerprint: What else a repeated call has to match, such as a digest of the request it is
                charged for; another one under the same key is a conflict.
            metadata: Kept with the transaction and the audit entry.
            acknowledge: How far it has to have come; None for the configured level.

        Raises:
            UserNotFoundError: Neither Redis nor the ledger knows the user.
            MembershipRequiredError: The action needs a tier the user does not have now.
            UndefinedActionError: The action has no price.
            MissingVariableError: The price formula needs a variable that is not given.
            FormulaEvaluationError: The price formula has no finite value.
            InsufficientCreditsError: The available credits do not cover the cost.
            IdempotencyKeyConflictError: The key was used for something else.
            InvalidArgumentError: An argument cannot be used.
            OutcomeUnknownError: The reply was lost; `resolve`, or the same key again, settles it.

        Example:
            >>> await credits.charge("ada", "chat", variables={"tokens": 1200}, idempotency_key=request_id)
        """
        if variables is not None:
            arguments.check_variables(variables)
        asked = asked_for(amount, variables, fingerprint)
        operation = self._operations.new(
            "charge", user_id, action, idempotency_key, metadata, *asked
        )
        quote = self._prices.quote_for(action, amount, variables)
        call = wire.charge_call(operation, quote)
        pending = under_way(("charge", operation, call, wire.charged, (quote,), "", b""))
        return await self._carrier.carry_out(pending, acknowledge)

    async def charge_many(self, charges: Sequence[Charge]) -> list[ChargeResult | CreditsError]:
        """The outcome of each charge, in their order: a result, or the error `charge` would raise.

        Each stands alone; they travel together, as concurrent calls of `charge` do anyway.
        """

        async def outcome(charge: Charge) -> ChargeResult | CreditsError:
            try:
                return await self.charge(
                    charge.user_id,
                    charge.action,
                    amount=charge.amount,
                    variables=charge.variables,
                    idempotency_key=charge.idempotency_key,
                    fingerprint=charge.fingerprint,
                    metadata=charge.metadata,
                    acknowledge=charge.acknowledge,
                )
            except CreditsError as error:
                return error

        return await asyncio.gather(*map(outcome, charges))

    async def refund(
        self,
        user_id: str,
        amount: Amount,
        action: str,
        *,
        transaction_id: str | None = None,
        idempotency_key: str | None = None,
        metadata: Metadata | None = None,
        acknowledge: Level | None = None,
    ) -> RefundResult:
        """Give credits back. The user needs no membership, and the action no price.

        Args:
            user_id: The user.
            amount: Credits, more than 0.
            action: The caller's word for it.
            transaction_id: The charge that is given back. Where the configuration says
                `refunds.above_charge = "refuse"` it is required, and all refunds of a charge
                together never pass it.
            idempotency_key: Repeating the call with it gives the first result.
            metadata: Kept with the transaction and the audit entry.
            acknowledge: How far it has to have come; None for the configured level.

        Raises:
            UserNotFoundError: Neither Redis nor the ledger knows the user.
            TransactionNotFoundError: The user has no such charge.
            RefundExceedsChargeError: The refunds would pass the charge.
            BalanceLimitError: The balance, or the sum of the charge's refunds, would pass the largest one.
            IdempotencyKeyConflictError: The key was used for something else.
            InvalidArgumentError: An argument cannot be used.
            OutcomeUnknownError: The reply was lost; `resolve`, or the same key again, settles it.
        """
        micros = to_micros(amount, minimum=1)
        bounded = self.config.refunds.above_charge == "refuse"
        if bounded and transaction_id is None:
            raise InvalidArgumentError("transaction_id", "is required by refunds.above_charge")
        related = b""
        if transaction_id is not None:
            related = arguments.identifier("transaction_id", transaction_id)
        operation = self._operations.new(
            "refund", user_id, action, idempotency_key, metadata, str(micros), transaction_id or ""
        )
        call = wire.refund_call(operation, micros, related, bounded=bounded)
        facts = (micros, related)
        pending = Pending("refund", operation, call, wire.refunded, facts, str(micros), related)
        return await self._carrier.carry_out(pending, acknowledge)

    async def grant(
        self,
        user_id: str,
        amount: Amount,
        action: str,
        *,
        idempotency_key: str | None = None,
        metadata: Metadata | None = None,
        acknowledge: Level | None = None,
    ) -> GrantResult:
        """Add credits; the cap of the user's tier does not matter.

        Args:
            user_id: The user.
            amount: Credits, more than 0.
            action: The caller's word for it, such as `purchase` or `monthly`.
            idempotency_key: Repeating the call with it gives the first result: a payment's id here
                makes a repeated webhook harmless.
            metadata: Kept with the transaction and the audit entry.
            acknowledge: How far it has to have come; None for the configured level.

        Raises:
            UserNotFoundError: Neither Redis nor the ledger knows the user.
            BalanceLimitError: The balance would pass the largest one.
            IdempotencyKeyConflictError: The key was used for something else.
            InvalidArgumentError: An argument cannot be used.
            OutcomeUnknownError: The reply was lost; `resolve`, or the same key again, settles it.
        """
        micros = to_micros(amount, minimum=1)
        operation = self._operations.new(
            "grant", user_id, action, idempotency_key, metadata, str(micros)
        )
        call = wire.grant_call(operation, micros)
        pending = Pending("grant", operation, call, wire.granted, (micros,), str(micros))
        return await self._carrier.carry_out(pending, acknowledge)

    async def resolve(self, error: BaseException, *, repeat_it: bool = True) -> Resolution:
        """What became of an operation whose outcome was unknown; it is never charged for twice.

        As long as Redis remembers the operation, it is repeated under its own id: afterwards it has
        taken effect exactly once, whether it had before or not, and the result is there. Without a key
        that is possible for four times `retry.deadline_ms`, else for nearly as long as the key holds.
        Later, or if it is not to be repeated, it is looked up in Redis, ledger and journal.

        Args:
            error: The `OutcomeUnknownError`, or an error it is the cause of: that of a call which was
                cancelled (`asyncio.CancelledError`, `TimeoutError`) leads to one, too.
            repeat_it: Whether it may take effect now, if it has not. If not, and it has had no effect so
                far, a request that is still under way may yet be executed.

        Raises:
            RefusedError: It was repeated and refused, as `charge` and the others would; it has no effect.
            OutcomeUnknownError: The answer was lost once more.
            InvalidArgumentError: The error is not about such an operation.

        Example:
            >>> try:
            ...     await credits.charge("ada", "chat")
            ... except OutcomeUnknownError as error:
            ...     resolution = await credits.resolve(error)
        """
        return await self._carrier.resolve(error, repeat_it=repeat_it)

    # --- holds --------------------------------------------------------------------------------

    def hold(
        self,
        user_id: str,
        action: str,
        *,
        estimate: Variables | None = None,
        amount: Amount | None = None,
        ttl_ms: int | None = None,
        above: AboveHold | None = None,
        idempotency_key: str | None = None,
        fingerprint: str | None = None,
        metadata: Metadata | None = None,
        acknowledge: Level | None = None,
    ) -> Hold:
        """Credits held during a block: charged at its end, given back where it raises.

        Entering it reserves, as `reserve` does. At the end what `Hold.used` has said is charged, else
        what was reserved. A block that consumes (`Hold.consume`) is charged what it has consumed, however
        it ends. Else an exception, a cancellation included, releases the hold and goes on. Neither
        can be interrupted half-way. Where the program dies, the hold expires.

        Args:
            user_id: The user.
            action: The action, whose price the configuration knows.
            estimate: Values for the variables of a price formula, as far as they are known before.
            amount: The credits to reserve, instead of the configured price; 0 or more.
            ttl_ms: Milliseconds until the hold expires, None for the configured time.
            above: What becomes of a price above what is held, None for the configured policy.
            idempotency_key: A repeated block has the first one's hold. While that is open both share it
                and charge once; the one that made it gives it back. Once it is finished, entering
                raises `HoldFinishedError`, and the block is not run.
            fingerprint: What else a repeated call has to match; as of `charge`.
            metadata: Kept with the hold, the transaction and the audit entries.
            acknowledge: How far reservation and charge have to have come; None for the configured level.

        Raises:
            HoldFinishedError: On entering, the key's hold is finished; at the end, it was finished by
                somebody else.
            HoldExpiredError: The same, because its time was over; nothing was charged.
            CaptureExceedsHoldError: The price is above what is held, and such are refused; the hold
                stays open.

        Entering and leaving also raise what `reserve` and `capture` do.

        Example:
            >>> async with credits.hold("ada", "chat", estimate={"tokens": 4_000}) as hold:
            ...     answer = await model(prompt)
            ...     hold.used(variables={"tokens": answer.tokens})
            >>> print(hold.captured.cost)
        """
        return Hold(
            self._holding,
            user_id,
            action,
            amount=amount,
            estimate=estimate,
            ttl_ms=ttl_ms,
            above=above,
            idempotency_key=idempotency_key,
            fingerprint=fingerprint,
            metadata=metadata,
            acknowledge=acknowledge,
        )

    async def reserve(
        self,
        user_id: str,
        action: str,
        *,
        amount: Amount | None = None,
        variables: Variables | None = None,
        ttl_ms: int | None = None,
        idempotency_key: str | None = None,
        fingerprint: str | None = None,
        metadata: Metadata | None = None,
        acknowledge: Level | None = None,
    ) -> ReserveResult:
        """Hold the price of an action, if the user may act and the available credits cover it.

        Args:
            user_id: The user.
            action: The action, whose price the configuration knows.
            amount: The credits to hold, instead of the configured price; 0 or more.
            variables: Values for the variables of a price formula: finite numbers.
            ttl_ms: Milliseconds until the hold expires, None for the configured time.
            idempotency_key: Repeating the call with it gives the first result, be the hold open or not.
            fingerprint: What else a repeated call has to match; as of `charge`.
            metadata: Kept with the hold and the audit entry.
            acknowledge: How far it has to have come; None for the configured level.

        Raises:
            UserNotFoundError: Neither Redis nor the ledger knows the user.
            MembershipRequiredError: The action needs a tier the user does not have now.
            UndefinedActionError: The action has no price.
            MissingVariableError: The price formula needs a variable that is not given.
            FormulaEvaluationError: The price formula has no finite value.
            InsufficientCreditsError: The available credits do not cover the price.
            HoldLimitError: The user has as many open holds as one may have.
            IdempotencyKeyConflictError: The key was used for something else.
            InvalidArgumentError: An argument cannot be used.
            OutcomeUnknownError: The reply was lost; `resolve`, or the same key again, settles it.

        Example:
            >>> hold = await credits.reserve("ada", "chat", amount=5)
            >>> await credits.capture("ada", "chat", hold.hold_id, amount=3)
        """
        pending = self._holding.reservation(
            user_id,
            action,
            amount=amount,
            variables=variables,
            ttl_ms=ttl_ms,
            idempotency_key=idempotency_key,
            fingerprint=fingerprint,
            metadata=metadata,
        )
        return await self._carrier.carry_out(pending, acknowledge)

    async def extend(
        self,
        user_id: str,
        hold_id: str,
        *,
        amount: Amount | None = None,
        ttl_ms: int | None = None,
        idempotency_key: str | None = None,
        metadata: Metadata | None = None,
    ) -> ExtendResult:
        """More credits for an open hold, more time, or both; at least one of them is asked for.

        Args:
            user_id: The user.
            hold_id: The hold.
            amount: The credits to hold besides what is held; 0 or more, None for no more.
            ttl_ms: Milliseconds from now until the hold expires, None for when it does anyway. It never
                expires earlier than before.
            idempotency_key: Repeating the call with it gives the first result.
            metadata: Kept with the audit entry.

        Raises:
            UserNotFoundError: Neither Redis nor the ledger knows the user.
            HoldNotFoundError: The user has no such hold.
            HoldFinishedError: It was captured or released before.
            HoldExpiredError: Its time was over.
            InsufficientCreditsError: The available credits do not cover the amount. The hold is as
                before; `reserved` is what the user's other holds keep.
            BalanceLimitError: What was reserved for the hold in all would pass the largest sum.
            IdempotencyKeyConflictError: The key was used for something else.
            InvalidArgumentError: An argument cannot be used.
            OutcomeUnknownError: The reply was lost; `resolve`, or the same key again, settles it.

        Example:
            >>> hold = await credits.reserve("ada", "chat", amount=5)
            >>> await credits.extend("ada", hold.hold_id, amount=2, ttl_ms=60_000)
        """
        return await self._holding.extend(
            user_id,
            hold_id,
            amount=amount,
            ttl_ms=ttl_ms,
            idempotency_key=idempotency_key,
            metadata=metadata,
        )

    async def capture(
        self,
        user_id: str,
        action: str,
        hold_id: str,
        *,
        amount: Amount | None = None,
        variables: Variables | None = None,
        final: bool = True,
        above: AboveHold | None = None,
        idempotency_key: str | None = None,
        metadata: Metadata | None = None,
        acknowledge: Level | None = None,
    ) -> CaptureResult:
        """Charge what a hold keeps, a part of it, or more; the price is the one of the hold's tier.

        Args:
            user_id: The user.
            action: The action, whose price the configuration knows.
            hold_id: The hold.
            amount: The price in credits; 0 or more. Without it and variables, what the hold still keeps.
            variables: Values for the variables of a price formula: finite numbers.
            final: Whether the hold is finished and the rest of it released; else it stays open, with
                what is left.
            above: What becomes of a price above what is held: `debt` charges all of it, below zero
                where it must; `cap` charges what is held; `refuse` nothing. None for the configured one.
            idempotency_key: Repeating the call with it gives the first result.
            metadata: Kept with the transaction and the audit entry.
            acknowledge: How far it has to have come; None for the configured level.

        Raises:
            UserNotFoundError: Neither Redis nor the ledger knows the user.
            HoldNotFoundError: The user has no such hold.
            HoldFinishedError: It was captured or released before.
            HoldExpiredError: Its time was over; nothing was charged.
            CaptureExceedsHoldError: The price is above what is held, and such are refused.
            MembershipRequiredError: The configuration has changed, and the tier may not act any more.
            UndefinedActionError: The action has no price.
            MissingVariableError: The price formula needs a variable that is not given.
            FormulaEvaluationError: The price formula has no finite value.
            BalanceLimitError: The debt, or what was captured of the hold, would pass the largest one.
            IdempotencyKeyConflictError: The key was used for something else.
            InvalidArgumentError: An argument cannot be used.
            OutcomeUnknownError: The reply was lost; `resolve`, or the same key again, settles it.
        """
        return await self._holding.capture(
            user_id,
            action,
            hold_id,
            amount=amount,
            variables=variables,
            idempotency_key=idempotency_key,
            metadata=metadata,
            final=final,
            above=above,
            acknowledge=acknowledge,
        )

    async def release(
        self,
        user_id: str,
        hold_id: str,
        *,
        idempotency_key: str | None = None,
        metadata: Metadata | None = None,
    ) -> ReleaseResult:
        """Give a hold up: what it still keeps is available again.

        Args:
            user_id: The user.
            hold_id: The hold.
            idempotency_key: Repeating the call with it gives the first result.
            metadata: Kept with the audit entry.

        Raises:
            UserNotFoundError: Neither Redis nor the ledger knows the user.
            HoldNotFoundError: The user has no such hold.
            HoldFinishedError: It was captured or released before.
            HoldExpiredError: Its time was over: its credits are available anyway.
            IdempotencyKeyConflictError: The key was used for something else.
            InvalidArgumentError: An argument cannot be used.
            OutcomeUnknownError: The reply was lost; `resolve`, or the same key again, settles it.
        """
        return await self._holding.release(user_id, hold_id, idempotency_key, metadata)

    # --- membership ---------------------------------------------------------------------------

    def in_transaction(self, session: AsyncSession | AsyncConnection) -> OwnTransaction:
        """A block that is the application's own SQL transaction, with charges, grants and refunds in it.

        They take effect if and only if it commits. The end of the block commits, an exception rolls
        back, and then what was committed is done at once; the worker does what is left, even where the
        program dies. An `AsyncSession` or `AsyncConnection` on the ledger's PostgreSQL database; the block
        stands where `session.begin()` would, and not within it. See docs/transactions.md.

        Args:
            session: The application's session or connection; it stays the application's.

        Raises:
            InvalidArgumentError: At the first charge, grant or refund: the session is on another
                database than the ledger, or on none that can decide for both.

        Example:
            >>> async with credits.in_transaction(session) as purchase:
            ...     session.add(Report(owner="ada"))
            ...     await purchase.charge("ada", "report")
        """
        from credits_fast.transactions.own_transaction import OwnTransaction  # noqa: PLC0415  # needs SQLAlchemy

        return OwnTransaction(self._own_transactions, session)

    async def upgrade_tier(
        self,
        user_id: str,
        target_tier: str,
        *,
        membership_expires_at: datetime | Unchanged | None = UNCHANGED,
        idempotency_key: str | None = None,
        metadata: Metadata | None = None,
        acknowledge: Level | None = None,
    ) -> TierChangeResult:
        """Change to a tier of a higher level; credits follow `membership.credits_on_tier_change`.

        Args:
            user_id: The user.
            target_tier: The new tier. An expired tier counts as none, so any tier is higher.
            membership_expires_at: The new expiry, None for no end, `UNCHANGED` (the default) to keep
                the one that is there, which must not be past.
            idempotency_key: Repeating the call with it gives the first result.
            metadata: Kept with the transaction and the audit entry.
            acknowledge: How far it has to have come; None for the configured level.

        Raises:
            UserNotFoundError: Neither Redis nor the ledger knows the user.
            UndefinedTierError: The tier is not defined.
            InvalidTierChangeError: The target is not higher, or an expiry in the past would stay.
            IdempotencyKeyConflictError: The key was used for something else.
            InvalidArgumentError: An argument cannot be used.
            OutcomeUnknownError: The reply was lost; `resolve`, or the same key again, settles it.
        """
        change = tier_changes.upgrade(self.config.membership, target_tier, membership_expires_at)
        return await self._change_tier(
            user_id,
            "tier-upgrade",
            change,
            idempotency_key=idempotency_key,
            metadata=metadata,
            acknowledge=acknowledge,
        )

    async def downgrade_tier(
        self,
        user_id: str,
        target_tier: str,
        *,
        clear_expiration: bool = False,
        idempotency_key: str | None = None,
        metadata: Metadata | None = None,
        acknowledge: Level | None = None,
    ) -> TierChangeResult:
        """Change to a tier of a lower level; credits follow `membership.credits_on_tier_change`.

        Args:
            user_id: The user.
            target_tier: The new tier, lower than the stored one, expired or not.
            clear_expiration: Whether the membership has no end afterwards; else its expiry stays.
            idempotency_key: Repeating the call with it gives the first result.
            metadata: Kept with the transaction and the audit entry.
            acknowledge: How far it has to have come; None for the configured level.

        Raises:
            UserNotFoundError: Neither Redis nor the ledger knows the user.
            UndefinedTierError: The tier is not defined.
            InvalidTierChangeError: The target is not lower.
            IdempotencyKeyConflictError: The key was used for something else.
            InvalidArgumentError: An argument cannot be used.
            OutcomeUnknownError: The reply was lost; `resolve`, or the same key again, settles it.
        """
        change = tier_changes.downgrade(
            self.config.membership,
            target_tier,
            clear_expiration=clear_expiration,
        )
        return await self._change_tier(
            user_id,
            "tier-downgrade",
            change,
            idempotency_key=idempotency_key,
            metadata=metadata,
            acknowledge=acknowledge,
        )

    async def renew_membership(
        self,
        user_id: str,
        membership_expires_at: datetime | None,
        *,
        idempotency_key: str | None = None,
        metadata: Metadata | None = None,
        acknowledge: Level | None = None,
    ) -> TierChangeResult:
        """Give the stored tier, expired or not, a new end; credits follow `credits_on_renewal`.

        Args:
            user_id: The user.
            membership_expires_at: The new expiry, None for no end.
            idempotency_key: Repeating the call with it gives the first result.
            metadata: Kept with the transaction and the audit entry.
            acknowledge: How far it has to have come; None for the configured level.

        Raises:
            UserNotFoundError: Neither Redis nor the ledger knows the user.
            InvalidTierChangeError: The user has no tier.
            IdempotencyKeyConflictError: The key was used for something else.
            InvalidArgumentError: An argument cannot be used.
            OutcomeUnknownError: The reply was lost; `resolve`, or the same key again, settles it.
        """
        change = tier_changes.renewal(self.config.membership, membership_expires_at)
        return await self._change_tier(
            user_id,
            "tier-renewal",
            change,
            idempotency_key=idempotency_key,
            metadata=metadata,
            acknowledge=acknowledge,
        )

    async def validate_access(self, user_id: str, action: str) -> bool:
        """True, where the user's membership satisfies the action's requirement at this moment.

        An action without a requirement is open to all, unless `membership.unlisted_actions` refuses
        actions the configuration does not know. A refusal is audited, an access is not.

        Raises:
            UserNotFoundError: Neither Redis nor the ledger knows the user.
            MembershipRequiredError: The action needs a tier the user does not have now.
            UndefinedActionError: The configuration does not know the action and refuses such.
        """
        operation = self._operations.new("validateAccess", user_id, action, None, None)
        try:
            account, now_ms = await self._courier.account(operation.partition, operation.user)
            required = self._prices.required(action)
        except (UserNotFoundError, UndefinedActionError) as error:
            code = error.code.lower()
            await self._courier.note_refusal(operation, "validateAccess", code, subject=action)
            raise
        access = membership.validate(
            self.config.membership.tiers,
            account.tier,
            _moment(account.expires_ms),
            required,
            wire.from_ms(now_ms),
        )
        if access.valid:
            return True
        details = (required or "", account.tier or "", "1" if access.is_expired else "")
        await self._courier.note_refusal(
            operation, "validateAccess", "membership_required", details
        )
        raise MembershipRequiredError(
            user_id,
            required or "",
            access.current_tier,
            access.reason or "",
        )

    # --- the ledger ---------------------------------------------------------------------------

    async def get_history(
        self,
        user_id: str,
        *,
        limit: int = PAGE_DEFAULT,
        offset: int = 0,
        cursor: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
        action: str | None = None,
    ) -> HistoryPage:
        """The user's transactions as recorded in the ledger, newest first.

        The ledger follows Redis by the sync lag; `wait_recorded` waits for it. An unknown user has an
        empty history.

        Args:
            user_id: The user.
            limit: Rows of the page, 0 to 1,000.
            offset: Rows to pass over; for long histories a cursor is cheaper.
            cursor: The `next_cursor` of the page before.
            start_date: Nothing older; inclusive, aware.
            end_date: Nothing newer; inclusive, aware.
            action: Only this action, exactly; None or "" for all.

        Raises:
            InvalidArgumentError: An argument cannot be used.
        """
        arguments.user_identifier(user_id)
        if action:
            arguments.identifier("action", action)
        start = start_date and arguments.aware("start_date", start_date)
        end = end_date and arguments.aware("end_date", end_date)
        return await repeat(
            lambda: self._records.history(
                user_id,
                limit=limit,
                offset=offset,
                cursor=cursor,
                start_date=start,
                end_date=end,
                action=action,
            ),
            self.config.retry,
        )

    async def get_audit_log(self, user_id: str, *, limit: int = PAGE_DEFAULT) -> list[AuditEntry]:
        """The newest entries of the audit log about a user, newest first; the user need not exist.

        Args:
            user_id: The user.
            limit: Entries, 1 to 1,000.

        Raises:
            InvalidArgumentError: An argument cannot be used.
        """
        arguments.user_identifier(user_id)
        return await repeat(lambda: self._records.audit(user_id, limit=limit), self.config.retry)

    async def wait_recorded(self, *, timeout_ms: int = 10_000) -> None:
        """Wait until everything acknowledged before this call is in the ledger.

        Args:
            timeout_ms: Milliseconds to wait at most.

        Raises:
            DatabaseUnavailableError: It is not within that time; is a worker running?
        """
        from credits_fast.ledger.recording import behind, journal_ends  # noqa: PLC0415  # SQLAlchemy when used

        ends = await journal_ends(self.router, self.partitions)
        deadline = time.monotonic() + timeout_ms / 1_000
        pause = 0.002
        while waiting := await behind(self._database, ends):
            if time.monotonic() > deadline:
                raise DatabaseUnavailableError(
                    f"{len(waiting)} partitions are not recorded within {timeout_ms} ms; "
                    "is a worker running (credits-fast worker)?",
                )
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.1)

    # --- shared -------------------------------------------------------------------------------

    async def _change_tier(
        self,
        user_id: str,
        action: str,
        change: TierChange,
        *,
        idempotency_key: str | None,
        metadata: Metadata | None,
        acknowledge: Level | None,
    ) -> TierChangeResult:
        verb, target = change.verb.decode(), change.target.decode()
        operation = self._operations.new(
            verb,
            user_id,
            action,
            idempotency_key,
            metadata,
            target,
            change.expiry.decode(),
        )
        call = wire.tier_call(operation, change)
        pending = Pending(verb, operation, call, wire.tier_changed, (change,), target, change.extra)
        return await self._carrier.carry_out(pending, acknowledge)

    async def _account(self, user_id: str) -> wire.HeldAccount:
        user = arguments.user_identifier(user_id)
        account, _ = await self._courier.account(self.partitions.of(user), user)
        return account

    def _now(self) -> datetime:
        return datetime.now(UTC) if self._clock is None else self._clock()


def _configuration(config: Configuration | None) -> CreditsConfig:
    if isinstance(config, CreditsConfig):
        return config
    if isinstance(config, str | Path):
        return load_config(config)
    return CreditsConfig.parse(config)


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _moment(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else wire.from_ms(milliseconds)
