"""What the services have in common: keys, scopes, and exceptions that become statuses."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError as ProtobufDecodeError

from mxfast.codec import DecodeError
from mxfast.simulator import status
from mxfast.simulator.access import RPC_SCOPES, Access, require
from mxfast.simulator.clock import Clock
from mxfast.simulator.fault_control import Faults

_log = logging.getLogger("mxfast.simulator")

Context = grpc.aio.ServicerContext[bytes, bytes]
Scopes = frozenset[str]


class Service:
    """A gRPC service: bytes in, bytes out. A subclass has methods named as its RPCs.

    Each takes the request's bytes, the caller's scopes and the context; a unary one
    returns the reply's bytes, a streaming one writes to the context.

    Parameters
    ----------
    descriptor : ServiceDescriptor
        The service.
    access : Access
        The keys.
    faults : Faults
        What goes wrong.
    clock : Clock
        The gateway's time.
    """

    def __init__(
        self, descriptor: ServiceDescriptor, access: Access, faults: Faults, clock: Clock
    ) -> None:
        self._descriptor = descriptor
        self._access = access
        self._faults = faults
        self._clock = clock

    @property
    def name(self) -> str:
        """The service's full name."""
        return self._descriptor.full_name

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return a handler for each RPC."""
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {}
        for method in self._descriptor.methods:
            guarded = self._guarded(method.name)
            handlers[method.name] = (
                grpc.unary_stream_rpc_method_handler(guarded)
                if method.server_streaming
                else grpc.unary_unary_rpc_method_handler(guarded)
            )
        return grpc.method_handlers_generic_handler(self._descriptor.full_name, handlers)

    def _guarded(self, method: str) -> Callable[[bytes, Context], Awaitable[Any]]:
        """Check the key first, and turn every exception into a status."""
        behaviour: Callable[[bytes, Scopes, Context], Awaitable[Any]] = getattr(self, method)
        scope = RPC_SCOPES[method]
        faults = self._faults

        async def call(data: bytes, context: Context) -> Any:
            try:
                metadata = context.invocation_metadata()
                if faults.calls:
                    key = dict(metadata or ()).get("authorization")
                    await faults.before_call(method, key, self._clock)
                scopes = self._access.scopes(metadata)
                if scope is not None:
                    require(scope, scopes)
                reply = await behaviour(data, scopes, context)
                return faults.reply(method, reply) if faults.replies and reply else reply
            except status.Refusal as error:
                refusal = error
            except (DecodeError, ProtobufDecodeError) as error:
                refusal = status.malformed(error)
            except Exception:
                _log.exception("a call failed")
                refusal = status.internal()
            return await context.abort(refusal.code, str(refusal))

        return call
