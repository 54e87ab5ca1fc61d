"""Packed arrays, text and finiteness, against protobuf and numpy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from mxfast import codec
from mxfast.contract import mxaccess_gateway as pb

SIZES = [1_000, 50_000]
SESSION = "session-" + "0f" * 16


def extended(array: Any) -> bytes:
    message = pb.MxValue(data_type=pb.MX_DATA_TYPE_DOUBLE, variant_type="VT_ARRAY|VT_R8")
    message.array_value.element_data_type = pb.MX_DATA_TYPE_DOUBLE
    message.array_value.variant_type = "VT_ARRAY|VT_R8"
    message.array_value.dimensions.append(len(array))
    message.array_value.double_values.values.extend(array)
    return message.SerializeToString()


def extended_from_list(array: Any) -> bytes:
    return extended(array.tolist())


def header_and_tobytes(array: NDArray[np.float64]) -> bytes:
    return HEADERS[len(array)] + array.tobytes()


HEADERS = {n: codec.encode_value(np.zeros(n))[: -8 * n] for n in SIZES}
PACKED: dict[str, Callable[[Any], bytes]] = {
    "mxfast": codec.encode_value,
    "protobuf, extend(ndarray)": extended,
    "protobuf, extend(list)": extended_from_list,
    "a ready header + tobytes()": header_and_tobytes,
    "copying the bytes": lambda array: bytes(memoryview(array)),
}


@pytest.mark.parametrize("way", PACKED)
@pytest.mark.parametrize("n", SIZES)
def test_packed_array(benchmark: BenchmarkFixture, n: int, way: str) -> None:
    array = np.random.default_rng(1).standard_normal(n)
    benchmark.group = f"encode a packed array of {n:,} float64"
    data = benchmark(PACKED[way], array)
    assert len(data) >= 8 * n


def texts_with_runtime(handles: Any, texts: list[str]) -> bytes:
    message = pb.MxCommandRequest(session_id=SESSION)
    message.command.kind = pb.MX_COMMAND_KIND_WRITE_BULK
    command = message.command.write_bulk
    command.server_handle = 1
    for handle, text in zip(handles.tolist(), texts, strict=True):
        entry = command.entries.add()
        entry.item_handle = handle
        value = entry.value
        value.data_type = pb.MX_DATA_TYPE_STRING
        value.variant_type = "VT_BSTR"
        value.string_value = text
    return message.SerializeToString()


@pytest.mark.parametrize("way", ["mxfast, numpy U", "mxfast", "protobuf"])
@pytest.mark.parametrize("n", SIZES)
def test_texts(benchmark: BenchmarkFixture, n: int, way: str) -> None:
    texts = [f"Tank{number:08}" for number in range(n)]
    handles = np.arange(1, n + 1, dtype=np.int32)
    benchmark.group = f"encode_write_bulk of {n:,} str of 12 characters"
    array = np.array(texts) if way == "mxfast, numpy U" else np.array(texts, object)
    if way == "protobuf":
        data = benchmark(texts_with_runtime, handles, texts)
    else:
        data = benchmark(codec.encode_write_bulk, SESSION, 1, handles, array)
    assert data == texts_with_runtime(handles, texts)


@pytest.mark.parametrize("way", ["mxfast", "copying the bytes"])
@pytest.mark.parametrize("n", SIZES)
def test_prepared_write(benchmark: BenchmarkFixture, n: int, way: str) -> None:
    values = np.random.default_rng(1).standard_normal(n)
    prepared = codec.PreparedWriteBulk(SESSION, 1, np.arange(1, n + 1))
    benchmark.group = f"prepared write of {n:,} float64"
    if way == "mxfast":
        benchmark(prepared.encode, values)
    else:
        benchmark(bytes, memoryview(prepared.encode(values)))


# How an array's elements lie: side by side, every second one, back to front, a column of 16.
LAYOUTS: dict[str, slice] = {
    "": slice(None),
    "[::2]": slice(None, None, 2),
    "[::-1]": slice(None, None, -1),
    "[::16]": slice(None, None, 16),
}


@pytest.mark.parametrize("way", ["mxfast", "numpy.isfinite(x).all()"])
@pytest.mark.parametrize("n", [1, 100, 10_000, 1_000_000])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_all_finite(benchmark: BenchmarkFixture, dtype: str, layout: str, n: int, way: str) -> None:
    step = LAYOUTS[layout]
    array = np.ones(n * abs(step.step or 1), dtype)[step]
    assert len(array) == n
    benchmark.group = f"all_finite of {n:,} {dtype}{layout}"
    assert benchmark(
        codec.all_finite if way == "mxfast" else lambda x: bool(np.isfinite(x).all()), array
    )
