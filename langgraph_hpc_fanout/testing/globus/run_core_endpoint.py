"""Configures and starts a core endpoint against the stack's service; run as a script.

The address of the web service is fixed in the SDK (globus_compute_sdk/sdk/_environments.py),
so it is replaced here, in this process alone: user endpoints never call the service.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from unittest.mock import patch


def main(service_url: str, name: str, endpoint_id: str) -> None:
    """Configure the endpoint under an id that the service knows, then run it until it ends."""
    program = shutil.which("globus-compute-endpoint") or ""
    sys.argv = [program]  # cli.py takes it apart while it is imported, and wants a path there
    from globus_compute_endpoint.cli import cli_run  # noqa: PLC0415
    from globus_compute_sdk.sdk import client  # noqa: PLC0415

    patch.object(client, "get_web_service_url", lambda _name=None: service_url).start()
    files = {"core-config": "core.yaml", "schema-config": "schema.json"}
    files["template-config"] = "template.yaml.j2"
    given = [f"--{option}={Path(file).resolve()}" for option, file in files.items()]
    sys.argv = [program, "configure", *given, name]
    try:
        cli_run()
    except SystemExit as end:
        if end.code:
            raise
    home = Path(os.environ["GLOBUS_COMPUTE_USER_DIR"], name)
    (home / "endpoint.json").write_text(json.dumps({"endpoint_id": endpoint_id}))
    sys.argv = [program, "start", name]
    cli_run()


if __name__ == "__main__":
    main(*sys.argv[1:])
