"""A pytest plugin: simulated gateways, and clients of them, as fixtures.

It is a package of its own because pytest imports its plugins before every run of tests:
importing ``mxfast`` would have each of them wait for gRPC and numpy. docs/testing.md
shows how it is used.
"""

from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from mxfast.simulator.host import GatewayHost
    from mxfast.simulator.options import GatewayOptions

__all__ = ["MxGateway"]

MARKER = (
    "mx_gateway(**options): options of the simulated gateway behind mx_gateway, mx_client and "
    "mx_session, as mxfast.simulator.SimulatedGateway takes them"
)

NEEDS = "mx_gateway needs {}; install it with: pip install 'mxfast[simulator]'"


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker and, beside pytest-asyncio, the asynchronous fixtures."""
    config.addinivalue_line("markers", MARKER)
    if config.pluginmanager.hasplugin("asyncio"):
        from mxfast_pytest import asynchronous  # noqa: PLC0415 - it imports pytest-asyncio

        config.pluginmanager.register(asynchronous, "mxfast-asynchronous")


class MxGateway:
    """A simulated gateway that runs in a process of its own until the test ends.

    Attributes
    ----------
    endpoint : str
        Where it listens, as ``host:port``.
    options : GatewayOptions
        What it was told.
    connection : dict
        Arguments for ``mxfast.GatewayClient.connect`` and ``GalaxyRepositoryClient.connect``.
    """

    def __init__(self, endpoint: str, options: "GatewayOptions", ca_file: Path | None) -> None:
        self.endpoint = endpoint
        self.options = options
        self.connection: dict[str, Any] = {"endpoint": endpoint, "api_key": self.api_key}
        if options.tls is None:
            self.connection["plaintext"] = True
        elif ca_file is not None:
            self.connection["ca_file"] = ca_file

    @property
    def api_key(self) -> str | None:
        """The key it accepts; None where it takes every call."""
        return self.options.api_key

    def __repr__(self) -> str:
        return f"<MxGateway {self.endpoint}>"


@pytest.fixture(scope="session")
def _mx_gateway_host() -> "Iterator[GatewayHost]":
    try:
        from mxfast.simulator.host import GatewayHost  # noqa: PLC0415 - the extra may be missing
    except ModuleNotFoundError as error:
        pytest.fail(NEEDS.format(error.name), pytrace=False)
    with GatewayHost() as host:
        yield host


@pytest.fixture
def make_mx_gateway(
    _mx_gateway_host: "GatewayHost", tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., MxGateway]]:
    """Return a function that starts a simulated gateway more, with the options given to it.

    All end with the test.
    """
    endpoints: list[str] = []

    def make(**given: Any) -> MxGateway:
        options = _options(given)
        if _mx_gateway_host.revive():
            endpoints.clear()
        try:
            endpoint = _mx_gateway_host.start(options)
        except RuntimeError as error:
            pytest.fail(str(error), pytrace=False)
        endpoints.append(endpoint)
        ca_file = None
        if options.ca_pem is not None:
            ca_file = tmp_path_factory.mktemp("mx_gateway") / "ca.pem"
            ca_file.write_bytes(options.ca_pem)
        return MxGateway(endpoint, options, ca_file)

    yield make
    for endpoint in endpoints:
        _mx_gateway_host.stop(endpoint)


@pytest.fixture
def mx_gateway(
    request: pytest.FixtureRequest, make_mx_gateway: Callable[..., MxGateway]
) -> MxGateway:
    """Return a simulated gateway of the test's own.

    Its options come from the markers ``mx_gateway``; the nearest to the test counts.
    """
    given: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers("mx_gateway"))):
        if marker.args:
            pytest.fail(f"mx_gateway takes options by name, not {marker.args!r}", pytrace=False)
        given.update(marker.kwargs)
    return make_mx_gateway(**given)


def _options(given: dict[str, Any]) -> "GatewayOptions":
    from mxfast.simulator.options import GatewayOptions  # noqa: PLC0415 - the extra is there

    known = [each.name for each in fields(GatewayOptions) if each.name != "clock"]
    for name in given:
        if name == "clock":
            pytest.fail("mx_gateway runs in another process and takes no clock", pytrace=False)
        if name not in known:
            pytest.fail(
                f"mx_gateway has no option {name!r}; it has {', '.join(known)}", pytrace=False
            )
    try:
        return GatewayOptions(**given)
    except (TypeError, ValueError) as error:
        pytest.fail(f"mx_gateway: {error}", pytrace=False)
