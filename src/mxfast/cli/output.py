"""What the commands share: running a coroutine, showing progress, printing results."""

import asyncio
import json
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from mxfast import MxGatewayError

T = TypeVar("T")

STOPPED = 130  # the exit code of a program that SIGINT ended
"""Exit code after Ctrl-C."""


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine; errors that a user can act on become one line.

    Ctrl-C cancels the coroutine, which closes what it opened and says how far it came.
    """
    try:
        return asyncio.run(work)
    except (MxGatewayError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        raise click.exceptions.Exit(STOPPED) from None


def progress_bar() -> Progress:
    """Return a progress bar on stderr, so that stdout holds results only."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def print_result(title: str, rows: Mapping[str, tuple[str, Any]], *, as_json: bool) -> None:
    """Print named figures as a table, or as one JSON object.

    Parameters
    ----------
    title : str
        Heading of the table.
    rows : mapping of str to (str, object)
        JSON key to the table's label and the figure.
    as_json : bool
        Print JSON instead of the table.
    """
    if as_json:
        click.echo(json.dumps({key: value for key, (_, value) in rows.items()}))
        return
    table = Table(title=title, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right")
    for label, value in rows.values():
        table.add_row(label, shown(value))
    Console().print(table)


def shown(value: Any) -> str:
    """Return a figure as the table shows it: thousands grouped, three digits after the point."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:.3f}"
    return str(value)
