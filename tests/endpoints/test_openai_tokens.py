"""An endpoint with a source of tokens: what it sends, and what it says when there is none."""

from __future__ import annotations

import pytest

from langgraph_hpc_fanout import OpenAIEndpoint, Request
from langgraph_hpc_fanout.testing.fleet import echo
from langgraph_hpc_fanout.tokens import CredentialError, Token, TokenServiceError, TokenSource


class Source(TokenSource):
    """A token, and another one for who was refused; or an error."""

    login = "site login"

    def __init__(self, error=None):
        self.error = error
        self.asked = []

    def token(self, refused=None):
        self.asked.append(refused)
        if self.error is not None:
            raise self.error
        return Token("token-1" if refused is None else "token-2")

    def describe(self):
        return "the site's login"


async def reply_of(fleet, source):
    endpoint = OpenAIEndpoint(fleet.urls[0], models=["tiny"], api_key=source)
    messages = [{"role": "user", "content": "hello"}]
    request = Request("hello", "tiny", {"messages": messages}, prompt_tokens=1)
    try:
        [reply] = [reply async for reply in endpoint.send([request])]
    finally:
        await endpoint.close()
    return reply


@pytest.mark.parametrize(("key", "asked"), [("token-1", [None]), ("token-2", [None, "token-1"])])
async def test_a_refused_token_is_named_to_the_source(fake_fleet, key, asked):
    source = Source()
    reply = await reply_of(fake_fleet(api_key=key), source)
    assert reply.body["choices"][0]["message"]["content"] == echo("hello")
    assert source.asked == asked


async def test_who_is_refused_for_good_is_told_how_to_log_in(fake_fleet):
    reply = await reply_of(fake_fleet(api_key="another"), Source())
    assert reply.failure.kind == "auth"
    assert reply.failure.message.endswith(
        "It was asked with the site's login; get another token with: site login"
    )
    assert "token-" not in reply.failure.message


@pytest.mark.parametrize(
    ("error", "kind"), [(CredentialError, "auth"), (TokenServiceError, "transient")]
)
async def test_no_token_for_good_is_not_no_token_now(fake_fleet, error, kind):
    fleet = fake_fleet(api_key="token-1")
    reply = await reply_of(fleet, Source(error("no token here.")))
    assert (reply.failure.kind, reply.failure.retryable) == (kind, kind == "transient")
    assert reply.failure.message.endswith(": no token here.")
    assert fleet.record().arrived == 0
