"""Bundles for tests of what runs on a node."""

from __future__ import annotations

from langgraph_hpc_fanout import __version__


def chat(prompt, **body):
    return {"messages": [{"role": "user", "content": prompt}], **body}


def bundle(servers, requests=(), **settings):
    """A bundle for servers; requests may be texts."""
    asked = [chat(each) if isinstance(each, str) else each for each in requests]
    envelope = {"format": 1, "version": __version__, "servers": servers}
    return {**envelope, "timeout": 20.0, "deadline": 30.0, **settings, "requests": asked}


def texts(result):
    """The text of each answer, or the kind of failure in brackets."""
    assert "error" not in result, result
    return [
        f"({each['failure']['kind']})"
        if "failure" in each
        else each["body"]["choices"][0]["message"]["content"]
        for each in result["replies"]
    ]


def failures(result):
    assert "error" not in result, result
    return [each["failure"] for each in result["replies"] if "failure" in each]
