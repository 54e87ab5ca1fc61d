"""Arrays of other packages as numpy arrays: none of them is imported before it is used."""

import importlib
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mxfast.codec import EncodeError, exact_array

__all__ = ["as_array"]


def as_array(data: ArrayLike, name: str) -> NDArray[Any]:
    """Return anything that is like an array as a numpy array, without a copy where it can be.

    numpy arrays, lists (as `mxfast.codec.exact_array` takes them), what has ``__array__``
    (pandas and polars Series, pyarrow Arrays and ChunkedArrays), and what has only Arrow's
    PyCapsule interface, for which pyarrow is needed. A frame or table of one column is that
    column. Times with a zone become UTC, as numpy has none.

    Parameters
    ----------
    data : array
        What the user gave.
    name : str
        What it is, for errors.

    Returns
    -------
    ndarray
        Of any shape; a masked array stays one, for the codec to refuse.

    Raises
    ------
    EncodeError
        It holds a null: there is no number for it. ``index`` is the first one's. Or an
        element of a list that no array holds.
    TypeError
        It has Arrow's interface alone, and pyarrow is not installed.
    ValueError
        A frame of several columns, or of none.
    """
    if isinstance(data, np.ndarray):
        return data
    if hasattr(type(data), "columns") and hasattr(type(data), "shape"):
        data = _only_column(data, name)
    if not hasattr(data, "__array__"):
        if hasattr(data, "__arrow_c_stream__"):
            data = _pyarrow(name).chunked_array(data)
        elif hasattr(data, "__arrow_c_array__"):
            data = _pyarrow(name).array(data)
    null = _first_null(data)
    if null >= 0:
        raise EncodeError(
            f"{name}[{null}] is null: there is no value to send; fill or drop what is missing",
            null,
            None,
        )
    times = _times_of_pandas(getattr(data, "dtype", None))
    if times is not None:
        return np.asarray(data.to_numpy(dtype=times))  # type: ignore[union-attr]
    return exact_array(data, name)


def _only_column(frame: Any, name: str) -> Any:
    """Return the column of a frame of pandas or polars, or of a table of Arrow."""
    # Of the class: a column's name is an attribute of a pandas frame, too.
    of_arrow = hasattr(type(frame), "column_names")
    names = list(frame.column_names if of_arrow else frame.columns)
    if len(names) != 1:
        raise ValueError(f'{name} is a frame of {len(names)} columns: give one, such as df["x"]')
    return frame[names[0]]


def _first_null(data: Any) -> int:
    """Return the index of the first null, -1 where there is none; NaN is a number."""
    if hasattr(data, "null_count"):  # pyarrow, polars
        count = data.null_count
        if (count() if callable(count) else count) == 0:
            return -1
        return int(np.asarray(data.is_null()).argmax())
    if hasattr(data, "isna") and not isinstance(getattr(data, "dtype", None), np.dtype):
        missing = np.asarray(data.isna())  # pandas, with one of its own dtypes
        return int(missing.argmax()) if missing.ndim == 1 and missing.any() else -1
    return -1


def _times_of_pandas(dtype: Any) -> "np.dtype[np.datetime64] | None":
    """Return numpy's dtype for times that pandas would make an object of each; they are UTC."""
    if getattr(dtype, "tz", None) is not None:
        return np.dtype(f"datetime64[{dtype.unit}]")
    numpy_dtype = getattr(dtype, "numpy_dtype", None)  # of pandas's Arrow times
    if isinstance(numpy_dtype, np.dtype) and numpy_dtype.kind == "M":
        return numpy_dtype
    return None


def _pyarrow(name: str) -> Any:
    try:
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise TypeError(
            f"{name} has no __array__, only Arrow's interface, which needs pyarrow: pip install "
            "'mxfast[arrow]'"
        ) from error
