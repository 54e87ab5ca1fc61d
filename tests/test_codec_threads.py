"""The codec from many threads at once: the same answers as from one."""

import threading
from collections.abc import Callable

import numpy as np
import pytest

from mxfast import codec
from mxfast.contract import mxaccess_gateway as pb

THREADS = 8
TURNS = 40
ROWS = 20_000  # enough that other threads run meanwhile: prepared writes let them from 10,000 on
SESSION = "session-1"


@pytest.fixture(scope="module")
def handles() -> np.ndarray:
    return np.arange(1, ROWS + 1, dtype=np.int32)


def together(work: Callable[[int], None]) -> None:
    """Run work(0) to work(THREADS - 1) at the same time; raise what any of them raised."""
    start = threading.Barrier(THREADS)
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            start.wait(timeout=30)
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def test_threads_encode_and_decode_shared_input(handles: np.ndarray) -> None:
    values = np.random.default_rng(1).standard_normal(ROWS)
    strided = np.repeat(values, 2)[::2]
    texts = np.array([f"tag {number}" for number in range(ROWS)])
    events = codec.encode_events(
        SESSION,
        pb.MX_EVENT_FAMILY_ON_DATA_CHANGE,
        1,
        handles,
        first_sequence=1,
        gateway_timestamp=1_700_000_000_000_000_000,
        status=b"",
        kind=np.full(ROWS, codec.ValueKind.DOUBLE, np.uint8),
        payload=values.view(np.int64),
        quality=np.full(ROWS, 192, np.int32),
        source_timestamp=np.full(ROWS, 1_699_999_999_000_000_000),
    )
    reply = codec.encode_write_reply(SESSION, "c", pb.MX_COMMAND_KIND_WRITE_BULK, 1, handles)
    request = codec.encode_write_bulk(SESSION, 1, handles, values)
    text_request = codec.encode_write_bulk(SESSION, 1, handles, texts)

    def work(number: int) -> None:
        for turn in range(TURNS):
            match (number + turn) % 5:
                case 0:
                    assert codec.encode_write_bulk(SESSION, 1, handles, strided) == request
                case 1:
                    assert codec.encode_write_bulk(SESSION, 1, handles, texts) == text_request
                case 2:
                    columns = codec.decode_events(events)
                    np.testing.assert_array_equal(columns.value, values)
                    np.testing.assert_array_equal(columns.item_handle, handles)
                case 3:
                    decoded = codec.decode_write_reply(reply)
                    np.testing.assert_array_equal(decoded.item_handle, handles)
                    assert decoded.was_successful.all()
                case _:
                    assert codec.all_finite(strided)

    together(work)


def test_threads_share_a_prepared_write(handles: np.ndarray) -> None:
    prepared = codec.PreparedWriteBulk(SESSION, 1, handles, np.float64)

    def work(number: int) -> None:
        kept: list[tuple[bytes, float]] = []
        for turn in range(TURNS):
            values = np.full(ROWS, number * TURNS + turn, np.float64)
            # What is dropped here may be used again by any thread, what is kept by none.
            kept = [*kept[-1:], (prepared.encode(values), values[0])]
            for data, value in kept:
                decoded = codec.decode_write_request(data)
                assert decoded is not None
                assert (decoded.value == value).all()

    together(work)


def test_threads_decode_while_the_list_grows() -> None:
    message = pb.MxEvent(item_handle=1, worker_sequence=1).SerializeToString()
    shared = [message] * 1_000
    done = threading.Event()

    def work(number: int) -> None:
        if number == 0:
            try:
                for _ in range(200):
                    shared.extend([message] * 100)
                    del shared[1_000:]
            finally:
                done.set()
        else:
            while not done.is_set():
                columns = codec.decode_events(shared)
                assert len(columns) >= 1_000
                assert (columns.item_handle == 1).all()

    together(work)
