"""Accounts, and holds on their points. Standard library only.

The states of a hold and what each call makes of them stand here, and nowhere else; what discounts and points are
worth stands in `rules`:

    call        no row, EXPIRED           HELD                        CONFIRMED            CLOSED
    place_hold  hold, or refuse           same content: the same      Settled, and says    Settled
                                          quote; other: Busy          that it is CONFIRMED
    confirm     take: CONFIRMED, or       drop the hold, then as      yes                  no
                CLOSED and no             on the left; never no to
                                          what was held
    release     CLOSED                    drop the hold: CLOSED       give back: CLOSED    CLOSED
    expire      -                         once due: EXPIRED           -                    -
    forget      no row                    stays                       stays                no row
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple

from souk_loyalty import rules
from souk_loyalty.revisions import ANY, Condition, revision_of
from souk_loyalty.rules import Tier

MAX_POINTS = 1_000_000_000_000
"""That a put may give an account, and an order redeem."""
MAX_NUMBER = 2**53 - 1
"""Above it, readers of JSON round whole numbers. No sum that Souk keeps or shows may pass it."""
_FEW = 1_000_000
_MANY = 2**52
_SPARE = 2**40


LONGEST_TTL_US = 86_400_000_000
"""Of a hold, a day."""

CLOCKS_APART_US = 30_000_000
"""By which the clocks of two processes may differ, and a clock step back, unnoticed."""


class DomainError(Exception):
    """A refusal. Its text is for people; `metadata` names what it is about."""

    def __init__(self, detail: str, **metadata: object) -> None:
        super().__init__(detail)
        self.metadata = {key: str(value) for key, value in metadata.items()}


class InvalidArgument(DomainError):
    """A field is missing or out of its range."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(f"{field} {detail}", field=field)


class UnknownCustomer(DomainError):
    """There is no such account."""

    def __init__(self, customer_id: str) -> None:
        super().__init__(f"there is no customer with the id '{customer_id}'", customer_id=customer_id)


class InsufficientPoints(DomainError):
    """Fewer points are there than are to be redeemed."""

    def __init__(self, customer_id: str, requested: int, available: int) -> None:
        super().__init__(
            f"the order redeems {requested} points of '{customer_id}', but {available} are available; redeem fewer",
            customer_id=customer_id,
            requested=requested,
            available=available,
        )


class HeldByOthers(DomainError):
    """The account has enough points, but other orders hold some of them, which may be available again in a moment."""

    def __init__(self, customer_id: str, requested: int, available: int) -> None:
        super().__init__(
            f"the order redeems {requested} points of '{customer_id}', but {available} are available while other "
            "orders hold some; try again in a moment",
            customer_id=customer_id,
            requested=requested,
            available=available,
        )


class RedeemExceedsTotal(DomainError):
    """More points are to be redeemed than is left to pay."""

    def __init__(self, requested: int, payable: int) -> None:
        super().__init__(
            f"the order redeems {requested} points, but {payable} are enough to pay for it; redeem at most {payable}",
            requested=requested,
            payable=payable,
        )


class Busy(DomainError):
    """The order holds something else."""

    def __init__(self, order_id: str) -> None:
        super().__init__(
            f"another request with other content is in progress for the order {order_id}; try again in a moment"
        )


class Settled(DomainError):
    """The hold is CONFIRMED or CLOSED; the state is in the metadata."""

    def __init__(self, order_id: str, state: "State") -> None:
        super().__init__(f"the hold of the order {order_id} is already {state}", state=state)


class PointsBelowHeld(DomainError):
    """The account would have fewer points than are held."""

    def __init__(self, customer_id: str, points: int, held: int) -> None:
        super().__init__(
            f"'{customer_id}' cannot have {points} points while orders hold {held}; "
            f"set at least {held}, or try again later",
            customer_id=customer_id,
            held=held,
        )


class PreconditionFailed(DomainError):
    """The account is not as the put says that it must be."""

    def __init__(self, customer_id: str, account: "Account | None") -> None:
        found = "is not as the request says that it must be" if account else "does not exist"
        super().__init__(
            f"the customer '{customer_id}' {found}; nothing was changed, so read it and decide anew",
            customer_id=customer_id,
        )


