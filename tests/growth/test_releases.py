"""What is compared with what: this tree with the releases that the ledger names."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from shutil import rmtree

import pytest
from growing import __main__ as growth
from growing import exceptions, exchange, migrations, versions
from growing.findings import CannotCheck, Finding
from growing.versions import Contracts
from releasing.build import CACHE, build, checkout, git, sha256, time_of
from releasing.ledger import Ledger, Release

from souk_contracts import __version__
from tests.growth.edits import ORDERS, TextEdit

MAJOR = __version__.partition(".")[0]
NOWHERE = "0" * 40


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """One in which the contracts and orders of the last commit are released, and contracts of other majors."""
    commit = git("rev-parse", "HEAD")
    ledger = Ledger(tmp_path_factory.mktemp("ledger"))
    ledger.add(Release("contracts", f"{int(MAJOR) + 1}.0.0", NOWHERE, "", ""))
    out = tmp_path_factory.mktemp("out")
    for package in ("contracts", "orders"):
        with checkout(commit) as tree:
            made = build(tree, package, time_of(commit), out / package)
        release = Release(package, f"{MAJOR}.0.999", commit, sha256(made.wheel), sha256(made.sdist))
        ledger.add(replace(release, contracts=release.version) if package == "orders" else release)
    yield ledger
    for package in ("contracts", "orders"):
        for place in CACHE.glob(f"{package}-{MAJOR}.0.999-*"):
            rmtree(place)


def test_the_contracts_are_compared_with_those_of_their_major(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (release,) = versions.of_major(ledger, "contracts", __version__)
    monkeypatch.setattr(exceptions, "listed", list)  # which are for what this tree narrows
    with versions.released(release) as same:
        monkeypatch.setattr(versions, "of_tree", lambda: same)
        assert list(growth.contracts(ledger)) == []
        assert f"contracts@{MAJOR}.0.999" in capsys.readouterr().err
        TextEdit(ORDERS, "int64 total = 12;", "int64 total = 99;").apply(same.protos.parent)
        # Only this copy has changed; the release is unpacked anew.
        assert "FIELD_NO_DELETE" in {finding.rule for finding in growth.contracts(ledger)}


def test_a_release_comes_with_the_tests_of_its_commit(ledger: Ledger) -> None:
    (release,) = migrations.supported("orders", ledger)
    with migrations.released(release, ledger) as old:
        assert old.version == release.version
        assert (old.wheel.name[:11], old.contracts.name[:14]) == ("souk_orders", "souk_contracts")
        for path in ("packages/orders/tests/test_orders_storage.py", "conftest.py", "pytest.ini"):
            assert (old.sources / path).read_text() == git("show", f"{release.commit}:{path}") + "\n"


def test_of_each_minor_version_the_newest_release_is_tried(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for version in ("1.10.0", "1.9.1", "1.9.0", "1.9.10", "2.0.0"):
        ledger.add(Release("orders", version, NOWHERE, "", ""))
    assert [each.version for each in migrations.supported("orders", ledger)] == ["1.9.10", "1.10.0", "2.0.0"]


def test_without_releases_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(exceptions, "listed", list)
    assert [*growth.contracts(Ledger(tmp_path)), *growth.schemas(Ledger(tmp_path))] == []
    said = capsys.readouterr().err
    assert f"no contracts of major version {MAJOR} are released yet, so" in said
    assert said.count("is released yet, so its migrations break nobody") == 3


def test_findings_are_printed_and_end_it_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Finding("OPERATION_REMOVED", "/paths/~1v1~1orders/get", "clients may still call it")
    monkeypatch.setattr(growth, "CHECKS", {"contracts": lambda _: iter([found])})
    monkeypatch.setattr(sys, "argv", ["growth"])
    with pytest.raises(SystemExit, match=r"^growth: 1 found; docs/contracts\.md"):
        growth.main()
    assert capsys.readouterr().out == "OPERATION_REMOVED at /paths/~1v1~1orders/get: clients may still call it\n"


def test_contracts_that_cannot_be_imported_cannot_be_checked(tree: Contracts, tmp_path: Path) -> None:
    with pytest.raises(CannotCheck, match="were expected in"):
        exchange.misunderstood(replace(tree, path=tmp_path), tree)


def test_what_is_not_known_is_dropped_and_unknown_values_are_kept(tree: Contracts) -> None:
    examples = exchange.written(tree)["souk.orders.v1.ListRequest"]
    by_kind = {kind: (data, seen) for kind, data, seen in reversed(examples)}  # the first one of each kind
    data, seen = by_kind["unknown fields"]
    assert seen["again"] == by_kind["filled"][0] != data
    data, seen = by_kind["unknown enum values"]
    assert (seen["again"], seen["view"]["status"]) == (data, 1_000_000)
