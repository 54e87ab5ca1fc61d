"""What a simulated gateway can be told, in process and in a child process."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal, Self

from mxfast.checks import shown
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
    galaxy_file : str, optional
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
    fault_file : str, optional
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
        For a signal that is none.
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
    galaxy_file: str | None = None
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
    fault_file: str | None = None
    signals: Mapping[str, Signal] = field(default_factory=dict)
    clock: Clock | None = None

    def __post_init__(self) -> None:
        # An iterator can be gone through only once.
        if self.tags is not None:
            object.__setattr__(self, "tags", tuple(self.tags))
        if self.api_keys is not None:
            kept = {key: tuple(scopes) for key, scopes in self.api_keys.items()}
            object.__setattr__(self, "api_keys", kept)
        Access(self.api_keys)
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port is {self.port}, not 0 to 65535")
        for name in ("update_interval", "lease", "detach_grace", "command_timeout"):
            if not 0 <= (seconds := getattr(self, name)) < _LONGEST:
                raise ValueError(f"{name} is {seconds}, not a number of seconds")
        for name in (
            "max_sessions",
            "max_message_bytes",
            "event_queue_capacity",
            "max_event_subscribers",
            "max_pending_commands",
            "galaxy_objects",
        ):
            if (number := getattr(self, name)) < 1:
                raise ValueError(f"{name} is {number}, not 1 or more")
        if self.max_event_subscribers > MOST_SUBSCRIBERS:
            raise ValueError(
                f"max_event_subscribers is {self.max_event_subscribers}, not 1 to "
                f"{MOST_SUBSCRIBERS}"
            )
        if self.era not in ERAS:
            raise ValueError(f"era is {self.era}, none of 1, 2 and 3")
        if self.overflow_policy not in OVERFLOW_POLICIES:
            raise ValueError(
                f"overflow_policy is {self.overflow_policy!r}, neither of "
                f"{' and '.join(OVERFLOW_POLICIES)}"
            )
        object.__setattr__(self, "initial_faults", tuple(self.initial_faults))
        for text in self.initial_faults:
            fault_from_text(text)
        _check_tls(self.tls)
        _check_signals(self.signals)
        wrong = sorted(set((self.secured_tags or {}).values()) - set(SECURITY_LEVELS))
        if wrong:
            raise ValueError(
                f"secured_tags: {wrong[0]!r} is none of {', '.join(map(repr, SECURITY_LEVELS))}"
            )

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


def _check_tls(tls: object) -> None:
    if isinstance(tls, str) and tls != "generate":
        raise ValueError(f"tls is {shown(tls)}, neither a pair of bytes nor 'generate'")


def _check_signals(signals: Mapping[str, object]) -> None:
    for tag, signal in signals.items():
        if not isinstance(signal, Signal):
            raise TypeError(f"signals: {shown(signal)} for {shown(tag)} is no signal")
