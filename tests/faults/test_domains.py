"""Each domain under any calls in any order: a state machine with the invariants as its checks.

Every run draws the same examples; SOUK_FAULT_SEED=<number> draws others.
"""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from souk_loyalty import domain as loyalty
from souk_loyalty.rules import Tier
from souk_orders import book, domain
from souk_reservations import domain as reservations
from tests.conftest import LONG

SEED = os.environ.get("SOUK_FAULT_SEED") or None
TTL_US = 60

order_ids = st.sampled_from(["order-a", "order-b", "order-c", "order-d"])
steps_us = st.integers(0, 40)


class StockMachine(RuleBasedStateMachine):
    """Reservations."""

    def __init__(self) -> None:
        super().__init__()
        self.now_us = 0
        self.stock = reservations.Stock({}, {})

    skus = st.sampled_from(["tea", "mug"])
    lines = st.dictionaries(skus, st.integers(1, 6), min_size=1).map(
        lambda wanted: tuple(reservations.Line(sku, quantity) for sku, quantity in wanted.items())
    )

    @initialize(tea=st.integers(0, 12), mug=st.integers(0, 12))
    def begin(self, tea: int, mug: int) -> None:
        self.stock.put("tea", "Tea", 450, tea)
        self.stock.put("mug", "Mug", 999, mug)

    @contextmanager
    def refused(self) -> Iterator[None]:
        """A call that raises has changed nothing."""
        before = dict(self.stock.items), dict(self.stock.reservations)
        try:
            yield
        except reservations.DomainError:
            assert (self.stock.items, self.stock.reservations) == before

    @rule(order_id=order_ids, lines=lines)
    def reserve(self, order_id: str, lines: tuple[reservations.Line, ...]) -> None:
        with self.refused():
            self.stock.reserve(order_id, lines, self.now_us + TTL_US)
            assert self.stock.reservations[order_id].expires_at_us == self.now_us + TTL_US

    @rule(order_id=order_ids)
    def renew(self, order_id: str) -> None:
        row = self.stock.reservations.get(order_id)
        if row is not None and row.state is reservations.State.HELD:
            again = self.stock.reserve(order_id, row.lines, self.now_us + TTL_US)
            assert (again.quote, again.expires_at_us) == (row.quote, self.now_us + TTL_US)

    @rule(order_id=order_ids, lines=lines)
    def confirm(self, order_id: str, lines: tuple[reservations.Line, ...]) -> None:
        before = self.stock.reservations.get(order_id)
        no = self.stock.confirm(order_id, lines)
        after = self.stock.reservations[order_id]
        if before is None or before.state not in (reservations.State.CONFIRMED, reservations.State.CLOSED):
            assert after.state is (reservations.State.CONFIRMED if no is None else reservations.State.CLOSED)
            assert no is not None or after.lines == lines
        else:
            assert (after, no is None) == (before, before.state is reservations.State.CONFIRMED)

    @rule(order_id=order_ids)
    def confirm_what_is_held(self, order_id: str) -> None:
        row = self.stock.reservations.get(order_id)
        if row is not None and row.state is reservations.State.HELD:
            assert self.stock.confirm(order_id, row.lines) is None

    @rule(order_id=order_ids)
    def release(self, order_id: str) -> None:
        self.stock.release(order_id)
        assert self.stock.reservations[order_id].state is reservations.State.CLOSED

    @rule(passing_us=steps_us)
    def expire(self, passing_us: int) -> None:
        self.now_us += passing_us
        before = dict(self.stock.reservations)
        self.stock.expire_due(self.now_us)
        for order_id, row in before.items():
            due = row.state is reservations.State.HELD and row.expires_at_us <= self.now_us
            after = self.stock.reservations[order_id]
            assert after.state is reservations.State.EXPIRED if due else after == row

    @rule(wanted=st.lists(order_ids))
    def forget(self, wanted: list[str]) -> None:
        stays = (reservations.State.HELD, reservations.State.CONFIRMED)
        before = dict(self.stock.reservations)
        kept = self.stock.forget(wanted)
        assert {*kept} == {each for each in wanted if each in before and before[each].state in stays}
        gone = {*wanted} - {*kept}
        assert self.stock.reservations == {order_id: row for order_id, row in before.items() if order_id not in gone}

    @rule(sku=skus, quantity=st.integers(1, 5))
    def restock(self, sku: str, quantity: int) -> None:
        self.stock.restock(sku, quantity)

    @rule(sku=skus, on_hand=st.integers(0, 12))
    def put(self, sku: str, on_hand: int) -> None:
        with self.refused():
            self.stock.put(sku, "Tea", 450, on_hand)

    @invariant()
    def nothing_is_made_or_lost(self) -> None:
        put_in: Counter[str] = Counter()
        for entry in self.stock.journal:
            put_in[entry.sku] += entry.pieces
        amounts: dict[reservations.State, Counter[str]] = {state: Counter() for state in reservations.State}
        for row in self.stock.reservations.values():
            for line in row.lines:
                amounts[row.state][line.sku] += line.quantity
        for sku, item in self.stock.items.items():
            assert item.on_hand + item.sold == put_in[sku]
            assert 0 <= item.held <= item.on_hand
            assert item.held == amounts[reservations.State.HELD][sku]
            assert item.sold == amounts[reservations.State.CONFIRMED][sku]


