"""The gateway's routes for batches: submit, status, result, list. There is none to cancel.

Source: FIRST main 329c0cd, views/batch.py and schemas/batch.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

import orjson

from langgraph_hpc_fanout.endpoints.first.catalogue import Served
from langgraph_hpc_fanout.endpoints.first.gateway import Gateway
from langgraph_hpc_fanout.endpoints.http import Answer, HttpClient

_ACTIVE = frozenset({"pending", "running"})


@dataclass(frozen=True, slots=True)
class Listed:
    """A batch of the user's, as the gateway lists it.

    Attributes:
        id: Its id.
        input_file: The file that it reads, on the cluster.
        status: `pending`, `running`, `completed` or `failed`.
    """

    id: str
    input_file: str
    status: str

    @property
    def is_active(self) -> bool:
        """Whether it counts against the batches that a user may have under way."""
        return self.status in _ACTIVE

    @property
    def file_name(self) -> str:
        """The last part of its input file's path."""
        return PurePosixPath(self.input_file).name


class BatchRoutes:
    """Batches of one user at one gateway.

    All methods raise CredentialError, aiohttp.ClientError, TimeoutError or OSError if there is no
    answer.

    Args:
        gateway: The gateway.
        client: Whose connections to use.
    """

    def __init__(self, gateway: Gateway, client: HttpClient) -> None:
        self._root = gateway.root
        self._client = client

    async def submit(self, served: Served, input_file: str, output_folder: str | None) -> Answer:
        """Submit a batch. Paths are the cluster's; other keys than these are refused with 422."""
        body = {"input_file": input_file, "model": served.model}
        if output_folder is not None:
            body["output_folder_path"] = output_folder
        url = self._root / served.cluster / served.framework / "v1" / "batches"
        return await self._client.control("POST", url, orjson.dumps(body))

    async def status(self, batch_id: str) -> Answer:
        """What has become of a batch, as a JSON string."""
        return await self._client.control("GET", self._root / "v1" / "batches" / batch_id)

    async def result(self, batch_id: str) -> Answer:
        """What a batch says of its end, or why it says nothing."""
        url = self._root / "v1" / "batches" / batch_id / "result"
        return await self._client.control("GET", url)

    async def listed(self) -> Answer:
        """The user's batches. Only when it is asked does the gateway notice that one has ended."""
        return await self._client.control("GET", self._root / "v1" / "batches")


def read_submitted(raw: bytes) -> str:
    """The id of a batch that was taken.

    Raises:
        ValueError: If there is none.
    """
    try:
        told = orjson.loads(raw)["batch_id"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        told = None
    if not isinstance(told, str) or not told:
        raise ValueError(f"no batch_id but {raw[:200]!r}")
    return told


def read_status(raw: bytes) -> str:
    """The status in an answer; empty when there is none."""
    try:
        told = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return ""
    if isinstance(told, dict):
        told = told.get("status")
    return told if isinstance(told, str) else ""


def read_list(raw: bytes) -> tuple[Listed, ...]:
    """The batches in a list; what is no batch is passed over.

    Raises:
        ValueError: If it is no list.
    """
    try:
        told = orjson.loads(raw)
    except orjson.JSONDecodeError:
        told = None
    if not isinstance(told, list):
        raise ValueError(f"no list of batches but {raw[:200]!r}")
    found = []
    for each in told:
        if isinstance(each, dict):
            id_ = each.get("batch_id") or each.get("id")
            file, status = each.get("input_file"), each.get("status")
            if isinstance(id_, str) and isinstance(file, str) and isinstance(status, str):
                found.append(Listed(id_, file, status))
    return tuple(found)


def code_of(raw: bytes) -> str:
    """The application's code in a refusal, such as `quota_exceeded`; empty without one."""
    try:
        code = orjson.loads(raw)["error"]["code"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ""
    return code if isinstance(code, str) else ""
