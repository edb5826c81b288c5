from __future__ import annotations

from benchmarks import workload
from benchmarks.bill import Bill
from langgraph_hpc_fanout.testing.fleet import Served


def asked(item: int, status: int, fault: str | None = None, *, left: bool = False) -> Served:
    prompt = workload.QUESTION.format_map(workload.molecules(item + 1)[item])
    return Served(0, 0.0, 1.0, prompt, status, fault, left, reused=True)


def test_each_item_once_costs_nothing_twice() -> None:
    assert Bill.of(asked(item, 200) for item in range(3)) == Bill(3, 3, 0, 0)


def test_being_turned_away_is_not_paid_for() -> None:
    requests = [asked(0, 429, "http_429"), asked(0, 500, "http_500"), asked(0, 200)]
    assert Bill.of(requests) == Bill(1, 1, 0, 0)


def test_answers_that_never_arrive_are_paid_twice_and_forced() -> None:
    requests = [asked(0, 200, "reset"), asked(0, 0, "hang", left=True), asked(0, 200)]
    assert Bill.of(requests) == Bill(answered=1, worked=3, again=2, forced=2)


def test_whoever_leaves_a_good_answer_pays_twice_unforced() -> None:
    requests = [asked(0, 0, left=True), asked(0, 200)]
    assert Bill.of(requests) == Bill(answered=1, worked=2, again=1, forced=0)


def test_warm_ups_are_not_on_the_bill() -> None:
    prompt = workload.QUESTION.format_map(workload.warm_up(1)[0])
    assert Bill.of([Served(0, 0.0, 1.0, prompt, 200, None, False, False)]) == Bill(0, 0, 0, 0)
