"""What a simulated gateway can be told, in process and in a child process."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal, Self

from mxfast.checks import in_range, path_text, shown, text
from mxfast.simulator.access import DEFAULT_API_KEY, SCOPES, Access
from mxfast.simulator.certificates import GeneratedIdentity, generate_identity
from mxfast.simulator.clock import Clock
from mxfast.simulator.faults import fault_from_text
from mxfast.simulator.signals import Signal, signal_from_fields
from mxfast.simulator.users import SECURITY_LEVELS, Security

OverflowPolicy = Literal["FailFast", "DisconnectSubscriber"]
"""What a full event queue does: fault the session, or end the stream only."""

OVERFLOW_POLICIES: tuple[OverflowPolicy, ...] = ("FailFast", "DisconnectSubscriber")

ERAS = (1, 2, 3)

MOST_SUBSCRIBERS = 8

_LONGEST = float("inf")

_LARGEST = 2**31 - 1


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)  # a repr would show the keys
class GatewayOptions:
    """The options of a simulated gateway.

    Parameters
    ----------
    host : str, default "127.0.0.1"
        Address to listen on.
    port : int, default 0
        Port to listen on; 0 lets the system choose one.
    api_keys : mapping of str to iterable of str, or None
        The keys that are accepted, each with its scopes (see :data:`SCOPES`). By default
        :data:`DEFAULT_API_KEY` with all scopes. None switches authentication off.
    update_interval : float, default 0.1
        Seconds between data changes of an advised item: of the writes in between, the
        newest value is told. 0 makes every write a data change of its own.
    tags : iterable of str, or None
        The tags there are. None, the default, accepts any name of the form ``A.B``.
    max_sessions : int, default 64
        Sessions that may be open at once.
    tls : tuple of bytes, "generate" or None
        Private key and certificate chain, both PEM. ``"generate"`` makes them, for this
        machine's names (it needs trustme, of the ``simulator`` extra); see :attr:`ca_pem`.
        None, the default, serves plaintext.
    max_message_bytes : int, default 16 MiB
        Largest message taken or sent.
    event_queue_capacity : int, default 10,000
        Events that the queue of an event stream holds.
    secured_tags : mapping of str to {"secured", "verified"}, optional
        Tags that refuse a plain write: a ``"secured"`` one takes a secured write, a
        ``"verified"`` one only where a second user verifies it.
    users : mapping of str to str, optional
        Passwords of the galaxy's users by name. Their ids count from 1, and a user's GUID
        is ``uuid.uuid5(uuid.NAMESPACE_OID, name)``. None, the default, is a galaxy without
        security, which takes any name, password and id.
    galaxy_file : str or path, optional
        A file with the galaxy, JSON or CSV. Its attributes are the tags there are, besides
        those in ``tags``. None, the default, generates one, whose attributes are tags
        besides the others.
    galaxy_objects : int, default 100
        Objects of the generated galaxy, areas included.
    galaxy_seed : int, default 0
        Seed of the galaxy: the same seed and size give the same one.
    era : {3, 2, 1}
        Which gateway: 1 is the one up to 2026-06-14, 2 that of the two days after it, 3 the
        one since then.
    max_event_subscribers : int, default 1
        Event streams that a session may have, 8 at most; in era 1 it is one.
    overflow_policy : {"FailFast", "DisconnectSubscriber"}
        What a full event queue does: fault the session, unless it may have several
        streams, or end the stream only.
    lease : float, default 1800
        Seconds without a unary call or an event stream after which a session is closed.
    detach_grace : float, default 30
        Seconds after its last event stream ended; 0 for ever. Era 1 has none.
    max_pending_commands : int, default 128
        Commands of a session that may be pending.
    command_timeout : float, default 30
        Seconds a command may take, where the session was opened without a timeout.
    strict_writes : bool, default False
        Whether an item takes a write only after its first data change, as on a plant.
    initial_faults : iterable of str, optional
        Faults to begin with, as :func:`mxfast.simulator.faults.fault_from_text` takes them.
    fault_file : str or path, optional
        A file that says which faults there are while the gateway runs; see
        :class:`mxfast.simulator.fault_control.FaultFile`.
    signals : mapping of str to Signal, optional
        What the values of tags do by themselves (see :mod:`mxfast.simulator.signals`). A
        key with ``*`` or ``?`` is a pattern for all tags that hold numbers, also those
        made later; a tag's own key goes before a pattern, and a pattern before the next.
    clock : Clock, optional
        The time by which everything happens; a :class:`VirtualClock` goes on only when a
        test says so. A gateway in a child process takes none.

    Raises
    ------
    ValueError
        For a number out of range, an unknown scope, fault, era or policy, another kind of
        security, or a tls that is none.
    TypeError
        For an option of another type: one text where several are taken, a number with a
        fraction, a signal that is none.
    """

    host: str = "127.0.0.1"
    port: int = 0
    api_keys: Mapping[str, Iterable[str]] | None = field(
        default_factory=lambda: {DEFAULT_API_KEY: SCOPES}
    )
    update_interval: float = 0.1
    tags: Iterable[str] | None = None
    max_sessions: int = 64
    tls: tuple[bytes, bytes] | Literal["generate"] | None = None
    max_message_bytes: int = 16 * 1024 * 1024
    event_queue_capacity: int = 10_000
    secured_tags: Mapping[str, Security] | None = None
    users: Mapping[str, str] | None = None
    galaxy_file: str | os.PathLike[str] | None = None
    galaxy_objects: int = 100
    galaxy_seed: int = 0
    era: int = 3
    max_event_subscribers: int = 1
    overflow_policy: OverflowPolicy = "FailFast"
    lease: float = 1800.0
    detach_grace: float = 30.0
    max_pending_commands: int = 128
    command_timeout: float = 30.0
    strict_writes: bool = False
    initial_faults: Iterable[str] = ()
    fault_file: str | os.PathLike[str] | None = None
    signals: Mapping[str, Signal] = field(default_factory=dict)
    clock: Clock | None = None

    def __post_init__(self) -> None:
        text(self.host, "host")
        # Kept as what goes through JSON; and an iterator can be gone through only once.
        self._keep("tags", None if self.tags is None else _texts(self.tags, "tags"))
        if self.api_keys is not None:
            keys = _mapping(self.api_keys, "api_keys", "a key", "its scopes")
            kept = {key: _texts(scopes, "the scopes of a key") for key, scopes in keys.items()}
            self._keep("api_keys", kept)
        Access(self.api_keys)
        self._check_numbers()
        if self.era not in ERAS:
            raise ValueError(f"era is {shown(self.era)}, none of 1, 2 and 3")
        if self.overflow_policy not in OVERFLOW_POLICIES:
            raise ValueError(
                f"overflow_policy is {shown(self.overflow_policy)}, neither of "
                f"{' and '.join(OVERFLOW_POLICIES)}"
            )
        for name in ("galaxy_file", "fault_file"):
            if (path := getattr(self, name)) is not None:
                self._keep(name, path_text(path, name))
        self._keep("initial_faults", _texts(self.initial_faults, "initial_faults"))
        for each in self.initial_faults:
            fault_from_text(each)
        _check_tls(self.tls)
        _check_signals(self.signals)
        _check_users(self.users)
        _check_secured(self.secured_tags)

    def _keep(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # the options are frozen

    def _check_numbers(self) -> None:
        for name in ("update_interval", "lease", "detach_grace", "command_timeout"):
            seconds = getattr(self, name)
            if not hasattr(seconds, "__float__") or not 0 <= float(seconds) < _LONGEST:
                raise ValueError(f"{name} is {shown(seconds)}, not a number of seconds")
            self._keep(name, float(seconds))
        for name, least, most in (
            ("port", 0, 65535),
            ("max_sessions", 1, _LARGEST),
            ("max_message_bytes", 1, _LARGEST),
            ("event_queue_capacity", 1, _LARGEST),
            ("max_event_subscribers", 1, MOST_SUBSCRIBERS),
            ("max_pending_commands", 1, _LARGEST),
            ("galaxy_objects", 1, _LARGEST),
            ("galaxy_seed", -(2**63), 2**63 - 1),
        ):
            self._keep(name, in_range(getattr(self, name), name, least, most))

    @cached_property
    def _generated(self) -> GeneratedIdentity:
        return generate_identity(self.host)

    @property
    def identity(self) -> tuple[bytes, bytes] | None:
        """Private key and certificate chain, both PEM, given or generated; None for plaintext."""
        return self._generated.identity if isinstance(self.tls, str) else self.tls

    @property
    def ca_pem(self) -> bytes | None:
        """The certificate of the authority that signed the generated one, PEM; else None.

        Written to a file it is a client's ``ca_file``.
        """
        return self._generated.ca_pem if isinstance(self.tls, str) else None

    @property
    def api_key(self) -> str | None:
        """The first key that is accepted; None without authentication."""
        return None if self.api_keys is None else next(iter(self.api_keys), None)

    def to_json(self) -> str:
        """Return the options as one line, for :meth:`from_json`.

        Raises
        ------
        ValueError
            There is a clock, which no other process can share.
        """
        if self.clock is not None:
            raise ValueError("a gateway in a child process cannot share a clock; give it none")
        told: dict[str, Any] = {
            each.name: getattr(self, each.name) for each in fields(GatewayOptions)
        }
        if self.identity is not None:
            told["tls"] = [part.decode("ascii") for part in self.identity]
        told["signals"] = {tag: signal.to_fields() for tag, signal in self.signals.items()}
        return json.dumps(told)

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Return what was made with the options that :meth:`to_json` wrote."""
        told: dict[str, Any] = json.loads(line)
        if told["tls"] is not None:
            private_key, chain = told["tls"]
            told["tls"] = (private_key.encode("ascii"), chain.encode("ascii"))
        told["signals"] = {tag: signal_from_fields(given) for tag, given in told["signals"].items()}
        return cls(**told)


