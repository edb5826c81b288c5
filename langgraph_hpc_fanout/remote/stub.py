"""The task function for endpoints where this package is installed; sent as source text.

As text it is small, runs in any Python, and can say what is wrong where the package is missing,
which a function that is sent by reference cannot.
"""

from __future__ import annotations


def stub(bundle: object) -> dict[str, object]:
    """Work on a bundle with the worker's own `langgraph_hpc_fanout`."""
    try:
        from langgraph_hpc_fanout.remote import run
    except ImportError as error:
        import os
        import platform
        import socket

        host, python = socket.gethostname(), platform.python_version()
        version = bundle.get("version", "X") if isinstance(bundle, dict) else "X"
        message = (
            f"langgraph-hpc-fanout cannot be imported by the worker on {host} (Python {python}): "
            f"{error}. Put `pip install langgraph-hpc-fanout=={version}` (Python 3.11 or later) "
            "into the endpoint's worker_init and restart it, or send the code along with "
            "ship='source'."
        )
        return {
            "format": 1,
            "version": None,
            "worker": f"{host}:{os.getpid()}",
            "error": {"kind": "permanent", "message": message},
        }
    return run(bundle)
