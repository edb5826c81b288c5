"""What is only there with an extra of the package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from langgraph_hpc_fanout.tokens.source import CredentialError


@contextmanager
def needs_extra(extra: str, package: str, what: str) -> Iterator[None]:
    """A block that imports a package of an extra.

    Args:
        extra: Name of the extra.
        package: The package's import name; other missing modules are errors of their own.
        what: What needs it, as the subject of a sentence.

    Raises:
        CredentialError: If it is not there; the message says what to install.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        raise CredentialError(
            f'{what} needs {package}: pip install "langgraph-hpc-fanout[{extra}]".'
        ) from None
