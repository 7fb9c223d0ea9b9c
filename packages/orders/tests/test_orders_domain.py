"""The table of an order, cell by cell: which decision stands, what its status is, and what must be told to whom."""

import pytest

from souk_orders.book import Kind, Message, OrderBook, Participant
from souk_orders.domain import (
    HoldExpiring,
    InvalidArgument,
    KeyReused,
    Line,
    Order,
    Refusal,
    RefusedOrder,
    Status,
    Terms,
    UnknownOrder,
    WrongStatus,
)

ID = "5f0c8a9e-0000-4000-8000-000000000001"
PRINT = b"f" * 32
NOW_US = 1_000
OUT_OF_STOCK = Refusal("OUT_OF_STOCK", "3 pieces of 'tea' were ordered, but 1 are available", {"sku": "tea"})
CONFIRM_BOTH = {Participant.RESERVATIONS: Kind.CONFIRM, Participant.LOYALTY: Kind.CONFIRM}
RELEASE_BOTH = {Participant.RESERVATIONS: Kind.RELEASE, Participant.LOYALTY: Kind.RELEASE}


def without_loyalty(terms: Terms) -> Terms:
    return terms._replace(discount_percent=0, discount=0, points_redeemed=0, points_earned=0, without_loyalty=True)


def book_with(status: Status | None, terms: Terms) -> OrderBook:
    """A book in which the order is in a status, with everything told that had to be told before."""
    book = OrderBook({}, [], NOW_US)
    if status is None:
        return book
    book.create(ID, PRINT, terms, accept_until_us=NOW_US)
    if status in (Status.CONFIRMED, Status.COMPLETED):
        for participant in Participant:
            book.answered(pending(book, participant), no=None)
    if status is Status.COMPLETED:
        book.complete(ID)
    if status is Status.CANCELLED:
        book.cancel(ID)
        for participant in Participant:
            book.answered(pending(book, participant), no=None)
    assert order_in(book).status is status
    return book


def refused_book() -> OrderBook:
    book = OrderBook({}, [], NOW_US)
    book.refuse(ID, PRINT, "c-1", OUT_OF_STOCK)
    return book


def order_in(book: OrderBook) -> Order:
    order = book.decisions[ID]
    assert isinstance(order, Order)
    return order


def pending(book: OrderBook, participant: Participant) -> Message:
    return book.outbox[ID, participant]


def told(book: OrderBook) -> dict[Participant, Kind]:
    """What is in the outbox."""
    return {participant: message.kind for (_, participant), message in book.outbox.items()}


def test_create_accepts_the_order_and_tells_both_to_confirm(terms: Terms) -> None:
    book = book_with(None, terms)
    decided = book.create(ID, PRINT, terms, accept_until_us=NOW_US)
    assert decided.decision == Order(ID, PRINT, terms, Status.ACCEPTED, "", NOW_US)
    assert not decided.replayed
    assert told(book) == CONFIRM_BOTH
    assert {(message.created_at_us, message.due_at_us) for message in book.outbox.values()} == {(NOW_US, NOW_US)}


def test_an_order_without_loyalty_sends_it_a_release(terms: Terms) -> None:
    book = book_with(Status.ACCEPTED, without_loyalty(terms))
    assert told(book) == {Participant.RESERVATIONS: Kind.CONFIRM, Participant.LOYALTY: Kind.RELEASE}


def test_create_does_not_rely_on_holds_that_end_too_soon(terms: Terms) -> None:
    book = book_with(None, terms)
    with pytest.raises(HoldExpiring):
        book.create(ID, PRINT, terms, accept_until_us=NOW_US - 1)
    assert (book.decisions, book.outbox) == ({}, {})


@pytest.mark.parametrize("status", list(Status))
def test_what_was_decided_is_given_again_as_it_now_stands(status: Status, terms: Terms) -> None:
    book = book_with(status, terms)
    before = dict(book.outbox)
    # Also where the holds have ended since, and where today's price is another.
    dearer = terms._replace(lines=(Line("tea", "Tea", 2, 999),))
    for decided in (book.create(ID, PRINT, dearer, accept_until_us=0), book.refuse(ID, PRINT, "c-1", OUT_OF_STOCK)):
        assert decided.decision == Order(ID, PRINT, terms, status, order_in(book).status_reason, NOW_US)
        assert decided.replayed
    assert book.outbox == before


@pytest.mark.parametrize("status", [*Status, None])
def test_another_request_does_not_get_what_was_decided(status: Status | None, terms: Terms) -> None:
    book = book_with(status, terms) if status else refused_book()
    before = (dict(book.decisions), dict(book.outbox))
    with pytest.raises(KeyReused):
        book.create(ID, b"x" * 32, terms, accept_until_us=NOW_US)
    with pytest.raises(KeyReused):
        book.refuse(ID, b"x" * 32, "c-1", OUT_OF_STOCK)
    assert (book.decisions, book.outbox) == before


