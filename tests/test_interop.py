"""Arrays of pandas, polars and Arrow in, and batches out to them."""

import datetime
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mxfast import EncodeError, EventBatch, Session
from mxfast.codec import ValueKind, decode_events, encode_value
from mxfast.contract import mxaccess_gateway as pb
from mxfast.interop import as_array
from tests.feed import event

pandas = pytest.importorskip("pandas", reason="pandas is an extra")
pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is an extra")
polars = pytest.importorskip("polars", reason="polars is for the tests only")


class ArrayCapsule:
    """Has Arrow's interface for one array and nothing else."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __arrow_c_array__(self, requested_schema: object = None) -> object:
        return self._array.__arrow_c_array__(requested_schema)


class StreamCapsule:
    """Has Arrow's interface for a stream of arrays and nothing else."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._array.__arrow_c_stream__(requested_schema)


def nullable(data: list[Any]) -> Any:
    """Return a pandas Series of the dtype that pandas has for data with gaps."""
    return pandas.Series(data).convert_dtypes()


def with_arrow(data: list[Any]) -> Any:
    """Return a pandas Series that Arrow holds."""
    return pandas.Series(data, dtype=pandas.ArrowDtype(pyarrow.array(data).type))


KINDS: list[Callable[[list[Any]], Any]] = [
    list,
    np.array,
    pandas.Series,
    pandas.Index,
    nullable,
    with_arrow,
    lambda data: pandas.DataFrame({"x": data})["x"],
    polars.Series,
    lambda data: polars.DataFrame({"x": data})["x"],
    pyarrow.array,
    lambda data: pyarrow.chunked_array([data[:1], data[1:]]),
    lambda data: pyarrow.table({"x": data})["x"],
    lambda data: ArrayCapsule(pyarrow.array(data)),
    lambda data: StreamCapsule(pyarrow.chunked_array([data[:1], data[1:]])),
    lambda data: pandas.DataFrame({"column_names": data}).convert_dtypes(),
    lambda data: polars.DataFrame({"x": data}),
    lambda data: pyarrow.table({"x": data}),
    lambda data: pyarrow.record_batch({"x": data}),
]


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize(
    "data", [[1.5, -2.5, 3.0], [1, 2**40, -3], [True, False, True], ["a", "b\u00e4", ""]]
)
async def test_what_is_written_is_what_is_read(
    session: Session, make: Callable[[list[Any]], Any], data: list[Any]
) -> None:
    tags = ["A.A", "A.B", "A.C"]
    server = await session.register("x")
    handles = [each.item_handle for each in await session.add_item_bulk(server, tags)]
    result = await session.write_array(server, make(handles), make(data))
    assert result.ok
    read = [each.value for each in await session.read_bulk(server, tags)]
    assert [getattr(value, value.WhichOneof("kind")) for value in read] == data


@pytest.mark.parametrize("make", KINDS[2:])
@pytest.mark.parametrize(
    "data", [[1.5, 2.5, None], [1, 2, None], [True, False, None], ["a", "b", None]]
)
async def test_null_is_refused_with_its_index(
    session: Session, make: Callable[[list[Any]], Any], data: list[Any]
) -> None:
    """Never zero, NaN or an empty text in its place; NaN itself is refused as any NaN is."""
    server = await session.register("x")
    tags = ["A.A", "A.B", "A.C"]
    handles = [each.item_handle for each in await session.add_item_bulk(server, tags)]
    made = make(data)
    before = await session.read_bulk(server, tags)
    with pytest.raises((EncodeError, TypeError)) as refused:
        await session.write_array(server, handles, made)
    plain = isinstance(getattr(made, "dtype", None), np.dtype)  # numpy's, which has no null
    if not plain:
        assert isinstance(refused.value, EncodeError)
        assert (refused.value.index, refused.value.value) == (2, None)
        assert str(refused.value).startswith("values[2] is null")
    after = await session.read_bulk(server, tags)
    assert [each.value for each in after] == [each.value for each in before]


