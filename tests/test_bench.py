"""The benchmark: what it prints, and what it refuses to print."""

import json
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from benching.measures import Growth, Memory, Throughput
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
    assert said == ["starts of containers are left out: no container engine with buildx answers."]


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
