"""What must hold once everything has settled, read from the three databases. The one place where tests ask for it."""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.faults.processes import until
from tests.faults.souk import Souk

Row = sqlite3.Row


def rows(database: Path, query: str, *parameters: object) -> list[Row]:
    """Reads beside a live service."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)) as connection:
        connection.row_factory = sqlite3.Row
        return connection.execute(query, parameters).fetchall()


def unsettled(folder: Path) -> list[str]:
    """What is still on its way: messages to be relayed, orders that wait for an answer, and holds."""
    outbox = rows(folder / "orders.db", "SELECT order_id, participant, kind, attempts, last_error FROM outbox")
    accepted = rows(folder / "orders.db", "SELECT order_id FROM orders WHERE status = 'ACCEPTED'")
    reserved = rows(folder / "reservations.db", "SELECT order_id FROM reservations WHERE state = 'HELD'")
    held = rows(folder / "loyalty.db", "SELECT order_id FROM holds WHERE state = 'HELD'")
    return [
        *(f"outbox: {tuple(row)}" for row in outbox),
        *(f"order {row['order_id']} is ACCEPTED" for row in accepted),
        *(f"the reservation of {row['order_id']} is HELD" for row in reserved),
        *(f"the loyalty hold of {row['order_id']} is HELD" for row in held),
    ]


def findings(folder: Path) -> list[str]:
    """Everything that is wrong with a Souk that has settled."""
    orders = {row["order_id"]: row for row in rows(folder / "orders.db", "SELECT * FROM orders")}
    reservations = {row["order_id"]: row for row in rows(folder / "reservations.db", "SELECT * FROM reservations")}
    holds = {row["order_id"]: row for row in rows(folder / "loyalty.db", "SELECT * FROM holds")}
    return [
        *unsettled(folder),
        *_orders(orders, reservations, holds),
        *_strays(orders, reservations, holds),
        *_stock(folder, reservations),
        *_points(folder, holds),
    ]


async def settle(souk: Souk[Any], seconds: float = 60) -> None:
    """Waits until nothing is on its way any more, and finds nothing wrong."""

    async def is_settled() -> bool:
        return not unsettled(souk.folder)

    try:
        await until(is_settled, "everything to settle", seconds)
    except TimeoutError as error:
        raise AssertionError("\n".join(["it does not settle:", *unsettled(souk.folder)])) from error
    wrong = findings(souk.folder)
    assert not wrong, "\n".join(wrong)


def _orders(orders: dict[str, Row], reservations: dict[str, Row], holds: dict[str, Row]) -> Iterator[str]:
    for order_id, order in orders.items():
        status = order["status"]
        reservation, hold = reservations.get(order_id), holds.get(order_id)
        taken = reservation is not None and reservation["state"] == "CONFIRMED"
        booked = hold is not None and hold["state"] == "CONFIRMED"
        if status not in ("CONFIRMED", "COMPLETED"):
            if taken or booked:
                yield f"order {order_id} is {status}, but goods or points are CONFIRMED"
            continue
        lines = [[sku, quantity] for sku, _, quantity, _ in json.loads(order["lines"])]
        if reservation is None or not taken or sorted(json.loads(reservation["lines"])) != sorted(lines):
            yield f"order {order_id} is {status} with {lines}, but its reservation is {_text(reservation)}"
        wanted = (order["customer_id"], order["points_redeemed"], order["points_earned"])
        if order["without_loyalty"]:
            if booked:
                yield f"order {order_id} goes without loyalty, but its hold is CONFIRMED"
        elif hold is None or not booked or tuple(hold[name] for name in _BOOKED) != wanted:
            yield f"order {order_id} is {status} with {wanted}, but its loyalty hold is {_text(hold)}"


_BOOKED = ("customer_id", "points_redeemed", "points_earned")


def _strays(orders: dict[str, Row], *participants: dict[str, Row]) -> Iterator[str]:
    for held in participants:
        for order_id, row in held.items():
            if row["state"] == "CONFIRMED" and order_id not in orders:
                yield f"nobody ordered what is CONFIRMED as {order_id}"


def _stock(folder: Path, reservations: dict[str, Row]) -> Iterator[str]:
    sold: Counter[str] = Counter()
    held: Counter[str] = Counter()
    for row in reservations.values():
        for sku, quantity in json.loads(row["lines"]):
            if row["state"] in ("CONFIRMED", "HELD"):
                (sold if row["state"] == "CONFIRMED" else held)[sku] += quantity
    journal = rows(folder / "reservations.db", "SELECT sku, sum(pieces) AS pieces FROM journal GROUP BY sku")
    put_in = {row["sku"]: row["pieces"] for row in journal}
    for item in rows(folder / "reservations.db", "SELECT * FROM items"):
        sku = item["sku"]
        if item["on_hand"] + item["sold"] != put_in.get(sku, 0):
            yield f"{sku}: {item['on_hand']} on hand and {item['sold']} sold, but {put_in.get(sku, 0)} were put in"
        if not 0 <= item["held"] <= item["on_hand"]:
            yield f"{sku}: {item['held']} held of {item['on_hand']}"
        if (item["held"], item["sold"]) != (held[sku], sold[sku]):
            yield f"{sku}: {item['held']} held, {item['sold']} sold; its reservations say {held[sku]}, {sold[sku]}"


def _points(folder: Path, holds: dict[str, Row]) -> Iterator[str]:
    moved: Counter[str] = Counter()
    held: Counter[str] = Counter()
    for row in holds.values():
        if row["state"] == "CONFIRMED":
            moved[row["customer_id"]] += row["points_earned"] - row["points_redeemed"]
        elif row["state"] == "HELD":
            held[row["customer_id"]] += row["points_redeemed"]
    journal = rows(folder / "loyalty.db", "SELECT customer_id, sum(points) AS points FROM journal GROUP BY customer_id")
    put_in = {row["customer_id"]: row["points"] for row in journal}
    for account in rows(folder / "loyalty.db", "SELECT * FROM accounts"):
        customer = account["customer_id"]
        expected = put_in.get(customer, 0) + moved[customer]
        if account["points"] != expected:
            yield f"{customer}: {account['points']} points, but {expected} follow from what was put in and moved"
        if account["points_held"] != held[customer]:
            yield f"{customer}: {account['points_held']} points held, but its holds say {held[customer]}"


def _text(row: Row | None) -> str:
    return "missing" if row is None else str(dict(row))
