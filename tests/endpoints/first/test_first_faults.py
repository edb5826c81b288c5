"""What the gateway's refusals mean, in the shapes in which it sends them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable

from langgraph_hpc_fanout.endpoints.first.faults import fault_of
from langgraph_hpc_fanout.testing.first import errors

VLLM_400 = b'{"message": "This model\'s maximum context length is 4096 tokens.", "code": 400}'

ANSWERS = [
    (errors.unauthorized("expired"), "auth", "Access token expired"),
    (errors.unauthorized("policies"), "auth", "internal policies.*app.globus.org/logout"),
    (errors.detail(401, "Unauthorized"), "auth", "Unauthorized"),
    (errors.app("access_denied", "No."), "auth", "No"),
    (errors.not_permitted("sophia-vllm-a"), "cold", "No other token helps"),
    (errors.app("access_denied", "Permission denied to model a."), "cold", "No other token helps"),
    (errors.timeout("task-7"), "timeout", r"\(task task-7\)\. The task still runs there"),
    (errors.throttled(), "rate_limited", "Too many requests"),
    (errors.too_many_tokens(1, 2), "rate_limited", "counted in windows of 60 s"),
    (errors.nginx_rate_limit(), "rate_limited", "Rate limit exceeded"),
    (errors.page(429, "Too Many Requests"), "rate_limited", "HTML page '429 Too"),
    (errors.not_ready("sophia-vllm-a"), "cold", "not ready to receive tasks"),
    (errors.offline("sophia-vllm-a"), "cold", "is offline"),
    (errors.not_live("a", "metis"), "cold", "not currently live on Metis"),
    (errors.maintenance("sophia"), "cold", "currently down"),
    (errors.nginx_maintenance(), "cold", "temporarily down for maintenance"),
    (errors.page(503, "Service Temporarily Unavailable"), "cold", "HTML page '503"),
    (errors.upstream_timeout("metis", "chat/completions", 120), "timeout", "Timeout calling"),
    (errors.uncaught(), "transient", "Internal Server Error"),
    (errors.bare(500, "Error: something"), "transient", "something"),
    (errors.page(502, "Bad Gateway"), "transient", "HTML page '502"),
    (errors.hidden(400, VLLM_400), "permanent", "maximum context length"),
    (errors.hidden(404, b"no model"), "permanent", "404"),
    (errors.hidden(429, b"busy"), "rate_limited", "429"),
    (errors.hidden(503, b"busy"), "overloaded", "503"),
    (errors.hidden(500, b"crash"), "transient", "500"),
    (errors.passed_on(400, VLLM_400), "permanent", "Upstream endpoint returned 400"),
    (errors.invalid([{"msg": "bad"}]), "permanent", "validation failed"),
    (errors.app("cluster_not_found", "No cluster x."), "cold", "No cluster x"),
    (errors.app("unsupported_endpoint", "No embeddings."), "permanent", "No embeddings"),
    (errors.not_found(), "permanent", "Not Found"),
]


@pytest.mark.parametrize(("answer", "kind", "words"), ANSWERS)
def test_the_table(answer, kind, words):
    fault = fault_of(answer.status, answer.body)
    assert fault.kind == kind
    assert fault.retry_after is None
    with pytest.raises(ValueError, match=words):
        raise ValueError(fault.message)


def test_a_refusal_that_has_a_model_loaded():
    answer = errors.busy("cold", 720)
    fault = fault_of(answer.status, answer.body, 720.0)
    assert (fault.kind, fault.retry_after, fault.is_starting) == ("cold", 720.0, True)


@pytest.mark.parametrize("reason", ["user_rpm", "user_tpm", "user_concurrency", "saturated"])
def test_other_refusals_of_the_second_version_are_a_matter_of_rates(reason):
    answer = errors.busy(reason, 2)
    fault = fault_of(answer.status, answer.body, 2.0)
    assert (fault.kind, fault.retry_after, fault.is_starting) == ("rate_limited", 2.0, False)


def test_who_has_to_log_in():
    said = [fault_of(answer.status, answer.body).login for answer, *_ in ANSWERS]
    assert said == [kind == "auth" for _, kind, _ in ANSWERS]


def test_only_who_is_on_his_way_is_waited_for():
    starting = {
        words for answer, _, words in ANSWERS if fault_of(answer.status, answer.body).is_starting
    }
    assert starting == {"not ready to receive tasks"}


@pytest.mark.parametrize("answer", [errors.throttled(), errors.too_many_tokens(1, 2)])
def test_what_the_second_version_asks_for_is_kept(answer):
    assert fault_of(answer.status, answer.body, retry_after=7.5).retry_after == 7.5


@repeatable
@given(st.integers(300, 599), st.binary() | st.text().map(str.encode))
def test_anything_is_some_fault(status, raw):
    fault = fault_of(status, raw)
    assert fault.message
    assert not fault.is_starting or status == 503
