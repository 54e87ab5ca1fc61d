"""Decoding events and replies, against the protobuf runtime."""

from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from mxfast import codec
from mxfast.contract import mxaccess_gateway as pb

SESSION = "session-" + "0f" * 16
SIZES = [1_000, 50_000]


def event_messages(n: int) -> list[bytes]:
    """Scalar float64 data changes with a source and a gateway timestamp and one status."""
    rng = np.random.default_rng(1)
    status = pb.MxStatusProxy(success=1, category=pb.MX_STATUS_CATEGORY_OK)
    return codec.encode_events(
        SESSION,
        pb.MX_EVENT_FAMILY_ON_DATA_CHANGE,
        1,
        np.arange(1, n + 1, dtype=np.int32),
        first_sequence=1,
        gateway_timestamp=1_700_000_000_123_456_789,
        status=status.SerializeToString(),
        kind=np.full(n, codec.ValueKind.DOUBLE, np.uint8),
        payload=rng.standard_normal(n).view(np.int64),
        quality=np.full(n, 192, np.int32),
        # Each item changed at a time of its own within the second before.
        source_timestamp=1_699_999_999_123_456_789 + rng.integers(0, 10**9, n),
    )


def with_runtime(messages: list[bytes]) -> Any:
    rows = []
    for message in messages:
        event = pb.MxEvent.FromString(message)
        rows.append(
            (
                event.item_handle,
                event.value.double_value,
                event.quality,
                event.worker_sequence,
                event.source_timestamp.seconds,
                event.statuses[0].category,
            )
        )
    return rows


@pytest.mark.parametrize("way", ["mxfast", "protobuf, six fields read"])
@pytest.mark.parametrize("n", SIZES)
def test_decode_events(benchmark: BenchmarkFixture, n: int, way: str) -> None:
    messages = event_messages(n)
    benchmark.group = f"decode {n:,} events"
    if way == "mxfast":
        columns = benchmark(codec.decode_events, messages)
        assert len(columns) == n
    else:
        assert len(benchmark(with_runtime, messages)) == n


def results_with_runtime(data: bytes) -> Any:
    reply = pb.MxCommandReply.FromString(data)
    return [
        (result.item_handle, result.was_successful, result.hresult)
        for result in reply.write_bulk.results
    ]


@pytest.mark.parametrize("way", ["mxfast", "protobuf, three fields read"])
@pytest.mark.parametrize("n", SIZES)
def test_decode_write_reply(benchmark: BenchmarkFixture, n: int, way: str) -> None:
    data = codec.encode_write_reply(
        SESSION, "c-1", pb.MX_COMMAND_KIND_WRITE_BULK, 1, np.arange(1, n + 1, dtype=np.int32)
    )
    benchmark.group = f"decode a bulk write reply of {n:,}"
    decode = codec.decode_write_reply if way == "mxfast" else results_with_runtime
    assert len(benchmark(decode, data)) == n


def tags(n: int) -> list[str]:
    return [f"Area1.Tank{row:05}.Level" for row in range(n)]


def subscribed_with_runtime(data: bytes) -> Any:
    reply = pb.MxCommandReply.FromString(data)
    return [(result.item_handle, result.was_successful) for result in reply.subscribe_bulk.results]


@pytest.mark.parametrize("way", ["mxfast", "protobuf, two fields read"])
@pytest.mark.parametrize("n", SIZES)
def test_decode_subscribe_reply(benchmark: BenchmarkFixture, n: int, way: str) -> None:
    reply = pb.MxCommandReply(session_id=SESSION)
    for row, tag in enumerate(tags(n)):
        reply.subscribe_bulk.results.add(
            server_handle=1, tag_address=tag, item_handle=row + 1, was_successful=True
        )
    benchmark.group = f"decode a bulk subscribe reply of {n:,}"
    decode = codec.decode_subscribe_reply if way == "mxfast" else subscribed_with_runtime
    assert len(benchmark(decode, reply.SerializeToString())) == n


def read_with_runtime(data: bytes) -> Any:
    reply = pb.MxCommandReply.FromString(data)
    return [
        (
            result.was_successful,
            result.value.double_value,
            result.quality,
            result.source_timestamp.seconds,
        )
        for result in reply.read_bulk.results
    ]


@pytest.mark.parametrize("way", ["mxfast", "protobuf, four fields read"])
@pytest.mark.parametrize("n", SIZES)
def test_decode_read_reply(benchmark: BenchmarkFixture, n: int, way: str) -> None:
    reply = pb.MxCommandReply(session_id=SESSION)
    for row, tag in enumerate(tags(n)):
        result = reply.read_bulk.results.add(
            server_handle=1,
            tag_address=tag,
            item_handle=row + 1,
            was_successful=True,
            was_cached=True,
            quality=192,
        )
        result.value.data_type = pb.MX_DATA_TYPE_DOUBLE
        result.value.variant_type = "VT_R8"
        result.value.double_value = row / 7
        result.source_timestamp.seconds = 1_700_000_000
        result.source_timestamp.nanos = 123_456_789
    benchmark.group = f"decode a bulk read reply of {n:,}"
    decode = codec.decode_read_reply if way == "mxfast" else read_with_runtime
    assert len(benchmark(decode, reply.SerializeToString())) == n
