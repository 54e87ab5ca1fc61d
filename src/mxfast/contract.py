"""The gateway's messages and the paths of its methods, as ``proto/`` gives them.

``mxaccess_gateway`` and ``galaxy_repository`` are the protobuf modules: message
classes such as ``mxaccess_gateway.WriteBulkEntry`` for what takes or gives messages.
"""

from google.protobuf.descriptor import ServiceDescriptor

from mxfast._generated import galaxy_repository_pb2 as galaxy_repository
from mxfast._generated import mxaccess_gateway_pb2 as mxaccess_gateway

__all__ = [
    "GALAXY_METHODS",
    "GATEWAY_METHODS",
    "SERVICES",
    "galaxy_repository",
    "mxaccess_gateway",
]


SERVICES: dict[str, ServiceDescriptor] = {
    service.full_name: service
    for file in (mxaccess_gateway.DESCRIPTOR, galaxy_repository.DESCRIPTOR)
    for service in file.services_by_name.values()
}
"""Descriptor of each service by its full name."""


def _method_paths(service: ServiceDescriptor) -> dict[str, str]:
    return {method.name: f"/{service.full_name}/{method.name}" for method in service.methods}


GATEWAY_METHODS = _method_paths(mxaccess_gateway.DESCRIPTOR.services_by_name["MxAccessGateway"])
"""Path of each RPC of the gateway by its name: ``GATEWAY_METHODS["Invoke"]``."""

GALAXY_METHODS = _method_paths(galaxy_repository.DESCRIPTOR.services_by_name["GalaxyRepository"])
"""Path of each RPC of the galaxy repository by its name."""
