"""The benchmark: what it prints, and what it refuses to print."""

import json
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from benching import attacks, compare, overload
from benching.compare import Comparison, interval
from benching.crowd import Seen, counts
from benching.document import DOCUMENT, MARK, write
from benching.measures import Growth, Memory, Throughput
from benching.overload import Overload
from benching.report import Figures, as_json, as_text, targets
from benching.stacks import BACKENDS, audit
from benching.starts import ContainerStart, containers
from skewing.processes import Failed

from tests.conftest import ROOT, engine_answers
from tests.many_orders import fill


def throughput(stack: str, connections: int, per_second: float, p50_ms: float, p99_ms: float) -> Throughput:
    return Throughput(stack, connections, per_second, p50_ms, p99_ms, 0.1, {"orders": 0.5}, {"orders": 60.0})


FIGURES = Figures(
    "2 processors",
    "abc",
    [
        throughput("bare", 1, 250, 4.0, 8.0),
        throughput("sqlite", 1, 200, 5.0, 8.0),
        throughput("bare", 64, 500, 100.0, 200.0),
        throughput("sqlite", 64, 750, 80.0, 320.0),
        throughput("postgresql", 64, 600, 90.0, 120.0),
    ],
    [Memory(50_000, dict.fromkeys(BACKENDS, 60.0)), Memory(100_000, dict.fromkeys(BACKENDS, 66.0))],
    [Growth(1_000, 700, 2.0, 4.0), Growth(1_000_000, 650, 2.1, 5.0)],
    {"orders": 480.0, "loyalty": 520.0},
    700.0,
    {"orders": ContainerStart(900.0, 600.0)},
)


def test_what_is_asked_for_stands_beside_what_was_reached() -> None:
    found = [(round(each.reached, 2), each.is_met) for each in targets(FIGURES)]
    assert found == [
        (1.5, False),
        (1.6, False),
        (1.25, True),
        (0.8, True),
        (1.05, True),
        (1.25, False),
        (66.0, True),
        (1.1, False),
        (520.0, False),
    ]
    assert [each["is_met"] for each in json.loads(as_json(FIGURES))["targets"]] == [is_met for _, is_met in found]
    assert "| at least 2 | 1.50 | **no** |" in as_text(FIGURES)
    assert "| postgresql | 64 | 600 | 90.0 | 120.0 | 0.10 |" in as_text(FIGURES)


def test_starts_of_processes_of_all_and_of_containers_stand_in_one_table() -> None:
    rows = [
        "| start | ms |",
        "| --- | --- |",
        "| orders: exec to SERVING | 480 |",
        "| loyalty: exec to SERVING | 520 |",
        "| `./scripts/up`, warm, until Souk answers | 700 |",
        "| orders in a container: `docker run` to SERVING | 900 |",
        "| orders in a container: start of its process to SERVING | 600 |",
    ]
    assert "\n".join(rows) in as_text(FIGURES)
    found = json.loads(as_json(FIGURES))
    assert found["up_ms"] == 700
    assert found["container_start"] == {"orders": {"run_ms": 900, "process_ms": 600}}


def test_where_no_engine_answers_starts_of_containers_are_left_out_and_a_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said: list[str] = []
    assert containers(1, said.append) == {}
    assert said == ["starts of containers are not measured: no container engine with buildx answers."]


def test_figures_of_orders_that_do_not_audit_clean_are_not_printed(tmp_path: Path) -> None:
    fill(tmp_path, 50)
    urls = {each: f"sqlite:///{tmp_path / each}.db" for each in BACKENDS}
    audit("sqlite", urls)
    with closing(sqlite3.connect(tmp_path / "reservations.db")) as connection:
        connection.execute("UPDATE items SET on_hand = on_hand - 1 WHERE sku = 'item-1'")
        connection.commit()
    with pytest.raises(Failed, match="the audit is not clean"):
        audit("sqlite", urls)


