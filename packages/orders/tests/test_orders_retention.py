"""Which orders go when, on every database: what came to nothing, a good while after it was over, and nothing else."""

import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from souk_orders import retention as retention_module
from souk_orders import tables
from souk_orders.archive import Archive, CannotArchive
from souk_orders.book import Decided, Participant
from souk_orders.database import Database
from souk_orders.domain import Order, Refusal, Status, Terms
from souk_orders.pruner import CannotForget, Pruner
from souk_orders.retention import START, SqlRetention
from souk_orders.service import Answered, Cancel, Complete, Create, Lease, Refuse
from souk_orders.statements import Session
from souk_orders.storage import SqlStorage
from souk_orders.writer import Clock

PRINT = bytes(range(32))
LATER_US = 10**18
DAY_S = 86_400
OUT_OF_STOCK = Refusal("OUT_OF_STOCK", "none of 'tea' is left", {"sku": "tea"})


class Forgetting:
    """A participant that forgets what it is told to, but for what it is to keep."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.keeps: set[str] = set()
        self.error: Exception | None = None

    async def forget(self, order_ids: Sequence[str]) -> Sequence[str]:
        if self.error is not None:
            raise self.error
        self.told += order_ids
        return [order_id for order_id in order_ids if order_id in self.keeps]


@pytest.fixture
def participants() -> dict[Participant, Forgetting]:
    return {participant: Forgetting() for participant in Participant}


@pytest.fixture
def opened(database_url: str, clock: Clock) -> Iterator[Callable[[int], SqlRetention]]:
    """Retention for so many days, on the test's database; closed at the end."""
    all_opened: list[SqlRetention] = []

    def open_(days: int) -> SqlRetention:
        all_opened.append(SqlRetention(Database(database_url), days, clock))
        return all_opened[-1]

    yield open_
    for each in all_opened:
        each.close()


Prune = Callable[..., Any]


@pytest.fixture
def prune(opened: Callable[[int], SqlRetention], participants: dict[Participant, Forgetting]) -> Prune:
    async def run(days: int = 30, archive: Archive | None = None) -> tuple[int, int]:
        """How many were marked, and how many deleted."""
        pruner = Pruner(opened(days), participants, archive)
        await pruner.run()
        return pruner.pruned.marked, pruner.pruned.deleted

    return run


def new_id() -> str:
    return str(uuid.uuid4())


async def answered(storage: SqlStorage) -> None:
    """All participants say yes to what they are told, as the relay would hear it."""
    while True:
        leases = await storage.execute([Lease(to, 1000, lease_us=1) for to in Participant])
        messages = [each.message for leased in leases if isinstance(leased, list) for each in leased]
        if not messages:
            return
        await storage.execute([Answered(message, None, "loyalty/1.0.0") for message in messages])


async def place(storage: SqlStorage, terms: Terms, count: int = 1) -> list[str]:
    """CONFIRMED orders."""
    ids = [new_id() for _ in range(count)]
    await storage.execute([Create(each, PRINT, terms, LATER_US) for each in ids])
    await answered(storage)
    return ids


async def refuse(storage: SqlStorage, count: int = 1) -> list[str]:
    ids = [new_id() for _ in range(count)]
    await storage.execute([Refuse(each, PRINT, "c-1", OUT_OF_STOCK) for each in ids])
    await answered(storage)
    return ids


async def cancel(storage: SqlStorage, order_ids: Iterable[str]) -> None:
    await storage.execute([Cancel(each) for each in order_ids])
    await answered(storage)


def statuses(storage: SqlStorage) -> dict[str, str]:
    with storage._database.begin() as connection:
        found = connection.execute(select(tables.orders.c.order_id, tables.orders.c.status)).all()
    return {row.order_id: row.status for row in found}


def history_of(storage: SqlStorage, order_id: str) -> int:
    with storage._database.begin() as connection:
        query = text("SELECT step FROM history WHERE order_id = :order_id")
        return len(connection.execute(query, {"order_id": order_id}).all())


