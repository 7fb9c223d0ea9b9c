"""The audit finds whatever is wrong, and nothing else: not what is in flight, nor what a busy shop is changing."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple
from uuid import uuid4

import httpx
import pytest

from tests.conftest import ROOT
from tests.deployments import Processes, wait_until
from tests.e2e.test_orders import order, placed, put_customer, put_item, refused, status, wait_for_status
from tests.many_orders import fill

DATABASES = ("orders", "reservations", "loyalty")
AUDITOR = [sys.executable, "-P", "-m", "auditor"]
UNKNOWN = "00000000-0000-4000-8000-000000000000"


def environment(**settings: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.endswith("DATABASE_URL")}
    return {**kept, "PYTHONPATH": str(ROOT / "scripts"), **settings}


def audit(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*AUDITOR, "--data", str(data), *arguments]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)


def found(data: Path, *arguments: str) -> tuple[int, Any]:
    """The exit code and what is told to machines."""
    done = audit(data, "--json", *arguments)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


def findings(data: Path) -> list[tuple[str, str]]:
    """Code and id of each, by one look."""
    code, report = found(data, "--settle", "0")
    assert code == bool(report["findings"])
    assert report["clean"] is not bool(report["findings"])
    return [(each["code"], each["id"]) for each in report["findings"]]


def sql(data: Path, database: str, statement: str) -> list[Any]:
    with closing(sqlite3.connect(data / f"{database}.db")) as connection, connection:
        return connection.execute(statement).fetchall()


class Shop(NamedTuple):
    """A running Souk, and an order of each fate in it."""

    souk: Processes
    rest: httpx.Client
    data: Path
    words: dict[str, str]
    """Ids by what they are."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOUK_HOLD_TTL_S", "3600")  # so that what is held stays held, however long the tests take
        patch.setenv("SOUK_DEADLINE_S", "2")
        patch.setenv("SOUK_LOYALTY_REQUIRED", "false")
        souk = Processes(ROOT, folder)
        try:
            souk.start()
            with httpx.Client(base_url=souk.url, timeout=30) as rest:
                yield Shop(souk, rest, folder / "data", words(souk, rest, folder / "data"))
        finally:
            souk.destroy()


def words(souk: Processes, rest: httpx.Client, data: Path) -> dict[str, str]:
    """Orders of every fate; those of tea are too cheap to earn points."""
    tea, rug = put_item(rest, on_hand=1000, unit_price=10), put_item(rest, on_hand=100, unit_price=24_900)
    poor, rich = put_customer(rest), put_customer(rest, tier="gold", points=500)
    made = {
        "confirmed": placed(order(rest, poor, {tea: 2}))["id"],
        "redeemed": placed(order(rest, rich, {rug: 1, tea: 1}, redeem=100))["id"],
        "completed": placed(order(rest, rich, {rug: 1}))["id"],
        "cancelled": placed(order(rest, poor, {tea: 1}))["id"],
    }
    for order_id in made.values():
        wait_for_status(rest, order_id, "CONFIRMED")
    assert rest.post(f"/v1/orders/{made['completed']}/complete").status_code == 200
    assert rest.post(f"/v1/orders/{made['cancelled']}/cancel").status_code == 200
    refused(order(rest, poor, {tea: 10_000}), 409, "out-of-stock")
    ((made["refused"],),) = sql(data, "orders", "SELECT order_id FROM orders WHERE status = 'REFUSED'")
    souk.kill("orders")
    try:
        assert order(rest, poor, {tea: 3}, redeem=0, key=str(uuid4())).status_code == 503
    finally:
        souk.revive("orders")
    ((made["held"],),) = sql(data, "reservations", "SELECT order_id FROM reservations WHERE state = 'HELD'")
    souk.kill("loyalty")
    try:
        body = placed(order(rest, poor, {tea: 1}))
        assert body["without_loyalty"]
        made["without"] = body["id"]
    finally:
        souk.revive("loyalty")
    idle = put_customer(rest, points=5)
    wait_until(lambda: sql(data, "orders", "SELECT count(*) FROM outbox") == [(0,)], "the outbox to be empty")
    return {**made, "tea": tea, "rug": rug, "lamp": put_item(rest), "poor": poor, "rich": rich, "idle": idle}


