"""The ``mxfast`` command group."""

import click

from mxfast import __version__
from mxfast.cli.demo import demo
from mxfast.cli.replay import replay
from mxfast.cli.simulate import simulate


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="mxfast")
def cli() -> None:
    """Fast client for the MXAccess Gateway.

    \b
    Try it without a plant:
      mxfast demo
    """


for command in (demo, replay, simulate):
    cli.add_command(command)
