"""The page that vLLM answers to `GET /metrics`, as far as a client needs it."""

from __future__ import annotations

from langgraph_hpc_fanout.testing.fleet.protocol import HttpResponse

_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def page(model: str, running: int, waiting: int) -> HttpResponse:
    """The gauges of the scheduler, in the names and words of vLLM's `PrometheusStatLogger`.

    See vllm/v1/metrics/loggers.py; prometheus_client sorts the labels and writes floats. Like
    all paths outside `/v1`, the page is open to all (`AuthenticationMiddleware` in
    vllm/entrypoints/openai/api_server.py).
    """
    labels = f'{{engine="0",model_name="{model}"}}'
    lines = (
        "# HELP vllm:num_requests_running Number of requests in model execution batches.",
        "# TYPE vllm:num_requests_running gauge",
        f"vllm:num_requests_running{labels} {running:.1f}",
        "# HELP vllm:num_requests_waiting Number of requests waiting to be processed.",
        "# TYPE vllm:num_requests_waiting gauge",
        f"vllm:num_requests_waiting{labels} {waiting:.1f}",
        "",
    )
    return HttpResponse(200, "\n".join(lines).encode(), _CONTENT_TYPE)