async def test_what_came_to_nothing_goes_as_long_after_it_was_seen_to_be_over_as_is_asked_for(
    storage: SqlStorage,
    terms: Terms,
    advance: Callable[[float], None],
    prune: Prune,
    participants: dict[Participant, Forgetting],
) -> None:
    (refused,), (cancelled,) = await refuse(storage), await place(storage, terms)
    await cancel(storage, [cancelled])
    assert await prune() == (2, 0)
    assert [client.told for client in participants.values()] == [[], []]
    advance(30 * DAY_S - 1)
    assert await prune() == (0, 0)
    assert statuses(storage) == {refused: "REFUSED", cancelled: "CANCELLED"}
    advance(1)
    assert await prune() == (0, 2)
    assert statuses(storage) == {}
    assert history_of(storage, cancelled) == 0
    assert [sorted(client.told) for client in participants.values()] == [sorted([refused, cancelled])] * 2


async def test_orders_that_stand_never_go(
    storage: SqlStorage, terms: Terms, advance: Callable[[float], None], prune: Prune
) -> None:
    confirmed, completed = await place(storage, terms, 2)
    await storage.execute([Complete(completed)])
    accepted = new_id()
    await storage.execute([Create(accepted, PRINT, terms, LATER_US)])
    for _ in range(3):
        assert await prune(1) == (0, 0)
        advance(1000 * DAY_S)
    assert statuses(storage) == {confirmed: "CONFIRMED", completed: "COMPLETED", accepted: "ACCEPTED"}
    assert history_of(storage, confirmed) == 4


async def test_an_order_that_was_cancelled_just_now_stays_however_old_it_is(
    storage: SqlStorage,
    terms: Terms,
    advance: Callable[[float], None],
    prune: Prune,
    participants: dict[Participant, Forgetting],
) -> None:
    (order_id,) = await place(storage, terms)
    advance(1000 * DAY_S)
    await prune()
    await cancel(storage, [order_id])
    assert await prune() == (1, 0)
    advance(DAY_S)
    assert await prune() == (0, 0)
    assert statuses(storage) == {order_id: "CANCELLED"}
    assert [client.told for client in participants.values()] == [[], []]


async def test_it_is_a_day_at_least_whatever_is_asked_for(
    storage: SqlStorage, advance: Callable[[float], None], prune: Prune
) -> None:
    await refuse(storage)
    assert await prune(0) == (1, 0)
    advance(DAY_S - 1)
    assert await prune(0) == (0, 0)
    advance(1)
    assert await prune(0) == (0, 1)


async def test_what_someone_must_still_be_told_of_is_not_over(
    storage: SqlStorage, advance: Callable[[float], None], prune: Prune
) -> None:
    order_id = new_id()
    await storage.execute([Refuse(order_id, PRINT, "c-1", OUT_OF_STOCK)])
    (leased,) = await storage.execute([Lease(Participant.LOYALTY, 1, lease_us=1)])
    assert isinstance(leased, list)
    await storage.execute([Answered(leased[0].message, None)])
    advance(1000 * DAY_S)
    assert await prune() == (0, 0)
    await answered(storage)
    assert await prune() == (1, 0)
    advance(30 * DAY_S)
    assert await prune() == (0, 1)


async def test_an_outbox_row_that_somebody_added_keeps_its_order(
    storage: SqlStorage, advance: Callable[[float], None], opened: Callable[[int], SqlRetention], prune: Prune
) -> None:
    (order_id,) = await refuse(storage)
    await prune()
    advance(30 * DAY_S)
    retention = opened(30)
    assert [each for _, each in retention.due(START, 10)] == [order_id]
    with storage._database.begin() as connection:
        row = f"VALUES ('{order_id}', 'LOYALTY', 'RELEASE', 1, {LATER_US}, 0, 0, '')"
        connection.execute(text(f"INSERT INTO outbox {row}"))
    assert await retention.delete([order_id]) == 0
    assert statuses(storage) == {order_id: "REFUSED"}


