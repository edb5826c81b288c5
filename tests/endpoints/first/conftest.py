"""What tests of batches are given."""

from __future__ import annotations

import pytest
from batches import batch_over, gateway_over


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


@pytest.fixture
async def opened(tmp_path):
    """Opens endpoints, probes and closes them."""
    endpoints = []

    async def start(
        fake, make=lambda fake, **settings: batch_over(fake, tmp_path, **settings), **settings
    ):
        endpoints.append(endpoint := make(fake, **settings))
        await endpoint.open()
        return endpoint, await endpoint.probe()

    yield start
    for each in endpoints:
        await each.close()


@pytest.fixture
def opened_well(opened):
    """Opens endpoints that are found well."""

    async def start(fake, **settings):
        endpoint, health = await opened(fake, **settings)
        assert health.ok
        return endpoint

    return start
