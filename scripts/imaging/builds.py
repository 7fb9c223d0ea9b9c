"""The list of builds, builds.toml: entries are added at the end and never changed.

A release is built again whenever the runtime has moved. Each build with other bytes is a build revision of the release,
and has a tag that never moves: orders:1.2.0-r2. The ledger of releases knows nothing of builds.
"""

import fcntl
import json
import os
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TextIO

from releasing.build import CannotBuild
from releasing.ledger import ROOT

HEADER = """\
# The builds of releases, which `./scripts/images build` adds at the end and nothing ever changes. `content` is the
# SHA-256 over the digests of the image's uncompressed layers; docs/releasing.md says more.
"""


@dataclass(frozen=True)
class Build:
    """An entry of the list."""

    image: str
    version: str
    architecture: str
    revision: int
    runtime: str
    content: str

    @property
    def tag(self) -> str:
        """Of the image."""
        return f"{self.version}-r{self.revision}"

    def entry(self) -> str:
        """As it stands in the list."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return "\n".join(["[[build]]", *(f"{k} = {json.dumps(v)}" for k, v in values), ""])


class Builds:
    """All builds of releases, the oldest first."""

    def __init__(self) -> None:
        """SOUK_BUILDS names another file."""
        self.path = Path(os.environ.get("SOUK_BUILDS") or ROOT / "builds.toml")

    def of(self, image: str, version: str, architecture: str) -> list[Build]:
        """A release's builds, by revision. Raises CannotBuild where the list cannot be read."""
        return self._select(self._read(), image, version, architecture)

    def record(self, image: str, version: str, architecture: str, runtime: str, content: str) -> tuple[Build, bool]:
        """The build with this content, added if it is new; and whether it is the newest one. Raises CannotBuild."""
        with self._locked() as file:
            own = self._select(self._read(), image, version, architecture)
            found = next((each for each in own if each.content == content), None)
            if found is None:
                found = Build(image, version, architecture, own[-1].revision + 1 if own else 1, runtime, content)
                own.append(found)
                file.write(f"\n{found.entry()}" if self.path.stat().st_size else f"{HEADER}\n{found.entry()}")
            return found, found == own[-1]

    def _locked(self) -> TextIO:
        """The list, open for one writer at a time."""
        try:
            file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise CannotBuild(f"The list of builds, {self.path}, cannot be written: {error.strerror}.") from error
        fcntl.flock(file, fcntl.LOCK_EX)
        return file

    def _read(self) -> list[Build]:
        try:
            entries = tomllib.loads(self.path.read_text(encoding="utf-8")).get("build", [])
            return [Build(**entry) for entry in entries]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError) as error:
            raise CannotBuild(f"The list of builds, {self.path}, cannot be read: {error}.") from error

    @staticmethod
    def _select(builds: list[Build], image: str, version: str, architecture: str) -> list[Build]:
        wanted = (image, version, architecture)
        found = [each for each in builds if (each.image, each.version, each.architecture) == wanted]
        tags = [each.tag for each in found]
        if twice := [tag for tag in tags if tags.count(tag) > 1]:
            raise CannotBuild(
                f"The list of builds has {image}:{twice[0]} twice, as two people built it: remove the entry that is "
                "not in the registry, and build again."
            )
        return sorted(found, key=lambda each: each.revision)