class LedgerMachine(RuleBasedStateMachine):
    """Loyalty."""

    def __init__(self) -> None:
        super().__init__()
        self.now_us = 0
        self.ledger = loyalty.Ledger({}, {})

    customers = st.sampled_from(["amina", "bela"])
    points = st.integers(0, 12)

    @initialize(amina=points, bela=points)
    def begin(self, amina: int, bela: int) -> None:
        self.ledger.put("amina", "Amina", Tier.GOLD, amina)
        self.ledger.put("bela", "Bela", Tier.STANDARD, bela)

    @contextmanager
    def refused(self) -> Iterator[None]:
        """A call that raises has changed nothing."""
        before = dict(self.ledger.accounts), dict(self.ledger.holds)
        try:
            yield
        except loyalty.DomainError:
            assert (self.ledger.accounts, self.ledger.holds) == before

    @rule(order_id=order_ids, customer=customers, subtotal=st.sampled_from([4, 500, 1000]), redeem=points)
    def hold(self, order_id: str, customer: str, subtotal: int, redeem: int) -> None:
        with self.refused():
            held = self.ledger.place_hold(order_id, customer, subtotal, redeem, self.now_us + TTL_US, self.now_us)
            assert held.points_redeemed == redeem <= subtotal - held.discount

    @rule(order_id=order_ids)
    def renew(self, order_id: str) -> None:
        row = self.ledger.holds.get(order_id)
        if row is not None and row.state is loyalty.State.HELD:
            content = (row.customer_id, row.subtotal, row.redeem_points)
            again = self.ledger.place_hold(order_id, *content, self.now_us + TTL_US, self.now_us)
            assert (again.points_redeemed, again.discount) == (row.points_redeemed, row.discount)
            assert again.expires_at_us == self.now_us + TTL_US

    @rule(order_id=order_ids, customer=customers, redeemed=points, earned=points)
    def confirm(self, order_id: str, customer: str, redeemed: int, earned: int) -> None:
        before = self.ledger.holds.get(order_id)
        no = self.ledger.confirm(order_id, customer, redeemed, earned)
        after = self.ledger.holds[order_id]
        if before is None or before.state not in (loyalty.State.CONFIRMED, loyalty.State.CLOSED):
            assert after.state is (loyalty.State.CONFIRMED if no is None else loyalty.State.CLOSED)
            says = (after.customer_id, after.points_redeemed, after.points_earned)
            assert no is not None or says == (customer, redeemed, earned)
        else:
            assert (after, no is None) == (before, before.state is loyalty.State.CONFIRMED)

    @rule(order_id=order_ids)
    def confirm_what_is_held(self, order_id: str) -> None:
        row = self.ledger.holds.get(order_id)
        if row is not None and row.state is loyalty.State.HELD:
            assert self.ledger.confirm(order_id, row.customer_id, row.points_redeemed, row.points_earned) is None

    @rule(order_id=order_ids)
    def release(self, order_id: str) -> None:
        self.ledger.release(order_id)
        assert self.ledger.holds[order_id].state is loyalty.State.CLOSED

    @rule(passing_us=steps_us)
    def expire(self, passing_us: int) -> None:
        self.now_us += passing_us
        before = dict(self.ledger.holds)
        self.ledger.expire_due(self.now_us)
        for order_id, row in before.items():
            due = row.state is loyalty.State.HELD and row.expires_at_us <= self.now_us
            after = self.ledger.holds[order_id]
            assert after.state is loyalty.State.EXPIRED if due else after == row

    @rule(wanted=st.lists(order_ids))
    def forget(self, wanted: list[str]) -> None:
        stays = (loyalty.State.HELD, loyalty.State.CONFIRMED)
        before = dict(self.ledger.holds)
        kept = self.ledger.forget(wanted)
        assert {*kept} == {each for each in wanted if each in before and before[each].state in stays}
        gone = {*wanted} - {*kept}
        assert self.ledger.holds == {order_id: row for order_id, row in before.items() if order_id not in gone}

    @rule(customer=customers, points=points)
    def put(self, customer: str, points: int) -> None:
        with self.refused():
            self.ledger.put(customer, "Amina", Tier.SILVER, points)

    @invariant()
    def nothing_is_made_or_lost(self) -> None:
        points: Counter[str] = Counter()
        held: Counter[str] = Counter()
        for entry in self.ledger.journal:
            points[entry.customer_id] += entry.points
        for row in self.ledger.holds.values():
            if row.state is loyalty.State.CONFIRMED:
                points[row.customer_id] += row.points_earned - row.points_redeemed
            elif row.state is loyalty.State.HELD:
                held[row.customer_id] += row.points_redeemed
        for customer_id, account in self.ledger.accounts.items():
            assert account.points == points[customer_id]
            assert account.points_held == held[customer_id]
            assert account.points_held >= 0


