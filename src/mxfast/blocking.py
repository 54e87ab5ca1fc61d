"""The same clients as plain calls and iterators, for scripts and notebooks.

Every class here has the name, the methods, the signatures and the docstrings of the one in
`mxfast` that it is made of; only ``await`` and ``async`` are gone, and ``aclose`` is ``close``::

    from mxfast.blocking import GatewayClient

    with GatewayClient.connect(endpoint="localhost:5120", api_key=key) as client:
        with client.open_session("line-4") as session:
            server = session.register("line-4")
            item = session.add_item(server, "Tank1.Level")
            session.write(server, item, 3.25)

The work is done in an event loop in a thread of its own, started by the first call, so a loop
that runs already, as in a notebook, is no matter. Any thread may use any object. Ctrl-C
cancels the call under way in the main thread. When the main thread ends, streams end, so that
loops over them in other threads do; the program waits for its threads as usual, and then what
is still open is closed. After a fork the child process is refused every call if its parent has
made one, for gRPC does not survive that.

A callback, such as ``on_progress``, is called in the loop's thread: it must not block, and
blocking calls from it are refused.
"""

import mxfast
from mxfast.connection import Connection
from mxfast.facade import facade_of
from mxfast.galaxy import DeployEvents
from mxfast.mxaccess import MxAccessCommands
from mxfast.streams import MessageIterator

# Those of bases and results, which mxfast does not name, are there for annotations.
_made = {
    cls.__name__: facade
    for cls in (
        *(getattr(mxfast, name) for name in mxfast.__all__),
        *(Connection, DeployEvents, MessageIterator, MxAccessCommands),
    )
    if isinstance(cls, type) and (facade := facade_of(cls)) is not None
}
globals().update(_made)
__all__ = [name for name in _made if name in mxfast.__all__]
