"""Which tokens FIRST is shown when nobody says."""

from __future__ import annotations

import importlib.util
import os

from langgraph_hpc_fanout.tokens.alcf import AlcfTokens
from langgraph_hpc_fanout.tokens.client_credentials import (
    CLIENT_ID,
    CLIENT_SECRET,
    ClientCredentials,
)
from langgraph_hpc_fanout.tokens.environment import FIRST_API_KEY, EnvironmentToken
from langgraph_hpc_fanout.tokens.globus_store import GlobusTokens
from langgraph_hpc_fanout.tokens.source import TokenSource


def find_token_source() -> TokenSource:
    """The first of these that is there, without asking it for a token.

    1. `FIRST_API_KEY` in the environment.
    2. A service account in the environment (`ClientCredentials`).
    3. The login of `alcf-tokens`, where it is installed.
    4. The login of `inference_auth_token.py`.

    What is in the environment was put there for this program, so it goes before what a person
    has logged in to.
    """
    if os.environ.get(FIRST_API_KEY, "").strip():
        return EnvironmentToken(FIRST_API_KEY)
    if os.environ.get(CLIENT_ID) or os.environ.get(CLIENT_SECRET):
        return ClientCredentials()
    if importlib.util.find_spec("alcf_tokens") is not None:
        return AlcfTokens()
    return GlobusTokens()
