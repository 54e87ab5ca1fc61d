"""A certificate for a simulated gateway, and the authority that signs it."""

import re
import socket
from typing import NamedTuple


class GeneratedIdentity(NamedTuple):
    """What a server needs for TLS, and what its clients need to trust it; all PEM."""

    private_key: bytes
    chain: bytes
    ca_pem: bytes

    @property
    def identity(self) -> tuple[bytes, bytes]:
        """Private key and certificate chain."""
        return self.private_key, self.chain


def generate_identity(host: str) -> GeneratedIdentity:
    """Make an authority and a certificate.

    The certificate is for localhost, the machine's name and the loopback addresses, as a
    gateway's own is (contract notes, Transport and access), and for ``host``.

    Raises
    ------
    RuntimeError
        trustme is not installed.
    """
    try:
        import trustme  # noqa: PLC0415 - only who generates certificates needs it
    except ModuleNotFoundError as error:
        raise RuntimeError(
            "tls='generate' needs trustme; install it with: pip install 'mxfast[simulator]'"
        ) from error
    names = {"localhost", "127.0.0.1", "::1"}
    # A machine's name need not be one that a certificate can hold.
    names.update(
        name for name in (socket.gethostname(), host) if re.fullmatch(r"[A-Za-z0-9.:-]+", name)
    )
    authority = trustme.CA()
    issued = authority.issue_cert(*sorted(names))
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    return GeneratedIdentity(issued.private_key_pem.bytes(), chain, authority.cert_pem.bytes())
