"""The REST contract is what tools take it for."""

import json
from importlib.resources import files

from openapi_spec_validator import validate


def test_the_rest_contract_is_a_valid_openapi_document() -> None:
    validate(json.loads((files("souk_contracts") / "openapi" / "gateway.v1.json").read_text()))
