"""Finding a lane with room: it is found whenever there is one, and idle ones come first."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from properties import repeatable

from langgraph_hpc_fanout.dispatch.idle import IdleLanes


@dataclass(eq=False)
class Seat:
    """What of a lane matters here."""

    load: int
    has_room: bool = True
    serves: bool = True
    is_bulk: bool = False


class Everybody:
    @staticmethod
    def may_use(lane):
        return lane.serves


def idle_lanes(lanes, seed=0):
    idle = IdleLanes(random.Random(seed))
    for lane in lanes:
        idle.add(lane)
    return idle


def test_of_a_few_the_least_busy_is_picked():
    lanes = [Seat(3), Seat(1), Seat(0, has_room=False), Seat(0, serves=False), Seat(2)]
    assert idle_lanes(lanes).pick(Everybody) is lanes[1]
    assert idle_lanes(lanes).pick(Everybody, avoid=[lanes[1]]) is lanes[4]


@pytest.mark.parametrize("others", [3, 100])
def test_what_gathers_requests_is_the_last_to_be_offered_one(others):
    bulk = Seat(0, is_bulk=True)
    idle = idle_lanes([bulk, *(Seat(5) for _ in range(others))])
    assert all(idle.pick(Everybody) is not bulk for _ in range(50))
    assert idle_lanes([bulk, Seat(0, has_room=False)]).pick(Everybody) is bulk


def test_of_many_one_with_little_to_do_is_picked():
    lanes = [Seat(number) for number in range(1_000)]
    picked = [idle_lanes(lanes, seed).pick(Everybody).load for seed in range(200)]
    assert sum(picked) / len(picked) < 400, "the less busy of two is about a third of all"


def test_the_only_one_with_room_is_found_among_many():
    lanes = [Seat(0, has_room=False) for _ in range(5_000)]
    lanes[4_321].has_room = True
    assert idle_lanes(lanes).pick(Everybody) is lanes[4_321]


seats = st.builds(Seat, st.integers(0, 9), st.booleans(), st.booleans())


@settings(repeatable)
@given(
    st.lists(seats, max_size=40),
    st.lists(
        st.tuples(st.sampled_from(["add", "discard", "fill", "free", "pick"]), st.integers(0))
    ),
)
def test_one_is_found_whenever_there_is_one(lanes, steps):
    idle, inside = idle_lanes(lanes), set(map(id, lanes))
    for step, number in steps:
        if not lanes:
            continue
        lane = lanes[number % len(lanes)]
        if step == "add":
            idle.add(lane)
            inside.add(id(lane))
        elif step == "discard":
            idle.discard(lane)
            inside.discard(id(lane))
        elif step == "fill":
            lane.has_room = False
        elif step == "free":
            lane.has_room = True
            idle.add(lane)
            inside.add(id(lane))
        else:
            there = [each for each in lanes if id(each) in inside and each.has_room]
            picked = idle.pick(Everybody)
            assert (picked is None) == (not any(each.serves for each in there))
            assert picked is None or (picked in there and picked.serves)
    assert set(map(id, idle.all())) == {
        id(each) for each in lanes if id(each) in inside and each.has_room
    }
