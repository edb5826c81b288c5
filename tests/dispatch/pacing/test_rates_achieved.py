"""What rates achieve: nearly all that is allowed, with hardly a refusal.

For ten minutes after two minutes of warm-up, for answers of lognormal lengths whose `max_tokens`
is far above what they use. Seeds are many because answers are few: about 70 long ones a minute.
"""

from __future__ import annotations

import asyncio

import pytest
from rate_limited import (
    LONG,
    SHORT,
    FirstServer,
    GridServer,
    RollingServer,
    Tally,
    ask_for,
    somebody_else,
)
from scripted import in_virtual_time

from langgraph_hpc_fanout import Limits

QUOTA = 60_000
MINUTES = 10
SERVERS = {
    "rolling": (lambda: RollingServer(tokens=QUOTA, burst_seconds=60.0), "rolling"),
    "FIRST": (lambda: FirstServer(QUOTA), "fixed"),
    "grid": (lambda: GridServer(tokens=QUOTA, phase=17.0), "fixed"),
}
KINDS = {"short": [SHORT], "long": [LONG], "both": [SHORT, LONG]}


@pytest.mark.parametrize("prompts", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize(("server", "window"), SERVERS.values(), ids=SERVERS)
@in_virtual_time
async def test_a_rate_of_tokens_alone(server, window, prompts):
    limits = Limits(tokens=f"{QUOTA}/min", window=window)
    achieved, refused = [], []
    for seed in range(4):
        tally = await ask_for(60 * MINUTES, server(), limits, prompts, seed=seed)
        achieved.append(tally.tokens / (QUOTA * MINUTES))
        refused.append(tally.share_refused)
    assert sum(achieved) / 4 >= 0.95, achieved
    assert sum(refused) / 4 < 0.02, refused


@pytest.mark.parametrize("prompts", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize(("server", "window"), SERVERS.values(), ids=SERVERS)
@in_virtual_time
async def test_a_rate_of_tokens_of_which_another_user_takes_a_third(server, window, prompts):
    limits = Limits(tokens=f"{QUOTA}/min", window=window)
    achieved, refused = [], []
    for seed in range(4):
        shared = server()
        begun = asyncio.get_running_loop().time()
        theirs = Tally(begun + 120.0)
        other = asyncio.create_task(somebody_else(shared, QUOTA / 3, theirs, seed=seed + 100))
        tally = await ask_for(60 * MINUTES, shared, limits, prompts, seed=seed)
        other.cancel()
        achieved.append(tally.tokens / (QUOTA * MINUTES - theirs.tokens))
        refused.append(tally.share_refused)
    assert sum(achieved) / 4 >= 0.9, achieved
    assert sum(refused) / 4 < 0.05, refused


@pytest.mark.parametrize(
    ("server", "limits"),
    [
        (RollingServer(requests=120, burst_seconds=5.0), Limits(requests="120/min")),
        (RollingServer(requests=120, tells=True), Limits(requests="120/min")),
        (GridServer(requests=120, phase=17.0), Limits(requests="120/min")),
        (GridServer(requests=120, phase=17.0), Limits(requests="120/min", window="fixed")),
    ],
    ids=["rolling", "rolling that tells", "grid as rolling", "grid"],
)
@in_virtual_time
async def test_a_rate_of_requests_alone(server, limits):
    tally = await ask_for(60 * MINUTES, server, limits, [SHORT])
    assert tally.answers >= 0.95 * 120 * MINUTES
    assert tally.share_refused < 0.02


@in_virtual_time
async def test_rates_of_requests_and_tokens_together_where_requests_bind():
    server = GridServer(requests=120, tokens=QUOTA, phase=17.0)
    limits = Limits(requests="120/min", tokens=f"{QUOTA}/min", window="fixed")
    tally = await ask_for(60 * MINUTES, server, limits, [SHORT])
    assert tally.answers >= 0.95 * 120 * MINUTES
    assert tally.share_refused < 0.02


@in_virtual_time
async def test_rates_of_requests_and_tokens_together_where_tokens_bind():
    server = GridServer(requests=6000, tokens=QUOTA, phase=17.0)
    limits = Limits(requests="100/s", tokens=f"{QUOTA}/min", window="fixed")
    tally = await ask_for(60 * MINUTES, server, limits, [SHORT])
    assert tally.tokens >= 0.95 * QUOTA * MINUTES
    assert tally.share_refused < 0.02


@in_virtual_time
async def test_no_window_of_a_grid_counts_more_requests_than_its_quota_before_a_refusal():
    server = GridServer(requests=120, phase=17.0)
    limits = Limits(requests="120/min", window="fixed")
    tally = await ask_for(60 * MINUTES, server, limits, [SHORT], warm_up=0.0)
    assert tally.refused == 0
    assert max(server.windows[0].values()) <= 120
