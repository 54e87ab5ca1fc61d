"""The gRPC channel to a gateway, and waiting until it is there."""

import asyncio
import json
import time

import grpc

from mxfast.auth import is_loopback
from mxfast.contract import GALAXY_METHODS, GATEWAY_METHODS
from mxfast.errors import MxGatewayConnectionError
from mxfast.options import ClientOptions

# Calls that change nothing, or nothing more when they arrive twice. Not OpenSession: an
# answer lost on the way would leave a worker behind. Not Invoke: it carries the writes.
_RETRIED = (
    GATEWAY_METHODS["CloseSession"],
    GATEWAY_METHODS["QueryActiveAlarms"],
    GALAXY_METHODS["TestConnection"],
    GALAXY_METHODS["GetLastDeployTime"],
    GALAXY_METHODS["DiscoverHierarchy"],
    GALAXY_METHODS["BrowseChildren"],
)

# A TLS handshake that fails will fail again; everything else may be a gateway starting.
_HOPELESS = (
    "handshake failed",
    "verify_failed",
    "verification check failed",
    "security handshaker",
)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05
_PROBE = "/grpc.health.v1.Health/Check"


def create_channel(options: ClientOptions) -> grpc.aio.Channel:
    """Make a channel; nothing is sent until its first use.

    Only calls that are safe to repeat are retried, by gRPC itself, when the gateway is
    unavailable: CloseSession, QueryActiveAlarms and the galaxy's four unary calls. Writes
    never are. Each channel has a connection of its own.

    Parameters
    ----------
    options : ClientOptions
        Where to, and how.

    Returns
    -------
    grpc.aio.Channel
        Bound to the running event loop; close it when done.

    Raises
    ------
    OSError
        ``ca_file`` cannot be read.
    ValueError
        ``ca_file`` holds no certificate.
    """
    arguments = _channel_arguments(options)
    if options.plaintext:
        return grpc.aio.insecure_channel(options.endpoint, options=arguments)
    roots = None
    if options.ca_file is not None:
        with open(options.ca_file, "rb") as file:
            roots = file.read()
        if b"-----BEGIN CERTIFICATE-----" not in roots:
            raise ValueError(f"ca_file {options.ca_file} holds no PEM certificate")
    if options.server_name_override is not None:
        arguments.append(("grpc.ssl_target_name_override", options.server_name_override))
    credentials = grpc.ssl_channel_credentials(root_certificates=roots)
    return grpc.aio.secure_channel(options.endpoint, credentials, options=arguments)


def _channel_arguments(options: ClientOptions) -> list[tuple[str, str | int]]:
    services = [path[1:].split("/") for path in _RETRIED]
    retry = {
        "maxAttempts": 4,
        "initialBackoff": "0.2s",
        "maxBackoff": "2s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    names = [{"service": service, "method": method} for service, method in services]
    service_config = {"methodConfig": [{"name": names, "retryPolicy": retry}]}
    arguments: list[tuple[str, str | int]] = [
        ("grpc.max_send_message_length", options.max_message_bytes),
        ("grpc.max_receive_message_length", options.max_message_bytes),
        (
            "grpc.service_config",
            json.dumps(service_config),
        ),
        # A peer that is gone without a word is noticed while a call or a stream is open.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        # gRPC's own first pause of a second would eat a tenth of the default connect_timeout.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        # Two clients of one process shall not wait for each other's flow control.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if is_loopback(options.host):
        arguments.append(("grpc.enable_http_proxy", 0))
    return arguments


async def wait_ready(channel: grpc.aio.Channel, options: ClientOptions) -> None:
    """Wait until a channel is connected.

    A refused connection is tried again until ``connect_timeout``, since a gateway may be
    starting; a TLS handshake that fails is final and raises at once.

    Parameters
    ----------
    channel : grpc.aio.Channel
        From `create_channel`.
    options : ClientOptions
        For the endpoint's name and ``connect_timeout``.

    Raises
    ------
    MxGatewayConnectionError
        No connection; the message names the endpoint and the cause. It is also a
        `MxGatewayTransportError` and Python's `ConnectionError`.
    """
    deadline = time.monotonic() + options.connect_timeout
    pause = _FIRST_PAUSE
    cause = "it does not answer"
    while True:
        state = channel.get_state(try_to_connect=True)
        if state is grpc.ChannelConnectivity.READY:
            return
        if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            cause = await _cause_of_failure(channel, deadline) or cause
        hopeless = any(sign in cause.lower() for sign in _HOPELESS)
        left = deadline - time.monotonic()
        if hopeless or left <= 0:
            waited = "" if hopeless else f" within {options.connect_timeout:g} s"
            raise MxGatewayConnectionError(
                f"no connection to {options.endpoint}{waited}: {cause}",
                code=grpc.StatusCode.UNAVAILABLE,
                operation="connect",
            )
        await asyncio.sleep(min(pause, left))
        pause = min(2 * pause, _LONGEST_PAUSE)


async def _cause_of_failure(channel: grpc.aio.Channel, deadline: float) -> str | None:
    """Ask a failing channel why: a call on it fails at once and its details tell."""
    try:
        probe: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_PROBE)
        await probe(b"", timeout=max(deadline - time.monotonic(), _LONGEST_PAUSE))
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            return error.details()
    return None