def test_refuse_keeps_the_reason_and_tells_both_to_release(terms: Terms) -> None:
    book = refused_book()
    assert book.decisions[ID] == RefusedOrder(ID, PRINT, "c-1", OUT_OF_STOCK, NOW_US)
    assert told(book) == RELEASE_BOTH
    for decided in (
        book.create(ID, PRINT, terms, accept_until_us=NOW_US),
        book.refuse(ID, PRINT, "c-1", Refusal("UNKNOWN_SKU", "", {})),
    ):
        assert (decided.decision, decided.replayed) == (book.decisions[ID], True)


@pytest.mark.parametrize("status", [Status.ACCEPTED, Status.CONFIRMED])
def test_cancel_tells_both_to_release_in_place_of_what_was_pending(status: Status, terms: Terms) -> None:
    book = book_with(status, terms)
    order = book.cancel(ID)
    assert (order.status, order.status_reason) == (Status.CANCELLED, "CUSTOMER")
    assert told(book) == RELEASE_BOTH


def test_what_takes_the_place_of_a_message_is_due_at_once_and_leased_by_nobody(terms: Terms) -> None:
    book = book_with(Status.ACCEPTED, terms)
    (delivery,) = book.lease(Participant.LOYALTY, 10, lease_us=50)
    book.put_off(delivery.message, "UNAVAILABLE", 10_000)
    book.cancel(ID)
    assert pending(book, Participant.LOYALTY) == Message(ID, Participant.LOYALTY, Kind.RELEASE, NOW_US, NOW_US)


def test_cancel_leaves_a_cancelled_order_as_it_is(terms: Terms) -> None:
    book = book_with(Status.CANCELLED, terms)
    before = book.decisions[ID]
    assert book.cancel(ID) is before
    assert told(book) == {}


def test_a_completed_order_cannot_be_cancelled(terms: Terms) -> None:
    book = book_with(Status.COMPLETED, terms)
    with pytest.raises(WrongStatus, match="is COMPLETED and cannot be cancelled") as caught:
        book.cancel(ID)
    assert caught.value.metadata == {"status": "COMPLETED"}
    assert told(book) == {}


@pytest.mark.parametrize("status", [Status.CONFIRMED, Status.COMPLETED])
def test_complete_completes_what_is_confirmed(status: Status, terms: Terms) -> None:
    book = book_with(status, terms)
    assert book.complete(ID).status is Status.COMPLETED
    assert told(book) == {}


@pytest.mark.parametrize("status", [Status.ACCEPTED, Status.CANCELLED])
def test_complete_is_for_confirmed_orders_only(status: Status, terms: Terms) -> None:
    book = book_with(status, terms)
    with pytest.raises(WrongStatus):
        book.complete(ID)
    assert order_in(book).status is status


@pytest.mark.parametrize("book", [OrderBook({}, [], NOW_US), refused_book()])
def test_an_order_that_is_not_there_is_unknown_and_so_is_a_refused_one(book: OrderBook) -> None:
    with pytest.raises(UnknownOrder):
        book.cancel(ID)
    with pytest.raises(UnknownOrder):
        book.complete(ID)


@pytest.mark.parametrize("order", [list(Participant), list(reversed(Participant))])
def test_an_order_is_confirmed_by_the_last_yes(order: list[Participant], terms: Terms) -> None:
    book = book_with(Status.ACCEPTED, terms)
    first, last = order
    assert book.answered(pending(book, first), no=None) is None
    assert (order_in(book).status, told(book)) == (Status.ACCEPTED, {last: Kind.CONFIRM})
    confirmed = book.answered(pending(book, last), no=None)
    assert confirmed is not None
    assert confirmed.status is Status.CONFIRMED
    assert (book.decisions[ID], told(book)) == (confirmed, {})


def test_an_order_without_loyalty_needs_the_yes_of_reservations_only(terms: Terms) -> None:
    book = book_with(Status.ACCEPTED, without_loyalty(terms))
    book.answered(pending(book, Participant.RESERVATIONS), no=None)
    assert (order_in(book).status, told(book)) == (Status.CONFIRMED, {Participant.LOYALTY: Kind.RELEASE})
    assert book.answered(pending(book, Participant.LOYALTY), no=None) is None
    assert (order_in(book).status, told(book)) == (Status.CONFIRMED, {})


@pytest.mark.parametrize("participant", list(Participant))
@pytest.mark.parametrize("after_the_others_yes", [False, True])
def test_a_no_cancels_the_order_with_its_reason(
    participant: Participant, after_the_others_yes: bool, terms: Terms
) -> None:
    book = book_with(Status.ACCEPTED, terms)
    if after_the_others_yes:
        (other,) = set(Participant) - {participant}
        book.answered(pending(book, other), no=None)
    cancelled = book.answered(pending(book, participant), OUT_OF_STOCK)
    assert cancelled is not None
    assert (cancelled.status, cancelled.status_reason) == (Status.CANCELLED, "OUT_OF_STOCK")
    assert told(book) == RELEASE_BOTH


