"""The order flow against hand-written ports: who is called with what, and what comes of it."""

import asyncio
import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from souk_contracts.loyalty.v1 import Account, HoldRequest, HoldResponse
from souk_contracts.orders.v1 import (
    CreateRequest,
    CreateResponse,
    Order,
    OrderStatus,
    Refusal,
    RefuseRequest,
    RefuseResponse,
)
from souk_contracts.reservations.v1 import QuotedLine, ReserveRequest, ReserveResponse
from souk_gateway.errors import Rejected, Unavailable
from souk_gateway.exchange import Exchange
from souk_gateway.models import OrderLineRequest, OrderRequest
from souk_gateway.saga import Saga, fingerprint_of, order_id_of

TEA = OrderRequest(customer_id="c-1", lines=(OrderLineRequest("tea", 2), OrderLineRequest("cup", 1)))
REDEEMING = msgspec.structs.replace(TEA, redeem_points=50)
NOTED = msgspec.structs.replace(TEA, note="Ring twice")
PRICES = {"tea": 450, "cup": 100}

OUT_OF_STOCK = Rejected(
    "OUT_OF_STOCK", "only 1 of tea", {"sku": "tea", "available": "1"}, category="FAILED_PRECONDITION"
)
HELD_BY_OTHERS = Rejected("HELD_BY_OTHERS", "others hold it", {"sku": "tea"}, category="ABORTED")
SETTLED = Rejected("SETTLED", "it was released", {"state": "CLOSED"}, category="FAILED_PRECONDITION")
CONFIRMED = Rejected("SETTLED", "it was sold", {"state": "CONFIRMED"}, category="FAILED_PRECONDITION")
UNKNOWN_CUSTOMER = Rejected("UNKNOWN_CUSTOMER", "nobody", category="NOT_FOUND")
BUSY = Rejected("BUSY", "in flight", category="ABORTED")
HOLD_EXPIRING = Rejected("HOLD_EXPIRING", "too late", category="ABORTED")
KEY_REUSED = Rejected("KEY_REUSED", "another request", category="ALREADY_EXISTS")
GONE = Unavailable("does not answer")
STORAGE = Unavailable("the database does not answer", reason="STORAGE_UNAVAILABLE")