@pytest.fixture(scope="module")
def settled(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The databases while nothing is pending."""
    folder = tmp_path_factory.mktemp("settled")
    for name in DATABASES:
        with closing(sqlite3.connect(shop.data / f"{name}.db")) as source:
            source.execute(f"VACUUM INTO '{folder}/{name}.db'")
    return folder


@pytest.fixture
def copy(settled: Path, tmp_path: Path) -> Path:
    """The same databases, for a test to spoil."""
    return Path(shutil.copytree(settled, tmp_path / "copy"))


def spoil(data: Path, database: str, script: str, words: dict[str, str]) -> None:
    with closing(sqlite3.connect(data / f"{database}.db")) as connection:
        # What no service could write, somebody may have written by hand.
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.executescript(script.format(**words, unknown=UNKNOWN))


def test_orders_of_every_fate_are_clean(settled: Path) -> None:
    code, report = found(settled)
    assert (code, report["findings"], report["clean"]) == (0, [], True)
    checked = report["checked"]
    assert checked["orders"] == {"CONFIRMED": 3, "COMPLETED": 1, "CANCELLED": 1, "REFUSED": 1}
    assert checked["reservations"] == {"CONFIRMED": 4, "CLOSED": 2, "HELD": 1}
    assert (checked["items"], checked["accounts"]) == (3, 3)
    assert (report["in_flight"], report["pending"], report["waiting"]) == (1, {}, [])


def test_people_are_shown_what_was_checked(settled: Path) -> None:
    done = audit(settled)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^orders +6 +CANCELLED 1 +COMPLETED 1 +CONFIRMED 3 +REFUSED 1$", done.stdout, re.MULTILINE)
    assert re.search(r"^in flight +1 ", done.stdout, re.MULTILINE)
    assert "Clean" in done.stdout


MESSAGE = (
    "INSERT INTO outbox (order_id, participant, kind, created_at_us, due_at_us, leased_until_us, attempts, last_error)"
    " VALUES ('{order_id}', '{to}', '{kind}', {us}, {us}, {lease}, {attempts}, '');"
)
LATER = 32_503_680_000_000_000  # the year 3000


def message(order_id: str, to: str, kind: str, *, us: int | str = LATER, lease: int = 0, attempts: int = 0) -> str:
    return MESSAGE.format(order_id=order_id, to=to, kind=kind, us=us, lease=lease, attempts=attempts)


def without_key(table: str) -> str:
    view = "DROP VIEW history; " if table == "orders" else ""  # which nothing may be renamed under
    made = f"CREATE TABLE kept AS SELECT * FROM {table}; DROP TABLE {table}; ALTER TABLE kept RENAME TO {table};"
    return view + made


def row(table: str, state: str) -> str:
    """A row for an id that nobody knows, as there is one for the refused order."""
    columns = {
        "reservations": "lines, quote, expires_at_us",
        "holds": "customer_id, subtotal, redeem_points, discount_percent, discount, points_redeemed, points_earned, "
        "expires_at_us",
    }[table]
    values = f"SELECT '{{unknown}}', '{state}', {columns} FROM {table} WHERE order_id = '{{refused}}'"
    return f"INSERT INTO {table} (order_id, state, {columns}) {values};"


SPOILS = [
    ("reservations", "UPDATE items SET on_hand = on_hand + 1 WHERE sku = '{tea}'", ["STOCK_NOT_CONSERVED {tea}"]),
    (
        "reservations",
        "UPDATE items SET held = on_hand + 1 WHERE sku = '{lamp}'",
        ["HELD_OUT_OF_RANGE {lamp}", "HELD_MISMATCH {lamp}"],
    ),
    ("reservations", "UPDATE items SET held = held + 1 WHERE sku = '{tea}'", ["HELD_MISMATCH {tea}"]),
    (
        "reservations",
        "UPDATE items SET on_hand = on_hand - 1, sold = sold + 1 WHERE sku = '{rug}'",
        ["SOLD_MISMATCH {rug}"],
    ),
    ("reservations", "DELETE FROM items WHERE sku = '{lamp}'", ["ITEM_MISSING {lamp}"]),
    ("reservations", "UPDATE reservations SET expires_at_us = 1 WHERE state = 'HELD'", ["RESERVATION_OVERDUE {held}"]),
    (
        "loyalty",
        "UPDATE accounts SET points = points - 1 WHERE customer_id = '{rich}'",
        ["POINTS_NOT_CONSERVED {rich}"],
    ),
    (
        "loyalty",
        "UPDATE accounts SET points_held = 1 WHERE customer_id = '{rich}'",
        ["POINTS_HELD_MISMATCH {rich}"],
    ),
    ("loyalty", "DELETE FROM accounts WHERE customer_id = '{idle}'", ["ACCOUNT_MISSING {idle}"]),
    ("loyalty", "UPDATE holds SET expires_at_us = 1 WHERE state = 'HELD'", ["HOLD_OVERDUE {held}"]),
    (
        "orders",
        "UPDATE orders SET discount = discount + 1 WHERE order_id = '{redeemed}'",
        ["FIGURES_DISAGREE {redeemed}"],
    ),
    (
        "orders",
        "UPDATE orders SET points_earned = 7 WHERE order_id = '{without}'",
        ["FIGURES_DISAGREE {without}"],
    ),
    ("orders", "UPDATE orders SET status = 'ACCEPTED' WHERE order_id = '{confirmed}'", ["ORDER_STUCK {confirmed}"]),
    ("orders", message("{completed}", "LOYALTY", "CONFIRM"), ["OUTBOX_CONTRADICTS {completed}"]),
    ("orders", message("{confirmed}", "RESERVATIONS", "RELEASE"), ["OUTBOX_CONTRADICTS {confirmed}"]),
    ("orders", message("{unknown}", "LOYALTY", "RELEASE"), ["OUTBOX_ORPHAN {unknown}"]),
    ("orders", message("{cancelled}", "LOYALTY", "RELEASE", us=1), ["OUTBOX_STALE {cancelled}"]),
    ("orders", "UPDATE orders SET lines = '[[' WHERE order_id = '{confirmed}'", ["LINES_UNREADABLE {confirmed}"]),
    ("orders", "UPDATE orders SET lines = '[1]' WHERE order_id = '{confirmed}'", ["LINES_UNREADABLE {confirmed}"]),
    (
        "reservations",
        "UPDATE reservations SET lines = '7' WHERE order_id = '{completed}'",
        ["LINES_UNREADABLE {completed}", "SOLD_MISMATCH {rug}"],
    ),
    ("orders", "UPDATE orders SET discount = 'x' WHERE order_id = '{confirmed}'", ["ROW_DAMAGED {confirmed}"]),
    ("orders", "UPDATE orders SET created_at_us = 1.5 WHERE order_id = '{confirmed}'", ["ROW_DAMAGED {confirmed}"]),
    ("orders", "UPDATE orders SET refusal = '{{' WHERE order_id = '{refused}'", ["ROW_DAMAGED {refused}"]),
    ("orders", message("{confirmed}", "LOYALTY", "RELEASE", us="'soon'"), ["ROW_DAMAGED {confirmed}"]),
    ("reservations", "UPDATE items SET name = x'00' WHERE sku = '{tea}'", ["ROW_DAMAGED {tea}"]),
    ("reservations", "UPDATE items SET held = 'x' WHERE sku = '{tea}'", ["ROW_DAMAGED {tea}"]),
    (
        "reservations",
        "UPDATE reservations SET expires_at_us = 'x' WHERE order_id = '{completed}'",
        ["ROW_DAMAGED {completed}", "SOLD_MISMATCH {rug}"],
    ),
    ("reservations", "UPDATE reservations SET quote = '[' WHERE order_id = '{cancelled}'", ["ROW_DAMAGED {cancelled}"]),
    ("loyalty", "UPDATE accounts SET points = 'x' WHERE customer_id = '{idle}'", ["ROW_DAMAGED {idle}"]),
    ("loyalty", "UPDATE accounts SET tier = 'tin' WHERE customer_id = '{idle}'", ["STATE_UNKNOWN {idle}"]),
    ("loyalty", "UPDATE holds SET subtotal = 'x' WHERE order_id = '{cancelled}'", ["ROW_DAMAGED {cancelled}"]),
    ("orders", "UPDATE orders SET status = 'LOST' WHERE order_id = '{cancelled}'", ["STATE_UNKNOWN {cancelled}"]),
    ("orders", message("{cancelled}", "GARAGE", "RELEASE"), ["STATE_UNKNOWN {cancelled}"]),
    (
        "reservations",
        "UPDATE reservations SET state = 'LOST' WHERE order_id = '{refused}'",
        ["STATE_UNKNOWN {refused}"],
    ),
    ("loyalty", "UPDATE holds SET state = 'LOST' WHERE order_id = '{refused}'", ["STATE_UNKNOWN {refused}"]),
    ("orders", without_key("orders"), ["KEY_MISSING orders.orders"]),
    ("loyalty", without_key("accounts"), ["KEY_MISSING loyalty.accounts"]),
    (
        "reservations",
        without_key("reservations") + "INSERT INTO reservations SELECT * FROM reservations WHERE state = 'HELD';",
        ["DUPLICATE_ID {held}", "KEY_MISSING reservations.reservations", "HELD_MISMATCH {tea}"],
    ),
    (
        "reservations",
        (
            "UPDATE reservations SET state = 'CLOSED' WHERE order_id = '{confirmed}';"
            "UPDATE items SET on_hand = on_hand + 2, sold = sold - 2 WHERE sku = '{tea}';"
        ),
        ["ORDER_WITHOUT_RESERVATION {confirmed}"],
    ),
    (
        "reservations",
        (
            "DELETE FROM reservations WHERE order_id = '{completed}';"
            "UPDATE items SET on_hand = on_hand + 1, sold = sold - 1 WHERE sku = '{rug}';"
        ),
        ["ORDER_WITHOUT_RESERVATION {completed}"],
    ),
    (
        "reservations",
        (
            """UPDATE reservations SET lines = '[["{tea}", 1]]' WHERE order_id = '{confirmed}';"""
            "UPDATE items SET on_hand = on_hand + 1, sold = sold - 1 WHERE sku = '{tea}';"
        ),
        ["RESERVATION_DIFFERS {confirmed}"],
    ),
    (
        "reservations",
        (
            "UPDATE reservations SET state = 'CONFIRMED' WHERE order_id = '{cancelled}';"
            "UPDATE items SET on_hand = on_hand - 1, sold = sold + 1 WHERE sku = '{tea}';"
        ),
        ["GOODS_NOT_RELEASED {cancelled}"],
    ),
    ("reservations", row("reservations", "CLOSED"), ["RESERVATION_WITHOUT_ORDER {unknown}"]),
    ("reservations", "DELETE FROM reservations WHERE order_id = '{refused}'", ["RESERVATION_NOT_CLOSED {refused}"]),
    (
        "loyalty",
        "UPDATE holds SET state = 'EXPIRED' WHERE order_id = '{confirmed}'",
        ["ORDER_WITHOUT_HOLD {confirmed}"],
    ),
    ("loyalty", "DELETE FROM holds WHERE order_id = '{confirmed}'", ["ORDER_WITHOUT_HOLD {confirmed}"]),
    (
        "loyalty",
        "UPDATE holds SET customer_id = '{idle}' WHERE order_id = '{confirmed}'",
        ["HOLD_DIFFERS {confirmed}"],
    ),
    (
        "loyalty",
        (
            "UPDATE holds SET points_earned = points_earned + 1 WHERE order_id = '{redeemed}';"
            "UPDATE accounts SET points = points + 1 WHERE customer_id = '{rich}';"
        ),
        ["HOLD_DIFFERS {redeemed}"],
    ),
    (
        "loyalty",
        "UPDATE holds SET state = 'CONFIRMED', customer_id = '{idle}' WHERE order_id = '{without}'",
        ["HOLD_NOT_WANTED {without}"],
    ),
    (
        "loyalty",
        "UPDATE holds SET state = 'CONFIRMED' WHERE order_id = '{cancelled}'",
        ["POINTS_NOT_RELEASED {cancelled}"],
    ),
    ("loyalty", row("holds", "CLOSED"), ["HOLD_WITHOUT_ORDER {unknown}"]),
    ("loyalty", "UPDATE holds SET state = 'EXPIRED' WHERE order_id = '{refused}'", ["HOLD_NOT_CLOSED {refused}"]),
    (
        "orders",
        "DELETE FROM orders WHERE order_id = '{completed}'",
        ["RESERVATION_WITHOUT_ORDER {completed}", "HOLD_WITHOUT_ORDER {completed}"],
    ),
]


@pytest.mark.parametrize(
    ("database", "script", "expected"),
    [pytest.param(*each, id=f"{each[2][0].split()[0]}-{n}") for n, each in enumerate(SPOILS)],
)
def test_what_is_wrong_is_found_and_nothing_else(
    copy: Path, shop: Shop, database: str, script: str, expected: list[str]
) -> None:
    spoil(copy, database, script, shop.words)
    wanted = [tuple(each.format(**shop.words, unknown=UNKNOWN).split()) for each in expected]
    assert sorted(findings(copy)) == sorted(wanted)


def test_every_code_is_documented_and_its_finding_tested() -> None:
    source = (ROOT / "scripts" / "auditor" / "findings.py").read_text()
    codes = set(re.findall(r'^    [A-Z_]+ = "([A-Z_]+)"$', source, re.MULTILINE))
    manual = re.findall(r"^### ([A-Z_]+)$", (ROOT / "docs" / "audit.md").read_text(), re.MULTILINE)
    assert len(manual) == len(set(manual))
    assert set(manual) == codes
    assert {each.split()[0] for _, _, expected in SPOILS for each in expected} == codes


def test_people_are_shown_the_id_and_the_figures(copy: Path, shop: Shop) -> None:
    spoil(copy, "reservations", "UPDATE items SET sold = sold + 7 WHERE sku = '{rug}'", shop.words)
    done = audit(copy)
    assert done.returncode == 1
    line = f"  {shop.words['rug']}  98 on hand + 9 sold = 107, but the journal says 100"
    assert f"STOCK_NOT_CONSERVED (1)\n{line}\n" in done.stdout
    assert "2 findings" in done.stdout


@pytest.mark.parametrize(
    "pending",
    [
        pytest.param(message("{cancelled}", "LOYALTY", "RELEASE", us=1, attempts=3), id="tried"),
        pytest.param(message("{cancelled}", "LOYALTY", "RELEASE", us=1, lease=LATER), id="being sent"),
        pytest.param(message("{cancelled}", "LOYALTY", "RELEASE"), id="new"),
    ],
)
def test_what_a_pending_message_will_mend_is_not_wrong(copy: Path, shop: Shop, pending: str) -> None:
    spoil(copy, "orders", pending, shop.words)
    spoil(copy, "loyalty", "UPDATE holds SET state = 'CONFIRMED' WHERE order_id = '{cancelled}'", shop.words)
    assert findings(copy) == []


def test_what_mends_itself_while_it_is_looked_at_again_is_not_wrong(copy: Path, shop: Shop) -> None:
    broken = "UPDATE holds SET state = '{state}' WHERE order_id = '{cancelled}'"
    spoil(copy, "loyalty", broken, {**shop.words, "state": "CONFIRMED"})
    command = [*AUDITOR, "--data", str(copy), "--json", "--settle", "100"]
    with subprocess.Popen(
        command, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        assert "1 order" in process.stderr.readline()
        spoil(copy, "loyalty", broken, {**shop.words, "state": "CLOSED"})
        report = json.loads(process.stdout.read())
    assert (process.returncode, report["clean"], report["looked_at_again"]) == (0, True, 1)


def test_what_waits_for_a_service_that_is_away_is_told_and_not_wrong(shop: Shop) -> None:
    customer = put_customer(shop.rest)
    order_id = placed(order(shop.rest, customer, {shop.words["rug"]: 1}))["id"]
    wait_for_status(shop.rest, order_id, "CONFIRMED")
    shop.souk.kill("loyalty")
    try:
        assert shop.rest.post(f"/v1/orders/{order_id}/cancel").json()["status"] == "CANCELLED"
        tried = f"SELECT attempts > 0 FROM outbox WHERE order_id = '{order_id}' AND participant = 'LOYALTY'"
        wait_until(lambda: sql(shop.data, "orders", tried) == [(1,)], "the release to be tried")
        assert sql(shop.data, "loyalty", f"SELECT state FROM holds WHERE order_id = '{order_id}'") == [("CONFIRMED",)]
        code, report = found(shop.data)
        assert (code, report["findings"], report["pending"]["RELEASE to LOYALTY"]) == (0, [], 1)
        (waiting,) = report["waiting"]
        assert (waiting["what"], waiting["oldest_order_id"]) == ("RELEASE to LOYALTY", order_id)
        assert waiting["last_error"]
        text = audit(shop.data).stdout
        assert "waiting: RELEASE to LOYALTY: 1 failed so far" in text
    finally:
        shop.souk.revive("loyalty")


def test_a_shop_that_eight_clients_keep_busy_is_clean(shop: Shop) -> None:
    sku, enough = put_item(shop.rest, on_hand=100_000, unit_price=500), Event()

    def buy(customer: str) -> int:
        count = 0
        while not enough.is_set():
            body = placed(order(shop.rest, customer, {sku: 1}, redeem=count % 2, key=str(uuid4())))
            if count % 3 == 0:
                assert shop.rest.post(f"/v1/orders/{body['id']}/cancel").status_code == 200
            count += 1
        return count

    with ThreadPoolExecutor(8) as clients:
        buying = [clients.submit(buy, put_customer(shop.rest, tier="gold", points=100_000)) for _ in range(8)]
        try:
            wait_until(lambda: len(sql(shop.data, "orders", "SELECT 1 FROM orders")) > 40, "orders to flow")
            reports = [found(shop.data) for _ in range(5)]
        finally:
            enough.set()
        assert sum(each.result() for each in buying) > 0
    assert [report["findings"] for _, report in reports] == [[]] * 5
    assert status(shop.rest, shop.words["confirmed"]) == "CONFIRMED"


@pytest.mark.parametrize(
    ("ruin", "sentence"),
    [
        (lambda data: (data / "orders.db").unlink(), "orders.db) cannot be read: unable to open"),
        (lambda data: (data / "loyalty.db").write_text("no database" * 100), "loyalty.db) cannot be read: "),
        (lambda data: sql(data, "orders", "DROP TABLE outbox"), "orders.db) has no table outbox"),
        (
            lambda data: sql(data, "reservations", "ALTER TABLE items RENAME held TO kept"),
            "The reservations database has no items.held",
        ),
    ],
)
def test_what_cannot_be_read_is_told_in_a_sentence(copy: Path, ruin: Any, sentence: str) -> None:
    ruin(copy)
    done = audit(copy)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_it_reads_the_databases_that_the_services_are_told(copy: Path, tmp_path: Path) -> None:
    urls = {f"SOUK_{name.upper()}_DATABASE_URL": f"sqlite:///{copy}/{name}.db" for name in DATABASES}
    command = [str(ROOT / "scripts" / "audit")]
    done = subprocess.run(command, cwd=tmp_path, env=environment(**urls), capture_output=True, text=True, check=False)
    assert (done.returncode, "Clean" in done.stdout) == (0, True), done.stderr
    urls["SOUK_LOYALTY_DATABASE_URL"] = "no url"
    done = subprocess.run(command, cwd=tmp_path, env=environment(**urls), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "SOUK_LOYALTY_DATABASE_URL is not a database URL.\n")


def test_it_changes_nothing(copy: Path) -> None:
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    assert findings(copy) == []
    assert {path.name: path.read_bytes() for path in copy.iterdir() if path.suffix == ".db"} == before


def test_many_orders_are_audited_one_by_one(tmp_path: Path) -> None:
    fill(tmp_path, 3_000)
    code, report = found(tmp_path)
    assert (code, report["findings"]) == (0, [])
    assert sum(report["checked"]["reservations"].values()) == 3_000
    ids = [each for (each,) in sql(tmp_path, "orders", "SELECT order_id FROM orders WHERE status = 'CONFIRMED'")]
    sql(tmp_path, "reservations", f"UPDATE reservations SET state = 'CLOSED' WHERE order_id = '{ids[700]}'")
    sql(tmp_path, "loyalty", f"UPDATE holds SET customer_id = 'c-x' WHERE order_id = '{ids[900]}'")
    spoilt = findings(tmp_path)
    assert {("ORDER_WITHOUT_RESERVATION", ids[700]), ("HOLD_DIFFERS", ids[900])} <= set(spoilt)
    assert {order_id for _, order_id in spoilt if len(order_id) == 36} == {ids[700], ids[900]}


def emptied(folder: Path) -> None:
    """As a copy of new files is whose content is still in their logs."""
    contents = {
        "orders": ("outbox", "orders"),
        "reservations": ("reservations", "items", "journal"),
        "loyalty": ("holds", "accounts", "journal"),
    }
    for name, tables in contents.items():
        with closing(sqlite3.connect(folder / f"{name}.db")) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            for table in tables:
                connection.execute(f"DELETE FROM {table}")
            connection.commit()


def test_empty_databases_are_not_clean_and_without_their_logs_they_are_no_copy(copy: Path) -> None:
    emptied(copy)
    done = audit(copy)
    assert (done.returncode, "Clean" in done.stdout, "Empty: there are no orders" in done.stdout) == (2, False, True)
    assert "look like copies of open files" in done.stderr


def test_it_says_what_it_looked_at_and_what_has_no_log(settled: Path) -> None:
    done = audit(settled)
    assert re.search(r"Clean: every check passed; looked at \d+ orders, the newest [\d,]+ \w+ old \(", done.stdout)
    report = json.loads(audit(settled, "--json").stdout)
    assert report["newest_order_s"] >= 0
    assert ("note: no write-ahead log" in done.stdout) is bool(report["without_log"])
