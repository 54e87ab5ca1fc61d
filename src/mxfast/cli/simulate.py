"""``mxfast simulate``: the simulated gateway in the foreground."""

import asyncio
import signal
from dataclasses import replace

import click

from mxfast.cli.output import run
from mxfast.simulator import SimulatedGateway


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=5120,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 lets the system choose.",
)
@click.option(
    "--update-interval",
    default=0.1,
    show_default=True,
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="How often changed values are published; 0 publishes each write.",
)
@click.option("--no-auth", is_flag=True, help="Take calls without an API key.")
def simulate(host: str, port: int, update_interval: float, no_auth: bool) -> None:
    """Run a simulated gateway until Ctrl-C.

    Any tag name of the form A.B is accepted.

    \b
    Example:
      mxfast simulate --port 5120
    """
    gateway = SimulatedGateway(host=host, port=port, update_interval=update_interval)
    if no_auth:
        gateway = replace(gateway, api_keys=None)
    run(serve(gateway))


async def serve(gateway: SimulatedGateway) -> None:
    """Serve until SIGINT or SIGTERM, after saying where and with which key."""
    stop = asyncio.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    async with gateway:
        click.echo(f"endpoint: {gateway.endpoint}")
        click.echo(f"api key:  {gateway.api_key or 'none needed'}")
        await stop.wait()
    click.echo("stopped")