@pytest.mark.parametrize("columns", [{"x": [1.0, 2.0], "y": [3.0, 4.0]}, {}])
@pytest.mark.parametrize(
    "make", [pandas.DataFrame, polars.DataFrame, pyarrow.table, pyarrow.RecordBatch.from_pydict]
)
async def test_a_frame_of_several_columns_is_refused(
    session: Session, make: Callable[[Any], Any], columns: dict[str, list[float]]
) -> None:
    said = f"is a frame of {len(columns)} columns: give one, such as "
    frame = make(columns)
    with pytest.raises(ValueError, match=f'values {said}df\\["x"\\]'):
        await session.write_array(1, [1, 2], frame)
    with pytest.raises(ValueError, match=f"item_handles {said}"):
        await session.write_array(1, frame, [1.0, 2.0])


async def test_a_series_whose_index_names_attributes_of_frames_is_none() -> None:
    series = pandas.Series({"columns": 1.5, "shape": 2.5, "column_names": 3.5})
    assert as_array(series, "values").tolist() == [1.5, 2.5, 3.5]


async def test_tags_in_a_frame(session: Session) -> None:
    server = await session.register("x")
    frame = pandas.DataFrame({"tag": ["A.B", "A.C"], "value": [1.0, 2.0]})
    items = await session.subscribe(server, frame[["tag"]])
    assert items.tags.tolist() == ["A.B", "A.C"]
    with pytest.raises(ValueError, match="tags is a frame of 2 columns"):
        await session.subscribe(server, frame)
    assert (await session.write_array(server, frame[["tag"]], frame[["value"]])).ok
    assert (await session.read_array(server, items)).value.tolist() == [1.0, 2.0]


async def test_null_among_the_handles_or_times(session: Session) -> None:
    server = await session.register("x")
    with pytest.raises(EncodeError, match=r"item_handles\[1\] is null"):
        await session.write_array(server, pyarrow.array([1, None]), [1.0, 2.0])
    times = pyarrow.array([None, 1], pyarrow.timestamp("us"))
    with pytest.raises(EncodeError, match=r"timestamps\[0\] is null"):
        await session.write_array(server, [1, 2], [1.0, 2.0], timestamps=times)


BERLIN = [
    datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.timezone(datetime.timedelta(hours=1))),
    datetime.datetime(2026, 7, 1, 12, tzinfo=datetime.timezone(datetime.timedelta(hours=2))),
]


@pytest.mark.parametrize(
    "times",
    [
        pandas.Series(BERLIN[:1] + BERLIN[:1]),
        pandas.Series(pandas.to_datetime(BERLIN, utc=True).tz_convert("Europe/Berlin")),
        pandas.to_datetime(BERLIN, utc=True).tz_convert("Europe/Berlin"),
        pandas.Series(
            pandas.array(BERLIN, dtype=pandas.ArrowDtype(pyarrow.timestamp("us", "Europe/Berlin")))
        ),
        polars.Series(BERLIN, dtype=polars.Datetime("us", "Europe/Berlin")),
        pyarrow.array(BERLIN, pyarrow.timestamp("ms", "Europe/Berlin")),
        pyarrow.chunked_array([pyarrow.array(BERLIN, pyarrow.timestamp("ns", "Europe/Berlin"))]),
    ],
)
def test_times_with_a_zone_become_utc(times: Any) -> None:
    made = as_array(times, "timestamps")
    assert made.dtype.kind == "M"
    assert made[0] == np.datetime64("2026-01-01T11:00")
    assert made[1] in (np.datetime64("2026-07-01T10:00"), made[0])


@pytest.mark.parametrize(
    "array",
    [
        pyarrow.array([1.5, 2.5]),
        polars.Series([1.5, 2.5]),
        pandas.Series([1.5, 2.5]),
        np.array([1.5, 2.5]),
    ],
)
def test_numbers_are_not_copied(array: Any) -> None:
    assert np.shares_memory(as_array(array, "values"), np.asarray(array))


def test_masked_array_stays_for_the_codec_to_refuse() -> None:
    masked = np.ma.masked_array([1.0, 2.0], [True, False])
    assert as_array(masked, "values") is masked


def test_capsule_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    capsule = ArrayCapsule(pyarrow.array([1.0]))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(TypeError, match=r"values has no __array__.*pyarrow"):
        as_array(capsule, "values")  # type: ignore[arg-type]


# ---------------------------------------------------------------- batches out


@pytest.fixture
def batch() -> EventBatch:
    values: list[Any] = [1.5, 7, 2**60 + 1, True, "text", b"\x00\xff", [1.0, 2.0], None]
    messages = [event(n + 1, item=10 + n, value=value) for n, value in enumerate(values)]
    return EventBatch(decode_events(messages), dropped=3, gap=True)


