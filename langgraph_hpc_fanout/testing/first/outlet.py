"""How an answer goes out to its client, whole or as a stream; and that it is counted first."""

from __future__ import annotations

import math
from collections.abc import Callable

import orjson

from langgraph_hpc_fanout.testing.first import errors, events
from langgraph_hpc_fanout.testing.first.clock import Clock, Timers
from langgraph_hpc_fanout.testing.first.exchange import Exchange
from langgraph_hpc_fanout.testing.first.faults import upstream_body
from langgraph_hpc_fanout.testing.first.model import Answer
from langgraph_hpc_fanout.testing.first.site import Site
from langgraph_hpc_fanout.testing.first.spec import Times
from langgraph_hpc_fanout.testing.fleet.protocol import HttpResponse

Ended = Callable[[Exchange], None]


class Outlet:
    """Sends answers.

    Args:
        clock: The fake's clock.
        timers: Its timers.
        times: The gateway's times.
        ended: Writes a request into the record. Always called before the last byte goes out, so
            that a client that has its answer finds it in the record.
    """

    def __init__(self, clock: Clock, timers: Timers, times: Times, ended: Ended) -> None:
        self._clock = clock
        self._timers = timers
        self._times = times
        self._ended = ended

    def whole(self, exchange: Exchange, response: HttpResponse, reason: str) -> None:
        """Answer in one piece."""
        exchange.status = response.status
        exchange.reason = reason
        self._ended(exchange)
        exchange.connection.send(response)

    def drop(self, exchange: Exchange, reason: str) -> None:
        """Close without an answer."""
        exchange.reason = reason
        self._ended(exchange)
        exchange.connection.close()

    def answer(self, exchange: Exchange, answer: Answer, seconds: float, *, globus: bool) -> None:
        """Hand out what a model said, which took so many seconds."""
        if isinstance(answer.body, bytes):
            make = errors.hidden if globus else errors.passed_on
            self.whole(exchange, make(answer.status, answer.body), "upstream")
            return
        exchange.tokens = answer.tokens
        body = answer.body
        if globus:
            body = {
                **body,
                "response_time": seconds,
                "throughput_tokens_per_second": answer.tokens / seconds if seconds else 0.0,
            }
        self.whole(exchange, HttpResponse(200, orjson.dumps(body)), "served")

    # Streams

    def begin(self, exchange: Exchange) -> None:
        """Begin a stream: the status is 200, whatever comes."""
        exchange.status = 200
        exchange.connection.send_piece(events.HEAD)

    def silent(self, exchange: Exchange, reason: str = "timeout") -> None:
        """End a stream that no chunk came for."""
        self._close(exchange, events.timed_out(self._times.first_chunk), reason)

    def late(self, exchange: Exchange, site: Site) -> None:
        """End a stream of DirectAPI that no chunk came for (FIRST 01aabea, direct_api.py)."""
        url = errors.backend_url(site.cluster.name, exchange.endpoint)
        seconds = f"{self._times.upstream:g}"
        text = f"Error: Timeout calling stream API at {url} (timeout: {seconds})"
        self._close(exchange, events.error_as_text(site.model.name, text), "timeout")

    def stream(
        self, exchange: Exchange, site: Site, answer: Answer, seconds: float, *, globus: bool
    ) -> None:
        """Stream what a model says over so many seconds; the head is out already."""
        if isinstance(answer.body, bytes):
            self._failed(exchange, site, answer.body, globus=globus)
            return
        pieces = events.chunks(exchange.endpoint, exchange.body, answer.body)
        gap = seconds / len(pieces)
        kind = exchange.fault.kind if exchange.fault is not None else None
        if kind == "stream_error":
            self._failed(exchange, site, upstream_body(500), globus=False)
        elif not globus and gap > self._times.upstream:
            self._later(exchange, self._times.upstream, self.late, exchange, site)
        elif globus and (kind == "stream_silent" or gap > self._times.first_chunk):
            self._later(exchange, self._times.first_chunk, self.silent, exchange)
        elif globus and (kind == "stream_cut" or gap > self._times.next_chunk):
            sent = pieces[: max(1, len(pieces) // 2)] if kind == "stream_cut" else pieces[:1]
            exchange.connection.send_piece(events.piece(b"".join(sent)))
            self._later(exchange, self._times.next_chunk, self._close, exchange, b"", "stream_cut")
        else:
            exchange.tokens = answer.tokens
            if gap:
                until = exchange.arrived + self._times.stream if globus else math.inf
                self._pace(exchange, pieces, 0, gap, until)
            else:
                self._close(exchange, b"".join(pieces), "served")

    def _pace(
        self, exchange: Exchange, pieces: list[bytes], place: int, gap: float, until: float
    ) -> None:
        """Set a timer for a piece, or for the end of the stream's time if that comes first."""
        left = until - self._clock.now()
        if left < gap:
            self._later(exchange, max(0.0, left), self._break_off, exchange)
        else:
            self._later(exchange, gap, self._next, exchange, pieces, place, gap, until)

    def _next(
        self, exchange: Exchange, pieces: list[bytes], place: int, gap: float, until: float
    ) -> None:
        """Send a piece and see to the next; end with the last."""
        if place == len(pieces) - 1:
            self._close(exchange, pieces[place], "served")
            return
        exchange.connection.send_piece(events.piece(pieces[place]))
        self._pace(exchange, pieces, place + 1, gap, until)

    def _failed(self, exchange: Exchange, site: Site, body: bytes, *, globus: bool) -> None:
        if globus:
            self._close(exchange, events.failed(body), "upstream")
        else:
            url = errors.backend_url(site.cluster.name, exchange.endpoint)
            text = (
                "Error: Unexpected error calling stream API: Error: Could not send stream API call "
                f"to {url}: {body.decode(errors='replace')}"
            )
            self._close(exchange, events.error_as_text(site.model.name, text), "upstream")

    def _close(self, exchange: Exchange, last: bytes, reason: str) -> None:
        """Send what is left, `[DONE]`, and the end."""
        exchange.reason = reason
        self._ended(exchange)
        exchange.connection.send_piece(events.piece(last + events.DONE) + events.END)
        exchange.connection.finish()

    def _break_off(self, exchange: Exchange) -> None:
        """End a stream that took too long: neither an error nor `[DONE]` says so."""
        exchange.reason = "stream_cut"
        self._ended(exchange)
        exchange.connection.send_piece(events.END)
        exchange.connection.finish()

    def _later(
        self, exchange: Exchange, seconds: float, what: Callable[..., object], *arguments: object
    ) -> None:
        exchange.timer = self._timers.after(seconds, what, *arguments)
