"""mxfast: a client of the MXAccess Gateway that takes numpy arrays and gives columns.

`GatewayClient` and `Session` are the whole surface for most users::

    async with await GatewayClient.connect(endpoint="localhost:5120", api_key=key) as client:
        async with await client.open_session("line-4") as session:
            server = await session.register("line-4")
            items = await session.subscribe(server, ["Tank1.Level", "Tank2.Level"])
            result = await session.write_array(server, items, [3.25, 4.5])
            result.raise_for_failure()
"""

from importlib import import_module
from typing import TYPE_CHECKING

from mxfast.batch import EventBatch
from mxfast.bulk_writer import BulkWriter, BulkWriterCounts
from mxfast.channel import create_channel
from mxfast.client import GatewayClient
from mxfast.codec import DecodeError, EncodeError, ValueKind
from mxfast.errors import (
    MalformedReplyError,
    MxAccessError,
    MxGatewayAuthenticationError,
    MxGatewayAuthorizationError,
    MxGatewayCommandError,
    MxGatewayConnectionError,
    MxGatewayError,
    MxGatewayOverflowError,
    MxGatewaySessionError,
    MxGatewaySessionLostError,
    MxGatewayTimeoutError,
    MxGatewayTransportError,
    MxGatewayWorkerError,
)
from mxfast.events import EventStream
from mxfast.galaxy import GalaxyNode, GalaxyRepositoryClient
from mxfast.handles import HandleChanges
from mxfast.items import Item, Items
from mxfast.options import MAX_BULK_ITEMS, ClientOptions
from mxfast.outcomes import Outcome, WriteError, WriteResult
from mxfast.prepared_write import PreparedWrite
from mxfast.session import Session
from mxfast.tags import ReadError, ReadResult
from mxfast.values import from_mx_value, to_mx_value

__all__ = [
    "MAX_BULK_ITEMS",
    "BulkWriter",
    "BulkWriterCounts",
    "ClientOptions",
    "DecodeError",
    "EncodeError",
    "EventBatch",
    "EventStream",
    "GalaxyNode",
    "GalaxyRepositoryClient",
    "GatewayClient",
    "HandleChanges",
    "Item",
    "Items",
    "MalformedReplyError",
    "MxAccessError",
    "MxGatewayAuthenticationError",
    "MxGatewayAuthorizationError",
    "MxGatewayCommandError",
    "MxGatewayConnectionError",
    "MxGatewayError",
    "MxGatewayOverflowError",
    "MxGatewaySessionError",
    "MxGatewaySessionLostError",
    "MxGatewayTimeoutError",
    "MxGatewayTransportError",
    "MxGatewayWorkerError",
    "Outcome",
    "PreparedWrite",
    "ReadError",
    "ReadResult",
    "Session",
    "ValueKind",
    "WriteError",
    "WriteResult",
    "__version__",
    "create_channel",
    "from_mx_value",
    "to_mx_value",
]

__version__: str


if not TYPE_CHECKING:  # for a type checker the module has no other name than those above

    def __getattr__(name: str) -> str:
        # Asked for rarely, and importlib.metadata would be a quarter of the import's time.
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return import_module("importlib.metadata").version("mxfast")
