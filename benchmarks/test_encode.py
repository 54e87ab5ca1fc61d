"""Encoding a bulk write, against ways to build the same bytes with the protobuf runtime."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from mxfast import codec
from mxfast.contract import mxaccess_gateway as pb

SESSION = "session-" + "0f" * 16
Encode = Callable[[NDArray[np.int32], NDArray[np.float64]], bytes]


def with_mxfast(handles: NDArray[np.int32], values: NDArray[np.float64]) -> bytes:
    return codec.encode_write_bulk(SESSION, 1, handles, values)


def request() -> tuple[pb.MxCommandRequest, pb.WriteBulkCommand]:
    message = pb.MxCommandRequest(session_id=SESSION)
    message.command.kind = pb.MX_COMMAND_KIND_WRITE_BULK
    message.command.write_bulk.server_handle = 1
    return message, message.command.write_bulk


def with_attributes(handles: NDArray[np.int32], values: NDArray[np.float64]) -> bytes:
    message, command = request()
    for handle, number in zip(handles.tolist(), values.tolist(), strict=True):
        entry = command.entries.add()
        entry.item_handle = handle
        value = entry.value
        value.data_type = pb.MX_DATA_TYPE_DOUBLE
        value.variant_type = "VT_R8"
        value.double_value = number
    return message.SerializeToString()


def with_constructors(handles: NDArray[np.int32], values: NDArray[np.float64]) -> bytes:
    message, command = request()
    command.entries.extend(
        pb.WriteBulkEntry(
            item_handle=handle,
            value=pb.MxValue(
                data_type=pb.MX_DATA_TYPE_DOUBLE, variant_type="VT_R8", double_value=number
            ),
        )
        for handle, number in zip(handles.tolist(), values.tolist(), strict=True)
    )
    return message.SerializeToString()


TEMPLATE = pb.WriteBulkEntry(
    value=pb.MxValue(data_type=pb.MX_DATA_TYPE_DOUBLE, variant_type="VT_R8")
)


def with_copies_of_a_template(handles: NDArray[np.int32], values: NDArray[np.float64]) -> bytes:
    message, command = request()
    command.entries.extend([TEMPLATE] * len(handles))
    for entry, handle, number in zip(
        command.entries, handles.tolist(), values.tolist(), strict=True
    ):
        entry.item_handle = handle
        entry.value.double_value = number
    return message.SerializeToString()


WAYS: dict[str, Encode] = {
    "mxfast": with_mxfast,
    "protobuf, attribute by attribute": with_attributes,
    "protobuf, constructors": with_constructors,
    "protobuf, copies of a template": with_copies_of_a_template,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("n", [1_000, 50_000])
def test_encode_write_bulk_float64(benchmark: BenchmarkFixture, n: int, way: str) -> None:
    handles = np.arange(1, n + 1, dtype=np.int32)
    values = np.random.default_rng(1).standard_normal(n)
    benchmark.group = f"encode_write_bulk of {n:,} float64"
    data = benchmark(WAYS[way], handles, values)
    assert data == with_mxfast(handles, values)


def integers_with_copies(handles: NDArray[np.int32], values: NDArray[np.int32]) -> bytes:
    message, command = request()
    template = pb.WriteBulkEntry(
        value=pb.MxValue(data_type=pb.MX_DATA_TYPE_INTEGER, variant_type="VT_I4")
    )
    command.entries.extend([template] * len(handles))
    for entry, handle, number in zip(
        command.entries, handles.tolist(), values.tolist(), strict=True
    ):
        entry.item_handle = handle
        entry.value.int32_value = number
    return message.SerializeToString()


@pytest.mark.parametrize("way", ["mxfast", "protobuf, copies of a template"])
@pytest.mark.parametrize("numbers", ["0 to 99", "of both signs"])
@pytest.mark.parametrize("n", [1_000, 50_000])
def test_encode_write_bulk_int32(
    benchmark: BenchmarkFixture, n: int, numbers: str, way: str
) -> None:
    handles = np.arange(1, n + 1, dtype=np.int32)
    low, high = (0, 100) if numbers == "0 to 99" else (-(2**30), 2**30)
    values = np.random.default_rng(1).integers(low, high, n).astype(np.int32)
    benchmark.group = f"encode_write_bulk of {n:,} int32 {numbers}"
    if way == "mxfast":
        data = benchmark(codec.encode_write_bulk, SESSION, 1, handles, values)
    else:
        data = benchmark(integers_with_copies, handles, values)
    assert data == integers_with_copies(handles, values)


@pytest.mark.parametrize("way", ["mxfast", "copying the bytes"])
@pytest.mark.parametrize("n", [1_000, 50_000])
def test_encode_write_bulk_against_memcpy(benchmark: BenchmarkFixture, n: int, way: str) -> None:
    handles = np.arange(1, n + 1, dtype=np.int32)
    values = np.random.default_rng(1).standard_normal(n)
    data = with_mxfast(handles, values)
    benchmark.group = f"encode_write_bulk of {n:,} float64, against memcpy"
    if way == "mxfast":
        benchmark(with_mxfast, handles, values)
    else:
        benchmark(bytes, memoryview(data))
