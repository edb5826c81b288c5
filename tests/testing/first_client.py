"""A small client of a FirstFake for the tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson

from langgraph_hpc_fanout.testing.first import FirstFake

HOT = "openai/gpt-oss-120b"
COLD = "meta-llama/Llama-3.3-70B-Instruct"


class Client:
    def __init__(self, http: aiohttp.ClientSession, fake: FirstFake, user: str = "alice") -> None:
        self.http = http
        self.fake = fake
        self.token = fake.token(user)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    async def get(self, path: str, **more: Any) -> tuple[int, Any]:
        async with self.http.get(f"{self.fake.url}{path}", headers=self.headers, **more) as got:
            return got.status, await _read(got)

    async def post(self, path: str, body: Any, **more: Any) -> tuple[int, Any]:
        url = f"{self.fake.url}{path}"
        async with self.http.post(url, json=body, headers=self.headers, **more) as got:
            return got.status, await _read(got)

    async def chat(
        self,
        prompt: str = "hello",
        *,
        model: str = HOT,
        at: str = "/sophia/vllm",
        **more: Any,
    ) -> tuple[int, Any]:
        body = {"model": model, "messages": [{"role": "user", "content": prompt}], **more}
        return await self.post(f"{at}/v1/chat/completions", body)

    async def stream(
        self, prompt: str = "hello", *, model: str = HOT, at: str = "/sophia/vllm", **more: Any
    ) -> tuple[int, list[Any]]:
        return 200, [event async for event in self.events(prompt, model=model, at=at, **more)]

    async def events(
        self, prompt: str = "hello", *, model: str = HOT, at: str = "/sophia/vllm", **more: Any
    ) -> AsyncIterator[Any]:
        message = {"role": "user", "content": prompt}
        body = {"model": model, "messages": [message], "stream": True, **more}
        url = f"{self.fake.url}{at}/v1/chat/completions"
        async with self.http.post(url, json=body, headers=self.headers) as got:
            assert got.content_type == "text/event-stream", await got.read()
            async for line in got.content:
                if line.startswith(b"data: "):
                    data = line[6:].strip()
                    yield "[DONE]" if data == b"[DONE]" else orjson.loads(data)


async def _read(got: aiohttp.ClientResponse) -> Any:
    raw = await got.read()
    return orjson.loads(raw) if got.content_type == "application/json" else raw.decode()


def content(answer: Any) -> Any:
    return answer["choices"][0]["message"]["content"]
