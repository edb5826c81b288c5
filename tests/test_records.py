"""Records: what they hold, and the way to plain data and back."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, fields

import orjson
import pytest
from hypothesis import given
from langgraph.types import RetryPolicy
from properties import is_plain, outcomes, repeatable

from langgraph_hpc_fanout import ChatError, Failure, FanOutError, Outcome, Reply, Request, Usage


@repeatable
@given(outcomes)
def test_an_outcome_survives_the_way_to_a_dict_and_back(outcome):
    assert Outcome.from_dict(outcome.to_dict()) == outcome


@repeatable
@given(outcomes)
def test_an_outcome_survives_the_way_to_json_and_back(outcome):
    data = outcome.to_dict()
    assert is_plain(data)
    assert Outcome.from_dict(orjson.loads(orjson.dumps(data))) == outcome


def test_the_dict_names_every_field():
    failure = Failure("timeout", "too slow", 408, True, "a")
    outcome = Outcome("k", 3, ok=False, error=failure, usage=Usage(1, 2, True), meta={"raw": "x"})
    data = outcome.to_dict()
    assert list(data) == [field.name for field in fields(Outcome)]
    assert data["error"] == {
        "kind": "timeout",
        "message": "too slow",
        "status": 408,
        "retryable": True,
        "endpoint": "a",
    }
    assert data["usage"] == {"prompt_tokens": 1, "completion_tokens": 2, "estimated": True}


def test_the_dict_is_a_copy():
    outcome = Outcome("k", 0, ok=True, meta={"raw": "x"})
    outcome.to_dict()["meta"]["raw"] = "changed"
    assert outcome.meta == {"raw": "x"}


def test_from_dict_takes_a_dict_with_only_what_is_needed_and_leaves_it_alone():
    data = {"key": "k", "index": 0, "ok": False, "error": {"kind": "cold", "message": "asleep"}}
    before = copy.deepcopy(data)
    assert Outcome.from_dict(data) == Outcome("k", 0, ok=False, error=Failure("cold", "asleep"))
    assert data == before


def test_meta_is_empty_by_default():
    assert Outcome("k", 0, ok=True).meta == {}
    assert Outcome("k", 0, ok=True) == Outcome("k", 0, ok=True, meta={})


@pytest.mark.parametrize(
    ("record", "field"),
    [
        (Usage(1, 2), "prompt_tokens"),
        (Request("k", None, {}), "key"),
        (Failure("cold", "asleep"), "kind"),
        (Reply(0), "position"),
        (Outcome("k", 0, ok=True), "value"),
    ],
)
def test_records_are_frozen_and_slotted(record, field):
    with pytest.raises(FrozenInstanceError):
        setattr(record, field, None)
    assert not hasattr(record, "__dict__")


def test_total_tokens():
    assert Usage(3, 4).total_tokens == 7
    assert Usage() == Usage(0, 0, estimated=False)


def test_equal_failures_and_usages_hash_alike():
    assert len({Usage(1, 2), Usage(1, 2), Usage(1, 3)}) == 2
    assert len({Failure("cold", "x"), Failure("cold", "x"), Failure("auth", "x")}) == 2


@pytest.mark.parametrize(
    "record",
    [
        Usage(1, 2),
        Request("k", "m", {"messages": []}, 3, 4),
        Failure("cold", "asleep", 503, True, "a"),
        Reply(0, body={"choices": []}, usage=Usage(1, 2)),
        Outcome("k", 0, ok=True, value="x", meta={"raw": "x"}),
    ],
)
def test_records_can_be_pickled_and_copied(record):
    assert pickle.loads(pickle.dumps(record)) == record
    assert copy.deepcopy(record) == record


@pytest.mark.parametrize("travel", [lambda it: pickle.loads(pickle.dumps(it)), copy.deepcopy])
def test_an_outcome_without_meta_can_be_pickled_and_copied(travel):
    outcome = Outcome("k", 0, ok=True, value="x")
    assert travel(outcome) == outcome


def test_a_fan_out_error_carries_outcomes_and_names_the_journal():
    outcomes = [Outcome("k", 0, ok=True, value="x", meta={"raw": "x"})]
    error = FanOutError("It is over.", outcomes=outcomes, journal="/runs/a")
    assert str(error) == "It is over."
    assert (list(error.outcomes), error.journal) == (outcomes, "/runs/a")
    back = pickle.loads(pickle.dumps(error))
    assert (str(back), list(back.outcomes), back.journal) == (str(error), outcomes, "/runs/a")


@pytest.mark.parametrize("error", [FanOutError("It is over."), ChatError(Failure("auth", "No."))])
def test_servers_show_our_errors_and_langgraph_does_not_retry_them(error):
    assert isinstance(error, RuntimeError)
    assert not RetryPolicy().retry_on(error)


def test_a_fan_out_error_may_know_nothing():
    error = FanOutError("Nothing was sent.")
    assert (list(error.outcomes), error.journal) == ([], None)
