"""The service's side of AMQP: what it declares, publishes and consumes.

The SDK and the endpoint declare nothing, or only passively
(globus_compute_endpoint/endpoint/rabbit_mq/result_publisher.py, `_on_channel_open`), so every
exchange and queue is declared here. Their names are our own: the clients take them from the
service's replies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import pika
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel

TASKS, RESULTS, HEARTBEATS, COMMANDS = "tasks", "results", "heartbeats", "commands"
RESULT_QUEUES = "results.of."

_PREFETCH = 1000
_PERSISTENT = 2

Receive = Callable[[bytes], None]


class Amqp:
    """One connection and channel of the service, on the running event loop."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: AsyncioConnection | None = None
        self._channel: Channel | None = None
        self._running: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Connect, and declare what all endpoints share.

        Raises:
            OSError: If the broker does not let us in.
        """
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[Channel] = loop.create_future()

        def failed(_connection: object, error: BaseException) -> None:
            if not opened.done():
                opened.set_exception(OSError(f"AMQP: {error!r}"))

        self._connection = AsyncioConnection(
            pika.URLParameters(self._url),
            on_open_callback=lambda c: c.channel(on_open_callback=opened.set_result),
            on_open_error_callback=failed,
            on_close_callback=failed,
        )
        self._channel = await opened
        self._channel.basic_qos(prefetch_count=_PREFETCH)
        for exchange in (TASKS, RESULTS, HEARTBEATS, COMMANDS):
            await self._call(
                self._channel.exchange_declare, exchange, exchange_type="topic", durable=True
            )
        for queue in (RESULTS, HEARTBEATS):
            await self.declare(queue, exchange=queue, key="#")

    async def close(self) -> None:
        """Leave the broker."""
        if self._connection is not None and self._connection.is_open:
            self._connection.close()
            while not self._connection.is_closed:
                await asyncio.sleep(0.01)

    async def declare(self, queue: str, *, exchange: str = "", key: str = "") -> None:
        """Make a queue, and bind it to an exchange if one is named."""
        channel = self._live()
        await self._call(channel.queue_declare, queue, durable=True)
        if exchange:
            await self._call(channel.queue_bind, queue, exchange, routing_key=key)

    async def purge(self, queue: str) -> None:
        """Forget what nobody took from a queue yet."""
        await self._call(self._live().queue_purge, queue)

    def publish(
        self,
        exchange: str,
        key: str,
        body: bytes,
        *,
        headers: Mapping[str, Any] | None = None,
        timestamp: int | None = None,
        expiration: float | None = None,
    ) -> None:
        """Send one message.

        Args:
            exchange: Where to; nothing means straight to the queue named by the key.
            key: Its routing key.
            body: What it says.
            headers: Its headers.
            timestamp: Unix time; the clients read it of results and commands.
            expiration: Seconds after which the broker drops it if nobody took it.
        """
        properties = pika.BasicProperties(
            content_type="application/json",
            delivery_mode=_PERSISTENT,
            headers=None if headers is None else dict(headers),
            timestamp=timestamp,
            expiration=None if expiration is None else str(int(expiration * 1000)),
        )
        self._live().basic_publish(exchange, key, body, properties)

    def consume(self, queue: str, receive: Receive) -> None:
        """Hand every message of a queue over; it counts as taken when `receive` returns."""

        def on_message(channel: Channel, method: Any, _properties: object, body: bytes) -> None:
            receive(body)
            channel.basic_ack(method.delivery_tag)

        self._live().basic_consume(queue, on_message)

    def soon(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what has to wait for the broker; `receive` itself cannot wait."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _live(self) -> Channel:
        assert self._channel is not None
        return self._channel

    async def _call(self, method: Callable[..., object], *arguments: Any, **options: Any) -> None:
        """Wait for the broker's answer to a method that takes a callback."""
        answered: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        method(*arguments, callback=answered.set_result, **options)
        await answered
