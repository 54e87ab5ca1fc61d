"""``mxfast simulate``: the simulated gateway in the foreground."""

import asyncio
import signal
from dataclasses import replace

import click

from mxfast.cli.output import run
from mxfast.simulator import SimulatedGateway
from mxfast.simulator.faults import FAULTS


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
@click.option(
    "--era",
    default="3",
    show_default=True,
    type=click.Choice(["1", "2", "3"]),
    help="Behave as the gateways of which time did; see docs/simulator.md.",
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="NAME[:FIELD=VALUE,...]",
    help=f"A fault to have from the beginning; may be repeated. One of {', '.join(FAULTS)}.",
)
@click.option(
    "--fault-file",
    metavar="PATH",
    help="A JSON list of faults, taken up again whenever the file changes.",
)
def simulate(
    *,
    host: str,
    port: int,
    update_interval: float,
    no_auth: bool,
    era: str,
    faults: tuple[str, ...],
    fault_file: str | None,
) -> None:
    """Run a simulated gateway until Ctrl-C.

    Any tag name of the form A.B is accepted.

    \b
    Example:
      mxfast simulate --port 5120
      mxfast simulate --fault latency:seconds=0.1,jitter=0.05 --fault crash-worker:after=60
    """
    try:
        gateway = SimulatedGateway(
            host=host,
            port=port,
            update_interval=update_interval,
            era=int(era),
            initial_faults=faults,
            fault_file=fault_file,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
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
