"""Where bearer tokens come from: sources that never ask a person, and say who could."""

from langgraph_hpc_fanout.tokens.alcf import AlcfTokens
from langgraph_hpc_fanout.tokens.client_credentials import ClientCredentials
from langgraph_hpc_fanout.tokens.environment import EnvironmentToken
from langgraph_hpc_fanout.tokens.finding import find_token_source
from langgraph_hpc_fanout.tokens.globus_store import GlobusTokens
from langgraph_hpc_fanout.tokens.source import (
    CredentialError,
    Token,
    TokenServiceError,
    TokenSource,
)

__all__ = [
    "AlcfTokens",
    "ClientCredentials",
    "CredentialError",
    "EnvironmentToken",
    "GlobusTokens",
    "Token",
    "TokenServiceError",
    "TokenSource",
    "find_token_source",
]
