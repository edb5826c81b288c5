"""The program: its groups of commands, and what goes for all of them."""

from __future__ import annotations

from typing import Annotated

import typer

from langgraph_hpc_fanout import __version__
from langgraph_hpc_fanout.cli import auth, endpoints

app = typer.Typer(
    name="hpc-fanout",
    help="LLM fan-out on supercomputers.",
    no_args_is_help=True,
    # A traceback with local variables would show tokens.
    pretty_exceptions_show_locals=False,
)
app.add_typer(auth.app, name="auth")
app.add_typer(endpoints.app, name="endpoints")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hpc-fanout {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """LLM fan-out on supercomputers."""


def main() -> None:
    """Run the program with the arguments of the process."""
    app(prog_name="hpc-fanout")
