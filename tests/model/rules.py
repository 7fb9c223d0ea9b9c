"""What a world is like, and which rules its parties follow."""

from dataclasses import dataclass

ANY_NUMBER = 99


@dataclass(frozen=True)
class Rules:
    """A bounded world with the rules as they are; `mutations` changes one of them.

    A request is a pair: its idempotency key, and its content. A content orders one piece of an item.
    """

    name: str = ""

    # The world.
    requests: tuple[tuple[int, int], ...] = ((0, 0), (0, 0))
    """Every request that is ever sent. Several with the same key and content are retries."""
    item_of: tuple[int, ...] = (0, 0)
    """The item that each content orders."""
    redeem_of: tuple[int, ...] = (0, 0)
    """The points that each content redeems."""
    stock: tuple[int, ...] = (1,)
    points: int = 9
    earned: int = 0
    """Points that a confirmed order without redeemed points earns."""
    faults: int = 2
    """Lost answers, late messages and repeated messages, in all."""
    price_changes: int = 0
    restocks: int = 0
    losses: int = 0
    """How often the orders database goes back to before an order."""
    cancels: bool = True
    completes: bool = False
    expiries: int = ANY_NUMBER
    rivals: bool = True
    """Other buyers hold what is free, give it back or buy it, at will."""
    keyless: bool = False
    """Requests have no key: a step that fails or stays unknown ends in Refuse."""
    loyalty_optional: bool = False
    clocks_agree: bool = True
    """Create refuses holds that are about to end. Not so where clocks differ by more than the margin."""

    # Reserve and Hold.
    says_settled: bool = True
    """CONFIRMED and CLOSED are answered by SETTLED, with the state."""
    expired_is_new: bool = True
    """EXPIRED is as if there were no row."""
    other_content: str = "busy"
    """What happens to HELD where other content is asked for: busy, join or replace."""
    goods_held_by_others_pass: bool = True
    """Goods that lack only because others hold them are no lasting refusal."""
    points_held_by_others_pass: bool = True
    reserve_is_idempotent: bool = True
    stock_is_checked_inside: bool = True

    # Confirm, Release and the janitor.
    confirm_takes_what_the_order_says: bool = True
    confirm_once: bool = True
    hold_is_promise: bool = True
    closed_is_final: bool = True
    a_no_is_final: bool = True
    release_leaves_closed: bool = True
    release_once: bool = True
    release_undoes_confirmed: bool = True
    earned_points_are_taken_back: bool = True
    janitor: str = "atomic"
    """atomic: one update with both conditions; stale: looks at the state only; blind: updates what it read before."""

    # Orders and its relay.
    create_is_an_insert: bool = True
    create_is_durable: bool = True
    outbox_is_atomic: bool = True
    content_is_checked: bool = True
    refusals_are_recorded: bool = True
    refused_before_recorded: bool = False
    first_decision_wins: bool = True
    refuse_releases: bool = True
    cancel_releases: bool = True
    cancel_replaces_confirm: bool = True
    answers_count_only_while_pending: bool = True
    both_confirm: bool = True
    a_no_cancels: bool = True
    without_loyalty_releases: bool = True

    # The gateway.
    evidence_is_heeded: bool = True
    """Where a participant says that it has CONFIRMED the order, the gateway looks it up before anything is refused."""
    evidence_is_checked: bool = True
    """Where a participant says so, the gateway asks orders whether it knows the order."""
    gateway_releases: str = "never"
    """Whether it releases what it held when it gives up: never, naive, takeover, first or sole."""
    gateway_release_undoes_confirmed: bool = True

    # Pruning and repairs.
    prune: str = "no"
    """When CLOSED rows of settled orders go: no, any, or quiet (when no message of the order can still arrive)."""
    prunes_confirmed: bool = False
    repairs_orphans: bool = False
    """Somebody releases holds without an order at the participant itself."""

    # What is looked at.
    retries_are_tried: bool = True
    """In every state, a retry in a world that has come to rest must get the right answer."""
    only_expiry_excuses_a_lost_order: bool = True
    """An order that was ACCEPTED is cancelled for want of its goods only if one of its holds had expired."""
