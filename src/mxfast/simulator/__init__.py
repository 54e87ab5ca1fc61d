"""A simulated MXAccess Gateway: a real gRPC server on loopback to test clients against.

:class:`SimulatedGateway` runs in the caller's event loop,
:class:`SimulatedGatewayProcess` runs the same in a child process. Both need the
``simulator`` extra (``pip install mxfast[simulator]``).

What it does follows the contract notes of the public gateway project. Where those
notes only infer something, the docstring of the part says so. It differs from a plant
in these ways:

- a new tag holds the double 0.0 with good quality, so that every advise has a first
  value to send, and sends it at once; a plant takes 3 to 8 seconds;
- a tag that is no attribute of the galaxy takes a value of any type, and the new value's
  type replaces the old one; an attribute has a type, see :mod:`mxfast.simulator.typed`;
- an item takes a write before its first data change, unless told otherwise;
- where the galaxy does not come from a file and ``tags`` is None, any name is a tag.
"""

from mxfast.simulator import faults, signals
from mxfast.simulator.access import DEFAULT_API_KEY, SCOPES
from mxfast.simulator.clock import VirtualClock
from mxfast.simulator.process import SimulatedGatewayProcess
from mxfast.simulator.server import SimulatedGateway

__all__ = [
    "DEFAULT_API_KEY",
    "SCOPES",
    "SimulatedGateway",
    "SimulatedGatewayProcess",
    "VirtualClock",
    "faults",
    "signals",
]
