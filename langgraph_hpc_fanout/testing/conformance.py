"""The conformance suite: what the dispatcher relies on, tried on an endpoint of yours.

```python
class TestMyEndpoint(EndpointConformance):
    secrets = ("sk-123",)

    @pytest.fixture
    def endpoint(self):
        return MyEndpoint("https://llm.example.org", api_key="sk-123")
```

It needs pytest and pytest-asyncio (in either mode). The endpoint behind it may be a fake, such
as `FakeFleet`, or the real thing: the whole suite asks for a few hundred short answers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import get_args

import pytest

from langgraph_hpc_fanout.endpoints.limits import Limits
from langgraph_hpc_fanout.endpoints.protocol import Bundling, Endpoint, Health
from langgraph_hpc_fanout.records import Failure, FailureKind, Reply, Request, Usage

_NOWHERE = "a-model-that-nobody-serves"
_POLL = 0.005
_A_MOMENT = 0.05


class EndpointConformance:
    """Tests of every invariant that `langgraph_hpc_fanout.Endpoint` states.

    Subclass it, and give it a fixture `endpoint` that returns an endpoint not yet opened. The
    rest has defaults; override what does not fit.

    Attributes:
        secrets: Texts that must never be seen: tokens, passwords.
        patience: Seconds after which whatever the endpoint does counts as hanging.
        promptly: Seconds that a cancelled send and a close may take to let go.
        most: Most requests of a full bundle, should the endpoint allow more.
        at_once: How many sends run at once in the test of many.
    """

    secrets: Sequence[str] = ()
    patience: float = 60.0
    promptly: float = 2.0
    most: int = 64
    at_once: int = 50

    # -- what to override -----------------------------------------------------------------

    @pytest.fixture
    def endpoint(self) -> Endpoint:
        """The endpoint to test, not yet opened."""
        raise NotImplementedError(f"{type(self).__name__} needs a fixture named `endpoint`.")

    def model(self, endpoint: Endpoint) -> str:
        """The logical model to ask for, once the endpoint has been probed."""
        return next(iter(endpoint.models))

    def request_for(self, number: int, model: str) -> Request:
        """One of any number of requests that the endpoint can answer."""
        body = {
            "messages": [{"role": "user", "content": f"Say the number {number}."}],
            "max_tokens": 8,
        }
        return Request(f"conformance-{number}", model, body, prompt_tokens=8, max_tokens=8)

    async def in_flight(self) -> int | None:
        """How many requests the server works at right now; None when that cannot be told."""
        return None

    # -- what it is -----------------------------------------------------------------------

    def test_it_is_an_endpoint(self, endpoint: Endpoint) -> None:
        """It has every attribute and method of the protocol, and they are of the right kind."""
        absent = [
            name
            for name in ("name", "models", "limits", "bundling", "open", "close", "probe", "send")
            if not hasattr(endpoint, name)
        ]
        assert not absent, f"The endpoint lacks {', '.join(absent)}."
        assert isinstance(endpoint, Endpoint), "isinstance(endpoint, Endpoint) is False."
        assert isinstance(endpoint.name, str), f"name is {endpoint.name!r}, not a text."
        assert endpoint.name, "name is empty."
        assert isinstance(endpoint.models, Mapping), f"models is {endpoint.models!r}, no mapping."
        assert isinstance(endpoint.limits, Limits), f"limits is {endpoint.limits!r}, no Limits."
        assert isinstance(endpoint.bundling, Bundling), f"bundling is {endpoint.bundling!r}."
        assert endpoint.bundling.max_items >= 1, "A bundle must hold at least one request."

    @pytest.mark.asyncio
    async def test_it_shows_no_secret(self, endpoint: Endpoint) -> None:
        """Neither its name nor its repr has one, fresh, in use or closed.

        Failures' messages are looked at wherever one is met, in all tests.
        """
        if not self.secrets:
            pytest.skip("no secrets= to look for")
        self._check_shown(endpoint)
        async with self._opened(endpoint) as model:
            self._check_shown(endpoint)
            await self._ask(endpoint, [self.request_for(0, model), self.request_for(1, _NOWHERE)])
            self._check_shown(endpoint)
        self._check_shown(endpoint)

    # -- its life -------------------------------------------------------------------------

    @pytest.mark.asyncio
    async def test_it_opens_and_closes_twice(self, endpoint: Endpoint) -> None:
        """The second time changes nothing; it may also be closed before it was ever opened."""
        async with self._in_time("close() before open()"):
            await endpoint.close()
        async with self._opened(endpoint) as model:
            async with self._in_time("The second open()"):
                await endpoint.open()
            await self._ask_one(endpoint, model)
        async with self._in_time("The second close()"):
            await endpoint.close()

    @pytest.mark.asyncio
    async def test_it_opens_again_after_a_close(self, endpoint: Endpoint) -> None:
        """A pool that was closed may be used again."""
        for _ in range(2):
            async with self._opened(endpoint) as model:
                await self._ask_one(endpoint, model)

    def test_it_opens_again_on_another_loop(self, endpoint: Endpoint) -> None:
        """Nothing of the old loop is left after a close."""

        async def use() -> None:
            async with self._opened(endpoint) as model:
                await self._ask_one(endpoint, model)

        for _ in range(2):
            with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
                runner.run(use())

    @pytest.mark.asyncio
    async def test_a_close_lets_go_of_every_connection(self, endpoint: Endpoint) -> None:
        """As many sockets are open after the close as before; seen on Linux only."""
        before = _open_sockets()
        async with self._opened(endpoint) as model:
            await asyncio.gather(
                *(self._ask(endpoint, [self.request_for(number, model)]) for number in range(4))
            )
        deadline = time.monotonic() + self.promptly
        while (after := _open_sockets()) > before:
            assert time.monotonic() < deadline, (
                f"{after - before} sockets are still open {self.promptly:g} s after close()."
            )
            await asyncio.sleep(_POLL)

    @pytest.mark.asyncio
    async def test_a_probe_finds_it_well(self, endpoint: Endpoint) -> None:
        """The probe is ok, says nothing of a failure, and models are known then."""
        async with self._opened(endpoint):
            models = dict(endpoint.models)
            assert models, "models is empty after a probe that was ok."
            for logical, served in models.items():
                assert isinstance(logical, str), f"models has {logical!r} for a name."
                assert isinstance(served, str), f"models[{logical!r}] is {served!r}, not an id."

    # -- its answers ----------------------------------------------------------------------

    @pytest.mark.asyncio
    async def test_one_request_is_answered(self, endpoint: Endpoint) -> None:
        """A request that can be answered is."""
        async with self._opened(endpoint) as model:
            await self._ask_one(endpoint, model)

    @pytest.mark.asyncio
    async def test_each_request_of_a_full_bundle_gets_one_reply(self, endpoint: Endpoint) -> None:
        """As many requests as `bundling` allows, though not more than `most`."""
        async with self._opened(endpoint) as model:
            count = min(endpoint.bundling.max_items, self.most)
            await self._ask(endpoint, [self.request_for(number, model) for number in range(count)])

    @pytest.mark.asyncio
    async def test_each_request_of_too_large_a_bundle_gets_one_reply(
        self, endpoint: Endpoint
    ) -> None:
        """More requests than `bundling` allows, though not more than `most` and one."""
        async with self._opened(endpoint) as model:
            count = min(endpoint.bundling.max_items, self.most) + 1
            await self._ask(endpoint, [self.request_for(number, model) for number in range(count)])

    @pytest.mark.asyncio
    async def test_an_unknown_model_is_a_failure(self, endpoint: Endpoint) -> None:
        """It is told in a reply, nothing is raised, and others in the bundle do not suffer."""
        async with self._opened(endpoint) as model:
            models = (model, _NOWHERE, model)
            requests = [self.request_for(number, each) for number, each in enumerate(models)]
            replies = await self._ask(endpoint, requests)
            assert replies[1].failure is not None, "A model that is not served was answered."
            for reply in (replies[0], replies[2]):
                assert reply.failure is None, f"Its neighbour failed: {reply.failure}."
            await self._ask_one(endpoint, model)

    @pytest.mark.asyncio
    async def test_many_sends_run_at_once(self, endpoint: Endpoint) -> None:
        """Each gets its own reply; turning some away (429, 503) is a reply, too."""
        async with self._opened(endpoint) as model:
            await asyncio.gather(
                *(
                    self._ask(endpoint, [self.request_for(number, model)])
                    for number in range(self.at_once)
                )
            )

    @pytest.mark.asyncio
    async def test_a_cancelled_send_lets_go(self, endpoint: Endpoint) -> None:
        """It ends promptly, the server notices (see `in_flight`), and others can be sent."""
        async with self._opened(endpoint) as model:
            sends = [
                asyncio.create_task(self._ask(endpoint, [self.request_for(number, model)]))
                for number in range(8)
            ]
            await self._until_in_flight(len(sends), sends)
            cancelled = [send for send in sends if send.cancel()]
            await asyncio.wait(sends, timeout=self.promptly)
            for send in sends:
                assert send.done(), f"A send goes on {self.promptly:g} s after it was cancelled."
                if not send.cancelled():
                    assert send not in cancelled, "A send swallowed its cancellation."
                    send.result()
            await self._until_in_flight(0)
            await self._ask_one(endpoint, model)

    # -- how ------------------------------------------------------------------------------

    @asynccontextmanager
    async def _opened(self, endpoint: Endpoint) -> AsyncIterator[str]:
        """The endpoint opened, probed and closed at the end; gives the model to ask for."""
        try:
            async with self._in_time("open()"):
                await endpoint.open()
            async with self._in_time("probe()"):
                health = await endpoint.probe()
            assert isinstance(health, Health), f"probe() returned {health!r}, no Health."
            if health.failure is not None:
                self._check_failure(health.failure)
            assert health.ok, f"probe() found it unwell: {health.failure}."
            assert health.failure is None, f"probe() was ok, but with {health.failure}."
            yield self.model(endpoint)
        finally:
            async with self._in_time("close()"):
                await endpoint.close()

    async def _ask_one(self, endpoint: Endpoint, model: str) -> None:
        (reply,) = await self._ask(endpoint, [self.request_for(0, model)])
        assert reply.failure is None, f"A good request failed: {reply.failure}."

    async def _ask(self, endpoint: Endpoint, requests: Sequence[Request]) -> list[Reply]:
        """The replies to a bundle, in the order of its requests, each looked at."""
        replies: dict[int, Reply] = {}
        async with self._in_time(f"send() of {len(requests)} requests"):
            try:
                async for reply in endpoint.send(requests):
                    self._check_reply(reply)
                    position = reply.position
                    assert position in range(len(requests)), (
                        f"A reply is for position {position} in a bundle of {len(requests)}."
                    )
                    assert position not in replies, f"Position {position} was answered twice."
                    replies[position] = reply
            except (AssertionError, TimeoutError):
                raise
            except Exception as error:
                raise AssertionError(f"send() raised {error!r}; it must reply instead.") from error
        absent = [position for position in range(len(requests)) if position not in replies]
        assert not absent, f"send() ended without a reply for the positions {absent}."
        return [replies[position] for position in range(len(requests))]

    def _check_reply(self, reply: Reply) -> None:
        assert isinstance(reply, Reply), f"send() yielded {reply!r}, no Reply."
        assert (reply.body is None) != (reply.failure is None), (
            f"A reply has either a body or a failure: {reply!r}."
        )
        wait = reply.retry_after
        assert wait is None or wait >= 0, f"retry_after={wait!r} lies in the past."
        if reply.failure is not None:
            self._check_failure(reply.failure)
        if reply.body is not None:
            _check_body(reply.body)
            assert isinstance(reply.usage, Usage), (
                "A reply with a body has no usage; Usage(..., estimated=True) says that the "
                "server told none."
            )

    def _check_failure(self, failure: Failure) -> None:
        assert isinstance(failure, Failure), f"{failure!r} is no Failure."
        assert failure.kind in get_args(FailureKind), f"{failure.kind!r} is no kind of failure."
        assert failure.message, f"A failure of kind {failure.kind} says nothing."
        self._check_text(failure.message, "A failure's message")

    def _check_shown(self, endpoint: Endpoint) -> None:
        self._check_text(endpoint.name, "The name")
        self._check_text(repr(endpoint), "The repr")

    def _check_text(self, text: str, what: str) -> None:
        # Not shown, or the test report would spread the secret.
        assert not any(secret in text for secret in self.secrets), f"{what} holds a secret."

    @asynccontextmanager
    async def _in_time(self, what: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self.patience) as scope:
                yield
        except TimeoutError as error:
            if scope.expired():
                raise AssertionError(f"{what} took more than {self.patience:g} s.") from None
            raise AssertionError(f"{what} raised {error!r}.") from error

    async def _until_in_flight(
        self, count: int, sends: Sequence[asyncio.Task[list[Reply]]] = ()
    ) -> None:
        """Wait until the server has so many requests, or any send is done."""
        if await self.in_flight() is None:
            await asyncio.sleep(_A_MOMENT)
            return
        deadline = time.monotonic() + (self.patience if sends else self.promptly)
        while (found := await self.in_flight()) != count and not any(map(asyncio.Task.done, sends)):
            assert time.monotonic() < deadline, (
                f"The server works at {found} requests; {count} were expected."
            )
            await asyncio.sleep(_POLL)


def _check_body(body: Mapping[str, object]) -> None:
    choices = body.get("choices")
    assert isinstance(choices, list), f"A body has choices={choices!r}, not a list."
    assert choices, "A body has no choices."
    for choice in choices:
        assert isinstance(choice, Mapping), f"{choice!r} is no choice."
        message = choice.get("message")
        assert isinstance(message, Mapping), f"A choice has message={message!r}."


def _open_sockets() -> int:
    count = 0
    for entry in Path("/proc/self/fd").glob("*"):
        try:
            count += str(entry.readlink()).startswith("socket:")
        except OSError:  # closed meanwhile
            continue
    return count
