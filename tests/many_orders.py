"""Fills the three SQLite databases with consistent orders of every fate, quickly, to audit them:

python -m tests.many_orders DIR 1000000

With --settled, none of them is under way: how many are is a matter of load, not of how many are stored.
"""

import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from uuid import UUID

ITEMS, CUSTOMERS_PER_ORDER = 1_000, 0.1
PUT_IN, POINTS_PUT_IN = 10**9, 10**6
AT_ONCE = 10_000
HOUR_US = 3_600_000_000
SETTLED = ["CONFIRMED"] * 80 + ["COMPLETED"] * 8 + ["CANCELLED"] * 6 + ["REFUSED"] * 4
UNDER_WAY = ["ACCEPTED", "HELD"]

Row = tuple[object, ...]


class Shop:
    """What the orders have come to so far."""

    def __init__(self, count: int, fates: list[str]) -> None:
        self._fates = fates
        self.held: Counter[str] = Counter()
        self.sold: Counter[str] = Counter()
        self.points: Counter[str] = Counter()
        self.points_held: Counter[str] = Counter()
        self._random = random.Random(1)
        self._customers = max(1, int(count * CUSTOMERS_PER_ORDER))
        self._now_us = time.time_ns() // 1000

    def customers(self) -> Iterator[str]:
        return (f"c-{n}" for n in range(self._customers))

    def order(self) -> tuple[Row | None, list[Row], Row, Row]:
        """The next one: its rows in orders, outbox, reservations and holds."""
        draw = self._random
        order_id = str(UUID(int=draw.getrandbits(128), version=4))
        fate, customer = draw.choice(self._fates), f"c-{draw.randrange(self._customers)}"
        skus = {f"item-{draw.randrange(ITEMS)}" for _ in range(draw.randint(1, 3))}
        lines = [(sku, "Tea", draw.randint(1, 5), draw.randint(100, 5000)) for sku in skus]
        subtotal = sum(quantity * price for _, _, quantity, price in lines)
        percent, redeemed = draw.choice([0, 5, 10]), draw.choice([0, 0, 0, 50])
        discount = subtotal * percent // 100
        earned = (subtotal - discount - redeemed) // 100
        state = {"CANCELLED": "CLOSED", "REFUSED": "CLOSED", "ACCEPTED": "HELD", "HELD": "HELD"}.get(fate, "CONFIRMED")
        self._add(state, lines, customer, redeemed, earned)
        pieces = json.dumps([[sku, quantity] for sku, _, quantity, _ in lines])
        quote = json.dumps([[name, price] for _, name, _, price in lines] if state == "HELD" else [])
        until_us = self._now_us + HOUR_US
        reservation = (order_id, state, pieces, quote, until_us)
        quoted = (subtotal, redeemed, percent, discount, redeemed, earned)
        hold = (order_id, state, customer, *quoted, until_us)
        if fate == "HELD":
            return None, [], reservation, hold
        figures: Row = ("EUR", json.dumps(lines), percent, discount, redeemed, earned, False, None)
        if fate == "REFUSED":
            figures = ("", "[]", 0, 0, 0, 0, False, '["OUT_OF_STOCK", "", {}]')
        reason = "CUSTOMER" if fate == "CANCELLED" else ""
        order = (order_id, os.urandom(32), fate, reason, customer, *figures, self._now_us)
        participants = ("LOYALTY", "RESERVATIONS") if fate == "ACCEPTED" else ()
        messages: list[Row] = [
            (order_id, each, "CONFIRM", self._now_us, until_us, 0, 3, "UNAVAILABLE") for each in participants
        ]
        return order, messages, reservation, hold

    def _add(
        self, state: str, lines: list[tuple[str, str, int, int]], customer: str, redeemed: int, earned: int
    ) -> None:
        if state == "CLOSED":
            return
        for sku, _, quantity, _ in lines:
            (self.held if state == "HELD" else self.sold)[sku] += quantity
        if state == "HELD":
            self.points_held[customer] += redeemed
        else:
            self.points[customer] += earned - redeemed


def migrate(service: str, folder: Path) -> Path:
    """An empty database; gives its path."""
    path = folder / f"{service}.db"
    environment = {**os.environ, f"SOUK_{service.upper()}_DATABASE_URL": f"sqlite:///{path}"}
    subprocess.run([sys.executable, "-m", f"souk_{service}", "migrate"], env=environment, check=True)
    return path


def insert(connection: sqlite3.Connection, table: str, rows: Iterable[Row]) -> None:
    """Columns that later migrations added keep their defaults."""
    found = list(rows)
    if found:
        names = [name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))]
        columns, marks = ", ".join(names[: len(found[0])]), ", ".join("?" * len(found[0]))
        connection.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", found)


def fill(folder: Path, count: int, *, settled: bool = False) -> None:
    """Databases of `count` order ids, each in one of the ways in which an order can stand; or be `settled`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [migrate(each, folder) for each in ("orders", "reservations", "loyalty")]
    shop, now_us = Shop(count, SETTLED if settled else SETTLED + UNDER_WAY), time.time_ns() // 1000
    orders, reservations, loyalty = connections = [sqlite3.connect(path) for path in paths]
    for each in connections:
        each.execute("PRAGMA synchronous=OFF")  # it is made anew rather than mended
    for start in range(0, count, AT_ONCE):
        made = [shop.order() for _ in range(min(AT_ONCE, count - start))]
        insert(orders, "orders", (order for order, _, _, _ in made if order))
        insert(orders, "outbox", (message for _, messages, _, _ in made for message in messages))
        insert(reservations, "reservations", (reservation for _, _, reservation, _ in made))
        insert(loyalty, "holds", (hold for _, _, _, hold in made))
    skus, customers = [f"item-{n}" for n in range(ITEMS)], list(shop.customers())
    items = ((sku, "Tea", 100, PUT_IN - shop.sold[sku], shop.held[sku], shop.sold[sku]) for sku in skus)
    insert(reservations, "items", items)
    insert(reservations, "journal", ((None, sku, PUT_IN, now_us) for sku in skus))
    accounts = ((each, "A", "gold", POINTS_PUT_IN + shop.points[each], shop.points_held[each]) for each in customers)
    insert(loyalty, "accounts", accounts)
    insert(loyalty, "journal", ((None, each, POINTS_PUT_IN, now_us) for each in customers))
    for connection in connections:
        with closing(connection):
            connection.commit()


if __name__ == "__main__":
    fill(Path(sys.argv[1]), int(sys.argv[2]), settled=sys.argv[3:] == ["--settled"])
