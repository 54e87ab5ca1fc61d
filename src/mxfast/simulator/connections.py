"""Tearing down the connections of a server that has no say in it."""

import os
import socket


def drop_connections(port: int) -> None:
    """Shut down every connection that this process has accepted on a port.

    gRPC's server can only be stopped as a whole, which tells its clients so. A connection
    that breaks tells nobody: its socket is shut down below gRPC.

    Raises
    ------
    OSError
        The system does not list a process's open files in ``/dev/fd``; Linux and macOS do.
    """
    for name in os.listdir("/dev/fd"):
        try:
            held = socket.socket(fileno=os.dup(int(name)))
        except OSError:  # no socket, or closed since it was listed
            continue
        with held:
            try:
                held.getpeername()  # a listening socket has none
                if held.getsockname()[1] == port:
                    held.shutdown(socket.SHUT_RDWR)
            except (OSError, IndexError):
                continue
