"""``mxfast simulate``: the simulated gateway in the foreground."""

import asyncio
import signal
from dataclasses import replace
from pathlib import Path

import click

from mxfast.checks import shown
from mxfast.cli.output import run
from mxfast.simulator import SimulatedGateway
from mxfast.simulator.faults import FAULTS
from mxfast.simulator.signals import SIGNALS, Signal, signal_from_text


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
    "--galaxy",
    metavar="FILE",
    help="A JSON or CSV file with the galaxy, whose attributes are the tags; see docs/testing.md.",
)
@click.option(
    "--galaxy-objects",
    default=100,
    show_default=True,
    type=click.IntRange(min=1),
    help="Objects of the generated galaxy.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the generated galaxy.")
@click.option(
    "--signal",
    "signals",
    multiple=True,
    metavar="TAG=NAME[:FIELD=VALUE,...]",
    help="What a tag's value does by itself; the tag may hold * and ?; may be repeated. One of "
    f"{', '.join(SIGNALS)}.",
)
@click.option(
    "--tls",
    "ca_file",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="CA_FILE",
    help="Serve TLS with a generated certificate, and write that of its authority to this file.",
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
    galaxy: str | None,
    galaxy_objects: int,
    seed: int,
    signals: tuple[str, ...],
    ca_file: Path | None,
    faults: tuple[str, ...],
    fault_file: str | None,
) -> None:
    """Run a simulated gateway until Ctrl-C.

    Any tag name of the form A.B is accepted, unless --galaxy says which there are.

    \b
    Example:
      mxfast simulate --port 5120
      mxfast simulate --signal 'Tank1.*=sine:period=10,amplitude=5'
      mxfast simulate --fault latency:seconds=0.1,jitter=0.05 --fault crash-worker:after=60
    """
    try:
        gateway = SimulatedGateway(
            host=host,
            port=port,
            update_interval=update_interval,
            era=int(era),
            galaxy_file=galaxy,
            galaxy_objects=galaxy_objects,
            galaxy_seed=seed,
            signals=dict(map(_signal, signals)),
            tls=None if ca_file is None else "generate",
            initial_faults=faults,
            fault_file=fault_file,
        )
        if no_auth:
            gateway = replace(gateway, api_keys=None)
    except (OSError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    run(serve(gateway, ca_file))


def _signal(text: str) -> tuple[str, Signal]:
    tag, equals, signal = text.partition("=")
    if not (tag and equals):
        raise ValueError(f"signal {shown(text)} is not of the form TAG=NAME")
    return tag, signal_from_text(signal)


def _announce(gateway: SimulatedGateway, ca_file: Path | None) -> None:
    # Not before it listens: the file may be that of a gateway which has the port.
    if ca_file is not None and gateway.ca_pem is not None:
        ca_file.write_bytes(gateway.ca_pem)
    click.echo(f"endpoint: {gateway.endpoint}")
    click.echo(f"api key:  {gateway.api_key or 'none needed'}")
    if ca_file is not None:
        click.echo(f"ca file:  {ca_file}")


async def serve(gateway: SimulatedGateway, ca_file: Path | None) -> None:
    """Serve until SIGINT or SIGTERM, after saying where, with which key and certificate."""
    stop = asyncio.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    async with gateway:
        _announce(gateway, ca_file)
        await stop.wait()
    click.echo("stopped")