class LimitExceeded(DomainError):
    """A sum would pass MAX_NUMBER."""

    def __init__(self, what: str, number: int, **about: object) -> None:
        super().__init__(f"{what} would be {number}, but may be at most {MAX_NUMBER}", **about)


class UnknownHold(DomainError):
    """There is no hold under this order id."""

    def __init__(self, order_id: str) -> None:
        super().__init__(f"there is no hold for the order {order_id}")


class StorageUnavailable(DomainError):
    """The database does not answer, or cannot write. What was asked for may have been done, or not: ask again."""

    def __init__(self) -> None:
        super().__init__("the database cannot be used now; the service's log says why")


class Damaged(DomainError):
    """A stored row that is needed cannot be read. That does not pass by itself: somebody has to mend the row."""

    def __init__(self, record: str, key: str, field: str) -> None:
        what = f"its field {field} cannot be read" if field else "its fields do not fit together"
        super().__init__(
            f"the stored {record} {key} is damaged: {what}; whoever runs Souk has to mend it",
            record=record,
            id=key,
            damaged_field=field,
        )


class Overloaded(DomainError):
    """It was not begun: too much waits to be done, or another process keeps a row locked that it needs. Ask again."""

    def __init__(
        self, detail: str = "another process keeps locked what this needs; try again in a moment", **metadata: object
    ) -> None:
        super().__init__(detail, **metadata)


NO_ANSWER = (InvalidArgument, Overloaded, Damaged)
"""What is neither a yes nor a no to a Confirm."""


class State(StrEnum):
    """Where a hold is on its way."""

    HELD = "HELD"
    EXPIRED = "EXPIRED"
    CONFIRMED = "CONFIRMED"
    CLOSED = "CLOSED"


class Account(NamedTuple):
    """A customer's. Always 0 <= points_held.

    `points` is the balance, held points included. It is negative, or below what is held, where points that were
    earned and spent had to be taken back. From `tier_expires_at_us` on, where it is not 0, the tier is worth no more
    than the standard one.
    """

    customer_id: str
    name: str
    tier: Tier
    points: int
    points_held: int = 0
    tier_expires_at_us: int = 0

    def tier_at(self, now_us: int) -> Tier:
        """The tier that counts."""
        expired = 0 < self.tier_expires_at_us <= now_us
        return Tier.STANDARD if expired else self.tier

    @property
    def available(self) -> int:
        """Points that can be redeemed; never negative, so that redeeming none is always possible."""
        return max(0, self.points - self.points_held)

    @property
    def revision(self) -> str:
        """Another text whenever something changed that `put` sets."""
        return revision_of((self.name, self.tier, self.tier_expires_at_us), self.points)


class Hold(NamedTuple):
    """The discount and the points of one order. Money in minor units.

    `subtotal` and `redeem_points` are what `place_hold` was asked, `discount_percent` and `discount` its quote;
    `points_redeemed` and `points_earned` are that quote's, too, and from `confirm` on what the order says.
    """

    order_id: str
    state: State
    customer_id: str = ""
    subtotal: int = 0
    redeem_points: int = 0
    discount_percent: int = 0
    discount: int = 0
    points_redeemed: int = 0
    points_earned: int = 0
    expires_at_us: int = 0


class JournalEntry(NamedTuple):
    """Points that came to an account, or left it, otherwise than by an order."""

    customer_id: str
    points: int


def counts_pending(account: Account, earned: int) -> bool:
    """Whether an order that earns so many points must be counted together with all that are held.

    It is not where that is far from MAX_NUMBER, as for almost every order: it takes another statement. While others
    are held, the orders that are not counted would have to be a million, of a hundred million minor units each, to earn
    what is spared for them.
    """
    return earned > _FEW or account.points > _MANY


