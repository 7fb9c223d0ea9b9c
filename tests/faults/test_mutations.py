"""Souk broken on purpose: each rule that it rests on is taken away, and the test that guards it must fail.

A mutation is applied to a copy of the package's sources, which the named test then runs in place of the real ones.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT

TESTS_FAILED = 1
"""pytest's exit code; any other than that, and 0, says that the test did not run."""


@dataclass(frozen=True)
class Change:
    """A text in a module that stands there once, and what takes its place."""

    module: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutation:
    """A broken variant of a package, and the test that must fail because of it."""

    name: str
    package: str
    changes: tuple[Change, ...]
    caught_by: str

    def apply(self, folder: Path) -> Path:
        """Gives the folder to import from."""
        sources = folder / "src"
        shutil.copytree(ROOT / "packages" / self.package / "src", sources, ignore=shutil.ignore_patterns("__pycache__"))
        for change in self.changes:
            module = sources / f"souk_{self.package}" / change.module
            text = module.read_text()
            assert text.count(change.old) == 1, (
                f"{change.module} of {self.package} has changed: bring the mutation '{self.name}' up to date"
            )
            module.write_text(text.replace(change.old, change.new))
        return sources


RESERVE = "        return await self._execute_all([_reserve(*each, self._ttl_us) for each in wanted])\n"

