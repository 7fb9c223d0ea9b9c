"""`./scripts/mutants`, on a tree with a module and a test; and what a mutant may be."""

import asyncio
import json
import subprocess
from pathlib import Path

import pytest
from mutating.copies import Copy, Limits
from mutating.modules import CORE, Module
from mutating.mutants import Mutant, mutants
from mutating.results import Result, append, read, summary
from mutating.sample import sample
from mutating.trial import DoNotPass, Trial

from tests.conftest import ROOT

MODULE = """
ENOUGH = 3
IS_UNREAD = True
"""
TEST = """
import shop

def test_enough():
    assert shop.ENOUGH == 3
"""
HANGS = """
import subprocess, sys, time

def test_hangs():
    code = "import os, time; open({place!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    subprocess.Popen([sys.executable, "-c", code], start_new_session=True).wait()
"""
SHOP = Module("contracts/src/shop.py", ("contracts/tests/test_shop.py",))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for name, text in ((SHOP.path, MODULE), (SHOP.tests[0], TEST)):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text(text)
    return root


def changes(source: str) -> list[tuple[str, str]]:
    return [(each.old, each.new) for each in mutants("shop.py", source.encode())]


def tried(tree: Path, found: dict[str, Result], count: int = 100) -> list[Result]:
    """Results of a run that knows what was found before."""
    trial = Trial(tree, {"shop": SHOP}, 7, print, lambda result: found.update({result.id: result}), dict(found))
    asyncio.run(trial.run(count, 2))
    return trial.found


def test_a_mutant_that_a_test_notices_is_killed_and_one_that_no_test_reads_survives(tree: Path) -> None:
    found: dict[str, Result] = {}
    results = tried(tree, found)
    assert {(each.line, each.old, each.new, each.verdict) for each in results} == {
        (2, "3", "4", "killed"),
        (3, "True", "False", "survived"),
    }
    assert (tree / SHOP.path).read_text() == MODULE
    shown = "\n".join(summary(results))
    assert shown.splitlines()[1].split() == ["shop", "1", "0", "1"]
    assert shown.endswith(" ENOUGH = 3\n-IS_UNREAD = True\n+IS_UNREAD = False")

    (tree / SHOP.tests[0]).write_text("def test_fails(): assert False")
    assert {*tried(tree, found)} == {*results}, "what is known is not tried again"
    with pytest.raises(DoNotPass, match=r"test_shop\.py"):
        tried(tree, {})


def has_ended(process: Path) -> bool:
    """Whether or not anybody has asked for its exit code."""
    listed = subprocess.run(
        ["ps", "-o", "stat=", "-p", process.read_text()], stdout=subprocess.PIPE, text=True, check=False
    )
    return listed.stdout.strip()[:1] in ("", "Z")


def test_a_test_that_hangs_is_ended_with_all_that_it_has_started(tree: Path, tmp_path: Path) -> None:
    child = tmp_path / "child"
    (tree / SHOP.tests[0]).write_text(HANGS.format(place=str(child)))
    copy = Copy(tree, str(tmp_path), 1)
    run = asyncio.run(copy.test(SHOP.tests, Limits(total_s=60, test_s=2)))
    assert run.verdict == "timeout"
    assert not child.exists() or has_ended(child)


async def test_what_runs_is_ended_when_it_is_interrupted(tree: Path, tmp_path: Path) -> None:
    child = tmp_path / "child"
    (tree / SHOP.tests[0]).write_text(HANGS.format(place=str(child)))
    task = asyncio.create_task(Copy(tree, str(tmp_path), 1).test(SHOP.tests, Limits(total_s=600, test_s=600)))
    while not child.exists() or not child.read_text():  # noqa: ASYNC110 (it is another process that says so)
        await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert has_ended(child)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(a: int = 3) -> int | None: ...", [("3", "4")]),
        ('x = f"{a + 1}" + b\nlog.info("%s", a + 1)\nassert a > 1\n"""a < b"""', []),
        ("if a and ( # < or\n    b):\n    pass", [("a and ( # < or\n    b)", "a or ( # < or\n    b)")]),
        ("ü = not a", [("not a", "a")]),
        ("while f():\n    break", [("f()", "not (f())"), ("break", "continue")]),
        ("try:\n    f()\nexcept (A, B):\n    raise", [("f()", "pass"), ("(A, B)", "()"), ("raise", "pass")]),
        ("x = a is  not b\ny = 2.5", [("a is  not b", "a is b"), ("2.5", "5.0")]),
        ("for x in y:\n    z[0] = True", [("y", "()"), ("z[0] = True", "pass"), ("0", "1"), ("True", "False")]),
    ],
)
def test_what_is_changed(source: str, expected: list[tuple[str, str]]) -> None:
    assert changes(source) == expected


def test_a_seed_picks_of_each_module_in_proportion() -> None:
    every = {name: [Mutant(name, at, at, 1, "", "") for at in range(size)] for name, size in (("a", 60), ("b", 20))}
    picked = sample(every, 8, seed=1)
    assert [each.path for each in picked].count("a") == 6
    assert picked == sample(every, 8, seed=1) != sample(every, 8, seed=2)
    assert {*picked} < {*sample(every, 16, seed=1)}


def test_results_are_kept_by_seed_even_after_a_line_that_was_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "results"
    results = [Result(seed, f"{seed}", "m", "m.py", 1, "a", "b", "killed", 1.0, "") for seed in (1, 2)]
    file.write_text(json.dumps({"seed": 1})[:-3])
    for each in results:
        append(file, each)
    assert read(file, 1) == {"1": results[0]}


def test_every_core_module_and_its_tests_are_there() -> None:
    named = {path for module in CORE.values() for path in (module.path, *module.tests)}
    assert [path for path in sorted(named) if not (ROOT / path).is_file()] == []
