"""API keys and the scope that each call needs (contract notes, Transport and access)."""

from collections.abc import Iterable, Mapping
from typing import Any

from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import status

DEFAULT_API_KEY = "mxgw_demo_simulated-gateway"
"""The key a simulated gateway accepts unless told otherwise. It protects nothing."""

ADMIN = "admin"
EVENTS_READ = "events:read"
INVOKE_READ = "invoke:read"
INVOKE_SECURE = "invoke:secure"
INVOKE_WRITE = "invoke:write"
METADATA_READ = "metadata:read"
SESSION_CLOSE = "session:close"
SESSION_OPEN = "session:open"

SCOPES = frozenset(
    {
        ADMIN,
        EVENTS_READ,
        INVOKE_READ,
        INVOKE_SECURE,
        INVOKE_WRITE,
        METADATA_READ,
        SESSION_CLOSE,
        SESSION_OPEN,
    }
)
"""Every scope there is. The names of the two session scopes are inferred."""

RPC_SCOPES = {
    "OpenSession": SESSION_OPEN,
    "CloseSession": SESSION_CLOSE,
    "Invoke": None,  # the command's own
    "StreamEvents": EVENTS_READ,
    "AcknowledgeAlarm": INVOKE_WRITE,
    "StreamAlarms": EVENTS_READ,
    "QueryActiveAlarms": EVENTS_READ,
    "TestConnection": METADATA_READ,
    "GetLastDeployTime": METADATA_READ,
    "DiscoverHierarchy": METADATA_READ,
    "BrowseChildren": METADATA_READ,
    "WatchDeployEvents": METADATA_READ,
}
"""Scope of each RPC (contract notes, Transport and access)."""

# The notes name the scopes of writes, secured writes, reads, AcknowledgeAlarm,
# QueryActiveAlarms and DrainEvents. That the commands which make and advise items count as
# reads, ArchestrAUserToId as secure and the other alarm commands as these, is inferred.
_COMMANDS_BY_SCOPE = {
    INVOKE_READ: (
        "REGISTER UNREGISTER ADD_ITEM ADD_ITEM2 REMOVE_ITEM ADVISE UN_ADVISE ADVISE_SUPERVISORY "
        "ADD_BUFFERED_ITEM SET_BUFFERED_UPDATE_INTERVAL SUSPEND ACTIVATE "
        "ADD_ITEM_BULK ADVISE_ITEM_BULK REMOVE_ITEM_BULK UN_ADVISE_ITEM_BULK SUBSCRIBE_BULK "
        "UNSUBSCRIBE_BULK READ_BULK PING GET_SESSION_STATE GET_WORKER_INFO"
    ),
    INVOKE_WRITE: (
        "WRITE WRITE2 WRITE_BULK WRITE2_BULK ACKNOWLEDGE_ALARM ACKNOWLEDGE_ALARM_BY_NAME"
    ),
    INVOKE_SECURE: (
        "WRITE_SECURED WRITE_SECURED2 WRITE_SECURED_BULK WRITE_SECURED2_BULK AUTHENTICATE_USER "
        "ARCHESTRA_USER_TO_ID"
    ),
    EVENTS_READ: "DRAIN_EVENTS SUBSCRIBE_ALARMS UNSUBSCRIBE_ALARMS QUERY_ACTIVE_ALARMS",
}
_COMMAND_SCOPES = {
    pb.MxCommandKind.Value(f"MX_COMMAND_KIND_{name}"): scope
    for scope, names in _COMMANDS_BY_SCOPE.items()
    for name in names.split()
}


def command_scope(kind: int) -> str:
    """Return the scope a command kind needs; a kind not listed needs ``admin``."""
    return _COMMAND_SCOPES.get(kind, ADMIN)


class Access:
    """The keys a gateway accepts, and what each may do.

    Parameters
    ----------
    api_keys : mapping of str to iterable of str, or None
        Scopes of each key; None switches authentication off.

    Raises
    ------
    ValueError
        For a scope that does not exist.
    """

    def __init__(self, api_keys: Mapping[str, Iterable[str]] | None) -> None:
        self._scopes: dict[str, frozenset[str]] | None = None
        if api_keys is not None:
            self._scopes = {f"Bearer {key}": frozenset(held) for key, held in api_keys.items()}
            unknown = sorted(frozenset().union(*self._scopes.values()) - SCOPES)
            if unknown:
                raise ValueError(f"no such scope: {', '.join(unknown)}")

    def scopes(self, metadata: Iterable[tuple[str, Any]] | None) -> frozenset[str]:
        """Return the scopes of the key in a call's metadata.

        Raises
        ------
        Refusal
            UNAUTHENTICATED where the key is missing or unknown.
        """
        if self._scopes is None:
            return SCOPES
        for name, value in metadata or ():
            if name == "authorization":
                held = self._scopes.get(value)
                if held is not None:
                    return held
                break
        raise status.unauthenticated()


def require(scope: str, held: frozenset[str]) -> None:
    """Refuse a call with PERMISSION_DENIED unless ``scope`` is among those ``held``."""
    if scope not in held:
        raise status.permission_denied(scope)
