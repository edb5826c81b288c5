"""Gauges: what a page of metrics says of a server's queue, whatever else is on it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import counts, repeatable

from langgraph_hpc_fanout.endpoints.gauges import Gauges, read_gauges

PAGE = b"""# HELP python_info Python platform information
# TYPE python_info gauge
python_info{implementation="CPython",major="3",minor="12",patchlevel="11",version="3.12.11"} 1.0
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"} 48.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"} 7.0
# HELP vllm:num_requests_waiting_by_reason Number of waiting requests by reason.
# TYPE vllm:num_requests_waiting_by_reason gauge
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 7.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 1.2345e+06
"""


def test_a_page_of_vllm():
    assert read_gauges(PAGE) == Gauges(waiting=7, running=48)


def test_a_page_without_them_says_nothing():
    assert read_gauges(b"") is None
    assert read_gauges(b"# TYPE vllm:num_requests_waiting gauge\n") is None
    assert (
        read_gauges(b"llamacpp:requests_processing 3\n<html>vllm:num_requests_waiting</html>")
        is None
    )


@pytest.mark.parametrize(
    ("line", "waiting"),
    [
        (b"vllm:num_requests_waiting 3", 3),
        (b"vllm:num_requests_waiting 3.0 1395066363000\r\n", 3),
        (b'vllm:num_requests_waiting{model_name="odd } name{"}\t1e+02\n', 100),
        (b'vllm:num_requests_waiting{engine="0"} NaN\nvllm:num_requests_waiting{engine="1"} 2', 2),
        (b'vllm:num_requests_waiting{engine="0"} 1.2.3\nvllm:num_requests_waiting 2', 2),
        (b"vllm:num_requests_waiting 1e999\nvllm:num_requests_waiting 2", 2),
    ],
)
def test_forms_of_a_line(line, waiting):
    assert read_gauges(line) == Gauges(waiting, 0)


@repeatable
@given(st.lists(st.tuples(counts, counts), min_size=1, max_size=8))
def test_engines_add_up(engines):
    lines = [
        f'vllm:num_requests_{name}{{engine="{engine}",model_name="m"}} {value}.0'
        for name, column in (("waiting", 0), ("running", 1))
        for engine, values in enumerate(engines)
        for value in [values[column]]
    ]
    waiting, running = map(sum, zip(*engines, strict=True))
    assert read_gauges("\n".join(lines).encode()) == Gauges(waiting, running)


@repeatable
@given(st.binary(max_size=200))
def test_nothing_on_the_page_is_an_error(page):
    read_gauges(page)
    read_gauges(b"vllm:num_requests_waiting" + page)