async def test_only_what_is_due_is_deleted_whatever_is_named(
    storage: SqlStorage,
    terms: Terms,
    advance: Callable[[float], None],
    opened: Callable[[int], SqlRetention],
    prune: Prune,
) -> None:
    (refused,), (confirmed,) = await refuse(storage), await place(storage, terms)
    await prune()
    advance(DAY_S)
    (unmarked,) = await refuse(storage)
    assert await opened(2).delete([refused, confirmed, unmarked, new_id()]) == 0
    assert await opened(1).delete([refused, confirmed, unmarked, new_id()]) == 1
    assert statuses(storage) == {confirmed: "CONFIRMED", unmarked: "REFUSED"}


async def test_the_same_key_names_a_new_order_afterwards(
    storage: SqlStorage, terms: Terms, advance: Callable[[float], None], prune: Prune
) -> None:
    (order_id,) = await refuse(storage)
    (replayed,) = await storage.execute([Create(order_id, PRINT, terms, LATER_US)])
    assert isinstance(replayed, Decided)
    assert replayed.replayed
    await prune()
    advance(30 * DAY_S)
    await prune()
    (decided,) = await storage.execute([Create(order_id, bytes(32), terms, LATER_US)])
    assert isinstance(decided, Decided)
    assert isinstance(decided.decision, Order)
    assert not decided.replayed
    await answered(storage)
    assert (await storage.order(order_id)).status is Status.CONFIRMED
    assert await prune() == (0, 0)


async def test_what_a_participant_keeps_stays_and_does_not_hold_up_the_others(
    storage: SqlStorage,
    advance: Callable[[float], None],
    opened: Callable[[int], SqlRetention],
    participants: dict[Participant, Forgetting],
) -> None:
    ids = await refuse(storage, 700)
    participants[Participant.RESERVATIONS].keeps = {ids[3]}
    participants[Participant.LOYALTY].keeps = {ids[4]}
    await Pruner(opened(1), participants, None).run()
    advance(DAY_S)
    pruner = Pruner(opened(1), participants, None)
    await pruner.run()
    assert sorted(pruner.pruned.kept) == [(Participant.LOYALTY, ids[4]), (Participant.RESERVATIONS, ids[3])]
    assert (pruner.pruned.marked, pruner.pruned.deleted) == (0, 698)
    assert statuses(storage) == {ids[3]: "REFUSED", ids[4]: "REFUSED"}
    assert ids[3] not in participants[Participant.LOYALTY].told


@pytest.mark.parametrize("away", list(Participant))
async def test_nothing_goes_where_a_participant_does_not_forget(
    storage: SqlStorage,
    advance: Callable[[float], None],
    prune: Prune,
    participants: dict[Participant, Forgetting],
    away: Participant,
) -> None:
    (order_id,) = await refuse(storage)
    participants[away].error = CannotForget("no one there")
    assert await prune(1) == (1, 0)
    advance(DAY_S)
    with pytest.raises(CannotForget):
        await prune(1)
    assert statuses(storage) == {order_id: "REFUSED"}
    assert [client.told for client in participants.values()] == [[], []]  # nor is anything lost at the other one
    participants[away].error = None
    assert await prune(1) == (0, 1)


async def test_several_may_prune_at_once(
    storage: SqlStorage, advance: Callable[[float], None], opened: Callable[[int], SqlRetention], prune: Prune
) -> None:
    ids = await refuse(storage, 3)
    await prune(1)
    advance(DAY_S)
    first, second = opened(1), opened(1)
    assert first.due(START, 10) == second.due(START, 10)
    assert [await each.delete(ids) for each in (first, second)] == [3, 0]


