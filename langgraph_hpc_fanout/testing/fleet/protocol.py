"""HTTP/1.1 as a server speaks it: bytes in, requests out, answers whole or broken."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Protocol, cast

try:
    import httptools
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'FakeFleet needs httptools: pip install "langgraph-hpc-fanout[testing]".', name="httptools"
    ) from error

_REASONS = {status.value: status.phrase for status in HTTPStatus}
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What arrived.

    Attributes:
        method: The method, in capitals.
        path: The path, without the query.
        authorization: Value of the header of that name, or empty.
        body: The body.
        query: What stands behind the path's question mark.
    """

    method: str
    path: str
    authorization: str
    body: bytes
    query: str = ""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """What to answer.

    Attributes:
        status: HTTP status.
        body: The body.
        content_type: Its type.
        headers: More headers.
    """

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    def head(self, *, keep_alive: bool) -> bytes:
        """Status line and headers, which promise the whole body."""
        lines = [
            f"HTTP/1.1 {self.status} {_REASONS.get(self.status, '')}",
            f"content-type: {self.content_type}",
            f"content-length: {len(self.body)}",
        ]
        if not keep_alive:
            lines.append("connection: close")
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join((*lines, "\r\n")).encode("latin-1")


class Handler(Protocol):
    """What a connection tells about itself."""

    def connected(self, connection: Connection) -> None:
        """A client has connected."""
        ...

    def received(self, connection: Connection, request: HttpRequest) -> None:
        """A request has arrived whole."""
        ...

    def lost(self, connection: Connection) -> None:
        """The connection is gone, whoever closed it."""
        ...


class Connection(asyncio.Protocol):
    """One client's connection, which carries one request at a time.

    Args:
        handler: Who answers.

    Attributes:
        requests: How many requests it has carried.
    """

    __slots__ = (
        "_authorization",
        "_body",
        "_complete",
        "_handler",
        "_keep_alive",
        "_parser",
        "_transport",
        "_url",
        "requests",
    )

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._keep_alive = True
        self.requests = 0

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self._transport = cast("asyncio.Transport", transport)
        self._handler.connected(self)

    def data_received(self, data: bytes) -> None:
        """Bytes have arrived."""
        self._complete = 0
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.abort()
            return
        if self._complete > 1:  # pipelined, which no client of chat completions does
            self.abort()
        elif self._complete:
            self._received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._handler.lost(self)

    # httptools

    def on_message_begin(self) -> None:
        """A request begins."""
        self._url = b""
        self._authorization = b""
        self._body: list[bytes] = []

    def on_url(self, url: bytes) -> None:
        """A piece of the request's target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        if name.lower() == b"authorization":
            self._authorization = value

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """The request is whole. It is served after the parser has returned.

        Only here does the parser still know what the headers said about the connection.
        """
        self._complete += 1
        self._keep_alive = self._parser.should_keep_alive()

    def _received(self) -> None:
        path, _, query = self._url.partition(b"?")
        request = HttpRequest(
            method=self._parser.get_method().decode("ascii"),
            path=path.decode("latin-1"),
            authorization=self._authorization.decode("latin-1"),
            body=b"".join(self._body),
            query=query.decode("latin-1"),
        )
        self._handler.received(self, request)
        self.requests += 1

    # answers

    def send(self, response: HttpResponse) -> None:
        """Answer in one piece."""
        self._transport.write(response.head(keep_alive=self._keep_alive) + response.body)
        self.finish()

    def send_head(self, response: HttpResponse) -> None:
        """Begin an answer that comes in pieces."""
        self._transport.write(response.head(keep_alive=self._keep_alive))

    def send_piece(self, piece: bytes) -> None:
        """Send a piece of the body."""
        self._transport.write(piece)

    def finish(self) -> None:
        """End an answer: the connection stays open if the client wants it."""
        if not self._keep_alive:
            self._transport.close()

    def close(self) -> None:
        """Close in good order, after what was sent."""
        self._transport.close()

    def reset(self) -> None:
        """Close with a TCP RST, as a crashed machine or a firewall does."""
        sock: socket.socket = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._transport.abort()

    def abort(self) -> None:
        """Close at once, as the kernel does for a process that was killed."""
        self._transport.abort()
