"""The ``mxfast`` command line. Needs the ``cli`` extra (``pip install 'mxfast[cli]'``)."""

import os
import sys


def main() -> None:
    """Run the command line; the entry point of the ``mxfast`` script."""
    # gRPC reads this when it is imported; below ERROR it would report on stderr that the
    # simulated gateway said goodbye.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    try:
        from mxfast.cli.app import cli  # noqa: PLC0415 - the extra may be missing
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich", "grpc_health", "grpc_reflection"):
            raise
        sys.exit(f"mxfast: {error.name} is missing; install it with: pip install 'mxfast[cli]'")
    cli(prog_name="mxfast")
