"""Many endpoints over real sockets, of which some die, freeze, limp and refuse."""

from __future__ import annotations

import threading
from collections import Counter

from graphs import build, molecules, right_answers

from langgraph_hpc_fanout import Limits, OpenAIEndpoint, Retry
from langgraph_hpc_fanout.testing import FakeFleet
from langgraph_hpc_fanout.testing.fleet import FakeEndpoint, Fault

ITEMS = 10_000
PASSING = (
    Fault("http_500", rate=0.01),
    Fault("http_429", rate=0.02, retry_after=0.2),
    Fault("reset", rate=0.005),
    Fault("truncated_body", rate=0.005),
)
WELL = [FakeEndpoint(latency=0.02, faults=PASSING)] * 40
LIMPING = [FakeEndpoint(latency=0.3, faults=PASSING)] * 6
FROZEN = [FakeEndpoint(faults=(Fault("hang"),))] * 4
ATTEMPTS = 6


def test_every_item_is_right_and_none_is_asked_too_often(pool_over):
    with FakeFleet([*WELL, *LIMPING, *FROZEN], processes=1) as fleet:
        endpoints = [OpenAIEndpoint(url, limits=Limits(8)) for url in fleet.urls]
        retry = Retry(attempts=ATTEMPTS, timeout=5.0, base=0.05, cap=0.5)
        graph = build(pool_over(endpoints), retry=retry)
        dying = threading.Thread(target=lose_some, args=(fleet,))
        dying.start()
        state = graph.invoke({"molecules": molecules(ITEMS)})
        dying.join()
        record = fleet.record()
    assert right_answers(state["predictions"], molecules(ITEMS))
    assert state["failures"] == []
    assert record.peak_in_flight <= 8 * len(endpoints)
    asked = Counter(row.prompt for row in record.requests)
    turned_away = Counter(row.prompt for row in record.requests if row.status == 429)
    # One attempt more for a request that was late at the end, and asked elsewhere as well.
    assert max((asked - turned_away).values()) <= ATTEMPTS + 1
    assert asked.total() <= 1.15 * ITEMS


def lose_some(fleet):
    """Six endpoints die in the middle; two of them come back."""
    for number in range(6):
        fleet.wait(lambda record, least=800 * (number + 1): record.served >= least, timeout=60)
        fleet.kill(number)
    fleet.wait(lambda record: record.served >= 6_000, timeout=60)
    for number in range(2):
        fleet.revive(number)
