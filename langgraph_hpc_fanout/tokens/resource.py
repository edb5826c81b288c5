"""What FIRST's tokens are for, in the words of Globus Auth."""

from __future__ import annotations

RESOURCE_SERVER = "681c10cc-f684-4540-bcd7-0b4df3bc26ef"
"""FIRST's own client id (argonne-lcf/inference-endpoints eb9636e, inference_auth_token.py)."""

SCOPE = f"https://auth.globus.org/scopes/{RESOURCE_SERVER}/action_all"
