"""What the SDK's errors mean. Knows them by name and attribute, so it does without the SDK."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from langgraph_hpc_fanout.endpoints.chat import failure_of
from langgraph_hpc_fanout.endpoints.credentials import CredentialError
from langgraph_hpc_fanout.records import Failure, FailureKind

_LOST_WORKER = re.compile(r"\b(WorkerLost|ManagerLost|BadStateException|BrokenProcessPool)\b")
_TOO_LARGE = re.compile(r"\b(MaxResultSizeExceeded|RESULT_SIZE|TASK_PAYLOAD_TOO_LARGE)\b")
_FROM_FIRST = re.compile(
    r"API request failed with status code: (\d+)\s*\\?n?\s*Response text: (.*?)"
    r"\s*\\?n?\s*Response headers:",
    re.DOTALL,
)
"""FIRST's vllm_inference_function raises a text with the server's status and body in it."""
_FIRST_NETWORK = "Network error occurred:"
_TIMED_OUT = re.compile(r"\b(AppTimeout|TimeoutError)\b")
_EXCERPT = 300


class ParcelError(Exception):
    """A bundle will bring no result.

    Attributes:
        failure: Why, for each of its requests.
        too_large: Whether it or its result was larger than may be sent; half of it may do.
        suspect: Whether one of its requests may be to blame for a worker's death.
        broken: Whether the endpoint can work on no bundle, until somebody mends it.
    """

    def __init__(
        self,
        failure: Failure,
        *,
        too_large: bool = False,
        suspect: bool = False,
        broken: bool = False,
    ) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.too_large = too_large
        self.suspect = suspect
        self.broken = broken


@dataclass(frozen=True, slots=True)
class Trouble:
    """Reads the errors of one endpoint.

    Args:
        name: The endpoint's name.
        where: How the endpoint is called in messages.
        never_raises: Whether the function that tasks call is ours, which tells failures and
            raises none: what is raised then is about the endpoint, not about a request.
    """

    name: str
    where: str
    never_raises: bool = True

    # -- before it is sent ----------------------------------------------------------------

    def of_connecting(self, error: BaseException) -> ParcelError:
        """The service cannot be used at all."""
        kind: FailureKind = "cold"
        if isinstance(error, CredentialError) or _status(error) in (401, 403):
            kind = "auth"
        elif isinstance(error, ImportError):
            kind = "auth"  # nothing that waiting would mend: the run ends with what to install
        hint = ""
        if _status(error) == 404:
            hint = " (Is the id right? `globus-compute-endpoint list` shows it. May you use it?)"
        message = f"{self.where}: {_said(error)}{hint}"
        return ParcelError(self._failure(kind, message, _status(error)))

    def of_submit(self, error: BaseException) -> ParcelError:
        """A submit failed, and trying again would not help."""
        status = _status(error)
        if self.is_too_large(error):
            message = f"{self.where} refuses a bundle as too large: {_said(error)}"
            return ParcelError(self._failure("permanent", message, 413), too_large=True)
        kind: FailureKind = "transient"
        if status in (401, 403):
            kind = "auth"
        elif status is not None and 400 <= status < 500 and status not in (408, 429):
            kind = "cold"
        message = f"Globus Compute takes no tasks for {self.where}: {_said(error)}"
        return ParcelError(self._failure(kind, message, status))

    def may_pass(self, error: BaseException) -> bool:
        """Whether a submit may succeed later."""
        status = _status(error)
        return status is None or status >= 500 or status in (408, 429)

    def is_too_large(self, error: BaseException) -> bool:
        """Whether a submit was larger than the service takes."""
        return _status(error) == 413

    def is_gone(self, error: BaseException) -> bool:
        """Whether the service knows of no such endpoint (any more)."""
        return _status(error) == 404

    # -- after it is sent -----------------------------------------------------------------

    def is_of_connection(self, error: BaseException) -> bool:
        """Whether only the connection failed that results come by."""
        return not _is_of_task(error) and not _is_malformed(error)

    def of_task(self, error: BaseException) -> ParcelError:
        """The task ended without a result."""
        if _is_malformed(error):
            message = (
                f"{self.where} sent a result that is not JSON; it was not opened, because such "
                "results can run code here. Does its function return plain data?"
            )
            return ParcelError(self._failure("permanent", message))
        if not _is_of_task(error):
            message = f"The connection that brings results of {self.where} failed: {_said(error)}"
            return ParcelError(self._failure("transient", message))
        text = getattr(error, "remote_data", None) or str(error)
        if _TOO_LARGE.search(text):
            message = f"The answers of a bundle on {self.where} are larger than a task may return."
            return ParcelError(self._failure("permanent", message), too_large=True)
        if lost := _LOST_WORKER.search(text):
            message = f"A worker of {self.where} died under its bundle ({lost[1]})."
            return ParcelError(self._failure("transient", message), suspect=True)
        if self.never_raises:
            return self._of_endpoint(text)
        return ParcelError(self._of_function(text))

    def of_bundle(self, told: object, *, of_function: bool) -> ParcelError:
        """A worker could not work on a bundle as a whole; it says why in its own words."""
        said = told if isinstance(told, Mapping) else {}
        message = f"{self.where}: {said.get('message')}"
        broken = said.get("kind") == "permanent" and not of_function
        kind: FailureKind = "permanent" if of_function else "cold"
        if said.get("kind") == "cold":
            kind = "overloaded"  # the node's server is not there (yet), the endpoint is
        return ParcelError(self._failure(kind, message), broken=broken)

    def offline(self) -> Failure:
        """The service has not heard of the endpoint lately."""
        message = (
            f"{self.where} is offline; start it on its machine with "
            "`globus-compute-endpoint start NAME`."
        )
        return self._failure("cold", message)

    def closed(self) -> ParcelError:
        """The endpoint was closed while a bundle was under way."""
        return ParcelError(self._failure("transient", f"{self.where} was closed."))

    def lost(self, seconds: float) -> ParcelError:
        """A bundle that nobody has any more."""
        message = (
            f"A bundle sent to {self.where} {seconds:.0f} s ago has been lost: its worker or "
            "its endpoint ended, and nothing was reported."
        )
        return ParcelError(self._failure("transient", message))

    def _of_endpoint(self, text: str) -> ParcelError:
        """The task was never worked on: it was not permitted, the endpoint did not start."""
        message = f"{self.where} could not run a task: {_last_line(text)}"
        if _TIMED_OUT.search(text):
            return ParcelError(self._failure("transient", message))
        return ParcelError(self._failure("cold", message), broken=True)

    def _of_function(self, text: str) -> Failure:
        """The function raised: FIRST's own does so for every answer that is not 200."""
        if found := _FROM_FIRST.search(text):
            return failure_of(int(found[1]), found[2].encode(), self.name)
        last = _last_line(text)
        if _FIRST_NETWORK in text:
            return self._failure("overloaded", f"{self.where}: {last}")
        return self._failure("permanent", f"The function on {self.where} raised: {last}")

    def _failure(self, kind: FailureKind, message: str, status: int | None = None) -> Failure:
        message = f"{message[0].upper()}{message[1:]}"
        return Failure(kind, message, status, kind not in ("permanent", "auth"), self.name)


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2][-_EXCERPT:]


def _status(error: BaseException) -> int | None:
    """The HTTP status of globus_sdk's GlobusAPIError."""
    status = getattr(error, "http_status", None)
    return status if isinstance(status, int) else None


def _is_of_task(error: BaseException) -> bool:
    return type(error).__name__ == "TaskExecutionFailed"


def _is_malformed(error: BaseException) -> bool:
    """Whether the SDK could not read a result (sdk/executor.py, `_match_results_to_futures`)."""
    cause = error.__cause__
    return cause is not None and type(cause).__name__ in ("DeserializationError", "JSONDecodeError")


def _said(error: BaseException) -> str:
    status, text = _status(error), getattr(error, "message", None)
    if status is not None and text:
        return f"{status} {text}"
    return str(error) or type(error).__name__
