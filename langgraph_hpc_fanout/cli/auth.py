"""`hpc-fanout auth`: who you are to FIRST, and what to do if you are nobody."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="Tokens for FIRST.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Tokens for FIRST."""


@app.command()
def status(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of lines.")
    ] = False,
) -> None:
    """Say who you are, where the token comes from and until when; exit with 1 if it is no good.

    Never begins a login: where one is needed, the command for it is printed. The gateway is the
    one of FIRST_API_BASE, by default ALCF's.
    """
    # Imported here, because `--help` is not to wait for an HTTP client.
    from langgraph_hpc_fanout.cli import standing  # noqa: PLC0415
    from langgraph_hpc_fanout.endpoints.first.gateway import root_of  # noqa: PLC0415
    from langgraph_hpc_fanout.tokens import find_token_source  # noqa: PLC0415

    try:
        url = root_of(None)
    except ValueError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from None
    found = standing.find(find_token_source(), url)
    typer.echo(standing.as_json(found) if as_json else standing.as_lines(found))
    raise typer.Exit(0 if found.ok else 1)