@pytest.mark.parametrize("no", [None, OUT_OF_STOCK])
@pytest.mark.parametrize("status", [Status.CONFIRMED, Status.COMPLETED, Status.CANCELLED])
def test_a_late_answer_to_a_confirm_does_not_count(status: Status, no: Refusal | None, terms: Terms) -> None:
    late = pending(book_with(Status.ACCEPTED, terms), Participant.RESERVATIONS)
    book = book_with(status, terms)
    before = (dict(book.decisions), dict(book.outbox))
    assert book.answered(late, no) is None
    assert (book.decisions, book.outbox) == before


@pytest.mark.parametrize("no", [None, OUT_OF_STOCK])
def test_a_confirm_that_is_pending_without_reason_changes_no_status(no: Refusal | None, terms: Terms) -> None:
    message = Message(ID, Participant.RESERVATIONS, Kind.CONFIRM, NOW_US, NOW_US)
    completed = order_in(book_with(Status.COMPLETED, terms))
    book = OrderBook({ID: completed}, [message], NOW_US)
    assert book.answered(message, no) is None
    assert book.decisions[ID] is completed


def test_a_late_yes_does_not_stand_for_the_release_that_took_its_place(terms: Terms) -> None:
    book = book_with(Status.ACCEPTED, terms)
    late = pending(book, Participant.RESERVATIONS)
    book.cancel(ID)
    assert book.answered(late, no=None) is None
    assert told(book) == RELEASE_BOTH


def test_a_release_is_gone_once_it_is_answered_and_changes_no_status() -> None:
    book = refused_book()
    for participant in Participant:
        assert book.answered(pending(book, participant), no=None) is None
    assert told(book) == {}
    assert isinstance(book.decisions[ID], RefusedOrder)


def test_a_lease_gives_what_has_waited_longest_and_to_one_only() -> None:
    ids = [f"5f0c8a9e-0000-4000-8000-00000000000{n}" for n in range(4)]
    decisions = {id_: RefusedOrder(id_, PRINT, "c-1", OUT_OF_STOCK, NOW_US) for id_ in ids}
    due_at_us = (NOW_US, NOW_US - 5, NOW_US + 1, NOW_US - 9)
    outbox = [
        Message(id_, participant, Kind.RELEASE, 0, due)
        for id_, due in zip(ids, due_at_us, strict=True)
        for participant in Participant
    ]
    book = OrderBook(decisions, outbox, NOW_US)
    leased = book.lease(Participant.LOYALTY, 2, lease_us=50)
    assert [delivery.message.order_id for delivery in leased] == [ids[3], ids[1]]
    assert {delivery.message.leased_until_us for delivery in leased} == {NOW_US + 50}
    assert leased[0].decision == decisions[ids[3]]
    assert [delivery.message.order_id for delivery in book.lease(Participant.LOYALTY, 9, 50)] == [ids[0]]
    assert book.lease(Participant.LOYALTY, 9, 50) == []


def test_a_lease_that_ran_out_is_taken_by_another_and_the_first_cannot_put_it_off(terms: Terms) -> None:
    book = book_with(Status.ACCEPTED, terms)
    (first,) = book.lease(Participant.LOYALTY, 1, lease_us=50)
    later = OrderBook(book.decisions, book.outbox.values(), NOW_US + 50)
    (second,) = later.lease(Participant.LOYALTY, 1, lease_us=50)
    later.put_off(first.message, "DEADLINE_EXCEEDED", 10)
    assert pending(later, Participant.LOYALTY) == second.message
    later.put_off(second.message, "UNAVAILABLE", 10)
    assert pending(later, Participant.LOYALTY) == second.message._replace(
        due_at_us=NOW_US + 60, leased_until_us=0, attempts=1, last_error="UNAVAILABLE"
    )


def test_figures_that_agree_are_taken(terms: Terms) -> None:
    terms.check_figures()
    without_loyalty(terms).check_figures()
    assert (terms.subtotal, terms.total) == (1800, 1600)
    terms._replace(lines=(Line("tea", "Tea", 1, 199),), discount=19, points_redeemed=180).check_figures()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"discount": 179}, "discount"),
        ({"discount": 0}, "discount"),
        ({"points_redeemed": 1621}, "points_redeemed"),
        ({"without_loyalty": True}, "without_loyalty"),
        (
            {"without_loyalty": True, "discount": 0, "discount_percent": 0, "points_redeemed": 0},
            "without_loyalty",
        ),
    ],
)
def test_figures_that_contradict_each_other_are_refused(change: dict[str, int], field: str, terms: Terms) -> None:
    with pytest.raises(InvalidArgument) as caught:
        terms._replace(**change).check_figures()  # type: ignore[arg-type]  # a field's type depends on its name
    assert caught.value.metadata == {"field": field}
