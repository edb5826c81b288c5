"""One endpoint at work: who gets a slot, who waits, who has left."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict

from langgraph_hpc_fanout.testing.fleet import answers, errors, metrics
from langgraph_hpc_fanout.testing.fleet.delivery import Delivery
from langgraph_hpc_fanout.testing.fleet.exchange import Exchange, Memory
from langgraph_hpc_fanout.testing.fleet.gate import CHAT, Gate
from langgraph_hpc_fanout.testing.fleet.protocol import Connection, HttpRequest, HttpResponse
from langgraph_hpc_fanout.testing.fleet.record import EndpointRecord, Served, Tally, prompt_id
from langgraph_hpc_fanout.testing.fleet.spec import FakeEndpoint

_METRICS = "/metrics"


class Engine:
    """Serves the connections of one endpoint, on one event loop and without a task.

    Args:
        index: Place of the endpoint in the fleet.
        spec: What to simulate.
        memory: What it shares with the other endpoints of the process.
        loop: The loop that it lives on.
    """

    def __init__(
        self, index: int, spec: FakeEndpoint, memory: Memory, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._index = index
        self._memory = memory
        self._loop = loop
        self._delivery = Delivery(loop, self._end)
        self._tally = Tally()
        self._connections: set[Connection] = set()
        self._exchanges: dict[Connection, Exchange] = {}
        self._waiting: OrderedDict[Exchange, None] = OrderedDict()
        self._running = 0
        self._arrivals = 0
        self._down = False
        self.change(spec)

    def change(self, spec: FakeEndpoint) -> None:
        """Go on as another spec says; requests that already have a slot keep their fate."""
        self._spec = spec
        self._law = spec.law
        self._memory.counts_prompts |= bool(spec.faults) or self._law.varies
        self._gate = Gate(spec, self._memory)
        self._hand_out_slots()

    # The life of the endpoint

    def up(self) -> None:
        """Be ready for connections."""
        self._down = False

    def drop(self) -> None:
        """Lose every connection, as a killed process does."""
        self._down = True
        for connection in self._connections:
            connection.abort()

    @property
    def idle(self) -> bool:
        """Whether no connection is left."""
        return not self._connections

    def record(self) -> EndpointRecord:
        """What happened so far; may be called from any thread."""
        return self._tally.freeze()

    def open_since(self) -> list[float]:
        """When the requests in flight arrived; may be called from any thread."""
        return [exchange.arrived for exchange in list(self._exchanges.values())]

    def reset_record(self) -> None:
        """Forget what happened so far."""
        self._tally.reset(in_flight=len(self._exchanges))

    # What connections tell

    def connected(self, connection: Connection) -> None:
        """A client has connected."""
        self._connections.add(connection)
        self._tally.connections += 1
        if self._down:
            connection.abort()

    def received(self, connection: Connection, request: HttpRequest) -> None:
        """A request has arrived whole."""
        if connection in self._exchanges:  # pipelined, which no client of chat completions does
            connection.abort()
        elif request.path == CHAT and request.method == "POST":
            self._chat(connection, request)
        elif request.path == _METRICS and request.method == "GET":
            self._tally.probes += 1
            model = self._spec.models[0]
            connection.send(metrics.page(model, self._running, len(self._waiting)))
        else:
            self._tally.probes += 1
            connection.send(self._gate.probe(request))

    def lost(self, connection: Connection) -> None:
        """The connection is gone: stop working for it."""
        self._connections.discard(connection)
        exchange = self._exchanges.get(connection)
        if exchange is None:
            return
        if exchange.timer is not None:
            exchange.timer.cancel()
        self._waiting.pop(exchange, None)
        self._release(exchange)
        self._end(exchange, abandoned=True)

    # The way of a request

    def _chat(self, connection: Connection, request: HttpRequest) -> None:
        """Refuse a request, give it a slot, or let it wait."""
        exchange = self._exchanges[connection] = Exchange(connection)
        self._memory.ledger.arrived()
        self._tally.arrive()
        arrival, self._arrivals = self._arrivals, self._arrivals + 1
        refusal = self._gate.refusal(exchange, request, arrival)
        if refusal is not None:
            self._delivery.whole(exchange, refusal)
        elif self._running < self._spec.capacity:
            self._running += 1
            self._start(exchange)
        elif self._spec.max_queue is None or len(self._waiting) < self._spec.max_queue:
            self._waiting[exchange] = None
        else:
            self._delivery.whole(exchange, errors.overloaded(self._spec.overload))

    def _start(self, exchange: Exchange) -> None:
        """Work on a request that has been given a slot."""
        exchange.has_slot = True
        fault, attempt = exchange.fault, exchange.attempt
        if fault is not None and fault.kind == "hang":
            return
        response, tokens = answers.respond(self._spec.answer, attempt, fault)
        chance = self._memory.dice.chance(attempt, "latency") if self._law.varies else 0.5
        delay = self._law.seconds(chance, tokens)
        if fault is not None and fault.kind == "slow":
            delay += fault.extra
        if delay > 0:
            exchange.timer = self._loop.call_later(delay, self._finish, exchange, response)
        else:
            self._finish(exchange, response)

    def _finish(self, exchange: Exchange, response: HttpResponse) -> None:
        """Hand the answer out and the slot on."""
        self._release(exchange)
        self._delivery.deliver(exchange, response)

    def _release(self, exchange: Exchange) -> None:
        """Take back the slot, if the request has one."""
        if exchange.has_slot:
            exchange.has_slot = False
            self._running -= 1
            self._hand_out_slots()

    def _hand_out_slots(self) -> None:
        """Give free slots to those who have waited longest.

        They start in the next round of the loop: a long queue must not become a deep stack.
        """
        while self._waiting and self._running < self._spec.capacity:
            exchange, _ = self._waiting.popitem(last=False)
            self._running += 1
            exchange.has_slot = True
            exchange.timer = self._loop.call_soon(self._start, exchange)

    def _end(self, exchange: Exchange, *, abandoned: bool = False) -> None:
        """Write the request into the record."""
        killed = abandoned and self._down
        kind = exchange.fault.kind if exchange.fault is not None else None
        row = Served(
            endpoint=self._index,
            arrived=exchange.arrived,
            ended=time.monotonic(),
            prompt=prompt_id(exchange.attempt.prompt),
            status=exchange.status,
            fault="killed" if killed else kind,
            closed_early=abandoned and not killed,
            reused=exchange.reused,
        )
        del self._exchanges[exchange.connection]
        self._memory.ledger.ended(row)
        self._tally.end(row)
