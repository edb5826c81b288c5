"""A Globus Compute client that talks to the stack's service, without a log-in."""

from __future__ import annotations

import threading
from unittest.mock import patch

import globus_compute_sdk.sdk.client as sdk
import globus_compute_sdk.sdk.executor as executors
from globus_sdk import AccessTokenAuthorizer

_PATIENCE = 15.0
_patching = threading.Lock()


def client_of(service_url: str, token: str = "anybody") -> sdk.Client:  # noqa: S107 - no secret
    """A client of the service at this address.

    The SDK's addresses are fixed (globus_compute_sdk/sdk/_environments.py,
    `get_web_service_url`) and its only one on loopback is port 5000, so that function is
    replaced while the client is built.
    """
    with _patching, patch.object(sdk, "get_web_service_url", lambda _name=None: service_url):
        return sdk.Client(authorizer=AccessTokenAuthorizer(token))


def let_go_of(service_url: str) -> None:
    """End the SDK's threads that listen to this service, and cancel what they wait for.

    They outlive their Executor, are no daemons, try for most of a minute to reach a broker
    that is gone, and leave their event loop open
    (globus_compute_sdk/sdk/executor.py, `_ResultWatcher.run`).
    """
    ours = [
        watcher
        for watcher in list(executors._RESULT_WATCHERS.values())  # noqa: SLF001 - no public way
        if watcher.client.web_service_address == service_url
    ]
    connections = [watcher._connection for watcher in ours]  # noqa: SLF001
    for watcher in ours:
        watcher.shutdown(wait=False, cancel_futures=True)  # type: ignore[no-untyped-call]
    for watcher, connection in zip(ours, connections, strict=True):
        watcher.join(_PATIENCE)
        if connection is not None and not watcher.is_alive():
            connection.ioloop.close()
