"""gRPC reflection of the simulated gateway."""

from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2

from mxfast.contract import galaxy_repository, mxaccess_gateway
from mxfast.simulator import SimulatedGateway

SERVICES = [
    mxaccess_gateway.DESCRIPTOR.services_by_name["MxAccessGateway"],
    galaxy_repository.DESCRIPTOR.services_by_name["GalaxyRepository"],
]


async def test_reflection_tells_the_services_and_their_files() -> None:
    def asked() -> Iterator[bytes]:
        request = reflection_pb2.ServerReflectionRequest
        yield request(list_services="").SerializeToString()
        for name in (*(each.full_name for each in SERVICES), "no.such.Service"):
            yield request(file_containing_symbol=name).SerializeToString()

    async with (
        SimulatedGateway() as gateway,
        grpc.aio.insecure_channel(gateway.endpoint) as channel,
    ):
        ask: Any = channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        )
        listed, *files, missing = [
            reflection_pb2.ServerReflectionResponse.FromString(reply)
            async for reply in ask(asked())
        ]
    names = {each.name for each in listed.list_services_response.service}
    assert names == {
        *(each.full_name for each in SERVICES),
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    for each, reply in zip(SERVICES, files, strict=True):
        file = descriptor_pb2.FileDescriptorProto.FromString(
            reply.file_descriptor_response.file_descriptor_proto[0]
        )
        assert each.name in {service.name for service in file.service}
    assert missing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
