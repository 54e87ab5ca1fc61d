"""Nanoseconds a row from 1 row to 1,000,000, beside the protobuf runtime and memcpy in one run.

    python benchmarks/curve.py

Medians. The protobuf runtime's way is the quickest of those in the other benchmarks.
"""

import platform
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks.test_decode import event_messages, results_with_runtime, with_runtime
from benchmarks.test_encode import SESSION, WAYS, with_mxfast
from mxfast import codec
from mxfast.contract import mxaccess_gateway as pb

SIZES = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000]
SECONDS = 0.4  # spent on each figure, or three turns


def seconds(work: Callable[[], object]) -> float:
    """Return the median duration of one turn."""
    turns: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(turns) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        turns.append(time.perf_counter() - start)
    return statistics.median(turns)


def figures(n: int) -> dict[str, tuple[float, float | None, float | None]]:
    """Return for each job its seconds, the protobuf runtime's, and memcpy's of its bytes."""
    handles = np.arange(1, n + 1, dtype=np.int32)
    values = np.random.default_rng(1).standard_normal(n)
    request = with_mxfast(handles, values)
    prepared = codec.PreparedWriteBulk(SESSION, 1, handles)
    packed = codec.encode_value(values)
    events = event_messages(n)
    reply = codec.encode_write_reply(SESSION, "c-1", pb.MX_COMMAND_KIND_WRITE_BULK, 1, handles)
    encoders = [way for name, way in WAYS.items() if name != "mxfast"]

    runtime = min(seconds(partial(way, handles, values)) for way in encoders)
    copied = seconds(lambda: bytes(memoryview(request)))
    return {
        "encode float64": (seconds(lambda: with_mxfast(handles, values)), runtime, copied),
        "prepared write": (seconds(lambda: prepared.encode(values)), runtime, copied),
        "packed float64": (
            seconds(lambda: codec.encode_value(values)),
            None,
            seconds(lambda: bytes(memoryview(packed))),
        ),
        "decode events": (
            seconds(lambda: codec.decode_events(events)),
            seconds(lambda: with_runtime(events)),
            None,
        ),
        "decode write reply": (
            seconds(lambda: codec.decode_write_reply(reply)),
            seconds(lambda: results_with_runtime(reply)),
            None,
        ),
        "all_finite": (
            seconds(lambda: codec.all_finite(values)),
            None,
            None,
        ),
    }


def main() -> None:
    """Print a table, a line for each job and size."""
    print(f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}")
    print("| | rows | ns a row | protobuf takes | memcpy takes |")
    print("|---|---|---|---|---|")
    results = {n: figures(n) for n in SIZES}
    for job in results[1]:
        for n in SIZES:
            own, runtime, copied = results[n][job]
            ratios = [f"{other / own:.2f} x" if other else "-" for other in (runtime, copied)]
            print(f"| {job} | {n:,} | {own / n * 1e9:.2f} | {' | '.join(ratios)} |")


if __name__ == "__main__":
    main()