FINAL = (domain.Status.COMPLETED, domain.Status.CANCELLED)
NO = domain.Refusal("OUT_OF_STOCK", "nothing left", {})


class BookMachine(RuleBasedStateMachine):
    """Orders and their outbox, with participants that say what they like, more than once, and late."""

    def __init__(self) -> None:
        super().__init__()
        self.book = book.OrderBook({}, [], 0)
        self.sent: list[book.Message] = []
        self.told: dict[tuple[str, bytes], object] = {}
        self.yes: set[tuple[str, book.Participant]] = set()

    fingerprints = st.sampled_from([b"one", b"two"])

    @contextmanager
    def first_decision_stands(self, order_id: str) -> Iterator[None]:
        before = self.book.decisions.get(order_id)
        yield
        after = self.book.decisions.get(order_id)
        if isinstance(before, domain.RefusedOrder):
            assert after == before
        if isinstance(before, domain.Order):
            assert isinstance(after, domain.Order)
            assert (after.fingerprint, after.terms) == (before.fingerprint, before.terms)
            if before.status in FINAL:
                assert after == before

    def decided(self, order_id: str, fingerprint: bytes, decided: book.Decided) -> None:
        """An answer is an order, or the same refusal, for ever."""
        outcome = decided.decision
        answer = outcome if isinstance(outcome, domain.RefusedOrder) else outcome.terms
        assert self.told.setdefault((order_id, fingerprint), answer) == answer
        assert outcome.fingerprint == fingerprint

    @rule(order_id=order_ids, fingerprint=fingerprints, without=st.booleans(), expires_in_us=st.integers(-1, 1))
    def create(self, order_id: str, fingerprint: bytes, without: bool, expires_in_us: int) -> None:
        lines = (domain.Line("tea", "Tea", 1, 450),)
        terms = domain.Terms("amina", "EUR", lines, 0, 0, 0, 0, without_loyalty=without)
        with self.first_decision_stands(order_id), suppress(domain.DomainError):
            self.decided(order_id, fingerprint, self.book.create(order_id, fingerprint, terms, expires_in_us))

    @rule(order_id=order_ids, fingerprint=fingerprints)
    def refuse(self, order_id: str, fingerprint: bytes) -> None:
        with self.first_decision_stands(order_id), suppress(domain.DomainError):
            self.decided(order_id, fingerprint, self.book.refuse(order_id, fingerprint, "amina", NO))

    @rule(order_id=order_ids)
    def cancel(self, order_id: str) -> None:
        with self.first_decision_stands(order_id), suppress(domain.DomainError):
            assert self.book.cancel(order_id).status is domain.Status.CANCELLED

    @rule(order_id=order_ids)
    def complete(self, order_id: str) -> None:
        with self.first_decision_stands(order_id), suppress(domain.DomainError):
            assert self.book.complete(order_id).status is domain.Status.COMPLETED

    @rule(participant=st.sampled_from(book.Participant), lease_us=st.integers(0, 1))
    def send(self, participant: book.Participant, lease_us: int) -> None:
        self.sent += [delivery.message for delivery in self.book.lease(participant, 3, lease_us)]

    @rule(data=st.data(), no=st.booleans())
    def answer(self, data: st.DataObject, no: bool) -> None:
        if not self.sent:
            return
        message = data.draw(st.sampled_from(self.sent))
        confirms = message.kind is book.Kind.CONFIRM
        with self.first_decision_stands(message.order_id):
            self.book.answered(message, NO if no and confirms else None)
        if confirms and not no:
            self.yes.add((message.order_id, message.participant))

    @rule(data=st.data())
    def put_off(self, data: st.DataObject) -> None:
        if self.sent:
            self.book.put_off(data.draw(st.sampled_from(self.sent)), "no answer", 0)

    @invariant()
    def whoever_must_be_told_something_is_told_the_right_thing(self) -> None:
        pending = {(order_id, to): message.kind for (order_id, to), message in self.book.outbox.items()}
        for (order_id, to), kind in pending.items():
            decision = self.book.decisions[order_id]
            if kind is book.Kind.CONFIRM:
                assert isinstance(decision, domain.Order)
                assert decision.status is domain.Status.ACCEPTED
            else:
                without = isinstance(decision, domain.Order) and decision.terms.without_loyalty
                gone = isinstance(decision, domain.RefusedOrder) or decision.status is domain.Status.CANCELLED
                assert gone or (without and to is book.Participant.LOYALTY)
        for order_id, decision in self.book.decisions.items():
            if isinstance(decision, domain.RefusedOrder):
                continue
            needed = {book.Participant.RESERVATIONS}
            if not decision.terms.without_loyalty:
                needed.add(book.Participant.LOYALTY)
            if decision.status is domain.Status.ACCEPTED:
                assert any(pending.get((order_id, to)) is book.Kind.CONFIRM for to in needed)
            if decision.status in (domain.Status.CONFIRMED, domain.Status.COMPLETED):
                assert {(order_id, to) for to in needed} <= self.yes


def machine_test(machine: type[RuleBasedStateMachine]) -> Any:
    test = machine.TestCase
    test.settings = settings(
        max_examples=2000 if LONG else 60,
        stateful_step_count=50 if LONG else 30,
        deadline=None,
        derandomize=SEED is None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    return seed(int(SEED))(test) if SEED is not None else test


TestStockUnderAnyCalls = machine_test(StockMachine)
TestLedgerUnderAnyCalls = machine_test(LedgerMachine)
TestOrderBookUnderAnyCalls = machine_test(BookMachine)
