"""What every compose file must have."""

import pytest
import yaml

from tests.conftest import ROOT

FILES = sorted(path for path in (ROOT / "compose").glob("*.yaml") if path.name != "expose-grpc.yaml")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_containers_log_has_a_limit(path: object) -> None:
    services = yaml.safe_load(path.read_text())["services"]  # type: ignore[attr-defined]
    unlimited = [
        name for name, each in services.items() if "max-size" not in each.get("logging", {}).get("options", {})
    ]
    assert services
    assert unlimited == []
