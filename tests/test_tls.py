import sys
from pathlib import Path

import pytest
import trustme

from mxfast import GatewayClient, MxGatewayConnectionError
from mxfast.simulator import SimulatedGateway, SimulatedGatewayProcess
from tests.conftest import KEY


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def identity(authority: trustme.CA, *names: str) -> tuple[bytes, bytes]:
    certificate = authority.issue_cert(*names)
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    return certificate.private_key_pem.bytes(), chain


def pem_file(authority: trustme.CA, folder: Path) -> Path:
    file = folder / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    return file


async def test_tls(authority: trustme.CA, tmp_path: Path) -> None:
    tls = identity(authority, "localhost", "127.0.0.1")
    async with (
        SimulatedGateway(tls=tls) as gateway,
        await GatewayClient.connect(
            endpoint=gateway.endpoint,
            api_key=gateway.api_key,
            ca_file=pem_file(authority, tmp_path),
        ) as client,
        await client.open_session() as session,
    ):
        assert await session.register("tls") != 0


async def test_certificate_of_another_authority(authority: trustme.CA, tmp_path: Path) -> None:
    # Final, so no need to wait for connect_timeout: the test would time out otherwise.
    async with SimulatedGateway(tls=identity(authority, "127.0.0.1")) as gateway:
        with pytest.raises(MxGatewayConnectionError, match=r"(?i)verify_failed"):
            await GatewayClient.connect(
                endpoint=gateway.endpoint,
                api_key=KEY,
                ca_file=pem_file(trustme.CA(), tmp_path),
                connect_timeout=10_000,
            )


async def test_certificate_of_another_name(authority: trustme.CA, tmp_path: Path) -> None:
    async with SimulatedGateway(tls=identity(authority, "gateway.plant")) as gateway:
        ca_file = pem_file(authority, tmp_path)
        with pytest.raises(MxGatewayConnectionError, match=r"(?i)verification"):
            await GatewayClient.connect(
                endpoint=gateway.endpoint, ca_file=ca_file, connect_timeout=10_000
            )
        async with await GatewayClient.connect(
            endpoint=gateway.endpoint,
            api_key=gateway.api_key,
            ca_file=ca_file,
            server_name_override="gateway.plant",
        ) as client:
            await (await client.open_session()).close()


async def test_tls_to_a_plaintext_gateway(authority: trustme.CA, tmp_path: Path) -> None:
    async with SimulatedGateway() as gateway:
        with pytest.raises(MxGatewayConnectionError, match=r"(?i)handshake"):
            await GatewayClient.connect(
                endpoint=gateway.endpoint,
                api_key=KEY,
                ca_file=pem_file(authority, tmp_path),
                connect_timeout=10_000,
            )


async def test_plaintext_to_a_tls_gateway(authority: trustme.CA) -> None:
    async with SimulatedGateway(tls=identity(authority, "127.0.0.1")) as gateway:
        with pytest.raises(MxGatewayConnectionError):
            await GatewayClient.connect(
                endpoint=gateway.endpoint, api_key=KEY, plaintext=True, connect_timeout=0.5
            )


@pytest.mark.parametrize("kind", [SimulatedGateway, SimulatedGatewayProcess])
async def test_a_generated_certificate(
    kind: type[SimulatedGateway] | type[SimulatedGatewayProcess], tmp_path: Path
) -> None:
    async with kind(tls="generate") as gateway:
        assert gateway.ca_pem is not None
        ca_file = tmp_path / "ca.pem"
        ca_file.write_bytes(gateway.ca_pem)
        port = gateway.endpoint.rpartition(":")[2]
        for host in ("127.0.0.1", "localhost"):
            async with (
                await GatewayClient.connect(
                    endpoint=f"{host}:{port}", api_key=gateway.api_key, ca_file=ca_file
                ) as client,
                await client.open_session() as session,
            ):
                assert await session.register("tls") != 0


async def test_only_a_generated_certificate_has_an_authority(authority: trustme.CA) -> None:
    assert SimulatedGateway().ca_pem is None
    assert SimulatedGateway(tls=identity(authority, "localhost")).ca_pem is None
    with pytest.raises(ValueError, match="tls is a text, neither a pair of bytes nor 'generate'"):
        SimulatedGateway(tls="yes")  # type: ignore[arg-type]
    one, other = SimulatedGateway(tls="generate"), SimulatedGateway(tls="generate")
    assert one.ca_pem == one.ca_pem != other.ca_pem


def test_without_trustme_a_certificate_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)
    with pytest.raises(RuntimeError, match=r"pip install 'mxfast\[simulator\]'"):
        SimulatedGatewayProcess(tls="generate")
