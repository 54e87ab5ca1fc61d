"""The API key: how it travels, where it may travel, and how it is kept out of sight."""

import re
from importlib import import_module

# A key anywhere in a text: what a server echoes need not be the key this client holds.
_KEY_IN_TEXT = re.compile(r"mxgw_([A-Za-z0-9.\-]+)_[^\s\"'`,;<>()\[\]{}]+")
_TOKEN_IN_TEXT = re.compile(
    r"(bearer\s+)(?!mxgw_[A-Za-z0-9.\-]+_\*\*\*)[^\s\"'`,;]+", re.IGNORECASE
)
_KEY = re.compile(r"mxgw_([A-Za-z0-9.\-]+)_(.+)", re.DOTALL)

# A shorter secret is no secret, and replacing it would garble every message.
_SHORTEST_SECRET = 4


def mask_key(api_key: str) -> str:
    """Return what may be shown of a key.

    Parameters
    ----------
    api_key : str
        A key, well formed or not.

    Returns
    -------
    str
        ``mxgw_<id>_***``, or ``***`` where the key has another form.
    """
    match = _KEY.fullmatch(api_key)
    return f"mxgw_{match[1]}_***" if match else "***"


class Redactor:
    """Takes a key out of any text: call it with the text.

    Keys of the gateway's form (``mxgw_<id>_<secret>``) and bearer tokens are masked
    whoever they belong to; the key given here is masked whatever its form.

    Parameters
    ----------
    api_key : str or None
        The key that must not be seen, or None where there is none.
    """

    __slots__ = ("_replacements",)

    def __init__(self, api_key: str | None) -> None:
        self._replacements: list[tuple[str, str]] = []
        if api_key:
            self._replacements.append((api_key, mask_key(api_key)))
            match = _KEY.fullmatch(api_key)
            if match and len(match[2]) >= _SHORTEST_SECRET:
                self._replacements.append((match[2], "***"))

    def __call__(self, text: str) -> str:
        """Return the text with every key in it masked."""
        for secret, shown in self._replacements:
            text = text.replace(secret, shown)
        text = _KEY_IN_TEXT.sub(r"mxgw_\1_***", text)
        return _TOKEN_IN_TEXT.sub(r"\1***", text)


def authorization(api_key: str | None) -> tuple[tuple[str, str], ...]:
    """Return the metadata that carries the key on every call.

    Parameters
    ----------
    api_key : str or None
        The key, or None for a gateway whose authentication is disabled.

    Returns
    -------
    tuple of (str, str)
        Name and value, or nothing.
    """
    return (("authorization", f"Bearer {api_key}"),) if api_key else ()


def is_loopback(host: str) -> bool:
    """Tell whether a host name means this machine and nothing else.

    Parameters
    ----------
    host : str
        A name or an address, without port and brackets.

    Returns
    -------
    bool
        True for ``localhost``, 127.0.0.0/8 and ``::1``. No name is looked up.
    """
    if host.lower() == "localhost":
        return True
    # Asked for rarely, and its import would be a percent of this package's.
    ipaddress = import_module("ipaddress")
    try:
        return bool(ipaddress.ip_address(host).is_loopback)
    except ValueError:
        return False
