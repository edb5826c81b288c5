"""Who we are to Globus Compute: a client that never asks a person. Needs the SDK."""

from __future__ import annotations

from globus_compute_sdk import Client
from globus_compute_sdk.sdk.auth.globus_app import get_globus_app
from globus_sdk import ComputeClientV2, GlobusAPIError, NetworkError, UserApp
from globus_sdk.authorizers import GlobusAuthorizer

from langgraph_hpc_fanout.endpoints.credentials import CredentialError

_LOGIN = (
    "nobody is logged in to Globus Compute here. Log in once, in a terminal: "
    "python -c 'from globus_compute_sdk import Client; Client().app.login()'. Or set "
    "GLOBUS_COMPUTE_CLIENT_ID and GLOBUS_COMPUTE_CLIENT_SECRET, or give the endpoint a client= "
    "or an authorizer="
)
_PASSING = (429, *range(500, 600))
"""Statuses that say nothing of who we are."""


def client_from(authorizer: GlobusAuthorizer | None) -> Client:
    """A client of the service, by authorizer, client credentials or the stored login.

    It has an authorizer, never the app behind one: with the app it would begin an interactive
    login when the service asks for more (globus_compute_sdk/sdk/utils/gare.py), which nobody
    could answer from inside a graph. Blocks, for tokens are in a database and may be fetched.

    Raises:
        CredentialError: If there is no login; the message names the command.
        NetworkError: If tokens have to be fetched and cannot be.
    """
    return Client(authorizer=authorizer or _stored_authorizer(), do_version_check=False)


def _stored_authorizer() -> GlobusAuthorizer:
    service = ComputeClientV2.scopes
    try:
        app = get_globus_app()
        app.add_scope_requirements({service.resource_server: [service.all]})
        if isinstance(app, UserApp) and app.login_required():
            raise CredentialError(_LOGIN)
        return app.get_authorizer(service.resource_server)
    except NetworkError:
        raise
    except (GlobusAPIError, ValueError) as error:
        if isinstance(error, GlobusAPIError) and error.http_status in _PASSING:
            raise
        # ValueError: one of the two variables is set and the other is not.
        raise CredentialError(f"Globus Auth gives no token: {error}") from None