@pytest.mark.wrk
@pytest.mark.timeout(300)
def test_it_measures_the_bare_stack_and_souk_from_built_wheels(tmp_path: Path) -> None:
    options = ["--stacks", "bare", "sqlite", "--connections", "2", "--seconds", "1", "--rounds", "1"]
    command = ["scripts/bench", "--only", "throughput", *options, "--json", str(tmp_path / "found.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert [each["stack"] for each in found["throughput"]] == ["bare", "sqlite"]
    for each in found["throughput"]:
        assert each["per_second"] > 0
        assert set(each["cpu_s"]) == set(each["rss_mb"]) == {"gateway", *BACKENDS}
    assert done.stdout.count("| sqlite | 2 |") == 2


@pytest.mark.long
@pytest.mark.timeout(600)
def test_it_measures_starts_and_leaves_nothing_behind(tmp_path: Path) -> None:
    command = ["scripts/bench", "--only", "start", "--starts", "1", "--json", str(tmp_path / "found.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found["start_ms"]) == set(BACKENDS)
    assert found["up_ms"] > 0
    if engine_answers():
        assert set(found["container_start"]) == set(BACKENDS)
        for each in found["container_start"].values():
            assert 0 < each["process_ms"] < each["run_ms"]
        for kind in (["container", "ls", "--all"], ["volume", "ls"]):
            listed = ["docker", *kind, "--quiet", "--filter=name=souk-bench-"]
            assert subprocess.run(listed, capture_output=True, text=True, check=True).stdout == ""


OVERLOAD = Overload(
    2000,
    120.0,
    {64: 900.0, 256: 1000.0},
    {"201": 108_000, "503": 84_000, "409": 12},
    900.0,
    280.0,
    520.0,
    0.97,
    140.0,
    0.94,
    0,
    2.5,
    0.4,
    0,
)


def test_what_an_attack_costs_an_innocent_client_stands_beside_what_is_asked_for() -> None:
    quiet = [1.0] * 99 + [10.0]
    found = attacks.Attacks(
        [
            attacks.Innocent("few", quiet, [2.0] * 99 + [30.0], 0, 80),
            attacks.Innocent("many", quiet, [2.0] * 99 + [31.0], 0, 81),
            attacks.Innocent("cut", quiet, quiet, 1, 82),
        ]
    )
    lines = [line for line in found.text().splitlines() if line.startswith("| ")][2:]
    assert lines == [
        "| few | 100 | 0 | 10.0 | 30.0 | 3.00 | 80 | yes |",
        "| many | 100 | 0 | 10.0 | 31.0 | 3.10 | 81 | no |",
        "| cut | 100 | 1 | 10.0 | 10.0 | 1.00 | 82 | no |",
    ]


def test_figures_under_overload_stand_beside_what_is_asked_for() -> None:
    assert [(round(each.reached, 2), each.is_met) for each in OVERLOAD.targets()] == [
        (0, True),
        (2.5, True),
        (0.97, True),
        (0.94, False),
        (0.52, True),
        (0.4, True),
        (0.9, True),
    ]
    assert "| 2,000 | 900 | 280 | 520 | 12 × 409, 84,000 × 503 |" in OVERLOAD.text()


def test_what_a_crowd_saw_is_counted_by_status() -> None:
    seen = Seen(2.0, 0.0, 0, {"201": [1.0, 2.0, 3.0, 400.0], "503": [99.0, 100.0, 101.0, 102.0]}, ["k"])
    assert seen.per_second("201") == 2
    assert seen.within("503", 100) == 0.5
    assert seen.within("409", 100) == 1
    assert (seen.percentile_ms("201", 50), seen.percentile_ms("201", 99)) == (3.0, 400.0)
    assert counts(seen) == {"201": 4, "503": 4}


def test_the_interval_of_a_median_holds_it_as_often_as_it_says() -> None:
    assert interval([1.0]) == (1.0, 1.0)
    assert interval([1.0, 2.0, 3.0]) == (1.0, 3.0)
    assert interval([float(n) for n in range(1, 11)]) == (2.0, 9.0)  # P = 1 - 2 * 11 / 1024
    low, high = interval([float(n) for n in range(1, 41)])
    assert (low, high) == (14.0, 27.0)  # as tables of the sign test have it
    comparison = Comparison("abc", [1.0, 2.0, 1.0], [1.1, 2.0, 1.02])
    assert [(round(each.reached, 2), each.is_met) for each in comparison.targets()] == [(1.02, True)]
    assert "| ratio | 1.020 | 1.000 to 1.100 |" in comparison.text()


def test_each_kind_of_figures_has_its_place_in_the_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = tmp_path / "benchmarks.md"
    document.write_text(DOCUMENT.read_text())
    monkeypatch.setattr("benching.document.DOCUMENT", document)
    before = document.read_text()
    for mark in (MARK, attacks.MARK, overload.MARK, compare.MARK):
        write(mark, f"figures of {mark}")
        assert document.read_text().count("<!-- end of what is written -->") == 4
        assert f"figures of {mark}" in document.read_text()
    for title in ("## How it is measured", "## Under more load", "## Beside another revision"):
        assert before.count(title) == document.read_text().count(title) == 1


@pytest.mark.long
@pytest.mark.timeout(600)
def test_it_measures_overload(tmp_path: Path) -> None:
    sizes = ["--connections", "400", "--seconds", "3", "--below", "8", "16", "--below-seconds", "1"]
    command = ["scripts/bench", "overload", *sizes, "--json", str(tmp_path / "found.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["cancelled"] == found["lost"] == 0
    assert set(found["below"]) == {"8", "16"}
    assert found["answers"]["201"] > 0
    assert found["answers"]["503"] > 0  # 400 clients are more than the gateway serves at a time
    assert found["unavailable_without_trace"] > 0.5
    assert done.stdout.count("| 400 |") == 1


@pytest.mark.long
@pytest.mark.wrk
@pytest.mark.timeout(600)
def test_it_compares_with_another_revision(tmp_path: Path) -> None:
    command = ["scripts/bench", "compare", "HEAD", "--rounds", "2", "--seconds", "1"]
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "found.json")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found["old"]) == len(found["new"]) == 2
    assert min(*found["old"], *found["new"]) > 0
    assert "| this tree |" in done.stdout


def test_a_revision_that_there_is_not_is_said() -> None:
    done = subprocess.run(
        ["scripts/bench", "compare", "no-such-revision"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "no-such-revision" in done.stderr
    assert "Traceback" not in done.stderr
