"""Who answers in the models' place: the fake itself, or a real OpenAI server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import aiohttp
import orjson

from langgraph_hpc_fanout.testing.first import model
from langgraph_hpc_fanout.testing.first.model import Answer
from langgraph_hpc_fanout.testing.first.spec import AnswerRule, Model
from langgraph_hpc_fanout.testing.fleet.faults import Attempt, Dice
from langgraph_hpc_fanout.testing.fleet.spec import Latency

Then = Callable[[Answer, float], None]
"""Takes an answer, and for how many seconds of the fake's clock the model works on it."""


class Backend(Protocol):
    """Answers in the models' place."""

    def ask(self, endpoint: str, wanted: Model, attempt: Attempt, then: Then) -> None:
        """Work on a request and hand its answer on, at once or later."""
        ...

    async def close(self) -> None:
        """Give up what is under way."""
        ...


class Local:
    """The fake itself.

    Args:
        rule: A text or a function of the body; None for an echo of the prompt.
        law: How long it takes.
        dice: Chances of times.
    """

    def __init__(self, rule: AnswerRule | None, law: Latency, dice: Dice) -> None:
        self._rule = rule
        self._law = law
        self._dice = dice

    def ask(self, endpoint: str, wanted: Model, attempt: Attempt, then: Then) -> None:
        """Hand the answer on at once."""
        answer = model.respond(endpoint, attempt.body, self._rule, wanted.context)
        chance = self._dice.chance(attempt, "latency") if self._law.varies else 0.5
        written = 0
        if not isinstance(answer.body, bytes):
            written = answer.body["usage"]["completion_tokens"]
        then(answer, self._law.seconds(chance, written))

    async def close(self) -> None:
        """Nothing is under way."""


class Proxy:
    """A real OpenAI server, which is asked without streaming.

    Args:
        url: Its base URL, such as that of a `FakeFleet`'s endpoint or of `LocalLLM`.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None
        self._model: asyncio.Future[str] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def ask(self, endpoint: str, wanted: Model, attempt: Attempt, then: Then) -> None:
        """Ask, and hand the answer on when it is there."""
        task = asyncio.get_running_loop().create_task(
            self._ask(endpoint, wanted, attempt.body, then)
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def _ask(self, endpoint: str, wanted: Model, body: Mapping[str, Any], then: Then) -> None:
        try:
            answer = await self._post(endpoint, wanted, body)
        except (aiohttp.ClientError, TimeoutError) as error:
            answer = Answer(502, f"The backend does not answer: {type(error).__name__}".encode())
        except (LookupError, TypeError, ValueError) as error:
            answer = Answer(502, f"The backend answers no JSON: {type(error).__name__}".encode())
        then(answer, 0.0)

    async def _post(self, endpoint: str, wanted: Model, body: Mapping[str, Any]) -> Answer:
        session = self._open()
        served = await self._served(session)
        asked = {**body, "model": served, "stream": False}
        asked.pop("stream_options", None)
        async with session.post(f"{self._url}/{endpoint}", json=asked) as response:
            raw = await response.read()
        if response.status != 200:
            return Answer(response.status, raw)
        answer = orjson.loads(raw)
        return Answer(200, {**answer, "model": wanted.name})

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=None),
                json_serialize=lambda value: orjson.dumps(value).decode(),
            )
        return self._session

    async def _served(self, session: aiohttp.ClientSession) -> str:
        """The id of the first model that the server has, asked for once."""
        if self._model is None or (self._model.done() and self._model.exception()):
            self._model = asyncio.ensure_future(self._first_model(session))
        return await asyncio.shield(self._model)

    async def _first_model(self, session: aiohttp.ClientSession) -> str:
        async with session.get(f"{self._url}/models") as response:
            response.raise_for_status()
            return str(orjson.loads(await response.read())["data"][0]["id"])
