"""A clone of this repository from which a test builds and releases images that nobody else has."""

import json
import os
import random
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any
from uuid import uuid4

from releasing.ledger import SERVICES, Ledger, Release, folder

from tests.conftest import ROOT

NEXT_MINOR = iter(range(random.randrange(1000, 1_000_000_000), 2_000_000_000))
"""Versions that no other run has, since all runs on a machine share its engine."""


def run(*command: str, folder: Path = ROOT, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def image_id(name: str) -> str:
    return run("docker", "inspect", "--type=image", "--format={{.Id}}", name).stdout.strip()


def layers(name: str) -> list[str]:
    found: list[str] = json.loads(run("docker", "inspect", "--type=image", name).stdout)[0]["RootFS"]["Layers"]
    return found


class Tree:
    """The clone. Its contracts are released; its services are between releases, on the way to <minor>.0."""

    def __init__(self, folder: Path, major: int = 0) -> None:
        self.folder = folder
        self.minor = f"{major}.{next(NEXT_MINOR)}"
        run("git", "clone", "--quiet", str(ROOT), str(folder))
        self.git("config", "user.name", "Amina")
        self.git("config", "user.email", "amina@example.com")
        (folder / "releases.toml").unlink(missing_ok=True)
        for service in SERVICES:
            self.set_version(service, f"{self.minor}.0.dev0")
        self.release("contracts", "1.9.0")

    def git(self, *arguments: str) -> str:
        return run("git", *arguments, folder=self.folder).stdout.strip()

    def commit(self, message: str) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", f"--message={message}")
        return self.git("rev-parse", "HEAD")

    def set_version(self, package: str, version: str) -> None:
        path = self.folder / folder(package) / "pyproject.toml"
        text, count = re.subn(r'(?<=^\[tool\.souk\]\nversion = )".+?"', f'"{version}"', path.read_text(), flags=re.M)
        assert count == 1
        path.write_text(text)

    def change_code(self, service: str) -> None:
        with (self.folder / f"packages/{service}/src/souk_{service}/settings.py").open("a") as file:
            file.write(f'\nADDED = "{uuid4()}"\n')

    def release(self, package: str, version: str) -> str:
        """Gives the release commit."""
        self.set_version(package, version)
        commit = self.commit(f"Release {package} {version}")
        contracts = "" if package == "contracts" else Ledger(self.folder).of("contracts")[-1].version
        Ledger(self.folder).add(Release(package, version, commit, "0" * 64, "0" * 64, contracts=contracts))
        self.set_version(package, re.sub(r"\d+$", "9.dev0", version))
        self.commit("Ledger")
        return commit

    def images(self, *arguments: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        """`scripts/images` of this clone."""
        environment.setdefault("SOUK_BUILDS", "")
        return run("./scripts/images", *arguments, folder=self.folder, code=code, **environment)

    def builds(self) -> list[dict[str, Any]]:
        """The list of builds."""
        found: list[dict[str, Any]] = tomllib.loads((self.folder / "builds.toml").read_text()).get("build", [])
        return found

    def tags(self, service: str) -> list[str]:
        """Those of this clone's own versions that the engine has."""
        listed = run("docker", "images", "--format={{.Tag}}", f"souk/{service}").stdout.split()
        return sorted(tag for tag in listed if tag.startswith(self.minor))

    def remove_images(self) -> None:
        """With the moving tags `0` and `tree`, unless another run has them now."""
        listed = run("docker", "images", "--format={{.Repository}}:{{.Tag}} {{.ID}}", "souk/*").stdout.splitlines()
        own = {line.split()[1] for line in listed if f":{self.minor}" in line}
        if own:
            run("docker", "rmi", *(line.split()[0] for line in listed if line.split()[1] in own))
