"""Releases: the ledger of them, and how each is built again, bit for bit, from the history.

`from releasing import version` is packages/version.py, which stands beside the packages for the sake of their builds.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "packages"))

import version as version