def _texts(given: object, name: str) -> tuple[str, ...]:
    """Return several texts; one alone would be taken for its letters.

    Errors do not show what was given: a fault may hold a key.
    """
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"{name} must be a list of str, got one {type(given).__name__}")
    texts = tuple(given)
    for index, each in enumerate(texts):
        if not isinstance(each, str):
            raise TypeError(f"{name}[{index}] must be a str, got one {type(each).__name__}")
    return texts


def _mapping(given: object, name: str, key: str, value: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping) or not all(isinstance(each, str) for each in given):
        # Without what it is: it may hold keys or passwords.
        raise TypeError(f"{name} must be a dict of {key}, a str, to {value}")
    return given


def _check_tls(tls: Any) -> None:
    # Errors do not show what was given: it may be a private key.
    if isinstance(tls, str):
        if tls != "generate":
            raise ValueError("tls is a text, neither a pair of bytes nor 'generate'")
    elif tls is not None and (
        not isinstance(tls, (tuple, list)) or list(map(type, tls)) != [bytes, bytes]
    ):
        raise TypeError("tls must be private key and certificate chain, each the bytes of a PEM")


def _check_signals(signals: object) -> None:
    for tag, signal in _mapping(signals, "signals", "a tag", "a signal").items():
        if not isinstance(signal, Signal):
            raise TypeError(f"signals: {shown(signal)} for {shown(tag)} is no signal")


def _check_users(users: object) -> None:
    if users is not None:
        for name, password in _mapping(users, "users", "a name", "a password").items():
            if not isinstance(password, str):
                raise TypeError(f"users: the password of {shown(name)} must be a str")


def _check_secured(tags: object) -> None:
    if tags is not None:
        levels = " or ".join(map(repr, SECURITY_LEVELS))
        for tag, level in _mapping(tags, "secured_tags", "a tag", levels).items():
            if level not in tuple(SECURITY_LEVELS):
                raise ValueError(f"secured_tags: {shown(level)} for {shown(tag)} is not {levels}")
