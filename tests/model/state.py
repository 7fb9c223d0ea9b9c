"""The state of the world: immutable, so that it can be remembered."""

from typing import NamedTuple, TypeVar

from tests.model.rules import Rules

# The states of a participant's row. RELEASED is used by gateways that release, which is against the rules.
NONE, HELD, EXPIRED, CONFIRMED, CLOSED, RELEASED = "none", "HELD", "EXPIRED", "CONFIRMED", "CLOSED", "RELEASED"

# Of an order; it shares CONFIRMED.
ACCEPTED, CANCELLED, REFUSED, COMPLETED = "ACCEPTED", "CANCELLED", "REFUSED", "COMPLETED"

CONFIRM, RELEASE = "Confirm", "Release"
PARTICIPANTS = ("reservations", "loyalty")

Answer = tuple[str | int | bool, ...]
"""Its first part says what it is."""
Message = tuple[str | int | bool, ...]
"""To orders or a participant: its kind, whose it is, and what it carries."""

T = TypeVar("T")


class Item(NamedTuple):
    """`held` counts the pieces that our orders hold, `others` those that rivals hold."""

    on_hand: int
    held: int
    sold: int
    put_in: int
    others: int
    lowest: int
    """The fewest that were ever on hand."""

    @property
    def free(self) -> int:
        return self.on_hand - self.held - self.others


class Account(NamedTuple):
    """`held` counts the points that our orders hold, `others` those that the customer's other orders hold."""

    points: int
    held: int
    others: int
    spent: int
    """By the customer's other orders."""
    lowest: int

    @property
    def free(self) -> int:
        return self.points - self.held - self.others


class Reservation(NamedTuple):
    """The row of one key in reservations. `owner` is the request that a releasing gateway thinks it belongs to."""

    state: str = NONE
    item: int = 0
    price: int = 0
    owner: object = None


class Hold(NamedTuple):
    """The row of one key in loyalty."""

    state: str = NONE
    subtotal: int = 0
    redeemed: int = 0
    earned: int = 0
    owner: object = None


class Order(NamedTuple):
    """The row of one key in orders."""

    status: str
    content: int
    item: int
    price: int = 0
    redeemed: int = 0
    earned: int = 0
    with_loyalty: bool = False
    goods_confirmed: bool = False
    points_confirmed: bool = False
    reason: str = ""


class Gateway(NamedTuple):
    """How far a request has come. `lives`: no hold of its key has expired since it reserved."""

    step: str = "idle"
    price: int = 0
    redeemed: int = 0
    earned: int = 0
    with_loyalty: bool = True
    lives: bool = True
    reason: Answer = ()


FINISHED = Gateway("done")

Outbox = tuple[str, str]
"""What reservations and loyalty must still be told: CONFIRM, RELEASE, or nothing."""


class Lost(NamedTuple):
    """What became of a key when the orders database went back."""

    happened: bool = False
    proved: bool = False
    """Reservations had CONFIRMED the order by then."""


class World(NamedTuple):
    """Budgets, and what the invariants need to know of the past."""

    faults: int
    price: int
    price_changes: int
    restocks: int
    expiries: int
    losses: int
    expired: tuple[bool, ...]
    """By key: whether a hold has expired since the order was accepted."""
    lost: tuple[Lost, ...]


class State(NamedTuple):
    """All of it. Where there is one of something for each key or request, it stands in a tuple."""

    items: tuple[Item, ...]
    account: Account
    reservations: tuple[Reservation, ...]
    holds: tuple[Hold, ...]
    orders: tuple[Order | None, ...]
    outbox: tuple[Outbox, ...]
    gateways: tuple[Gateway, ...]
    network: frozenset[Message]
    """Messages that will arrive late, or never."""
    answers: frozenset[Message]
    """What participants said to the relay, which has not recorded it yet."""
    told: tuple[frozenset[tuple[int, Answer]], ...]
    """The final answers that clients got for each key: content and answer."""
    world: World


def initial(rules: Rules) -> State:
    """Nothing has been asked for yet."""
    keys = 1 + max(key for key, _ in rules.requests)
    return State(
        tuple(Item(pieces, 0, 0, pieces, 0, pieces) for pieces in rules.stock),
        Account(rules.points, 0, 0, 0, rules.points),
        (Reservation(),) * keys,
        (Hold(),) * keys,
        (None,) * keys,
        (("", ""),) * keys,
        (Gateway(),) * len(rules.requests),
        frozenset(),
        frozenset(),
        (frozenset(),) * keys,
        World(
            rules.faults, 2, rules.price_changes, rules.restocks, rules.expiries, rules.losses,
            (False,) * keys, (Lost(),) * keys,
        ),
    )  # fmt: skip


def put(all_of_them: tuple[T, ...], index: int, value: T) -> tuple[T, ...]:
    """The tuple with another value in one place."""
    return (*all_of_them[:index], value, *all_of_them[index + 1 :])


def telling(pending: Outbox, participant: int, kind: str) -> Outbox:
    """The outbox of a key with another message to one participant; "" for none."""
    goods, points = pending
    return (kind, points) if participant == 0 else (goods, kind)


def with_item(state: State, item: int, *, on_hand: int = 0, held: int = 0, sold: int = 0) -> State:
    """Changes an item by these numbers of pieces."""
    old = state.items[item]
    left = old.on_hand + on_hand
    new = Item(left, old.held + held, old.sold + sold, old.put_in, old.others, min(old.lowest, left))
    return state._replace(items=put(state.items, item, new))


def with_reservation(state: State, key: int, row: Reservation) -> State:
    """Writes a row of reservations."""
    return state._replace(reservations=put(state.reservations, key, row))


def with_hold(state: State, key: int, row: Hold, *, points: int = 0, held: int = 0) -> State:
    """Writes a row of loyalty, and changes the account by these numbers of points."""
    old = state.account
    left = old.points + points
    account = Account(left, old.held + held, old.others, old.spent, min(old.lowest, left))
    return state._replace(holds=put(state.holds, key, row), account=account)


def with_order(state: State, key: int, row: Order | None, outbox: Outbox | None = None) -> State:
    """Writes a row of orders, and what must be told because of it, if that changes."""
    pending = state.outbox if outbox is None else put(state.outbox, key, outbox)
    return state._replace(orders=put(state.orders, key, row), outbox=pending)


def with_gateway(state: State, request: int, gateway: Gateway) -> State:
    """Moves a request."""
    return state._replace(gateways=put(state.gateways, request, gateway))
