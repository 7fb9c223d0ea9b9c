"""What the service does for others, and what it needs for that.

A use case checks what it is given and hands commands to the storage, which carries out all that are waiting in one
transaction: so commands go in lists, and each has an outcome of its own.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from souk_loyalty import rules
from souk_loyalty.domain import (
    LONGEST_TTL_US,
    MAX_POINTS,
    NO_ANSWER,
    Account,
    Damaged,
    DomainError,
    Hold,
    InvalidArgument,
    Overloaded,
    UnknownCustomer,
    in_range,
)
from souk_loyalty.revisions import ANY, Condition
from souk_loyalty.rules import Tier

MAX_SUBTOTAL = 10**17
"""Minor units: a hundred lines of a million pieces at the highest price. Above MAX_NUMBER, the order is refused."""
MAX_TIME_US = 253_402_300_799_999_999
"""The last microsecond that a four-digit year has."""
MAX_PAGE = 500
DEFAULT_PAGE = 100
MAX_FORGOTTEN = 1000
"""Orders, of one call."""
MAX_REVISIONS = 16
LONGEST_LAG_S = 1.0
"""What is new is not begun while commands wait longer than this: the gateway, which waits five seconds for all services
together, would not wait for the answer."""
PAUSE_MS = 250
"""For how long the gateway is asked to begin nothing then."""
_LAGS = "earlier calls have waited too long already, so this was not begun; try again in a moment"
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_CUSTOMER_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_NOT_NEW = (".", "..")
"""Ids that customers could have before version 1.2. No client can name them in a path, so no further one gets one."""


class PlaceHold(NamedTuple):
    """Outcome: the Hold, or Busy, Settled, UnknownCustomer, RedeemExceedsTotal, InsufficientPoints, HeldByOthers."""

    order_id: str
    customer_id: str
    subtotal: int
    redeem_points: int
    ttl_us: int


class Confirm(NamedTuple):
    """Outcome: None for yes, or why not."""

    order_id: str
    customer_id: str
    points_redeemed: int
    points_earned: int


class Release(NamedTuple):
    """Outcome: None."""

    order_id: str


class Forget(NamedTuple):
    """Outcome: the ids of those that stay, a tuple."""

    order_ids: tuple[str, ...]


class PutAccount(NamedTuple):
    """Outcome: the Account, or PreconditionFailed, InvalidArgument, PointsBelowHeld."""

    customer_id: str
    name: str
    tier: Tier
    points: int | None
    """None leaves them as they were."""
    tier_expires_at_us: int | None = None
    """0 for never; None leaves it as it was."""
    condition: Condition = ANY


class ExpireDue(NamedTuple):
    """Ends holds whose time has passed, the oldest first; none lives for longer than `ttl_us`. Outcome: how many."""

    limit: int
    ttl_us: int = LONGEST_TTL_US


Command = PlaceHold | Confirm | Release | Forget | PutAccount | ExpireDue
Outcome = Hold | Account | list[str] | int | DomainError | None


class Storage(Protocol):
    """Where accounts and holds are kept. Every method raises StorageUnavailable when it cannot be reached."""

    async def execute(self, commands: Sequence[Command]) -> Sequence[Outcome]:
        """Carries out all commands, in order, durably; a refused one is an outcome and does not stop the others."""

    def lag_s(self) -> float:
        """For how long the first command that is not carried out yet has waited, in seconds."""

    async def hold(self, order_id: str) -> Hold:
        """Raises UnknownHold."""

    async def account(self, customer_id: str) -> Account:
        """Raises UnknownCustomer."""

    async def accounts(self, after: str, limit: int) -> Sequence[Account]:
        """Accounts with a customer id greater than `after`, by customer id."""


class Loyalty:
    """The use cases. All raise InvalidArgument for what is out of its range, and StorageUnavailable."""

    def __init__(self, storage: Storage, *, hold_ttl_s: float) -> None:
        self._storage = storage
        self._ttl_us = int(hold_ttl_s * 1_000_000)

    async def place_hold(self, order_id: str, customer_id: str, subtotal: int, redeem_points: int) -> Hold:
        """Raises Busy, Settled, UnknownCustomer, RedeemExceedsTotal, InsufficientPoints, HeldByOthers."""
        (outcome,) = await self.place_all([(order_id, customer_id, subtotal, redeem_points)])
        if isinstance(outcome, DomainError):
            raise outcome
        return outcome

    async def place_all(self, wanted: Sequence[tuple[str, str, int, int]]) -> Sequence[Hold | DomainError]:
        """Places several holds at once. What `place_hold` would raise for one is its outcome, InvalidArgument too."""
        if self._storage.lag_s() > LONGEST_LAG_S:
            return [Overloaded(_LAGS, pause_ms=PAUSE_MS)] * len(wanted)
        return await self._execute_all([_place_hold(*each, self._ttl_us) for each in wanted])

    async def confirm(
        self, order_id: str, customer_id: str, points_redeemed: int, points_earned: int
    ) -> DomainError | None:
        """Gives None for yes, or why not."""
        (outcome,) = await self.confirm_all([(order_id, customer_id, points_redeemed, points_earned)])
        if isinstance(outcome, NO_ANSWER):
            raise outcome
        return outcome

    async def confirm_all(self, wanted: Sequence[tuple[str, str, int, int]]) -> Sequence[DomainError | None]:
        """Confirms for several orders at once; InvalidArgument is the outcome of one that is not as it should be."""
        return await self._execute_all([_confirm(*each) for each in wanted])

    async def release(self, order_id: str) -> None:
        """Always succeeds."""
        await self._execute(Release(_order_id(order_id)))

    async def forget(self, order_ids: Sequence[str]) -> Sequence[str]:
        """Takes away the rows of these orders that are CLOSED or EXPIRED; gives the ids of those that stay."""
        if len(order_ids) > MAX_FORGOTTEN:
            raise InvalidArgument("order_ids", f"must be at most {MAX_FORGOTTEN}, but are {len(order_ids)}")
        kept = await self._execute(Forget(tuple(map(_order_id, order_ids))))
        assert isinstance(kept, list)
        return kept

    async def hold(self, order_id: str) -> Hold:
        """Raises UnknownHold."""
        return await self._storage.hold(_order_id(order_id))

    async def put_account(
        self,
        customer_id: str,
        name: str,
        tier: Tier,
        points: int | None,
        tier_expires_at_us: int | None = None,
        condition: Condition = ANY,
    ) -> Account:
        """An expiry of 0 is never; what is None stays as it was. Raises PreconditionFailed, PointsBelowHeld."""
        if customer_id in _NOT_NEW:
            raise InvalidArgument("customer_id", f"must not be {' or '.join(_NOT_NEW)}, which cannot be part of a path")
        if not name.strip() or len(name) > 200 or "\0" in name:
            raise InvalidArgument("name", "must have 1 to 200 characters, not only spaces, without NUL")
        if tier_expires_at_us is not None:
            in_range("tier_expires_at_us", tier_expires_at_us, 0, MAX_TIME_US)
        in_range("revisions", len(condition.revisions), 0, MAX_REVISIONS)
        command = PutAccount(_customer_id(customer_id), name, tier, points, tier_expires_at_us, condition)
        account = await self._execute(command)
        assert isinstance(account, Account)
        return account

    async def account(self, customer_id: str) -> Account:
        """Raises UnknownCustomer."""
        return await self._storage.account(_customer_id(customer_id))

    async def accounts(self, page_size: int, page_token: str) -> tuple[Sequence[Account], str]:
        """A page, and the token of the next one; empty on the last.

        A token is the id of the last customer on its page, in every version. Accounts are never deleted, so another
        text was not given.
        """
        size = in_range("page_size", page_size, 0, MAX_PAGE) or DEFAULT_PAGE
        if page_token:
            try:
                await self.account(page_token)
            except Damaged:
                pass  # it is there, and the list goes on without it
            except (InvalidArgument, UnknownCustomer):
                wanted = "is not from an answer of this call; leave it empty for the first page"
                raise InvalidArgument("page_token", wanted) from None
        accounts = await self._storage.accounts(page_token, size + 1)
        return accounts[:size], accounts[size - 1].customer_id if len(accounts) > size else ""

    async def expire_due(self, limit: int) -> int:
        """Ends up to `limit` holds whose time has passed; gives how many it ended."""
        count = await self._execute(ExpireDue(limit, self._ttl_us))
        assert isinstance(count, int)
        return count

    async def _execute(self, command: Command) -> Outcome:
        (outcome,) = await self._storage.execute([command])
        if isinstance(outcome, DomainError):
            raise outcome
        return outcome

    async def _execute_all(self, commands: Sequence[Command | InvalidArgument]) -> Sequence[Any]:
        """Their outcomes; a command that could not be made is its own."""
        made = [command for command in commands if not isinstance(command, InvalidArgument)]
        outcomes = iter(await self._storage.execute(made) if made else ())
        return [command if isinstance(command, InvalidArgument) else next(outcomes) for command in commands]


def _place_hold(
    order_id: str, customer_id: str, subtotal: int, redeem_points: int, ttl_us: int
) -> PlaceHold | InvalidArgument:
    try:
        in_range("subtotal", subtotal, 0, MAX_SUBTOTAL)
        in_range("redeem_points", redeem_points, 0, MAX_POINTS)
        return PlaceHold(_order_id(order_id), _customer_id(customer_id), subtotal, redeem_points, ttl_us)
    except InvalidArgument as error:
        return error


def _confirm(order_id: str, customer_id: str, points_redeemed: int, points_earned: int) -> Confirm | InvalidArgument:
    try:
        in_range("points_redeemed", points_redeemed, 0, MAX_POINTS)
        in_range("points_earned", points_earned, 0, rules.points_earned(MAX_SUBTOTAL))
        return Confirm(_order_id(order_id), _customer_id(customer_id), points_redeemed, points_earned)
    except InvalidArgument as error:
        return error


def _order_id(text: str) -> str:
    if not _UUID.fullmatch(text):
        raise InvalidArgument("order_id", f"must be a UUID in lower case with hyphens, but is '{text[:64]}'")
    return text


def _customer_id(text: str) -> str:
    if not _CUSTOMER_ID.fullmatch(text):
        wanted = "must be 1 to 64 letters, digits, dots, underscores or hyphens"
        raise InvalidArgument("customer_id", f"{wanted}, but is '{text[:80]}'")
    return text
