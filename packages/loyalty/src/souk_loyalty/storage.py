"""Accounts and holds in a database, by SQLAlchemy Core."""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Integer,
    MetaData,
    String,
    Table,
    bindparam,
    literal_column,
    select,
    update,
)

from souk_loyalty import rules
from souk_loyalty.database import Conflict, Database
from souk_loyalty.domain import (
    CLOCKS_APART_US,
    Account,
    Damaged,
    DomainError,
    Hold,
    Ledger,
    Overloaded,
    State,
    UnknownCustomer,
    UnknownHold,
    counts_pending,
)
from souk_loyalty.rows import Reader
from souk_loyalty.rules import Tier
from souk_loyalty.service import (
    Command,
    Confirm,
    ExpireDue,
    Forget,
    Outcome,
    PlaceHold,
    PutAccount,
    Release,
)
from souk_loyalty.statements import Among, Change, Lock, Session, Statement, deleting, inserting, updating
from souk_loyalty.writer import Clock, Writer, system_clock

REVISION = "0004"
"""The newest migration that this module knows; see `migrations/`."""

metadata = MetaData()
"""The tables. Their indexes are the migrations' business: to name them here would load every kind of database."""

_BY_BYTES = String(64).with_variant(String(64, collation="C"), "postgresql")
"""Sorted alike by every database, whatever language it is set to."""

accounts = Table(
    "accounts",
    metadata,
    Column("customer_id", _BY_BYTES, primary_key=True),
    Column("name", String(200), nullable=False),
    Column("tier", String(16), nullable=False),
    Column("points", BigInteger, nullable=False),
    Column("points_held", BigInteger, nullable=False),
    Column("tier_expires_at_us", BigInteger, nullable=False, server_default="0"),  # 0: never; version 1.0 ignores it
    # Not points_held <= points: earned points that are taken back may be held for another order by then.
    CheckConstraint("0 <= points_held", name="held_is_not_negative"),
)

