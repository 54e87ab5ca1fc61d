"""Arrays that another thread changes while they are encoded: an error, and never a crash.

Each case runs in a process of its own, since what it guards against is writing past a buffer.
"""

import subprocess
import sys
import textwrap

import pytest

# A thread turns the array `changing` from one state to the other and back, without end; in
# between the two lie rows of other lengths than those that were sized.
START = """
import threading
import numpy as np
from mxfast import codec
from mxfast.contract import mxaccess_gateway as pb

N = 100_000
handles = np.arange(1, N + 1, dtype=np.int32)
values = np.zeros(N)
times = np.zeros(N, "datetime64[ns]")

def flip_for_ever(changing, states):
    # One statement turns all elements many times over: numpy does that without the GIL, so also
    # while the encoder holds it.
    turns = np.array(states * (5_000_000 // len(changing)), changing.dtype)[:, None]
    over_and_over = np.lib.stride_tricks.as_strided(
        changing, (len(turns), len(changing)), (0, changing.itemsize)
    )
    while True:
        np.copyto(over_and_over, turns)

def keep_changing(changing, states):
    threading.Thread(target=flip_for_ever, args=(changing, states), daemon=True).start()
"""

# Sized in one pass over the array and written in another.
REFUSED = {
    "int32": """
        changing = np.zeros(N, np.int32)
        states = 0, -1
        encode = lambda: codec.encode_write_bulk("s", 1, handles, changing)
    """,
    "int64": """
        changing = np.zeros(N, np.int64)
        states = 0, -1
        encode = lambda: codec.encode_write_bulk("s", 1, handles, changing)
    """,
    "times": """
        changing = times
        states = np.datetime64(0, "ns"), np.datetime64(-1, "ns")
        encode = lambda: codec.encode_write_bulk("s", 1, handles, changing)
    """,
    "timestamps": """
        changing = times
        states = np.datetime64(0, "ns"), np.datetime64(-1, "ns")
        encode = lambda: codec.encode_write_bulk("s", 1, handles, values, timestamps=changing)
    """,
    "handles of floats": """
        changing = handles
        states = 1, -1
        encode = lambda: codec.encode_write_bulk("s", 1, changing, values)
    """,
    "handles of int32": """
        changing = handles
        states = 1, -1
        encode = lambda: codec.encode_write_bulk("s", 1, changing, values.astype(np.int32))
    """,
    "handles of text": """
        changing = handles
        states = 1, 1 << 30
        texts = np.array(["some text"] * N)
        encode = lambda: codec.encode_write_bulk("s", 1, changing, texts)
    """,
    "packed int32": """
        changing = np.zeros(N, np.int32)
        states = 0, -1
        encode = lambda: codec.encode_value(changing)
    """,
    "packed int64": """
        changing = np.zeros(N, np.int64)
        states = 0, -1
        encode = lambda: codec.encode_value(changing)
    """,
    "an array of times": """
        changing = times
        states = np.datetime64(0, "ns"), np.datetime64(-1, "ns")
        encode = lambda: codec.encode_value(changing)
    """,
    "a reply's handles": """
        changing = handles
        states = 1, -1
        kind = pb.MX_COMMAND_KIND_WRITE_BULK
        encode = lambda: codec.encode_write_reply("s", "c", kind, 1, changing)
    """,
    "a reply's handles, with a failure": """
        changing = handles
        states = 1, -1
        kind = pb.MX_COMMAND_KIND_WRITE_BULK
        failed = {N - 1: b"\\x2a" + bytes([100]) + bytes(100)}
        encode = lambda: codec.encode_write_reply("s", "c", kind, 1, changing, rows=failed)
    """,
}
REFUSE = """
keep_changing(changing, states)
refused = 0
while refused < 20:
    try:
        encode()
    except RuntimeError as error:
        assert "changed while it was encoded" in str(error)
        refused += 1
"""

# Written element by element, each read once: a message holds one state or the other.
WHOLE = {
    "single values": """
        changing = np.zeros(1_000, np.int64)
        states = 0, -1
        fine = set(codec.encode_values(np.array(states)))
        encode = lambda: codec.encode_values(changing)
    """,
    "an event's handle": """
        changing = np.ones(1_000, np.int32)
        states = 1, -1
        def encode(handles=changing):
            return codec.encode_events(
                "s", pb.MX_EVENT_FAMILY_ON_WRITE_COMPLETE, 1, handles,
                first_sequence=1, gateway_timestamp=0,
            )
        fine = {
            event for state in states for event in encode(np.full(1_000, state, np.int32))
        }
    """,
    "an event's quality and time": """
        changing = np.zeros(1_000, np.int64)
        states = 0, -1
        def encode(times=changing[500:], qualities=changing.view(np.int32)[:500]):
            return codec.encode_events(
                "s", pb.MX_EVENT_FAMILY_ON_DATA_CHANGE, 1, handles[:500],
                first_sequence=1, gateway_timestamp=0,
                quality=qualities, source_timestamp=times,
            )
        fine = {
            event
            for time in states
            for quality in states
            for event in encode(np.full(500, time), np.full(500, quality, np.int32))
        }
    """,
}
KEEP_WHOLE = """
keep_changing(changing, states)
for _ in range(10_000):
    assert fine.issuperset(encode())
"""

PREPARED = """
prepared = codec.PreparedWriteBulk("s", 1, handles)
keep_changing(values, (np.nan, 0.0))
refused = 0
while refused < 5:
    try:
        prepared.encode(values)
    except codec.EncodeError as error:
        assert 0 <= error.index < N
    except RuntimeError as error:
        assert "changed while it was encoded" in str(error)
        refused += 1
"""


def run(case: str, then: str) -> None:
    script = START + textwrap.dedent(case) + then
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", REFUSED)
def test_rows_that_no_longer_fit_are_refused(name: str) -> None:
    run(REFUSED[name], REFUSE)


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_read_once_needs_no_refusal(name: str) -> None:
    run(WHOLE[name], KEEP_WHOLE)


def test_a_value_that_is_finite_again_when_it_is_looked_for() -> None:
    run("", PREPARED)
