"""`prune` where a participant is of the last version that cannot forget: nothing is lost, and it says what to do."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from releasing.ledger import Ledger
from skewing import installed
from skewing.processes import Process, free_addresses

from tests.faults.processes import Service
from tests.faults.souk import migrate

ORDER = "5f0c8a9e-0000-4000-8000-000000000001"
CANNOT_FORGET = "1.1.0"
PARTICIPANTS = ("reservations", "loyalty")


def prune(data: Path, addresses: dict[str, str]) -> subprocess.CompletedProcess[str]:
    targets = {f"SOUK_{name.upper()}_TARGET": address for name, address in addresses.items()}
    return subprocess.run(
        [sys.executable, "-m", "souk_orders", "prune"],
        env={"SOUK_ORDERS_DATABASE_URL": f"sqlite:///{data}/orders.db", **targets},
        capture_output=True,
        text=True,
        check=False,
    )


def refuse_long_ago(data: Path) -> None:
    """A refusal that has been over for long, as orders and both participants have it."""
    row = '0, 0, 0, 0, 0, \'["NO", "no", {}]\', 1, 1'
    columns = "discount_percent, discount, points_redeemed, points_earned, without_loyalty, refusal, created_at_us"
    rows = {
        "orders": f"orders (order_id, fingerprint, status, status_reason, customer_id, currency, lines, {columns}, "
        f"final_at_us) VALUES ('{ORDER}', zeroblob(32), 'REFUSED', '', 'c-1', '', '[]', {row})",
        "reservations": "reservations (order_id, state, lines, quote, expires_at_us) "
        f"VALUES ('{ORDER}', 'CLOSED', '[]', '[]', 0)",
        "loyalty": f"holds VALUES ('{ORDER}', 'CLOSED', '', 0, 0, 0, 0, 0, 0, 0)",
    }
    for name, values in rows.items():
        with closing(sqlite3.connect(data / f"{name}.db")) as connection, connection:
            connection.execute(f"INSERT INTO {values}")


def found(data: Path) -> dict[str, bool]:
    """Which service still knows of it."""
    tables = {"orders": "orders", "reservations": "reservations", "loyalty": "holds"}
    counts = {}
    for name, table in tables.items():
        with closing(sqlite3.connect(data / f"{name}.db")) as connection:
            ((count,),) = connection.execute(f"SELECT count(*) FROM {table}").fetchall()
        counts[name] = bool(count)
    return counts


@pytest.mark.timeout(600)
@pytest.mark.parametrize("older", PARTICIPANTS)
async def test_an_older_participant_keeps_everything_as_it_is_until_it_is_replaced(tmp_path: Path, older: str) -> None:
    ledger = Ledger()
    addresses = dict(zip(PARTICIPANTS, free_addresses(2), strict=True))
    services = {
        name: Service(name, int(address.rpartition(":")[2]), {}, tmp_path) for name, address in addresses.items()
    }
    for name in ("orders", *PARTICIPANTS):
        migrate(name, f"sqlite:///{tmp_path}/{name}.db")
    refuse_long_ago(tmp_path)
    released = installed._old(ledger.find(older, CANNOT_FORGET), ledger)
    process = Process(released, addresses[older], tmp_path, {})
    (newer,) = set(PARTICIPANTS) - {older}
    try:
        await services[newer].start()
        process.start()  # on the database of the newer version
        done = prune(tmp_path, addresses)
        assert done.returncode == 1
        assert (
            done.stdout == "Refused and cancelled orders: 0 newly marked; 0 marked at least 30 days ago were deleted.\n"
        )
        assert done.stderr == (
            f"souk_orders: {older} at {addresses[older]} runs a version that cannot forget orders; "
            "update it to 1.2 or later, then prune again\n"
        )
        assert found(tmp_path) == dict.fromkeys(("orders", *PARTICIPANTS), True)
        process.stop()
        await services[older].start()
        done = prune(tmp_path, addresses)
        assert (done.returncode, done.stderr) == (0, "")
        assert found(tmp_path) == dict.fromkeys(("orders", *PARTICIPANTS), False)
    finally:
        process.kill()
        for service in services.values():
            service.kill()
