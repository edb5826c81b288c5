"""The record of what the gateway saw, and of what it did about it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from langgraph_hpc_fanout.testing.fleet.record import Detail, prompt_id

_SECOND = 1.0


class Seen(NamedTuple):
    """One inference request that came to an end, whichever way.

    Attributes:
        user: Who asked, or empty.
        cluster: Where, or empty if it got no further.
        model: What, by the cluster's id, or empty.
        endpoint: The OpenAI endpoint, such as `chat/completions`.
        arrived: When it arrived, in seconds of the fake's clock.
        ended: When its answer went out, or the client left.
        status: HTTP status of the answer; 0 when no answer was begun.
        reason: `served`, or why not, see `ModelRecord.refused`.
        prompt: Its last user message, or its hash above 200 characters.
        tokens: Tokens that it was counted as.
        stream: Whether it was streamed.
        closed_early: Whether the client left before the answer was out.
        task: Id of its Globus Compute task, or empty.
    """

    user: str
    cluster: str
    model: str
    endpoint: str
    arrived: float
    ended: float
    status: int
    reason: str
    prompt: str
    tokens: int
    stream: bool
    closed_early: bool
    task: str


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """What one model of one cluster has seen.

    Attributes:
        arrived: Requests that named it.
        served: Those that it answered with 200.
        in_flight: Those that have not ended.
        peak_in_flight: The most of them at one time.
        refused: The others, by reason: `requests` (of a user in a second), `tokens` (in a
            minute), `not_permitted`, `maintenance`, `not_ready`, `offline`, `timeout` (408 and
            504), `upstream` (the backend's error), `unsupported`, `left` (the client left), the
            kind of a fault; in v2 `user_concurrency`, `user_rpm`, `user_tpm`, `cold`,
            `saturated`.
        statuses: All of them, by HTTP status; 0 is no answer.
        tokens: Tokens of the answers.
        windows: Tokens of each of its minutes (v1), the open one last.
        user_windows: The same for each user.
        wakeups: How often it was loaded.
        tasks: Globus Compute tasks that ran.
        wasted: Those of them that ran with nobody listening.
    """

    arrived: int
    served: int
    in_flight: int
    peak_in_flight: int
    refused: Mapping[str, int]
    statuses: Mapping[int, int]
    tokens: int
    windows: tuple[int, ...]
    user_windows: Mapping[str, tuple[int, ...]]
    wakeups: int
    tasks: int
    wasted: int


@dataclass(frozen=True, slots=True)
class UserRecord:
    """What one user did.

    Attributes:
        requests: Authorized requests, over all routes.
        throttled: Those of them beyond the requests of a second.
        peak_per_second: The most that came within one second, wherever that begins.
        peak_in_flight: The most inference requests at one time.
        tokens_issued: How many access tokens were issued.
        tokens_seen: With how many of them the user has come, those that had expired included.
    """

    requests: int
    throttled: int
    peak_per_second: int
    peak_in_flight: int
    tokens_issued: int
    tokens_seen: int


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """One batch.

    Attributes:
        id: Its id.
        user: Whose it is.
        cluster: Where it runs.
        model: Of which model.
        input_file: The file, as the request named it.
        status: `pending`, `completed` or `failed`.
        lines: Lines that were read.
        responses: Responses that were written.
    """

    id: str
    user: str
    cluster: str
    model: str
    input_file: str
    status: str
    lines: int
    responses: int


@dataclass(frozen=True, slots=True)
class FirstRecord:
    """What the gateway has seen so far: a copy, which later requests do not change.

    Attributes:
        models: What each model has seen, by `cluster/model`.
        users: What each user did.
        refused: Inference requests that reached no model, by reason: `unauthorized`, `requests`,
            `address`, `invalid`, `too_large`, `not_found`, or the kind of a fault.
        probes: Other requests, by route.
        peak_in_flight: The most inference requests at one time.
        batches: The batches, in the order of their submits.
        rows: What `requests` shows; None when requests were only counted.
    """

    models: Mapping[str, ModelRecord]
    users: Mapping[str, UserRecord]
    refused: Mapping[str, int]
    probes: Mapping[str, int]
    peak_in_flight: int
    batches: tuple[BatchRecord, ...]
    rows: tuple[Seen, ...] | None

    @property
    def requests(self) -> tuple[Seen, ...]:
        """Every inference request that ended, in that order.

        Raises:
            ValueError: If the fake only counts requests.
        """
        if self.rows is None:
            raise ValueError("FirstFake(record='counts') keeps no requests; use record='full'.")
        return self.rows

    @property
    def served(self) -> int:
        """Requests that were answered with 200."""
        return sum(model.served for model in self.models.values())

    @property
    def wasted(self) -> int:
        """Tasks that ran with nobody listening."""
        return sum(model.wasted for model in self.models.values())

    @property
    def reasons(self) -> Counter[str]:
        """All requests that were not served, by reason."""
        total = Counter(self.refused)
        for model in self.models.values():
            total.update(model.refused)
        return total


@dataclass(slots=True)
class Tally:
    """What is counted of one model; the server's thread writes."""

    arrived: int = 0
    served: int = 0
    in_flight: int = 0
    peak_in_flight: int = 0
    tokens: int = 0
    tasks: int = 0
    wasted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)

    def arrive(self) -> None:
        """Count a request in."""
        self.arrived += 1
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)

    def end(self, row: Seen) -> None:
        """Count a request out."""
        self.in_flight -= 1
        self.statuses[row.status] += 1
        self.tokens += row.tokens
        if row.reason == "served":
            self.served += 1
        else:
            self.refused[row.reason] += 1


@dataclass(slots=True)
class UserTally:
    """What is counted of one user."""

    requests: int = 0
    throttled: int = 0
    peak_per_second: int = 0
    in_flight: int = 0
    peak_in_flight: int = 0
    recent: deque[float] = field(default_factory=deque)

    def request(self, now: float) -> None:
        """Count a request of any route."""
        self.requests += 1
        while self.recent and self.recent[0] <= now - _SECOND:
            self.recent.popleft()
        self.recent.append(now)
        self.peak_per_second = max(self.peak_per_second, len(self.recent))

    def arrive(self) -> None:
        """Count an inference request in."""
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)

    def freeze(self, tokens_issued: int, tokens_seen: int) -> UserRecord:
        """A copy for readers."""
        return UserRecord(
            self.requests,
            self.throttled,
            self.peak_per_second,
            self.peak_in_flight,
            tokens_issued,
            tokens_seen,
        )


class Ledger:
    """What is counted of the gateway as a whole."""

    def __init__(self, detail: Detail) -> None:
        self.rows: list[Seen] | None = [] if detail == "full" else None
        self.refused: Counter[str] = Counter()
        self.probes: Counter[str] = Counter()
        self.users: dict[str, UserTally] = {}
        self.in_flight = 0
        self.peak_in_flight = 0

    def user(self, name: str) -> UserTally:
        """The tally of a user."""
        tally = self.users.get(name)
        if tally is None:
            tally = self.users[name] = UserTally()
        return tally

    def arrive(self) -> None:
        """Count an inference request in."""
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)

    def end(self, row: Seen, tally: Tally | None) -> None:
        """Count an inference request out, with its model's tally if it got so far."""
        self.in_flight -= 1
        if self.rows is not None:
            self.rows.append(row._replace(prompt=prompt_id(row.prompt)))
        if tally is None:
            self.refused[row.reason] += 1
        else:
            tally.end(row)
            self.user(row.user).in_flight -= 1
