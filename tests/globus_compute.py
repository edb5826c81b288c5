"""What the tests with the real Globus Compute stack share."""

from __future__ import annotations

import logging

from langgraph_hpc_fanout import GlobusComputeEndpoint, Losses

QUICK = Losses(factor=3.0, grace=1.0, unproven=4.0, silence=2.0, offline=4.0, deadline=90.0)
"""Thresholds that fit bundles of a second."""


def endpoint_of(stack, fleet, **options):
    """The endpoint of a stack, whose workers ask a fleet."""
    given = {
        "url": fleet.urls[0],
        "client": stack.client(),
        "losses": QUICK,
        "name": "node",
        **options,
    }
    return GlobusComputeEndpoint(stack.endpoint_id, **given)


def throttled(records):
    """Warnings of the SDK that it holds back submits."""
    return [each for each in records if "rate-limit delay" in each.getMessage()]


def quiet_sdk():
    """pika writes tracebacks of connections that tests drop on purpose."""
    logging.getLogger("pika").setLevel(logging.CRITICAL)