NUMERIC = (
    "family",
    "server_handle",
    "item_handle",
    "worker_sequence",
    "quality",
    "source_timestamp",
    "gateway_timestamp",
    "kind",
    "value",
)


def test_to_pandas(batch: EventBatch) -> None:
    frame = batch.to_pandas()
    assert list(frame.columns) == [*NUMERIC, "ok", "reread"]
    for name in (*NUMERIC, "ok", "reread"):
        np.testing.assert_array_equal(frame[name].to_numpy(), getattr(batch, name))
        assert frame[name].dtype == getattr(batch, name).dtype
    for name in (*NUMERIC, "ok"):
        assert np.shares_memory(frame[name].to_numpy(), getattr(batch, name)), name


def test_to_arrow(batch: EventBatch) -> None:
    table = batch.to_arrow()
    assert table.column_names == [*NUMERIC, "ok", "reread"]
    for name in NUMERIC:
        column = getattr(batch, name)
        (chunk,) = table[name].chunks
        assert chunk.buffers()[1].address == column.__array_interface__["data"][0], name
        if column.dtype.kind == "M":
            assert chunk.null_count == np.isnat(column).sum()
        else:
            assert chunk.null_count == 0
            np.testing.assert_array_equal(chunk.to_numpy(), column)
    assert table["ok"].to_pylist() == batch.ok.tolist()
    assert table["reread"].to_pylist() == [False] * 8


@pytest.mark.parametrize("samples", [["a", "", "b\0"], [b"\xff", b"", b"\0"]], ids=["str", "bytes"])
def test_samples_of_text_go_out_as_rows(samples: list[Any]) -> None:
    texts = np.empty(3, object)
    texts[:] = samples
    buffered = pb.MxEvent(
        family=pb.MX_EVENT_FAMILY_ON_BUFFERED_DATA_CHANGE, worker_sequence=2, quality=64
    )
    buffered.value.MergeFromString(encode_value(texts))
    body = buffered.on_buffered_data_change
    body.quality_values.int32_values.values.extend([192, 0])
    for seconds in (5, 6, 7):
        body.timestamp_values.timestamp_values.values.add(seconds=seconds)
    messages = [event(1, value="first"), buffered.SerializeToString(), event(3)]
    batch = EventBatch(decode_events(messages))
    kind = ValueKind.STRING if isinstance(samples[0], str) else ValueKind.RAW
    assert batch[1:4].values(kind).tolist() == samples
    assert batch[3:0:-2].values(kind).tolist() == samples[2::-2]
    assert batch.kind.tolist() == [ValueKind.STRING, kind, kind, kind, ValueKind.DOUBLE]
    assert batch[1] == batch[3] == buffered
    frame, table = batch.to_pandas(), batch.to_arrow()
    for columns in (
        {name: frame[name].tolist() for name in frame},
        {name: table[name].to_pylist() for name in table.column_names},
    ):
        assert columns["worker_sequence"] == [1, 2, 2, 2, 3]
        assert columns["quality"][1:4] == [192, 0, 64]
        assert columns["kind"] == batch.kind.tolist()
        assert np.isnan(columns["value"][:4]).all()
    times = np.array([5, 6, 7], "datetime64[s]")
    np.testing.assert_array_equal(frame["source_timestamp"].to_numpy()[1:4], times)
    np.testing.assert_array_equal(table["source_timestamp"].to_numpy()[1:4], times)


@pytest.mark.parametrize("rows", [slice(2, 5), slice(None, None, 2), slice(5, 2)])
def test_slices_and_empty_batches_go_out_too(batch: EventBatch, rows: slice) -> None:
    part = batch[rows]
    assert batch.to_arrow().num_rows == 8
    assert part.to_arrow()["item_handle"].to_pylist() == part.item_handle.tolist()
    assert part.to_pandas()["item_handle"].tolist() == part.item_handle.tolist()


def test_what_goes_out_outlives_the_batch() -> None:
    def table() -> Any:
        return EventBatch(decode_events([event(n) for n in range(1, 1000)])).to_arrow()

    assert table()["worker_sequence"].to_pylist() == list(range(1, 1000))
