"""What tests of batches are given."""

from __future__ import annotations

import pytest
from batches import gateway_over


@pytest.fixture
def gateway(tmp_path):
    """Makes gateways, and stops them."""
    fakes = []

    def make(**settings):
        fakes.append(gateway_over(tmp_path, **settings).start())
        return fakes[-1]

    yield make
    for fake in fakes:
        fake.stop()
