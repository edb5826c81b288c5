"""Credentials: where a token comes from, when it is asked for again, and who never sees it."""

from __future__ import annotations

import asyncio
import functools
import pickle
import threading
import time

import pytest
from pydantic import SecretStr

from langgraph_hpc_fanout.endpoints import credentials as module
from langgraph_hpc_fanout.endpoints.credentials import CredentialError, Credentials

SECRET = "sk-very-secret-0123456789"


class Provider:
    """Hands out numbered tokens, and knows how often it was asked."""

    def __init__(self, seconds=0.0):
        self.calls = 0
        self.seconds = seconds
        self.threads = set()

    def __call__(self):
        self.calls += 1
        self.threads.add(threading.current_thread())
        time.sleep(self.seconds)
        return f"token-{self.calls}"


# -- where a token comes from -----------------------------------------------------------------


async def test_none():
    credentials = Credentials(None)
    assert await credentials.header() is None
    assert credentials.describe() == "no api_key="
    assert not credentials.renewable


@pytest.mark.parametrize("key", [SECRET, SecretStr(SECRET)])
async def test_the_token_itself(key):
    credentials = Credentials(key)
    assert await credentials.header() == f"Bearer {SECRET}"
    assert credentials.describe() == "api_key="
    assert not credentials.renewable


async def test_the_name_of_an_environment_variable(monkeypatch):
    monkeypatch.setenv("SITE_API_KEY", SECRET)
    credentials = Credentials("SITE_API_KEY")
    assert await credentials.header() == f"Bearer {SECRET}"
    assert credentials.describe() == "the environment variable SITE_API_KEY"
    monkeypatch.setenv("SITE_API_KEY", "another")
    assert await credentials.header() == "Bearer another"
    assert not credentials.renewable


