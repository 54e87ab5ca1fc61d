"""What to connect to, as whom, and within which limits."""

import dataclasses
import os

from mxfast.auth import is_loopback, mask_key
from mxfast.checks import in_range, seconds, shown

MAX_BULK_ITEMS = 1000
"""Items one bulk command takes unless the gateway is known to take more."""

_HIGHEST_PORT = 65535
_LONGEST_MESSAGE = 2**31 - 1


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class ClientOptions:
    """Options of a connection to a gateway.

    Parameters
    ----------
    endpoint : str
        ``host:port``, such as ``"localhost:5120"`` or ``"[::1]:5120"``.
    api_key : str, optional
        ``mxgw_<id>_<secret>``; None for a gateway whose authentication is disabled.
    plaintext : bool, default False
        Connect without TLS. Never assumed, not for ``localhost`` either.
    ca_file : path, optional
        PEM file of the certificates to trust, read when the channel is made. A gateway
        often signs its own certificate (contract notes, Transport and access): name it here.
    server_name_override : str, optional
        The name to expect in the gateway's certificate, where it is not the host's.
    call_timeout : float, default 30.0
        Seconds a unary call may take. The gateway does not stop a command when this
        passes: the outcome is then unknown (contract notes, Sessions).
    stream_timeout : float, optional
        Seconds a stream may last; None for no end.
    connect_timeout : float, default 10.0
        Seconds within which ``connect`` succeeds or raises.
    max_message_bytes : int, default 16 MiB
        Largest message sent or received; the gateway's own limit is 16 MiB.
    max_bulk_items : int, default `MAX_BULK_ITEMS`
        Most items of one bulk command.
    allow_insecure : bool, default False
        Permit sending the key in plaintext to a host that is not this machine.

    Raises
    ------
    ValueError
        A value out of range, or a combination that would expose the key.
    TypeError
        A value of the wrong type.
    """

    endpoint: str
    api_key: str | None = None
    plaintext: bool = False
    ca_file: str | os.PathLike[str] | None = None
    server_name_override: str | None = None
    call_timeout: float = 30.0
    stream_timeout: float | None = None
    connect_timeout: float = 10.0
    max_message_bytes: int = 16 * 1024 * 1024
    max_bulk_items: int = MAX_BULK_ITEMS
    allow_insecure: bool = False

    def __post_init__(self) -> None:
        host = _host_of(self.endpoint)
        _check_key(self.api_key)
        for name in ("plaintext", "allow_insecure"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {shown(getattr(self, name))}")
        seconds(self.call_timeout, "call_timeout")
        seconds(self.connect_timeout, "connect_timeout")
        if self.stream_timeout is not None:
            seconds(self.stream_timeout, "stream_timeout")
        in_range(self.max_message_bytes, "max_message_bytes", 1, _LONGEST_MESSAGE)
        in_range(self.max_bulk_items, "max_bulk_items", 1, _LONGEST_MESSAGE)
        if self.plaintext:
            for name in ("ca_file", "server_name_override"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} is for TLS: leave out either it or plaintext=True")
            if self.api_key and not self.allow_insecure and not is_loopback(host):
                raise ValueError(
                    f"the API key would travel to {host} in plaintext: use TLS, "
                    "or say allow_insecure=True"
                )

    @property
    def host(self) -> str:
        """Host of the endpoint, without port and brackets."""
        return _host_of(self.endpoint)

    def __repr__(self) -> str:
        shown = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "api_key" and value:
                value = mask_key(value)
            shown.append(f"{field.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


def _host_of(endpoint: str) -> str:
    if not isinstance(endpoint, str):
        raise TypeError(f"endpoint must be a str 'host:port', got {shown(endpoint)}")
    host, colon, port = endpoint.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""  # a scheme, or an IPv6 address without its brackets
    valid_port = port.isascii() and port.isdecimal() and 0 < int(port) <= _HIGHEST_PORT
    if not (colon and host and valid_port) or any(c.isspace() or c in "/@" for c in host):
        raise ValueError(
            f"endpoint must be 'host:port' without a scheme, got {shown(endpoint)}; "
            "an IPv6 address stands in brackets"
        )
    return host


def _check_key(api_key: str | None) -> None:
    # No message may quote the key.
    if api_key is None:
        return
    if not isinstance(api_key, str):
        raise TypeError(f"api_key must be a str, not {type(api_key).__name__}")
    if not api_key.isascii() or not api_key.isprintable() or " " in api_key:
        raise ValueError(
            "api_key holds a character no key has (white space, a line end or a letter "
            "beyond ASCII); was it read from a file with its line end?"
        )
