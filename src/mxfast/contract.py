"""The gateway's messages and the paths of its methods, as ``proto/`` gives them.

``mxaccess_gateway`` and ``galaxy_repository`` are the protobuf modules: message
classes such as ``mxaccess_gateway.WriteBulkEntry`` for what takes or gives messages.
"""

from google.protobuf.descriptor import FileDescriptor

from mxfast._generated import galaxy_repository_pb2 as galaxy_repository
from mxfast._generated import mxaccess_gateway_pb2 as mxaccess_gateway

__all__ = [
    "GALAXY_METHODS",
    "GATEWAY_METHODS",
    "galaxy_repository",
    "mxaccess_gateway",
]


def _method_paths(file: FileDescriptor, service: str) -> dict[str, str]:
    descriptor = file.services_by_name[service]
    return {method.name: f"/{descriptor.full_name}/{method.name}" for method in descriptor.methods}


GATEWAY_METHODS = _method_paths(mxaccess_gateway.DESCRIPTOR, "MxAccessGateway")
"""Path of each RPC of the gateway by its name: ``GATEWAY_METHODS["Invoke"]``."""

GALAXY_METHODS = _method_paths(galaxy_repository.DESCRIPTOR, "GalaxyRepository")
"""Path of each RPC of the galaxy repository by its name."""
