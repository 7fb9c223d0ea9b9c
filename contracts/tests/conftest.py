"""Fixtures: what servers of the tests are sent."""

from collections.abc import Sequence

import pytest

from souk_contracts.batch_codec import Call, Result
from souk_contracts.batch_servicer import Batches


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The methods in each batch that a server of the test was sent."""
    seen = []
    call = Batches.call

    async def record(self: Batches, calls: Sequence[Call]) -> Sequence[Result]:
        seen.append([each.method for each in calls])
        return await call(self, calls)

    monkeypatch.setattr(Batches, "call", record)
    return seen