holds = Table(
    "holds",
    metadata,
    Column("order_id", String(36), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("customer_id", String(64), nullable=False),
    Column("subtotal", BigInteger, nullable=False),
    Column("redeem_points", BigInteger, nullable=False),
    Column("discount_percent", Integer, nullable=False),
    Column("discount", BigInteger, nullable=False),
    Column("points_redeemed", BigInteger, nullable=False),
    Column("points_earned", BigInteger, nullable=False),
    Column("expires_at_us", BigInteger, nullable=False),
    CheckConstraint("0 <= points_redeemed AND 0 <= points_earned", name="points_are_not_negative"),
)
_is_expired = holds.c.state == literal_column("'EXPIRED'")
PRUNED = (("Holds that expired", holds.c.order_id, holds.c.expires_at_us, _is_expired),)
"""What `prune` deletes when it is old: what it is called, its key, its time, and which rows."""

# A literal, since an index for some of the rows is used only where a query names the same condition.
_is_held = holds.c.state == literal_column("'HELD'")

journal = Table(
    "journal",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("customer_id", String(64), nullable=False),
    Column("points", BigInteger, nullable=False),
    Column("at_us", BigInteger, nullable=False),
)

_all_accounts = select(accounts)
_accounts_among = _all_accounts.where(Among(accounts.c.customer_id))
_holds_among = select(holds).where(Among(holds.c.order_id))
_LOCK_ACCOUNTS = Lock(_all_accounts, accounts.c.customer_id)
_LOCK_HOLDS = Lock(select(holds), holds.c.order_id)
_SELECT_ACCOUNTS = Statement(_accounts_among)
_SELECT_HOLDS = Statement(_holds_among)
_SELECT_DUE = Statement(
    select(holds.c.order_id)
    .where(_is_held, holds.c.expires_at_us > bindparam("from_us"), holds.c.expires_at_us <= bindparam("until_us"))
    .order_by(holds.c.expires_at_us)
    .limit(bindparam("limit"))
)
# The time is always above 0: the index of what is HELD begins with it.
_SELECT_PENDING = Statement(
    select(holds.c.customer_id, holds.c.points_earned).where(
        _is_held, holds.c.expires_at_us > literal_column("0"), Among(holds.c.customer_id)
    )
)
_SELECT_PAGE = Statement(
    _all_accounts.where(accounts.c.customer_id > bindparam("after"))
    .order_by(accounts.c.customer_id)
    .limit(bindparam("limit"))
)
_INSERT_ACCOUNTS = inserting(accounts)
_INSERT_HOLDS = inserting(holds)
_INSERT_JOURNAL = inserting(journal, without=("id",))
_UPDATE_ACCOUNTS = updating(accounts)
_UPDATE_HOLDS = updating(holds)
_DELETE_HOLDS = deleting(holds)
_PUT_OFF = Statement(update(holds).where(holds.c.order_id == bindparam("key")).values(expires_at_us=bindparam("due")))
_DAMAGED_DELAY_US = 30_000_000

_ANY_TIME_AGO, _NEVER = -(2**62), 2**62

Result = TypeVar("Result")
Entity = TypeVar("Entity")


class SqlStorage:
    """The port `service.Storage` on a database."""

    def __init__(self, database: Database, clock: Clock = system_clock) -> None:
        self._database = database
        self._writer: Writer[Command, Outcome] = Writer(database, carry_out, clock)
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="reader")

    async def execute(self, commands: Sequence[Command]) -> Sequence[Outcome]:
        """See the port."""
        return await self._writer.execute(commands)

    def lag_s(self) -> float:
        """See the port."""
        return self._writer.lag_s()

    async def hold(self, order_id: str) -> Hold:
        """See the port."""
        found = await self._read(lambda session: _load(session, _SELECT_HOLDS, order_id, _READ_HOLD))
        if found is None:
            raise UnknownHold(order_id)
        return found

    async def account(self, customer_id: str) -> Account:
        """See the port."""
        found = await self._read(lambda session: _load(session, _SELECT_ACCOUNTS, customer_id, _READ_ACCOUNT))
        if found is None:
            raise UnknownCustomer(customer_id)
        return found

    async def accounts(self, after: str, limit: int) -> Sequence[Account]:
        """See the port."""

        def query(session: Session) -> Sequence[Account]:
            found: list[Account] = []
            last = after
            while lacking := limit - len(found):
                rows = session.rows(_SELECT_PAGE, after=last, limit=lacking)
                found += _READ_ACCOUNT.readable(rows)
                if len(rows) < lacking:
                    break
                last = rows[-1][0]  # others take the places of those that cannot be read
            return found

        return await self._read(query)

    async def answers(self) -> bool:
        """Whether the database can be written."""
        return await self._writer.can_write()

    def close(self) -> None:
        """Lets what is under way finish."""
        self._writer.close()
        self._readers.shutdown()
        self._database.close()

    async def _read(self, query: Callable[[Session], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._database.read, query)


def carry_out(session: Session, commands: Sequence[Command], now_us: int) -> Sequence[Outcome]:
    """Locks what the commands are about, lets the domain decide, and writes what it changed.

    A row that is not there cannot be locked. Who writes it runs into whoever else does, and sees theirs at the next
    try; who decides that there is to be none looks again, since the points may be held for that very order meanwhile.
    Raises Conflict.
    """
    order_ids = {c.order_id for c in commands if isinstance(c, PlaceHold | Confirm | Release)}
    due: set[str] = set()
    for command in commands:
        if isinstance(command, Forget):
            order_ids.update(command.order_ids)
        if isinstance(command, ExpireDue):
            due |= _due(session, command, now_us)
    order_ids |= due
    old_holds, lacking = _locked(session, _LOCK_HOLDS, order_ids, _READ_HOLD)
    customer_ids = {c.customer_id for c in commands if isinstance(c, PlaceHold | Confirm | PutAccount)}
    # What is CLOSED or EXPIRED affects no account, and hundreds of such may be forgotten at once, beside live orders.
    live = [hold for hold in old_holds.values() if hold.state in (State.HELD, State.CONFIRMED)]
    customer_ids.update(hold.customer_id for hold in live)
    old_accounts, lacking_accounts = _locked(session, _LOCK_ACCOUNTS, customer_ids, _READ_ACCOUNT)
    for hold in live:
        if why := lacking_accounts.get(hold.customer_id):  # then nothing can be said of what is held there, either
            lacking[hold.order_id] = why
            del old_holds[hold.order_id]
    for order_id in due & {each for each, why in lacking.items() if isinstance(why, Damaged)}:
        session.run(_PUT_OFF, key=order_id, due=now_us + _DAMAGED_DELAY_US)  # it holds up none of the others

    # No row of a customer's holds can come meanwhile: it takes the lock of the account.
    large = {
        command.customer_id
        for command in commands
        if isinstance(command, PlaceHold | Confirm)
        and (account := old_accounts.get(command.customer_id)) is not None
        and counts_pending(account, _earned(command))
    }
    pending: Counter[str] = Counter()
    for customer_id, earned in session.rows_among(_SELECT_PENDING, large):
        if isinstance(earned, int):  # or else the row is damaged, and never earns anything
            pending[customer_id] += earned

    ledger = Ledger(old_accounts, old_holds, pending)
    outcomes = [
        _lacks(command, lacking, lacking_accounts) or _decide(ledger, command, now_us, lacking) for command in commands
    ]

    unknown = order_ids - ledger.holds.keys() - old_holds.keys() - lacking.keys()
    if session.rows_among(_SELECT_HOLDS, unknown):
        raise Conflict
    forgotten = sorted(old_holds.keys() - ledger.holds.keys())
    session.change(_DELETE_HOLDS, [{"order_id": order_id} for order_id in forgotten])
    _save(session, _INSERT_ACCOUNTS, _UPDATE_ACCOUNTS, old_accounts, ledger.accounts, _account_row)
    _save(session, _INSERT_HOLDS, _UPDATE_HOLDS, old_holds, ledger.holds, _hold_row)
    session.change(
        _INSERT_JOURNAL,
        [{"customer_id": entry.customer_id, "points": entry.points, "at_us": now_us} for entry in ledger.journal],
    )
    return outcomes


def _earned(command: PlaceHold | Confirm) -> int:
    """The most points that an order can earn."""
    return rules.points_earned(command.subtotal) if isinstance(command, PlaceHold) else command.points_earned


def _due(session: Session, command: ExpireDue, now_us: int) -> set[str]:
    """The orders whose holds have expired, or expire so late that another clock must have said so."""
    latest_us = now_us + command.ttl_us + CLOCKS_APART_US
    found: set[str] = set()
    for from_us, until_us in ((_ANY_TIME_AGO, now_us), (latest_us, _NEVER)):
        rows = session.rows(_SELECT_DUE, from_us=from_us, until_us=until_us, limit=command.limit)
        found.update(order_id for (order_id,) in rows)
    return found


Lacking = Mapping[str, Overloaded | Damaged]
"""Rows that cannot be had, by their keys, and why."""


def _lacks(command: Command, orders: Lacking, customers: Lacking) -> DomainError | None:
    """Why a command cannot be carried out: it needs a row that cannot be had."""
    if not orders and not customers:
        return None
    match command:
        case PlaceHold(order_id, customer_id) | Confirm(order_id, customer_id):
            return orders.get(order_id) or customers.get(customer_id)
        case Release(order_id):
            return orders.get(order_id)
        case Forget(order_ids):
            whys = (orders.get(order_id) for order_id in order_ids)
            return next((why for why in whys if isinstance(why, Overloaded)), None)  # what is damaged stays
        case PutAccount(customer_id):
            return customers.get(customer_id)
        case ExpireDue():
            return None  # it can do without some


def _decide(ledger: Ledger, command: Command, now_us: int, lacking: Lacking) -> Outcome:
    try:
        match command:
            case PlaceHold(order_id, customer_id, subtotal, redeem_points, ttl_us):
                return ledger.place_hold(order_id, customer_id, subtotal, redeem_points, now_us + ttl_us, now_us)
            case Confirm(order_id, customer_id, points_redeemed, points_earned):
                return ledger.confirm(order_id, customer_id, points_redeemed, points_earned)
            case Release(order_id):
                ledger.release(order_id)
                return None
            case Forget(order_ids):
                stay = [order_id for order_id in order_ids if order_id in lacking]
                return [*stay, *ledger.forget([order_id for order_id in order_ids if order_id not in lacking])]
            case PutAccount():
                return ledger.put(*command)
            case ExpireDue(_, ttl_us):
                return ledger.expire_due(now_us, ttl_us)
    except DomainError as refusal:
        return refusal


def _locked(
    session: Session, lock: Lock, keys: Collection[str], reader: Reader[Entity]
) -> tuple[dict[str, Entity], dict[str, Overloaded | Damaged]]:
    """The entities, locked; and those that cannot be had, since they are damaged or another process has locked them."""
    rows, passed = session.lock(lock, keys)
    entities, damaged = reader.keyed(rows)
    return entities, {**damaged, **{key: Overloaded() for key in passed}}


def _load(session: Session, query: Statement, key: str, reader: Reader[Entity]) -> Entity | None:
    """Raises Damaged."""
    return next(map(reader, session.rows_among(query, [key])), None)


_READ_ACCOUNT = Reader("account", accounts.c, Account, tier=Tier)
_READ_HOLD = Reader("hold", holds.c, Hold, state=State)


def _account_row(account: Account) -> dict[str, object]:
    return {
        "customer_id": account.customer_id,
        "name": account.name,
        "tier": account.tier.value,
        "points": account.points,
        "points_held": account.points_held,
        "tier_expires_at_us": account.tier_expires_at_us,
    }


def _hold_row(hold: Hold) -> dict[str, object]:
    return {
        "order_id": hold.order_id,
        "state": hold.state.value,
        "customer_id": hold.customer_id,
        "subtotal": hold.subtotal,
        "redeem_points": hold.redeem_points,
        "discount_percent": hold.discount_percent,
        "discount": hold.discount,
        "points_redeemed": hold.points_redeemed,
        "points_earned": hold.points_earned,
        "expires_at_us": hold.expires_at_us,
    }


def _save(
    session: Session,
    insert: Change,
    update: Change,
    old: Mapping[str, Entity],
    new: Mapping[str, Entity],
    row: Callable[[Entity], dict[str, object]],
) -> None:
    """Entities are immutable: what changed is another object than the one that was loaded."""
    changed = {key: entity for key, entity in new.items() if entity is not old.get(key)}
    # Sorted, as in the locks: an insert waits for another's insert of the same key.
    session.change(insert, [row(changed[key]) for key in sorted(changed.keys() - old.keys())])
    session.change(update, [row(entity) for key, entity in changed.items() if key in old])
