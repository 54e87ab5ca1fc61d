"""Options of commands that talk to a gateway, and the connection they describe."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from mxfast import GatewayClient
from mxfast.simulator import SimulatedGatewayProcess

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, repr=False)  # it holds the key
class Connection:
    """Where to connect to; without an endpoint, to a simulated gateway of one's own."""

    endpoint: str | None = None
    api_key: str | None = None
    plaintext: bool = False
    ca_file: str | None = None
    connect_timeout: float = 10.0

    @property
    def name(self) -> str:
        """What to call the gateway in output."""
        return self.endpoint or "simulated gateway"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[GatewayClient]:
        """Connect, starting the simulated gateway first where there is no endpoint."""
        if self.endpoint is not None:
            async with await GatewayClient.connect(
                endpoint=self.endpoint,
                api_key=self.api_key,
                plaintext=self.plaintext,
                ca_file=self.ca_file,
                connect_timeout=self.connect_timeout,
            ) as client:
                yield client
            return
        async with (
            SimulatedGatewayProcess() as gateway,
            await GatewayClient.connect(
                endpoint=gateway.endpoint, api_key=gateway.api_key, plaintext=True
            ) as client,
        ):
            yield client


def connection_options(command: F) -> F:
    """Add the options that `Connection` takes."""
    for option in reversed(
        [
            click.option(
                "--endpoint",
                envvar="MXGATEWAY_ENDPOINT",
                show_envvar=True,
                metavar="HOST:PORT",
                help="The gateway; left out, a simulated one is started.",
            ),
            click.option(
                "--api-key", envvar="MXGATEWAY_API_KEY", show_envvar=True, help="The gateway's key."
            ),
            click.option("--plaintext", is_flag=True, help="Connect without TLS."),
            click.option(
                "--ca-file",
                type=click.Path(dir_okay=False),
                help="Certificates to trust, for a gateway with one of its own.",
            ),
            click.option(
                "--connect-timeout",
                default=10.0,
                show_default=True,
                type=click.FloatRange(min=0, min_open=True),
                metavar="SECONDS",
                help="How long to wait for the gateway.",
            ),
        ]
    ):
        command = option(command)
    return command