NEWER_REFUSAL = Rejected("EMBARGOED", "not to there", category="FAILED_PRECONDITION")


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Services:
    """All three ports. `errors` says which call fails, and how; `calls` is what was called, in order."""

    def __init__(
        self, errors: dict[str, Exception] | None = None, *, loyalty_away: bool = False, orders_away: bool = False
    ) -> None:
        self.errors = errors or {}
        self.loyalty_away = loyalty_away
        self.orders_away = orders_away
        self.hangs_in = ""
        self.hanging = asyncio.Event()
        self.calls: list[str] = []
        self.requests: dict[str, Any] = {}
        self.time_left_s: dict[str, float] = {}
        self.takes_s: dict[str, float] = {}
        self.clock = Clock()
        self.decided: Order | Refusal | None = None
        self.records_before_failing = False
        self.answers_unknown = False

    def _call(self, name: str, request: object, exchange: Exchange, share: float = 1.0) -> None:
        self.calls.append(name)
        self.requests[name] = request
        self.time_left_s[name] = exchange.remaining_s() * share
        self.clock.now_s += self.takes_s.get(name, 0)
        if self.records_before_failing and isinstance(request, CreateRequest):
            self.decided = Order(id=request.order_id)
        if name in self.errors:
            raise self.errors[name]

    async def is_away(self, exchange: Exchange) -> bool:  # noqa: ARG002 (the port has it)
        return self.loyalty_away

    async def get_account(self, customer_id: str, exchange: Exchange) -> Account:
        self._call("get_account", customer_id, exchange)
        return Account(customer_id=customer_id)

    async def check_not_confirmed(self, order_id: str, exchange: Exchange) -> None:
        self._call("check_not_confirmed", order_id, exchange)

    async def reserve(self, request: ReserveRequest, exchange: Exchange) -> ReserveResponse:
        self._call("reserve", request, exchange)
        lines = [
            QuotedLine(sku=line.sku, name=line.sku.title(), quantity=line.quantity, unit_price=PRICES[line.sku])
            for line in request.lines
        ]
        return ReserveResponse(lines=lines, currency="EUR", expires_at_us=2_000)

    async def hold(self, request: HoldRequest, exchange: Exchange, *, share: float = 1.0) -> HoldResponse:
        self._call("hold", request, exchange, share)
        if self.hangs_in == "hold":
            self.hanging.set()
            await asyncio.Event().wait()
        return HoldResponse(
            discount_percent=10,
            discount=100,
            points_redeemed=request.redeem_points,
            points_earned=9,
            expires_at_us=1_000,
        )

    async def create(self, request: CreateRequest, exchange: Exchange) -> CreateResponse:
        self._call("create", request, exchange)
        if self.answers_unknown:
            return CreateResponse()
        replayed = self.decided is not None
        if not replayed and request.holds_expire_at_us == 0:
            raise HOLD_EXPIRING
        self.decided = self.decided or Order(id=request.order_id, status=OrderStatus.ACCEPTED)
        if isinstance(self.decided, Order):
            return CreateResponse(order=self.decided, replayed=replayed)
        return CreateResponse(refusal=self.decided, replayed=replayed)

    async def refuse(self, request: RefuseRequest, exchange: Exchange) -> RefuseResponse:
        self._call("refuse", request, exchange)
        replayed = self.decided is not None
        self.decided = self.decided or request.refusal
        if isinstance(self.decided, Order):
            return RefuseResponse(order=self.decided, replayed=replayed)
        return RefuseResponse(refusal=self.decided, replayed=replayed)

    def exchange(self, deadline_s: float = 5.0) -> Exchange:
        return Exchange(deadline_s, self.clock)

    def saga(self, *, loyalty_required: bool = True) -> Saga:
        return Saga(self, self, _Orders(self), loyalty_required=loyalty_required)


