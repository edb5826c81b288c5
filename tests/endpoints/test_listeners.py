import threading

import pytest

from langgraph_hpc_fanout.endpoints.listeners import Listeners
from langgraph_hpc_fanout.endpoints.protocol import Sent

SENT = [Sent("task", "group", ("a", "b"), 1.0)]


@pytest.fixture
def listeners():
    return Listeners()


def test_all_are_told_until_they_end(listeners):
    first, second = [], []
    end = listeners.add(first.append)
    listeners.add(second.append)
    listeners.tell(SENT)
    end()
    end()
    listeners.tell(SENT)
    assert first == [SENT]
    assert second == [SENT, SENT]


def test_one_that_is_added_twice_is_told_twice_and_ends_once(listeners):
    told = []
    listeners.add(told.append)
    listeners.add(told.append)()
    listeners.tell(SENT)
    assert told == [SENT]


def test_one_that_raises_keeps_nothing_from_the_others(listeners, caplog):
    told = []
    listeners.add(lambda sent: 1 / 0)
    listeners.add(told.append)
    listeners.tell(SENT)
    assert told == [SENT]
    assert "a listener failed on 1 bundles" in caplog.text


def test_listeners_come_and_go_while_others_are_told(listeners):
    told = []
    listeners.add(told.append)

    def come_and_go():
        for _ in range(2_000):
            listeners.add(lambda sent: None)()

    threads = [threading.Thread(target=come_and_go) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(2_000):
        listeners.tell(SENT)
    for thread in threads:
        thread.join()
    assert told == [SENT] * 2_000
