"""Users, and which writes to a secured attribute are refused."""

import uuid
from collections.abc import Mapping, Set
from typing import Literal

from mxfast.simulator import status

Security = Literal["secured", "verified"]
"""What a tag asks for: a secured write, or one that a second user verifies."""

SECURITY_LEVELS: dict[str, int] = {"secured": 1, "verified": 2}

_ANYBODY = 1


class Users:
    """The users of the galaxy.

    Ids count from 1 in the order given. A user's GUID in ArchestrA is
    ``uuid.uuid5(uuid.NAMESPACE_OID, name)``.

    Parameters
    ----------
    passwords : mapping of str to str, or None
        Password of each user; None is a galaxy without security, where every name and
        password is accepted (contract notes, Writes).
    """

    def __init__(self, passwords: Mapping[str, str] | None) -> None:
        # Tag to the user whom the last write to it recorded.
        self.recorded: dict[str, int] = {}
        self._passwords = None if passwords is None else dict(passwords)
        names = self._passwords or ()
        self._ids = {name: number for number, name in enumerate(names, _ANYBODY)}
        self._by_guid = {
            uuid.uuid5(uuid.NAMESPACE_OID, name): id_ for name, id_ in self._ids.items()
        }

    @property
    def free_access(self) -> bool:
        """Whether the galaxy is without security."""
        return self._passwords is None

    def authenticate(self, name: str, password: str) -> int:
        """Return a user's id, or 0 where name or password is wrong."""
        if self._passwords is None:
            return _ANYBODY
        return self._ids[name] if self._passwords.get(name) == password else 0

    def id_of(self, guid: str) -> int:
        """Return the id of the user with a GUID, or 0 where there is none (inferred)."""
        if self._passwords is None:
            return _ANYBODY
        try:
            return self._by_guid.get(uuid.UUID(guid), 0)
        except ValueError:
            return 0

    def refusal(
        self, security: int, *, by: tuple[int, int] | None, authenticated: Set[int]
    ) -> status.MxAccessFailure | None:
        """Return why a write is refused, or None where it is not.

        Parameters
        ----------
        security : int
            Of the tag: 0 or one of :data:`SECURITY_LEVELS`.
        by : (int, int), or None
            Current user and verifier of a secured write; None for a plain one.
        authenticated : set of int
            The users that the session has authenticated.
        """
        if by is None:
            return status.needs_security(security) if security else None
        # That the id of a user whom the session did not authenticate is refused so is
        # inferred; where the galaxy is without security, any id will do.
        if not self.free_access and not authenticated >= set(by):
            return status.unknown_user(by)
        if security == SECURITY_LEVELS["verified"] and by[0] == by[1]:
            return status.needs_security(security)
        return None
