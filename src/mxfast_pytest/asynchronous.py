"""The fixtures that need an event loop; they are there where pytest-asyncio is."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from mxfast_pytest import MxGateway

if TYPE_CHECKING:
    from mxfast import GatewayClient, Session


@pytest_asyncio.fixture
async def mx_client(mx_gateway: MxGateway) -> "AsyncIterator[GatewayClient]":
    """Connect a client to the test's simulated gateway."""
    from mxfast import GatewayClient  # noqa: PLC0415 - not before a test asks for it

    async with await GatewayClient.connect(**mx_gateway.connection) as client:
        yield client


@pytest_asyncio.fixture
async def mx_session(
    mx_client: "GatewayClient", request: pytest.FixtureRequest
) -> "AsyncIterator[Session]":
    """Open a session on the test's simulated gateway, named as the test."""
    async with await mx_client.open_session(request.node.name) as session:
        yield session
