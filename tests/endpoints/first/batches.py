"""What tests of batches share: a gateway whose batches are quick, and endpoints over it."""

from __future__ import annotations

from langgraph_hpc_fanout import FirstBatchEndpoint, Request
from langgraph_hpc_fanout.testing.first import Batching, ColdStart, FirstFake, Quotas, Times

GPT = "gpt-oss-120b"
FREE = Quotas(requests=None, user_tokens=None, model_tokens=None)
QUICK = Batching(tokens_per_second=1e9)
AT_ONCE = ColdStart(queued=0.0, starting=0.0)
FRESH = Times(batch_status=0.0)


def gateway_over(directory, **settings):
    """A gateway, not started, whose clusters see a directory."""
    defaults = {
        "quotas": FREE,
        "batching": QUICK,
        "cold_start": AT_ONCE,
        "times": FRESH,
        "files": directory,
    }
    return FirstFake(**{**defaults, **settings})


def batch_over(fake, directory, **settings):
    """An endpoint for batches."""
    defaults = {"poll": 0.02, "least": 2, "token": settings.pop("token", None) or fake.token()}
    return FirstBatchEndpoint(
        "sophia",
        model=GPT,
        directory=directory,
        base_url=fake.url,
        **{**defaults, **settings},
    )


def requests_of(count, prefix="item", model=GPT):
    return [
        Request(
            f"{prefix}-{number}",
            model,
            {"messages": [{"role": "user", "content": f"{prefix} {number}"}], "max_tokens": 8},
            4,
            8,
        )
        for number in range(count)
    ]


async def send(endpoint, requests):
    """Replies in the order of their requests."""
    replies = [reply async for reply in endpoint.send(requests)]
    assert sorted(reply.position for reply in replies) == list(range(len(requests)))
    return sorted(replies, key=lambda reply: reply.position)


def text_of(reply):
    return reply.body["choices"][0]["message"]["content"]


def is_right(request, reply):
    return request.body["messages"][0]["content"] in text_of(reply)