async def test_each_order_is_in_the_archive_with_its_history_before_it_goes(
    storage: SqlStorage, terms: Terms, advance: Callable[[float], None], prune: Prune, tmp_path: Path, clock: Clock
) -> None:
    (refused,), (cancelled,) = await refuse(storage), await place(storage, terms)
    await cancel(storage, [cancelled])
    created_at_us = clock()
    await prune()
    advance(30 * DAY_S)
    archive = Archive(tmp_path / "orders.jsonl")
    await prune(archive=archive)
    archive.close()
    records = {each["order_id"]: each for each in map(json.loads, (tmp_path / "orders.jsonl").read_text().splitlines())}
    assert records.keys() == {refused, cancelled}
    assert records[refused] == {
        "order_id": refused,
        "fingerprint": PRINT.hex(),
        "status": "REFUSED",
        "status_reason": "",
        "customer_id": "c-1",
        "currency": "",
        "lines": [],
        "discount_percent": 0,
        "discount": 0,
        "points_redeemed": 0,
        "points_earned": 0,
        "without_loyalty": False,
        "refusal": ["OUT_OF_STOCK", "none of 'tea' is left", {"sku": "tea"}],
        "created_at_us": created_at_us,
        "note": "",
        "final_at_us": created_at_us,
        "history": [],
    }
    assert records[cancelled]["lines"] == [["tea", "Tea", 2, 450], ["mug", "Mug", 1, 900]]
    steps = [step["step"] for step in records[cancelled]["history"]]
    assert steps[0] == "ACCEPTED"
    assert steps[3:] == ["CONFIRMED", "CANCELLED", *steps[5:]]
    assert len(steps) == 7


async def test_what_cannot_be_archived_does_not_go(
    storage: SqlStorage,
    advance: Callable[[float], None],
    prune: Prune,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    (order_id,) = await refuse(storage)
    await prune(1)
    advance(DAY_S)
    archive = Archive(tmp_path / "orders.jsonl")
    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(CannotArchive, match="No space left on device"):
            await prune(1, archive)
    assert statuses(storage) == {order_id: "REFUSED"}
    assert (tmp_path / "orders.jsonl").read_text() == ""
    assert await prune(1, archive) == (0, 1)
    archive.close()
    assert len((tmp_path / "orders.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("torn", ['{"order_id": "half', "{" + "x" * 200_000])
def test_a_line_that_a_killed_run_left_half_done_is_cut_off(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "orders.jsonl"
    path.write_text('{"order_id": "whole"}\n' + torn)
    archive = Archive(path)
    archive.append([{"order_id": "next"}])
    archive.close()
    assert path.read_text() == '{"order_id": "whole"}\n{"order_id": "next"}\n'


def test_one_run_at_a_time_writes_to_a_file(tmp_path: Path) -> None:
    first = Archive(tmp_path / "orders.jsonl")
    with pytest.raises(CannotArchive, match="another prune is writing"):
        Archive(tmp_path / "orders.jsonl")
    first.close()
    Archive(tmp_path / "orders.jsonl").close()


def test_an_archive_that_cannot_be_opened_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(CannotArchive, match=r"cannot write to .*nowhere/orders\.jsonl: No such file or directory"):
        Archive(tmp_path / "nowhere" / "orders.jsonl")


async def test_a_row_that_somebody_has_spoilt_is_archived_as_it_is(
    storage: SqlStorage, advance: Callable[[float], None], opened: Callable[[int], SqlRetention], prune: Prune
) -> None:
    (order_id,) = await refuse(storage)
    with storage._database.begin() as connection:
        connection.execute(text("""UPDATE orders SET lines = '"?"', refusal = '{}', steps = '?'"""))
    await prune(1)
    advance(DAY_S)
    (record,) = opened(1).records([order_id])
    assert (record["lines"], record["refusal"], record["history"]) == ("?", {}, "?")
    assert await prune(1) == (0, 1)


async def test_no_statement_reads_through_a_whole_table(
    storage: SqlStorage,
    terms: Terms,
    advance: Callable[[float], None],
    opened: Callable[[int], SqlRetention],
    prune: Prune,
    plans_of: Callable[[type[Session]], Any],
) -> None:
    await place(storage, terms, 1500)
    due = await refuse(storage, 20)
    await prune(1)
    advance(DAY_S)
    await refuse(storage, 20)
    await storage.execute([Create(new_id(), PRINT, terms, LATER_US) for _ in range(1000)])
    with storage._database.begin() as connection:
        connection.execute(text("ANALYZE"))
    plans = plans_of(Session)
    retention = opened(1)
    assert retention.counts() == (20, 20)
    assert (await retention.mark("", 10)).count == 10
    assert len(retention.due(START, 10)) == 10
    assert len(retention.records(due[:3])) == 3  # of so few, in so small tables
    assert await retention.delete(due[:3]) == 3
    assert plans.missing(retention_module) == []
    assert plans.reading_all == []
