"""Batches as the gateway keeps them: who may submit one, and what it knows of them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

from langgraph_hpc_fanout.testing.first import errors
from langgraph_hpc_fanout.testing.first.clock import Clock
from langgraph_hpc_fanout.testing.first.faults import Fault
from langgraph_hpc_fanout.testing.first.quotas import Quotas
from langgraph_hpc_fanout.testing.first.record import BatchRecord
from langgraph_hpc_fanout.testing.first.site import Site
from langgraph_hpc_fanout.testing.first.spec import Times
from langgraph_hpc_fanout.testing.fleet.protocol import HttpResponse

Status = Literal["pending", "completed", "failed"]
STATUSES = ("pending", "running", "completed", "failed")
"""What a list may be asked for; the Globus Compute adapter never says `running`."""
_DAY = 86_400.0


class Batch:
    """A batch from its submit to its end.

    Args:
        site: The model.
        user: Whose it is.
        body: What was submitted.
        now: When, in seconds of the fake's clock.
        fault: What goes wrong with it.

    Attributes:
        status: What has become of it.
        known: What the gateway's database says: it learns of an end when it is asked.
        looked: When the gateway last looked.
        runs: Whether it has a node.
        ended: When it ended, or None.
        lines: Lines that were read.
        responses: Responses that were written.
        result: What it says of its end.
    """

    __slots__ = (
        "ended",
        "fault",
        "folder",
        "id",
        "input_file",
        "known",
        "lines",
        "looked",
        "responses",
        "result",
        "runs",
        "site",
        "status",
        "submitted",
        "task",
        "user",
    )

    def __init__(
        self, site: Site, user: str, body: Mapping[str, Any], now: float, fault: Fault | None
    ) -> None:
        self.id = str(uuid.uuid4())
        self.task = str(uuid.uuid4())
        self.site = site
        self.user = user
        self.input_file: str = body["input_file"]
        self.folder: str | None = body.get("output_folder_path")
        self.submitted = now
        self.fault = fault
        self.status: Status = "pending"
        self.known: Status = "pending"
        self.looked = float("-inf")
        self.runs = False
        self.ended: float | None = None
        self.lines = 0
        self.responses = 0
        self.result = ""

    def end(self, status: Status, result: str, now: float) -> None:
        """It is over."""
        self.status = status
        self.result = result
        self.runs = False
        self.ended = now

    def record(self) -> BatchRecord:
        """A copy for readers."""
        return BatchRecord(
            id=self.id,
            user=self.user,
            cluster=self.site.cluster.name,
            model=self.site.model.name,
            input_file=self.input_file,
            status=self.status,
            lines=self.lines,
            responses=self.responses,
        )


class Batches:
    """The gateway's database of batches (FIRST 42cc36c, views/batch.py).

    Args:
        clock: The fake's clock.
        times: The gateway's times.
        quotas: The limits.
    """

    def __init__(self, clock: Clock, times: Times, quotas: Quotas) -> None:
        self._clock = clock
        self._times = times
        self._quotas = quotas
        self._batches: dict[str, Batch] = {}

    def all(self) -> list[Batch]:
        """All batches, in the order of their submits."""
        return list(self._batches.values())

    def refusal(self, site: Site, user: str, input_file: str) -> HttpResponse | None:
        """Why a batch cannot be submitted; in the order of FIRST 69bef23, services.py.

        The database is asked as it is: an ended batch that nobody has asked about still counts.
        """
        if not site.model.batch:
            return errors.app("batch_unavailable", f"Batch is unavailable for endpoint {site.slug}")
        if not site.permits(user):
            return errors.not_permitted(site.slug)
        active = [
            batch
            for batch in self._batches.values()
            if batch.user == user and batch.known == "pending"
        ]
        if len(active) >= self._quotas.batches:
            message = f"Quota of {self._quotas.batches} active batch(es) per user exceeded."
            return errors.app("quota_exceeded", message)
        for batch in active:
            if batch.input_file == input_file:
                message = f"Input file {input_file} already used by ongoing batch {batch.id}."
                return errors.app("batch_ongoing", message)
        return None

    def submit(self, batch: Batch) -> HttpResponse:
        """Take a batch."""
        self._batches[batch.id] = batch
        return errors.json(
            200,
            {
                "batch_id": batch.id,
                "input_file": batch.input_file,
                "output_folder_path": batch.folder,
                "task_ids": batch.task,
                "status": batch.known,
            },
        )

    def list(self, user: str, status: str) -> HttpResponse:
        """`GET /v1/batches`: a user's own, of one status if one is named."""
        if status and status not in STATUSES:
            flaw = {
                "type": "enum",
                "loc": ["query", "status"],
                "msg": f"Input should be one of {', '.join(STATUSES)}",
            }
            return errors.json(422, {"detail": [flaw]})
        mine = [batch for batch in self._batches.values() if batch.user == user]
        told = [
            self._summary(batch) for batch in mine if self._look(batch) == (status or batch.known)
        ]
        return errors.json(200, told)

    def status(self, user: str, identity: str) -> HttpResponse:
        """`GET /v1/batches/{id}`: the status, as a JSON string."""
        found = self._find(user, identity)
        return errors.json(200, self._look(found)) if isinstance(found, Batch) else found

    def result(self, user: str, identity: str) -> HttpResponse:
        """`GET /v1/batches/{id}/result`: the result as a JSON string, or why there is none."""
        batch = self._find(user, identity)
        if isinstance(batch, HttpResponse):
            return batch
        match self._look(batch):
            case "completed":
                return HttpResponse(200, orjson.dumps(batch.result))
            case "failed":
                return errors.app("batch_failed", f"Batch failed: {batch.result}")
            case _:
                message = "Batch not completed yet. Results not ready."
                return errors.app("batch_ongoing", message)

    def _find(self, user: str, identity: str) -> Batch | HttpResponse:
        batch = self._batches.get(identity)
        if batch is None:
            return errors.app("batch_not_found", f"Batch {identity} does not exist")
        if batch.user != user:
            return errors.app("access_denied", f"Permission denied to Batch {identity}.")
        return batch

    def _look(self, batch: Batch) -> Status:
        """Bring the database up to date with a batch, at most every 30 seconds."""
        now = self._clock.now()
        if batch.known == "pending" and now >= batch.looked + self._times.batch_status:
            batch.looked = now
            batch.known = batch.status
            if batch.known == "pending" and now >= batch.submitted + self._times.batch_fails:
                days = int(self._times.batch_fails // _DAY)
                batch.end("failed", f"Timeout after {days} days.", now)
                batch.known = "failed"
        return batch.known

    def _summary(self, batch: Batch) -> dict[str, Any]:
        ended = batch.ended if batch.known != "pending" else None
        return {
            "id": batch.id,
            "cluster": batch.site.cluster.name,
            "framework": batch.site.cluster.framework,
            "input_file": batch.input_file,
            "in_progress_at": self._date(batch.submitted),
            "completed_at": self._date(ended if batch.known == "completed" else None),
            "failed_at": self._date(ended if batch.known == "failed" else None),
            "status": batch.known,
            "batch_id": batch.id,
        }

    def _date(self, moment: float | None) -> str | None:
        if moment is None:
            return None
        return datetime.fromtimestamp(self._clock.epoch(moment), UTC).isoformat()
