"""Tearing down the connections of a server that has no say in it."""

import os
import socket
import stat
from contextlib import suppress


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
        with suppress(OSError):  # closed since it was listed, or a socket that listens
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as held:
                if held.getpeername() and held.getsockname()[1:2] == (port,):
                    held.shutdown(socket.SHUT_RDWR)
