"""Tokens that say when they end: renewed ahead of time, once for everybody, in nobody's way."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter

import pytest
from globus_auth import store_login
from hypothesis import given, settings
from hypothesis import strategies as st
from no_tokens import auth  # noqa: F401 - a fixture

from langgraph_hpc_fanout.endpoints.credentials import (
    CredentialError,
    Credentials,
    TokenServiceError,
)
from langgraph_hpc_fanout.tokens import GlobusTokens, Token, TokenSource

TWO_DAYS = 172_800.0
MANY = 10_000


class Clock:
    def __init__(self, time=1_000_000.0):
        self.time = time

    def __call__(self):
        return self.time


class Source(TokenSource):
    """Numbered tokens for a while, renewed a minute before they expire or when refused.

    `gate` is closed to hold up whoever asks; `error` is raised in the place of a new token.
    """

    login = "site login"

    def __init__(self, clock, lifetime=TWO_DAYS):
        self.clock, self.lifetime = clock, lifetime
        self.asked, self.renewed = [], 0
        self.error = None
        self.began = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.current = None
        self.replaced_at = float("-inf")

    def token(self, refused=None):
        self.asked.append(refused)
        self.began.set()
        assert self.gate.wait(30)
        current = self.current
        due = current is None or self.clock() >= current.expires_at - 60
        if due or refused == current.value:
            if refused is not None and self.error is None:
                self.replaced_at = self.clock()
            if self.error is not None:
                raise self.error
            self.renewed += 1
            self.current = Token(f"token-{self.renewed}", self.clock() + self.lifetime)
        return self.current

    def describe(self):
        return "the site's login"


async def settled(credentials):
    """When no renewal is under way."""
    while (task := credentials._renewing) is not None:
        await asyncio.wait([task])


async def test_ten_thousand_attempts_cause_one_renewal():
    source = Source(clock := Clock())
    source.gate.clear()
    credentials = Credentials(source, now=clock)
    attempts = [asyncio.create_task(credentials.header()) for _ in range(MANY)]
    await asyncio.to_thread(source.began.wait)
    source.gate.set()
    assert {*await asyncio.gather(*attempts)} == {"Bearer token-1"}
    assert source.asked == [None]
    clock.time += TWO_DAYS - 61
    assert {await credentials.header() for _ in range(MANY)} == {"Bearer token-1"}
    assert source.asked == [None]


async def test_a_401_in_the_midst_of_ten_thousand_streams_causes_one_renewal():
    """Each stream asks, is refused with the first token, and asks again, in an order of its own."""
    source = Source(clock := Clock())
    credentials = Credentials(source, now=clock)
    valid = {"Bearer token-1", "Bearer token-2"}
    answers = Counter()

    async def stream(turns):
        for _ in range(20):
            header = await credentials.header()
            for _ in range(turns):
                await asyncio.sleep(0)
            answers[header, header in valid] += 1
            if header in valid:
                return header
            credentials.expire(header)
        return None

    await credentials.header()
    valid.discard("Bearer token-1")  # revoked
    streams = [stream(number % 7) for number in range(MANY)]
    assert {*await asyncio.gather(*streams)} == {"Bearer token-2"}
    assert source.renewed == 2
    assert source.asked == [None, "token-1"]
    assert answers["Bearer token-1", False] >= 1


async def test_fifty_endpoints_with_one_login_renew_once(auth, tmp_path):  # noqa: F811
    """The real SDK, a login on disk, and Globus Auth on loopback."""
    store = tmp_path / "tokens.json"
    store_login(store, time.time() - 1)
    source = GlobusTokens(store)
    endpoints = [Credentials(source) for _ in range(50)]
    for expected in ("access-1", "access-2"):
        attempts = (each.header() for each in endpoints for _ in range(MANY // len(endpoints)))
        assert {*await asyncio.gather(*attempts)} == {f"Bearer {expected}"}
        for each in endpoints:
            each.expire(f"Bearer {expected}")
    assert len(auth.asked) == 2


async def test_nobody_waits_for_a_renewal_ahead_of_time():
    source = Source(clock := Clock())
    credentials = Credentials(source, now=clock)
    assert await credentials.header() == "Bearer token-1"
    clock.time += TWO_DAYS - 60
    source.gate.clear()
    headers = [await credentials.header() for _ in range(100)]
    assert {*headers} == {"Bearer token-1"}
    source.gate.set()
    await settled(credentials)
    assert await credentials.header() == "Bearer token-2"
    assert source.asked == [None, None]


async def test_a_token_that_has_expired_is_waited_for():
    source = Source(clock := Clock())
    credentials = Credentials(source, now=clock)
    await credentials.header()
    clock.time += TWO_DAYS
    assert await credentials.header() == "Bearer token-2"


async def test_a_renewal_that_fails_ahead_of_time_is_tried_again(caplog):
    source = Source(clock := Clock())
    credentials = Credentials(source, now=clock)
    await credentials.header()
    clock.time += TWO_DAYS - 60
    source.error = TokenServiceError("Globus Auth answered 503.")
    with caplog.at_level(logging.WARNING):
        assert await credentials.header() == "Bearer token-1"
        await settled(credentials)
    assert "The token in use is good for 59 s and not renewed: Globus Auth answered 503." in (
        caplog.text
    )
    for _ in range(3):
        assert await credentials.header() == "Bearer token-1"
        await settled(credentials)
    assert len(source.asked) == 2
    clock.time += 10
    source.error = None
    assert await credentials.header() == "Bearer token-1"
    await settled(credentials)
    assert await credentials.header() == "Bearer token-2"


async def test_no_renewal_until_the_token_is_over():
    source = Source(clock := Clock())
    credentials = Credentials(source, now=clock)
    await credentials.header()
    clock.time += TWO_DAYS
    source.error = TokenServiceError("Globus Auth answered 503.")
    for _ in range(2):
        with pytest.raises(TokenServiceError, match=r"^Globus Auth answered 503\.$"):
            await credentials.header()
    source.error = None
    assert await credentials.header() == "Bearer token-2"


async def test_a_failure_that_nobody_waits_for_is_no_noise(caplog):
    """Here the loop would complain of an exception that was never retrieved."""
    source = Source(clock := Clock())
    source.error = CredentialError("nobody is logged in")
    credentials = Credentials(source, now=clock)
    source.gate.clear()
    attempt = asyncio.create_task(credentials.header())
    await asyncio.to_thread(source.began.wait)
    attempt.cancel()
    await asyncio.wait([attempt])
    source.gate.set()
    await settled(credentials)
    assert caplog.text == ""


async def test_who_is_refused_with_a_new_token_is_not_given_one_after_another():
    """A model that one may not use is a 401 at FIRST, too."""
    source = Source(clock := Clock())
    credentials = Credentials(source, now=clock)
    for _ in range(50):
        credentials.expire(await credentials.header())
    assert source.renewed == 2
    clock.time += 61
    credentials.expire(await credentials.header())
    assert await credentials.header() == "Bearer token-3"


async def test_a_token_that_is_refused_while_it_is_asked_for_is_asked_for_again():
    source = Source(clock := Clock(), lifetime=30.0)  # always due
    credentials = Credentials(source, now=clock)
    header = await credentials.header()
    source.lifetime = TWO_DAYS
    source.current = Token("token-1", clock() + TWO_DAYS)  # a store that has it for longer
    clock.time += 2
    source.gate.clear()
    source.began.clear()
    assert await credentials.header() == header
    await asyncio.to_thread(source.began.wait)
    credentials.expire(header)
    source.gate.set()
    await settled(credentials)
    assert await credentials.header() == "Bearer token-2"
    assert source.asked == [None, None, "token-1"]


async def test_a_source_that_does_not_renew_in_time_is_not_pestered():
    source = Source(clock := Clock(), lifetime=10.0)
    credentials = Credentials(source, now=clock)
    for _ in range(1000):
        await credentials.header()
        await settled(credentials)
        clock.time += 0.01
    assert len(source.asked) <= 11


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.floats(0, 1.2 * TWO_DAYS), st.sampled_from(["use", "refuse", "fail"])),
        max_size=15,
    )
)
def test_what_is_sent_has_not_expired_and_was_not_refused(steps):
    """Whatever happens: a header that is given is good, or there was no better one."""

    async def run():
        source = Source(clock := Clock())
        credentials = Credentials(source, now=clock)
        refused = set()
        for seconds, event in steps:
            clock.time += seconds
            source.error = TokenServiceError("503") if event == "fail" else None
            try:
                header = await credentials.header()
            except TokenServiceError:
                assert event == "fail"
                continue
            await settled(credentials)
            given = header.removeprefix("Bearer ")
            assert source.current.expires_at > clock() or event == "fail"
            assert given not in refused
            if event == "refuse":
                credentials.expire(header)
                if clock() - source.replaced_at >= 60:
                    refused.add(given)
        assert source.renewed <= 1 + sum(s for s, _ in steps) / (TWO_DAYS - 60) + len(refused)

    asyncio.run(run())


# -- functions that tell when their token ends, and what credentials say of sources ---------------


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_function_may_tell_when_its_token_ends(kind):
    clock, calls = Clock(), []

    def provide():
        calls.append(1)
        return Token(f"token-{len(calls)}\n", clock() + TWO_DAYS)

    async def provide_later():
        return provide()

    credentials = Credentials(provide if kind == "sync" else provide_later, now=clock)
    assert await credentials.header() == "Bearer token-1"
    clock.time += TWO_DAYS - 61
    assert await credentials.header() == "Bearer token-1"
    clock.time += 61
    assert await credentials.header() == "Bearer token-2"
    assert len(calls) == 2


async def test_a_function_that_does_not_tell_is_asked_every_half_minute():
    clock, calls = Clock(), []
    credentials = Credentials(lambda: calls.append(1) or f"token-{len(calls)}", now=clock)
    for _ in range(100):
        await credentials.header()
        clock.time += 1
    assert len(calls) == 4


async def test_the_former_token_is_blotted_out_too():
    source = Source(clock := Clock())
    credentials = Credentials(source, now=clock)
    credentials.expire(await credentials.header())
    await credentials.header()
    assert credentials.redact("token-1 or token-2?") == "*** or ***?"


async def test_a_source_speaks_for_itself():
    source = Source(Clock())
    credentials = Credentials(source)
    assert credentials.describe() == "the site's login"
    assert credentials.remedy() == "get another token with: site login"
    assert credentials.renewable
    assert repr(source) == "Source(the site's login)"
    source.error = CredentialError("nobody is logged in. Log in with: site login")
    with pytest.raises(CredentialError, match=r"^nobody is logged in\. Log in with: site login$"):
        await credentials.header()


def test_other_keys_are_advised_as_before():
    assert Credentials("SITE_API_KEY").remedy().startswith("set api_key= of this endpoint to a ")