class _Orders:
    """The port of orders; it shares what it is asked with the others, but may be away alone."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self.create, self.refuse = services.create, services.refuse

    async def is_away(self, exchange: Exchange) -> bool:  # noqa: ARG002 (the port has it)
        return self._services.orders_away


async def test_an_order_is_reserved_then_held_then_created_under_one_id() -> None:
    services = Services()
    decision = await services.saga().place(REDEEMING, "K", services.exchange())
    assert services.calls == ["reserve", "hold", "create"]
    assert {services.requests[name].order_id for name in services.calls} == {order_id_of("anonymous", "K")}
    assert isinstance(decision.outcome, Order)
    assert not decision.replayed


async def test_create_gets_the_quotes_as_they_were_given() -> None:
    services = Services()
    await services.saga().place(REDEEMING, "K", services.exchange())
    hold, create = services.requests["hold"], services.requests["create"]
    assert (hold.customer_id, hold.subtotal, hold.redeem_points) == ("c-1", 1000, 50)
    assert [(line.sku, line.name, line.quantity, line.unit_price) for line in create.lines] == [
        ("tea", "Tea", 2, 450),
        ("cup", "Cup", 1, 100),
    ]
    assert (create.customer_id, create.currency, create.fingerprint) == ("c-1", "EUR", fingerprint_of(REDEEMING))
    assert (create.discount_percent, create.discount, create.points_redeemed, create.points_earned) == (10, 100, 50, 9)
    assert create.holds_expire_at_us == 1_000
    assert not create.without_loyalty


async def test_what_orders_leaves_out_of_its_answer_is_what_it_was_asked_for() -> None:
    services = Services()
    outcome = (await services.saga().place(REDEEMING, "K", services.exchange())).outcome
    create = services.requests["create"]
    assert create.brief
    assert isinstance(outcome, Order)
    assert (outcome.id, outcome.status, outcome.lines) == (create.order_id, OrderStatus.ACCEPTED, create.lines)
    assert (outcome.customer_id, outcome.currency) == ("c-1", "EUR")
    assert (outcome.discount_percent, outcome.points_redeemed, outcome.points_earned) == (10, 50, 9)
    assert (outcome.subtotal, outcome.discount, outcome.total) == (1000, 100, 850)


async def test_an_order_that_is_answered_in_full_is_taken_as_it_stands() -> None:
    services = Services()
    services.decided = Order(id="o", customer_id="c-1", status=OrderStatus.CONFIRMED, total=1)
    decision = await services.saga().place(TEA, "K", services.exchange())
    assert (decision.outcome, decision.replayed) == (services.decided, True)


@pytest.mark.parametrize("call", ["reserve", "hold"])
@pytest.mark.parametrize("key", ["K", None])
@pytest.mark.parametrize("no", [OUT_OF_STOCK, SETTLED, NEWER_REFUSAL], ids=lambda no: no.reason)
async def test_a_refusal_of_a_participant_is_recorded_and_answered(call: str, key: str | None, no: Rejected) -> None:
    services = Services({call: no})
    decision = await services.saga().place(TEA, key, services.exchange())
    assert services.calls[-1] == "refuse"
    assert "create" not in services.calls
    assert services.requests["refuse"].fingerprint == fingerprint_of(TEA)
    assert services.requests["refuse"].customer_id == "c-1"
    assert decision.outcome == Refusal(reason=no.reason, detail=no.detail, metadata=no.metadata)


@pytest.mark.parametrize("no", [OUT_OF_STOCK, SETTLED], ids=lambda no: no.reason)
async def test_a_refusal_of_what_was_decided_before_is_answered_with_that_decision(no: Rejected) -> None:
    services = Services({"reserve": no})
    services.decided = Order(id="before", status=OrderStatus.CONFIRMED)
    decision = await services.saga().place(TEA, "K", services.exchange())
    assert decision.outcome == Order(id="before", status=OrderStatus.CONFIRMED)
    assert decision.replayed


async def test_a_refusal_that_create_returns_is_the_answer() -> None:
    services = Services()
    services.decided = Refusal(reason="OUT_OF_STOCK", detail="it was")
    decision = await services.saga().place(TEA, "K", services.exchange())
    assert decision.outcome == Refusal(reason="OUT_OF_STOCK", detail="it was")
    assert decision.replayed


@pytest.mark.parametrize("call", ["reserve", "hold"])
@pytest.mark.parametrize("no", [BUSY, HELD_BY_OTHERS], ids=lambda no: no.reason)
async def test_what_passes_by_itself_is_told_and_nothing_is_decided(call: str, no: Rejected) -> None:
    services = Services({call: no})
    with pytest.raises(Rejected) as raised:
        await services.saga().place(TEA, "K", services.exchange())
    assert raised.value is no
    assert services.calls[-1] == call


@pytest.mark.parametrize("call", ["reserve", "hold"])
async def test_an_order_that_a_participant_has_confirmed_is_answered_as_it_stands(call: str) -> None:
    services = Services({call: CONFIRMED})
    services.decided = Order(id="before", customer_id="c-1", status=OrderStatus.CONFIRMED)
    decision = await services.saga().place(REDEEMING, "K", services.exchange())
    assert (decision.outcome, decision.replayed) == (services.decided, True)
    assert services.calls[-1] == "create"
    asked = services.requests["create"]
    assert (asked.fingerprint, asked.holds_expire_at_us) == (fingerprint_of(REDEEMING), 0)


@pytest.mark.parametrize("call", ["reserve", "hold"])
async def test_an_order_that_a_participant_has_confirmed_and_orders_has_lost_is_not_refused(
    call: str, caplog: pytest.LogCaptureFixture
) -> None:
    services = Services({call: CONFIRMED})
    with pytest.raises(Unavailable) as raised:
        await services.saga().place(TEA, "K", services.exchange())
    assert raised.value.reason == "ORDER_LOST"
    assert "refuse" not in services.calls
    assert services.decided is None
    assert f"orders has lost the order {order_id_of('anonymous', 'K')}" in caplog.text


async def test_a_confirmed_order_of_another_request_with_its_key_is_told_so() -> None:
    services = Services({"reserve": CONFIRMED, "create": KEY_REUSED})
    with pytest.raises(Rejected) as raised:
        await services.saga().place(TEA, "K", services.exchange())
    assert raised.value is KEY_REUSED


@pytest.mark.parametrize("key", ["K", None])
async def test_nothing_is_held_while_orders_is_away(key: str | None) -> None:
    services = Services(orders_away=True)
    with pytest.raises(Unavailable, match="orders does not answer"):
        await services.saga().place(TEA, key, services.exchange())
    assert services.calls == []


async def test_after_an_unknown_customer_others_are_looked_up_before_goods_are_held() -> None:
    services = Services()
    saga = services.saga()
    await saga.place(TEA, "honest", services.exchange())
    assert services.calls == ["reserve", "hold", "create"]
    services.errors = {"hold": UNKNOWN_CUSTOMER, "get_account": UNKNOWN_CUSTOMER}
    services.decided = None
    await saga.place(msgspec.structs.replace(TEA, customer_id="nobody"), "first", services.exchange())
    services.calls.clear()
    services.decided = None
    decision = await saga.place(msgspec.structs.replace(TEA, customer_id="no-one"), "second", services.exchange())
    assert isinstance(decision.outcome, Refusal)
    assert services.calls == ["get_account", "check_not_confirmed", "refuse"]
    services.calls.clear()
    services.errors = {}
    services.decided = None
    await saga.place(TEA, "seen before", services.exchange())
    assert services.calls == ["reserve", "hold", "create"]


async def test_an_order_that_was_confirmed_is_not_refused_for_what_loyalty_says_today() -> None:
    services = Services({"hold": UNKNOWN_CUSTOMER, "get_account": UNKNOWN_CUSTOMER})
    saga = services.saga()
    await saga.place(msgspec.structs.replace(TEA, customer_id="nobody"), "first", services.exchange())
    services.decided = None
    services.errors["check_not_confirmed"] = CONFIRMED
    with pytest.raises(Unavailable) as raised:
        await saga.place(TEA, "K", services.exchange())
    assert raised.value.reason == "ORDER_LOST"
    assert services.decided is None


async def test_a_lookup_that_fails_holds_up_only_orders_that_need_loyalty() -> None:
    services = Services({"hold": UNKNOWN_CUSTOMER, "get_account": GONE})
    nobody = msgspec.structs.replace(TEA, customer_id="nobody")
    for required in (True, False):
        services.calls.clear()
        saga = services.saga(loyalty_required=required)
        await saga.place(nobody, "first", services.exchange())
        if required:
            with pytest.raises(Unavailable):
                await saga.place(nobody, "second", services.exchange())
            assert services.calls[3:] == ["get_account"]
        else:
            await saga.place(nobody, "second", services.exchange())
            assert services.calls[3:] == ["get_account", "reserve", "hold", "refuse"]


@pytest.mark.parametrize("call", ["create", "refuse"])
async def test_a_key_of_another_request_is_told_so(call: str) -> None:
    errors: dict[str, Exception] = {call: KEY_REUSED}
    services = Services(errors if call == "create" else {"reserve": OUT_OF_STOCK, **errors})
    with pytest.raises(Rejected) as raised:
        await services.saga().place(TEA, "K", services.exchange())
    assert raised.value is KEY_REUSED


@pytest.mark.parametrize("call", ["reserve", "hold", "create"])
@pytest.mark.parametrize("error", [GONE, STORAGE, HOLD_EXPIRING], ids=lambda error: error.reason)
async def test_with_a_key_a_failed_step_decides_nothing_so_that_a_retry_can_join(
    call: str, error: Rejected | Unavailable
) -> None:
    services = Services({call: error})
    with pytest.raises(type(error)) as raised:
        await services.saga().place(TEA, "K", services.exchange())
    assert raised.value is error
    assert services.calls[-1] == call


@pytest.mark.parametrize("call", ["reserve", "hold", "create"])
@pytest.mark.parametrize("error", [GONE, STORAGE, HOLD_EXPIRING], ids=lambda error: error.reason)
async def test_without_a_key_a_failed_step_ends_in_refuse(call: str, error: Rejected | Unavailable) -> None:
    services = Services({call: error})
    with pytest.raises(type(error)) as raised:
        await services.saga().place(TEA, None, services.exchange())
    assert raised.value is error
    assert services.calls[-2:] == [call, "refuse"]
    assert services.requests["refuse"].refusal.reason == "UNAVAILABLE"
    assert services.requests["refuse"].order_id == services.requests["reserve"].order_id


@pytest.mark.parametrize("key", ["K", None])
async def test_a_create_that_orders_does_not_accept_is_told_as_it_is(key: str | None) -> None:
    no = Rejected("INVALID_ARGUMENT", "currency: is missing")
    services = Services({"create": no})
    with pytest.raises(Rejected) as raised:
        await services.saga().place(TEA, key, services.exchange())
    assert raised.value is no
    assert services.calls[2:] == (["create"] if key else ["create", "refuse"])


async def test_without_a_key_an_order_whose_answer_was_lost_is_still_answered() -> None:
    services = Services({"create": GONE})
    services.records_before_failing = True
    decision = await services.saga().place(TEA, None, services.exchange())
    assert decision.outcome == Order(id=services.requests["create"].order_id)


@pytest.mark.parametrize("key", ["K", None])
async def test_an_order_that_is_cut_off_is_ended_unless_a_retry_can_join_it(key: str | None) -> None:
    services = Services()
    services.hangs_in = "hold"
    placing = asyncio.ensure_future(services.saga().place(TEA, key, services.exchange()))
    await services.hanging.wait()
    placing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await placing
    for _ in range(10):  # turns of the loop, in which it would be refused
        await asyncio.sleep(0)
    assert services.calls[1:] == (["hold"] if key else ["hold", "refuse"])
    assert (services.decided is None) == (key is not None)


async def test_without_a_key_orders_being_away_gives_the_first_error() -> None:
    services = Services({"create": GONE, "refuse": STORAGE})
    with pytest.raises(Unavailable) as raised:
        await services.saga().place(TEA, None, services.exchange())
    assert raised.value is GONE


async def test_refuse_has_a_little_time_after_the_deadline() -> None:
    services = Services({"create": GONE})
    services.takes_s["create"] = 7.0
    with pytest.raises(Unavailable):
        await services.saga().place(TEA, None, services.exchange(deadline_s=5.0))
    assert services.time_left_s["refuse"] == 1.0


async def test_each_call_gets_what_is_left_of_one_deadline() -> None:
    services = Services()
    services.takes_s = {"reserve": 1.0, "hold": 3.0}
    await services.saga().place(TEA, "K", services.exchange(deadline_s=5.0))
    assert services.time_left_s == {"reserve": 5.0, "hold": 4.0, "create": 1.0}


@pytest.mark.parametrize("key", ["K", None])
async def test_loyalty_away_and_required_ends_the_order_before_it_begins(key: str | None) -> None:
    services = Services(loyalty_away=True)
    with pytest.raises(Unavailable, match="loyalty"):
        await services.saga(loyalty_required=True).place(TEA, key, services.exchange())
    assert services.calls == []


async def test_loyalty_away_and_not_required_gives_an_order_without_it() -> None:
    services = Services(loyalty_away=True)
    await services.saga(loyalty_required=False).place(TEA, "K", services.exchange())
    create = services.requests["create"]
    assert services.calls == ["reserve", "create"]
    assert create.without_loyalty
    assert (create.discount_percent, create.discount, create.points_redeemed, create.points_earned) == (0, 0, 0, 0)
    assert create.holds_expire_at_us == 2_000


async def test_points_are_not_redeemed_while_loyalty_is_away() -> None:
    services = Services(loyalty_away=True)
    with pytest.raises(Unavailable, match="loyalty"):
        await services.saga(loyalty_required=False).place(REDEEMING, "K", services.exchange())
    assert services.calls == []


async def test_a_failing_hold_that_is_not_required_gives_an_order_without_loyalty() -> None:
    services = Services({"hold": GONE})
    await services.saga(loyalty_required=False).place(TEA, "K", services.exchange())
    assert services.calls == ["reserve", "hold", "create"]
    assert services.requests["create"].without_loyalty


async def test_a_hold_that_is_not_required_leaves_time_to_go_on_without_it() -> None:
    services = Services()
    await services.saga(loyalty_required=False).place(TEA, "K", services.exchange(deadline_s=5.0))
    assert services.time_left_s["hold"] == 2.5


async def test_a_failing_hold_of_points_is_never_skipped() -> None:
    services = Services({"hold": GONE})
    with pytest.raises(Unavailable):
        await services.saga(loyalty_required=False).place(REDEEMING, "K", services.exchange())
    assert "create" not in services.calls


async def test_a_refused_hold_is_a_refusal_also_where_loyalty_is_not_required() -> None:
    services = Services({"hold": Rejected("UNKNOWN_CUSTOMER", "nobody", category="NOT_FOUND")})
    decision = await services.saga(loyalty_required=False).place(TEA, "K", services.exchange())
    assert isinstance(decision.outcome, Refusal)


async def test_a_decision_of_a_kind_that_is_not_known_counts_as_unavailable() -> None:
    services = Services()
    services.answers_unknown = True
    with pytest.raises(Unavailable, match="does not understand"):
        await services.saga().place(TEA, "K", services.exchange())


def test_a_key_names_one_order_for_each_caller() -> None:
    assert order_id_of("anonymous", "K") == order_id_of("anonymous", "K")
    assert uuid.UUID(order_id_of("anonymous", "K")).version == 5
    ids = {order_id_of("a", "bc"), order_id_of("ab", "c"), order_id_of("a", "1:c"), order_id_of("a1:", "c")}
    assert len(ids) == 4


def test_a_key_names_the_same_order_in_every_release() -> None:
    assert order_id_of("anonymous", "K") == "80bba571-d76e-5f74-b14f-396ab0cb1e12"


@given(st.text(alphabet=st.characters(codec="latin-1")))
def test_a_key_names_the_order_that_uuid5_would_give_it(key: str) -> None:
    namespace = uuid.UUID("6f1c7a52-3d0e-5b86-9c41-2a7be0d5f318")
    assert order_id_of("me", key) == str(uuid.uuid5(namespace, f"2:me{key}"))


def test_without_a_key_each_request_is_an_order_of_its_own() -> None:
    assert order_id_of("anonymous", None) != order_id_of("anonymous", None)


@pytest.mark.parametrize(
    "text",
    [
        '{"customer_id":"c-1","lines":[{"sku":"tea","quantity":2},{"sku":"cup","quantity":1}]}',
        '{ "lines": [ {"quantity": 2, "sku": "t\\u0065a"}, {"sku": "cup", "quantity": 1} ],\n "customer_id": "c-1" }',
        '{"customer_id":"c-1","lines":[{"sku":"tea","quantity":2},{"sku":"cup","quantity":1}],"redeem_points":0}',
        '{"customer_id":"c-1","lines":[{"sku":"tea","quantity":2},{"sku":"cup","quantity":1}],"note":""}',
    ],
)
def test_the_fingerprint_is_of_what_the_json_means(text: str) -> None:
    assert fingerprint_of(msgspec.json.decode(text, type=OrderRequest)) == fingerprint_of(TEA)
    assert len(fingerprint_of(TEA)) == 32


def test_the_fingerprint_is_the_same_in_every_release() -> None:
    assert fingerprint_of(REDEEMING).hex() == "6228931d2f2a2b81d10e03272035dc82ada97916b637224ed6e5de4cb08aa90a"
    assert fingerprint_of(NOTED).hex() == "75e810c8f85390598ba464584fdad24304cce2a41cc46522461d3753ae04bc62"


@pytest.mark.parametrize(
    "other",
    [
        REDEEMING,
        NOTED,
        msgspec.structs.replace(NOTED, note="Ring once"),
        msgspec.structs.replace(TEA, customer_id="c-2"),
        msgspec.structs.replace(TEA, lines=TEA.lines[:1]),
        msgspec.structs.replace(TEA, lines=(OrderLineRequest("tea", 3), OrderLineRequest("cup", 1))),
    ],
)
def test_the_fingerprint_tells_requests_apart(other: OrderRequest) -> None:
    assert fingerprint_of(other) != fingerprint_of(TEA)