class Ledger:
    """The accounts and holds that a transaction is about, and what may be done to them.

    It holds every account and hold that the calls name, and the accounts of those holds; an account that is not there
    does not exist. `pending` are the points that the held orders of a customer will earn, of each for whom it
    `counts_pending`. A call that raises has changed nothing.
    """

    def __init__(
        self, accounts: Mapping[str, Account], holds: Mapping[str, Hold], pending: Mapping[str, int] | None = None
    ) -> None:
        self.accounts = dict(accounts)
        self.holds = dict(holds)
        self._pending = dict(pending or {})
        self.journal: list[JournalEntry] = []

    def place_hold(
        self, order_id: str, customer_id: str, subtotal: int, redeem_points: int, expires_at_us: int, now_us: int
    ) -> Hold:
        """Quotes the discount by today's tier, and holds the points until `expires_at_us`.

        Raises Busy, Settled, UnknownCustomer, RedeemExceedsTotal, InsufficientPoints, HeldByOthers, LimitExceeded.
        """
        row = self.holds.get(order_id)
        if row is not None and row.state in (State.CONFIRMED, State.CLOSED):
            raise Settled(order_id, row.state)
        if row is not None and row.state is State.HELD:
            if (row.customer_id, row.subtotal, row.redeem_points) != (customer_id, subtotal, redeem_points):
                raise Busy(order_id)
            held = row._replace(expires_at_us=expires_at_us)
        else:
            held = self._quote(order_id, customer_id, subtotal, redeem_points, expires_at_us, now_us)
            self._change(customer_id, held=redeem_points, pending=held.points_earned)
        self.holds[order_id] = held
        return held

    def confirm(self, order_id: str, customer_id: str, points_redeemed: int, points_earned: int) -> DomainError | None:
        """Takes and gives exactly these points, whatever was held; gives None for yes, or else why not."""
        row = self.holds.get(order_id) or Hold(order_id, State.EXPIRED)
        if row.state is State.CONFIRMED:
            return None
        if row.state is State.CLOSED:
            return Settled(order_id, row.state)
        promised = earning = 0
        if row.state is State.HELD:
            self._drop(row)
            # A hold is a promise, also where points were taken back meanwhile and the balance goes negative for it.
            if row.customer_id == customer_id:
                promised, earning = row.points_redeemed, row.points_earned
        try:
            self._check_available(customer_id, points_redeemed, promised)
            if points_earned > earning:
                self._check_room(customer_id, points_earned)
        except (UnknownCustomer, InsufficientPoints, LimitExceeded) as refusal:
            self.holds[order_id] = row._replace(state=State.CLOSED)
            return refusal
        self._change(customer_id, points=points_earned - points_redeemed)
        self.holds[order_id] = row._replace(
            state=State.CONFIRMED,
            customer_id=customer_id,
            points_redeemed=points_redeemed,
            points_earned=points_earned,
        )
        return None

    def release(self, order_id: str) -> None:
        """Drops the hold, or gives back what was redeemed and takes back what was earned; closes it for ever."""
        row = self.holds.get(order_id) or Hold(order_id, State.EXPIRED)
        if row.state is State.HELD:
            self._drop(row)
        elif row.state is State.CONFIRMED:
            self._change(row.customer_id, points=row.points_redeemed - row.points_earned)
        self.holds[order_id] = row._replace(state=State.CLOSED)

    def expire_due(self, now_us: int, ttl_us: int = LONGEST_TTL_US) -> int:
        """Ends the holds whose time has passed; gives how many.

        One that would live for longer than `ttl_us`, by more than clocks may be apart, was made before the clock
        stepped back. It gets `ttl_us` from now.
        """
        latest_us = now_us + ttl_us + CLOCKS_APART_US
        for row in [row for row in self.holds.values() if row.state is State.HELD and row.expires_at_us > latest_us]:
            self.holds[row.order_id] = row._replace(expires_at_us=now_us + ttl_us)
        due = [row for row in self.holds.values() if row.state is State.HELD and row.expires_at_us <= now_us]
        for row in due:
            self._drop(row)
            self.holds[row.order_id] = row._replace(state=State.EXPIRED)
        return len(due)

    def forget(self, order_ids: Iterable[str]) -> list[str]:
        """Takes away what is CLOSED or EXPIRED, as if it had never been; gives the ids of those that stay."""
        rows = [row for order_id in order_ids if (row := self.holds.get(order_id)) is not None]
        for row in rows:
            if row.state in (State.CLOSED, State.EXPIRED):
                self.holds.pop(row.order_id, None)
        return [row.order_id for row in rows if row.order_id in self.holds]

    def put(
        self,
        customer_id: str,
        name: str,
        tier: Tier,
        points: int | None,
        tier_expires_at_us: int | None = None,
        condition: Condition = ANY,
    ) -> Account:
        """Creates an account, or changes it. What is None stays as it was: no points and no expiry in a new one.

        The points that there are may be put whatever they are: orders may have brought them below 0 or what is held,
        or above the limit. Raises PreconditionFailed, InvalidArgument, PointsBelowHeld.
        """
        there = self.accounts.get(customer_id)
        old = there or Account(customer_id, name, tier, points=0)
        counts = points is not None
        points = old.points if points is None else points
        expires_at_us = old.tier_expires_at_us if tier_expires_at_us is None else tier_expires_at_us
        account = old._replace(name=name, tier=tier, points=points, tier_expires_at_us=expires_at_us)
        if condition.is_repeat and account == there:
            return account
        if not condition.is_met(there and there.revision, counts=counts):
            raise PreconditionFailed(customer_id, there)
        if points != old.points:
            in_range("points", points, 0, MAX_POINTS)
            if points < old.points_held:
                raise PointsBelowHeld(customer_id, points, old.points_held)
            self.journal.append(JournalEntry(customer_id, points - old.points))
        self.accounts[customer_id] = account
        return account

    def _account(self, customer_id: str) -> Account:
        try:
            return self.accounts[customer_id]
        except KeyError:
            raise UnknownCustomer(customer_id) from None

    def _check_available(
        self,
        customer_id: str,
        points: int,
        promised: int = 0,
        otherwise: type[InsufficientPoints | HeldByOthers] = InsufficientPoints,
    ) -> None:
        available = self._account(customer_id).available
        if points > max(available, promised):
            raise otherwise(customer_id, points, available)

    def _quote(
        self, order_id: str, customer_id: str, subtotal: int, redeem_points: int, expires_at_us: int, now_us: int
    ) -> Hold:
        account = self._account(customer_id)
        if subtotal > MAX_NUMBER:
            raise LimitExceeded("what the order costs", subtotal, customer_id=customer_id)
        percent = rules.discount_percent(account.tier_at(now_us))
        discount = rules.discount(subtotal, percent)
        payable = rules.payable(subtotal, discount)
        if redeem_points > payable:
            raise RedeemExceedsTotal(redeem_points, payable)
        lacking = HeldByOthers if redeem_points <= account.points else InsufficientPoints
        self._check_available(customer_id, redeem_points, otherwise=lacking)
        earned = rules.points_earned(rules.total(subtotal, discount, redeem_points))
        self._check_room(customer_id, earned)
        return Hold(
            order_id=order_id,
            state=State.HELD,
            customer_id=customer_id,
            subtotal=subtotal,
            redeem_points=redeem_points,
            discount_percent=percent,
            discount=discount,
            points_redeemed=redeem_points,
            points_earned=earned,
            expires_at_us=expires_at_us,
        )

    def _check_room(self, customer_id: str, earned: int) -> None:
        account = self._account(customer_id)
        balance = account.points + self._pending.get(customer_id, 0) + earned
        if balance > MAX_NUMBER - (0 if account.points > _MANY else _SPARE):
            what = f"the points of '{customer_id}', with those that orders will earn,"
            raise LimitExceeded(what, balance, customer_id=customer_id)

    def _drop(self, row: Hold) -> None:
        """Ends what a HELD row holds."""
        self._change(row.customer_id, held=-row.points_redeemed, pending=-row.points_earned)

    def _change(self, customer_id: str, *, points: int = 0, held: int = 0, pending: int = 0) -> None:
        if pending:
            self._pending[customer_id] = self._pending.get(customer_id, 0) + pending
        if points or held:  # most orders redeem nothing, and their account need not be written
            account = self.accounts[customer_id]
            self.accounts[customer_id] = account._replace(
                points=account.points + points, points_held=account.points_held + held
            )


def in_range(field: str, value: int, low: int, high: int) -> int:
    """The value. Raises InvalidArgument where it is not from `low` to `high`."""
    if not low <= value <= high:
        raise InvalidArgument(field, f"must be from {low} to {high}, but is {value}")
    return value