@pytest.mark.parametrize("value", [None, ""])
async def test_an_environment_variable_that_is_not_set(monkeypatch, value):
    monkeypatch.delenv("SITE_API_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("SITE_API_KEY", value)
    with pytest.raises(
        CredentialError,
        match=r"^the environment variable SITE_API_KEY, named by api_key=, is not set",
    ):
        await Credentials("SITE_API_KEY").header()


@pytest.mark.parametrize(
    ("key", "is_name"),
    [
        ("OPENAI_API_KEY", True),
        ("A_1", True),
        ("KEY2_3", True),
        ("OPENAIKEY", False),
        ("openai_api_key", False),
        ("_KEY", False),
        ("2_KEY", False),
        ("MY-KEY_2", False),
        ("sk-A_B", False),
        ("EMPTY", False),
    ],
)
async def test_what_counts_as_a_name(monkeypatch, key, is_name):
    monkeypatch.delenv(key, raising=False)
    if is_name:
        with pytest.raises(CredentialError, match=key):
            await Credentials(key).header()
    else:
        assert await Credentials(key).header() == f"Bearer {key}"


async def test_a_function_is_called_in_a_thread():
    provider = Provider()
    credentials = Credentials(provider)
    assert await credentials.header() == "Bearer token-1"
    assert threading.current_thread() not in provider.threads
    assert credentials.renewable


async def test_an_async_function():
    async def provide():
        await asyncio.sleep(0)
        return SECRET

    assert await Credentials(provide).header() == f"Bearer {SECRET}"


def get_token():
    return SECRET


def test_functions_are_described_by_their_names():
    assert Credentials(get_token).describe() == "the function get_token"
    assert Credentials(Provider()).describe() == "the function Provider"
    secret = functools.partial(str, SECRET)
    assert Credentials(secret).describe() == "the function partial"


# -- renewal ----------------------------------------------------------------------------------


async def test_a_provided_token_is_kept_for_a_while(monkeypatch):
    provider = Provider()
    credentials = Credentials(provider)
    assert {await credentials.header() for _ in range(5)} == {"Bearer token-1"}
    monkeypatch.setattr(module, "_PROVIDED_SECONDS", 0.0)
    credentials.expire(await credentials.header())
    assert [await credentials.header() for _ in range(3)] == [
        "Bearer token-2",
        "Bearer token-3",
        "Bearer token-4",
    ]


async def test_an_expired_token_is_asked_for_again():
    provider = Provider()
    credentials = Credentials(provider)
    assert await credentials.header() == "Bearer token-1"
    credentials.expire(await credentials.header())
    assert await credentials.header() == "Bearer token-2"
    assert await credentials.header() == "Bearer token-2"


async def test_a_hundred_attempts_ask_once():
    provider = Provider(seconds=0.05)
    credentials = Credentials(provider)
    for turn in (1, 2):
        headers = await asyncio.gather(*(credentials.header() for _ in range(100)))
        assert set(headers) == {f"Bearer token-{turn}"}
        assert provider.calls == turn
        credentials.expire(await credentials.header())


async def test_a_cancelled_attempt_takes_the_token_from_nobody():
    provider = Provider(seconds=0.05)
    credentials = Credentials(provider)
    first = asyncio.create_task(credentials.header())
    second = asyncio.create_task(credentials.header())
    await asyncio.sleep(0.01)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await second == "Bearer token-1"
    assert provider.calls == 1


async def test_a_function_that_fails_is_asked_again_by_the_next_attempt():
    answers = iter([OSError("no route to the token service"), SECRET])

    def provide():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    credentials = Credentials(provide)
    with pytest.raises(CredentialError, match=r"provide raised OSError: no route to the token"):
        await credentials.header()
    assert await credentials.header() == f"Bearer {SECRET}"


async def test_all_who_wait_for_a_function_that_fails_are_told():
    def provide():
        time.sleep(0.02)
        raise OSError("no route")

    credentials = Credentials(provide)
    told = await asyncio.gather(*(credentials.header() for _ in range(10)), return_exceptions=True)
    assert {type(each) for each in told} == {CredentialError}


@pytest.mark.parametrize("nothing", [None, "", 7, b"token"])
async def test_a_function_that_returns_no_token(nothing):
    with pytest.raises(CredentialError, match=r"<lambda> returned no token\.$"):
        await Credentials(lambda: nothing).header()


def test_a_token_is_provided_on_one_loop_after_another():
    provider = Provider()
    credentials = Credentials(provider)
    headers = []
    for _ in range(2):
        headers.append(asyncio.run(credentials.header()))
        credentials.expire(headers[-1])
    assert headers == ["Bearer token-1", "Bearer token-2"]


def test_a_loop_that_ended_while_it_waited_leaves_nothing_behind():
    release = threading.Event()
    calls = []

    def provide():
        calls.append(1)
        if len(calls) == 1:
            release.wait(10)
        return f"token-{len(calls)}"

    credentials = Credentials(provide)
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(credentials.header())
    while not calls:
        loop.run_until_complete(asyncio.sleep(0.001))
    try:
        assert asyncio.run(credentials.header()) == "Bearer token-2"
    finally:
        release.set()
        loop.run_until_complete(waiting)
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


# -- secrecy ----------------------------------------------------------------------------------


def test_no_token_in_the_repr(monkeypatch):
    monkeypatch.setenv("SITE_API_KEY", SECRET)
    for key in (SECRET, SecretStr(SECRET), "SITE_API_KEY", get_token):
        credentials = Credentials(key)
        assert SECRET not in f"{credentials!r} {credentials} {credentials.describe()}"
    assert repr(Credentials("SITE_API_KEY")) == (
        "Credentials(the environment variable SITE_API_KEY)"
    )


async def test_the_token_is_blotted_out_wherever_it_comes_from(monkeypatch):
    monkeypatch.setenv("SITE_API_KEY", SECRET)
    for key in (SECRET, SecretStr(SECRET), "SITE_API_KEY", get_token):
        credentials = Credentials(key)
        await credentials.header()
        assert (
            credentials.redact(f"Incorrect key {SECRET}. ({SECRET})") == "Incorrect key ***. (***)"
        )


@pytest.mark.parametrize("key", [None, "", "UNSET_API_KEY", get_token])
def test_nothing_is_blotted_out_where_there_is_no_token(monkeypatch, key):
    monkeypatch.delenv("UNSET_API_KEY", raising=False)
    assert Credentials(key).redact("all is well") == "all is well"


@pytest.mark.parametrize("key", [SECRET, SecretStr(SECRET)])
def test_no_token_in_a_pickle(key):
    try:
        pickled = pickle.dumps(Credentials(key))
    except (TypeError, pickle.PicklingError):
        return  # refusing is as good
    assert SECRET.encode() not in pickled


@pytest.mark.parametrize("key", [f"{SECRET}\n", lambda: f"{SECRET}\n"])
async def test_a_token_read_from_a_file(key):
    assert await Credentials(key).header() == f"Bearer {SECRET}"
