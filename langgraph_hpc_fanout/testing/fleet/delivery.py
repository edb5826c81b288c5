"""How an answer goes out: whole, in pieces, or broken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from langgraph_hpc_fanout.testing.fleet.exchange import Exchange
from langgraph_hpc_fanout.testing.fleet.protocol import HttpResponse

_DRIPS = 20
_HALF_SENT = 0.02  # seconds for the first half to reach the client before the reset


class Delivery:
    """Sends the answers of one endpoint.

    Args:
        loop: The loop that it lives on.
        end: Writes a request into the record. Always called before the last byte goes out,
            so that a client that has its answer finds it in the record.
    """

    __slots__ = ("_end", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, end: Callable[[Exchange], None]) -> None:
        self._loop = loop
        self._end = end

    def whole(self, exchange: Exchange, response: HttpResponse) -> None:
        """Answer in one piece."""
        exchange.status = response.status
        self._end(exchange)
        exchange.connection.send(response)

    def deliver(self, exchange: Exchange, response: HttpResponse) -> None:
        """Answer as the request's fault will have it."""
        match exchange.fault.kind if exchange.fault is not None else None:
            case "disconnect":
                self._end(exchange)
                exchange.connection.close()
            case "reset":
                self._first_half(exchange, response)
                exchange.timer = self._loop.call_later(_HALF_SENT, self._reset, exchange)
            case "truncated_body":
                self._first_half(exchange, response)
                self._end(exchange)
                exchange.connection.close()
            case "malformed_json":
                self.whole(exchange, HttpResponse(response.status, _half(response.body)))
            case "drip":
                exchange.status = response.status
                exchange.connection.send_head(response)
                self._drip(exchange, response.body, 0)
            case _:
                self.whole(exchange, response)

    def _first_half(self, exchange: Exchange, response: HttpResponse) -> None:
        exchange.status = response.status
        exchange.connection.send_head(response)
        exchange.connection.send_piece(_half(response.body))

    def _reset(self, exchange: Exchange) -> None:
        self._end(exchange)
        exchange.connection.reset()

    def _drip(self, exchange: Exchange, body: bytes, drop: int) -> None:
        """Send one piece of the body and set a timer for the next."""
        piece = body[drop * len(body) // _DRIPS : (drop + 1) * len(body) // _DRIPS]
        if drop + 1 == _DRIPS:
            self._end(exchange)
            exchange.connection.send_piece(piece)
            exchange.connection.finish()
            return
        exchange.connection.send_piece(piece)
        pause = exchange.fault.extra / _DRIPS if exchange.fault is not None else 0.0
        exchange.timer = self._loop.call_later(pause, self._drip, exchange, body, drop + 1)


def _half(body: bytes) -> bytes:
    return body[: len(body) // 2]
