"""What registries of services answer."""

from __future__ import annotations

import contextlib

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import jsons, repeatable

from langgraph_hpc_fanout.instances.instance import InstancesError
from langgraph_hpc_fanout.instances.services import read_services

NAME = "http://node1:8471"


def service(number, status="healthy"):
    """As `aegis registry list --format json` shows one."""
    return {
        "service_id": f"vllm-node{number}-8000",
        "host": f"node{number}",
        "port": 8000,
        "service_type": "vllm",
        "status": status,
        "last_seen": 1.0,
    }


def names(answer):
    reading = read_services(orjson.dumps(answer), NAME)
    assert not reading.faults
    assert reading.is_complete
    return [instance.name for instance in reading.instances]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda services: services,
        lambda services: {"services": services, "count": len(services)},
        lambda services: {"instances": services},
        lambda services: {each["service_id"]: each for each in services},
        lambda services: {"services": {each["service_id"]: each for each in services}},
        lambda services: [{"url": f"http://{each['host']}:8000"} for each in services],
        lambda services: [f"{each['host']}:8000" for each in services],
        lambda services: [{**each, "port": "8000"} for each in services],
    ],
)
def test_shapes_of_answers(wrap):
    assert names(wrap([service(1), service(2)])) == ["node1:8000", "node2:8000"]


def test_who_is_not_there_is_left_out():
    states = ["healthy", "starting", "unhealthy", "ServiceStatus.STARTING", "HEALTHY", "busy"]
    listed = [service(number, status) for number, status in enumerate(states)]
    assert names(listed) == ["node0:8000", "node4:8000", "node5:8000"]


def test_no_services_is_a_list_too():
    assert names([]) == names({"services": []}) == []


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"host": "node1"}, "neither host and port nor url"),
        ({"host": "node1", "port": True}, "neither host and port nor url"),
        ({"host": "node1", "port": 0}, "no valid port"),
        (7, "7 is no service"),
        ("node1", "has no port"),
    ],
)
def test_an_entry_that_is_none_loses_no_other(entry, says):
    reading = read_services(orjson.dumps([service(1), entry]), NAME)
    assert [each.name for each in reading.instances] == ["node1:8000"]
    assert reading.faults[0].startswith(f"{NAME}, entry 2: ")
    assert says in reading.faults[0]


@pytest.mark.parametrize("raw", [b"", b"<html>", b"7", b'"x"', b'{"detail": "no"}', b"\xff"])
def test_what_lists_no_services_is_refused(raw):
    with pytest.raises(InstancesError, match="give the URL at which the registry lists them"):
        read_services(raw, NAME)


@repeatable
@given(jsons | st.lists(st.fixed_dictionaries({"host": jsons, "port": jsons})))
def test_junk_raises_nothing_else(answer):
    with contextlib.suppress(orjson.JSONEncodeError), contextlib.suppress(InstancesError):
        read_services(orjson.dumps(answer), NAME)