MUTATIONS = [
    Mutation(
        "the outbox row is written outside the transaction",
        "orders",
        (
            Change(
                "storage.py",
                "    _save_outbox(session, old_outbox, book.outbox)\n",
                '    session._cursor.execute("COMMIT")\n'
                '    session._cursor.execute("BEGIN IMMEDIATE")\n'
                "    _save_outbox(session, old_outbox, book.outbox)\n",
            ),
        ),
        "tests/faults/test_directed.py"
        "::test_an_order_and_what_must_be_told_of_it_are_written_together_or_not_at_all[sqlite]",
    ),
    Mutation(
        "Create is no insert on a unique key",
        "orders",
        (
            Change(
                "book.py",
                "        if (before := self._decided_before(order_id, fingerprint)) is not None:\n"
                "            return before\n"
                "        if self._now_us > accept_until_us:\n",
                "        if self._now_us > accept_until_us:\n",
            ),
        ),
        "tests/faults/test_directed.py::test_a_create_that_comes_late_finds_what_became_of_the_order[sqlite]",
    ),
    Mutation(
        "orders are decided on without a lock on their rows",
        "orders",
        (
            Change(
                "statements.py",
                "self.waiting = Statement(among.with_for_update())",
                "self.waiting = Statement(among)",
            ),
        ),
        "packages/orders/tests/test_orders_postgresql.py"
        "::test_an_order_that_one_process_cancels_is_not_confirmed_by_another_at_the_same_time",
    ),
    Mutation(
        "the gateway releases what it held when it gives up",
        "gateway",
        (
            Change(
                "saga.py",
                "            if key is not None:\n                raise\n",
                "            if key is not None:\n"
                "                await self._reservations.release(order_id, exchange)\n"
                "                raise\n",
            ),
            Change(
                "clients.py",
                "    async def list_items(\n",
                "    async def release(self, order_id: str, exchange: Exchange) -> object:\n"
                "        request = reservations.ReleaseRequest(order_id=order_id)\n"
                '        return await _ask("reservations", self._stub.release, request, exchange)\n\n'
                "    async def list_items(\n",
            ),
        ),
        "tests/faults/test_directed.py::test_a_gateway_that_gives_up_leaves_the_order_to_orders[sqlite]",
    ),
    Mutation(
        "a Release leaves no tombstone",
        "reservations",
        (
            Change(
                "domain.py",
                "        if row.state is State.HELD:\n"
                "            self._change_held(row.lines, -1)\n"
                "        elif row.state is State.CONFIRMED:\n",
                "        if row.state is State.EXPIRED:\n"
                "            return\n"
                "        if row.state is State.HELD:\n"
                "            self._change_held(row.lines, -1)\n"
                "        elif row.state is State.CONFIRMED:\n",
            ),
        ),
        "tests/faults/test_directed.py::test_a_confirm_that_comes_after_its_release_finds_the_door_shut[sqlite]",
    ),
    Mutation(
        "the stock is checked before the update, and not in it",
        "reservations",
        (
            Change(
                "service.py",
                RESERVE,
                "        for line in (line for _, lines in wanted for line in lines):\n"
                "            item = await self._storage.item(line.sku)\n"
                "            if item.available < line.quantity:\n"
                "                raise HeldByOthers(line.sku, line.quantity, item.available)\n" + RESERVE,
            ),
            Change(
                "service.py",
                "    DomainError,\n",
                "    DomainError,\n    HeldByOthers,\n",
            ),
            Change(
                "domain.py",
                "            for line in lines:\n                self._check_available(line, HeldByOthers)\n",
                "",
            ),
        ),
        "tests/conformance/test_at_once.py"
        "::test_of_twenty_orders_at_once_as_many_get_a_hold_as_there_is_to_hold[reservations]",
    ),
    Mutation(
        "a refusal is answered without being recorded",
        "gateway",
        (
            Change(
                "saga.py",
                "                return await self._refuse(order_id, fingerprint, wanted, no, exchange)\n"
                "            return await self._create(",
                "                refusal = Refusal(reason=no.reason, detail=no.detail, metadata=no.metadata)\n"
                "                return Decision(refusal, replayed=False)\n            return await self._create(",
            ),
        ),
        "tests/faults/test_directed.py::test_a_refusal_that_was_answered_stands_after_a_restock[sqlite]",
    ),
    Mutation(
        "a Confirm takes what was held, and not what the order says",
        "reservations",
        (
            Change(
                "domain.py",
                "        if row.state is State.HELD:\n            self._change_held(row.lines, -1)\n        try:\n",
                "        if row.state is State.HELD:\n"
                "            self._change_held(row.lines, -1)\n"
                "            lines = row.lines\n"
                "        try:\n",
            ),
        ),
        "tests/conformance/test_state_table.py"
        "::test_a_confirm_takes_exactly_what_the_order_says_whatever_was_held[reservations-7]",
    ),
    Mutation(
        "the janitor does not look at the time again",
        "reservations",
        (
            Change(
                "domain.py",
                "if row.state is State.HELD and row.expires_at_us <= now_us]",
                "if row.state is State.HELD]",
            ),
        ),
        "tests/faults/test_domains.py::TestStockUnderAnyCalls",
    ),
    Mutation(
        "Forget takes away what is HELD, too",
        "loyalty",
        (
            Change(
                "domain.py",
                "            if row.state in (State.CLOSED, State.EXPIRED):\n",
                "            if row.state is not State.CONFIRMED:\n",
            ),
        ),
        "tests/conformance/test_state_table.py::test_a_hold_is_not_forgotten[loyalty]",
    ),
    Mutation(
        "an order is deleted before its participants have forgotten it",
        "orders",
        (
            Change(
                "pruner.py",
                "        for participant, client in self._participants.items():\n",
                "        self.pruned.deleted += await self._retention.delete(order_ids)\n"
                "        for participant, client in self._participants.items():\n",
            ),
        ),
        "tests/faults/test_retention.py"
        "::test_a_run_that_is_killed_is_taken_up_by_the_next_one[before the call-reservations-sqlite]",
    ),
]


@pytest.mark.parametrize(
    "mutation",
    [pytest.param(each, marks=pytest.mark.long if place % 6 else ()) for place, each in enumerate(MUTATIONS)],
    ids=[mutation.name for mutation in MUTATIONS],
)
def test_a_broken_variant_is_caught(mutation: Mutation, tmp_path: Path) -> None:
    sources = mutation.apply(tmp_path)
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=line", mutation.caught_by],
        cwd=ROOT,
        # Its seed is the default one: with another, a state machine might need more steps to get there.
        env={**os.environ, "PYTHONPATH": str(sources), "SOUK_FAULT_SEED": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert ended.returncode == TESTS_FAILED, f"not caught by {mutation.caught_by}:\n{ended.stdout}"
    assert "1 failed" in ended.stdout, ended.stdout
    print(ended.stdout)
