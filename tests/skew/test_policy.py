"""Which versions may meet, and the compose files that are held to it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from skewing import compose
from skewing.policy import POLICY, breaches

from tests.conftest import ROOT


def check(*files: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {"PYTHONPATH": f"{ROOT}/scripts", **environment}
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_VERSION")}
    command = [sys.executable, "-P", "-m", "skewing", "check", *map(str, files)]
    return subprocess.run(command, env={**kept, **variables}, capture_output=True, text=True, check=False)


def composed(folder: Path, *images: str) -> Path:
    services = "\n".join(f"  s{number}:\n    image: {image}" for number, image in enumerate(images))
    path = folder / "some.yaml"
    path.write_text(f"services:\n{services}\n")
    return path


@pytest.mark.parametrize(
    "others", [{"1.3.0"}, {"1.2.7"}, {"1.4.0"}, {"1.3.9"}, {"1.4.0.dev7+g2a7b2b4"}, {"1.2.0.dev0+unknown"}, set()]
)
def test_a_version_may_stand_beside_its_own_minor_and_the_next(others: set[str]) -> None:
    assert not breaches({"orders": {"1.3.2", *others}, "gateway": {"1.9.0"}}, {})


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("1.0.0", "1.3.0", "3 minors apart"),
        ("1.8.1", "1.10.0", "2 minors apart"),
        ("1.4.0", "2.0.0", "major versions differ"),
        ("1.0.0", "1.2.0.dev7+g2a7b2b4", "2 minors apart"),
        ("1.2.0.dev10+g2a7b2b4", "2.0.0.dev9+g2a7b2b4.dirty", "major versions differ"),
    ],
)
def test_a_version_may_not_stand_beside_one_that_is_further_away(old: str, new: str, said: str) -> None:
    (sentence,) = breaches({"orders": {new, old}, "gateway": {old}}, {})
    assert f"orders {old} beside {new}" in sentence
    assert said in sentence


def test_services_of_any_versions_may_call_each_other_within_a_major_of_their_contracts() -> None:
    versions = {"orders": {"1.0.0"}, "gateway": {"2.5.0"}}
    contracts = {("orders", "1.0.0"): "1.0.0", ("gateway", "2.5.0"): "1.9.0"}
    assert not breaches(versions, contracts)
    (sentence,) = breaches(versions, {**contracts, ("gateway", "2.5.0"): "2.0.0"})
    assert sentence == (
        "orders 1.0.0 beside gateway 2.5.0: they speak contracts 1.0.0 and 2.0.0, whose major versions differ."
    )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("${A:-x}/${EMPTY:-y}${EMPTY-z}", "a/y"),
        ("$A ${A} ${NONE} ${NONE-n}", "a a  n"),
        ("$$A ${A:+set} ${NONE+set}", "$A set "),
    ],
)
def test_variables_are_resolved_as_compose_does(text: str, wanted: str) -> None:
    assert compose.interpolated(text, {"A": "a", "EMPTY": ""}) == wanted


def test_a_variable_that_must_be_set_is_asked_for() -> None:
    with pytest.raises(compose.Unreadable, match="VERSION is not set: which one"):
        compose.interpolated("${VERSION:?which one}", {})


def test_the_compose_files_are_within_the_policy() -> None:
    # Those that run a service's image: one is made to be put on top of another, and one runs all in one image.
    files = [each for each in sorted((ROOT / "compose").glob("*.yaml")) if "image: souk/orders:" in each.read_text()]
    assert {"compose.yaml", "postgres.yaml"} <= {each.name for each in files}
    done = check(*files)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_compose_file_outside_the_policy_is_refused_by_name_and_version(tmp_path: Path) -> None:
    image = "registry.example.com/shop/souk/orders:${OLD:-1.0.0}"
    file = composed(tmp_path, image, "souk/orders:1.3.0@sha256:00", "postgres:18", "souk/gateway:${NEW:-1.1.0}")
    done = check(file)
    assert done.returncode == 1
    assert "orders 1.0.0 beside 1.3.0: they are 3 minors apart" in done.stderr
    assert check(file, OLD="1.2.0").returncode == 0


def test_a_part_of_a_version_is_the_newest_one_that_it_names(tmp_path: Path) -> None:
    released = {"orders": ["1.2.0", "1.10.0", "1.9.0", "10.0.0"], "gateway": ["1.0.0"]}
    file = composed(tmp_path, "souk/orders:1", "souk/orders:1.2", "souk/gateway:1.0.0", "souk/gateway:1.0.0-r3")
    assert compose.versions(file, {}, released, {}) == {"orders": {"1.10.0", "1.2.0"}, "gateway": {"1.0.0"}}


def test_the_images_of_a_tree_are_of_its_development_versions(tmp_path: Path) -> None:
    released, tree = {"orders": ["1.1.0"], "gateway": []}, {"orders": "1.2.0.dev7+g2a7b2b4.dirty"}
    file = composed(tmp_path, "souk/orders:1", "souk/orders:tree", "souk/gateway:1.3.0.dev12-g0123456")
    assert compose.versions(file, {}, released, tree) == {
        "orders": {"1.1.0", "1.2.0.dev7+g2a7b2b4.dirty"},
        "gateway": {"1.3.0.dev12+g0123456"},
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("services:\n  a:\n    image: souk/orders:latest\n", "is not a version of orders"),
        (
            "services:\n  a:\n    image: souk/orders\n  b:\n    image: souk/loyalty:1.0.0\n",
            "is not a version of orders",
        ),
        (
            "services:\n  a:\n    image: souk/orders@sha256:00\n  b:\n    image: souk/loyalty:1.0.0\n",
            "is not a version of orders",
        ),
        ("services:\n  a:\n    image: postgres:18\n", "no image of a Souk service"),
        ("services: [", "is not a compose file"),
        ("- a", "is not a compose file"),
    ],
)
def test_a_file_that_cannot_be_judged_is_no_success(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "some.yaml"
    file.write_text(content)
    done = check(file)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("page", ["README.md", "docs/skew.md"])
def test_the_policy_stands_where_people_read(page: str) -> None:
    assert POLICY in " ".join((ROOT / page).read_text().split())
