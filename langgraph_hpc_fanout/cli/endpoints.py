"""`hpc-fanout endpoints`: what FIRST serves to you, and whether it answers."""

from __future__ import annotations

import asyncio
from typing import Annotated, NoReturn

import typer

app = typer.Typer(help="Models behind FIRST.", no_args_is_help=True)

_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")]


@app.callback()
def _group() -> None:
    """Models behind FIRST."""


@app.command("list")
def list_(as_json: _Json = False) -> None:
    """List the models for chat that you may use: where, whether they run, and their limits.

    Wakes nobody. The gateway is the one of FIRST_API_BASE, by default ALCF's.
    """
    # Imported here, because `--help` is not to wait for an HTTP client.
    from langgraph_hpc_fanout.cli import offers  # noqa: PLC0415

    try:
        found = asyncio.run(offers.find())
    except (offers.GatewayError, ValueError) as error:
        _fail(error)
    typer.echo(offers.as_json(found) if as_json else offers.as_lines(found))


@app.command()
def probe(
    cluster: Annotated[
        str, typer.Argument(help="Such as sophia; federated for any, in version 2.")
    ],
    model: Annotated[str, typer.Argument(help="Its id, or the last part of it.")],
) -> None:
    """Ask one model one short question; exit with 1 if there is no answer.

    A model that is not loaded is woken by it, which takes minutes and is not waited for.
    """
    from langgraph_hpc_fanout.cli import offers  # noqa: PLC0415

    try:
        said = asyncio.run(offers.ask(cluster, model))
    except (offers.GatewayError, ValueError) as error:
        _fail(error)
    typer.echo(said)


def _fail(error: Exception) -> NoReturn:
    typer.echo(f"Error: {error}", err=True)
    raise typer.Exit(1) from None
