"""Generates the package's code and its copy of the REST contract, into the tree for an editable install, too."""

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ContractsBuildHook(BuildHookInterface[Any]):
    """Runs the generator before a wheel is built; an sdist carries the sources only."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 (the plugin interface)
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        sys.path.insert(0, str(root))
        try:
            from generator import generate
        finally:
            sys.path.remove(str(root))
        package = root / "src" / "souk_contracts"
        # By name, so that what another version of the sources left in the tree is not taken along.
        written = generate(root / "proto", root / "openapi", package)
        build_data["artifacts"] += [f"/{path.relative_to(root).as_posix()}" for path in written]
