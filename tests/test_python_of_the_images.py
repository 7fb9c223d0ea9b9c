"""The packages' own tests pass on the Python that the images run, too."""

import subprocess

import pytest

from tests.conftest import ROOT


@pytest.mark.long
@pytest.mark.containers
@pytest.mark.timeout(1200)  # all of the packages' tests are in it
def test_the_packages_pass_their_tests_on_debians_python() -> None:
    build = ["docker", "build", "--quiet", "--file", "tests/debian/Dockerfile", "."]
    image = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    done = subprocess.run(["docker", "run", "--rm", "--init", image], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout
