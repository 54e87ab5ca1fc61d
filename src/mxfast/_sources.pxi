# From whatever the user holds to contiguous memory of a dtype the walks know.

cdef object DTYPE_BOOL = np.dtype(np.bool_)
cdef object DTYPE_INT32 = np.dtype(np.int32)
cdef object DTYPE_INT64 = np.dtype(np.int64)
cdef object DTYPE_FLOAT32 = np.dtype(np.float32)
cdef object DTYPE_FLOAT64 = np.dtype(np.float64)
cdef object SECOND_UNITS = {"ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
cdef int64_t NAT = INT64_MIN

# Seconds since 1970 of the years 1 and 9999: what a protobuf Timestamp may hold.
cdef int64_t FIRST_SECOND = -62135596800
cdef int64_t LAST_SECOND = 253402300799


cdef class Source:
    """Elements of one dtype, contiguous, checked."""

    cdef Memory memory
    cdef const uint8_t* data
    cdef Py_ssize_t size
    cdef int kind
    cdef int width              # bytes of a fixed-size payload, 0 for a varint
    cdef object array           # native byte order, C order


cdef object ndarray = np.ndarray


cdef object plain_array(data, name):
    if type(data) is ndarray:
        return data
    array = np.asarray(data)
    if isinstance(data, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array: fill or drop what is masked first")
    return array


cdef Source source_of(array, name):
    cdef Source source = Source.__new__(Source)
    dtype = array.dtype
    cdef str code = dtype.char
    cdef bint wide = False
    if code == "d":
        wanted, source.kind, source.width = DTYPE_FLOAT64, KIND_DOUBLE, 8
    elif code == "f" or code == "e":
        wanted, source.kind, source.width = DTYPE_FLOAT32, KIND_FLOAT, 4
    elif code == "?":
        wanted, source.kind, source.width = DTYPE_BOOL, KIND_BOOL, 1
    elif dtype.kind in "iu":
        if dtype.itemsize < 4 or (dtype.itemsize == 4 and dtype.kind == "i"):
            wanted, source.kind = DTYPE_INT32, KIND_INT32
        else:
            wanted, source.kind = DTYPE_INT64, KIND_INT64
            wide = dtype.itemsize == 8 and dtype.kind == "u"
    else:
        raise TypeError(
            f"{name} of dtype {dtype} cannot be written: bool, integers and floats can"
        )
    if wide and array.size and int(array.max()) > INT64_MAX:
        index = int(np.argmax(array.reshape(-1) > np.uint64(INT64_MAX)))
        value = int(array.reshape(-1)[index])
        raise EncodeError(
            f"{name}[{index}] is {value}: MXAccess integers hold at most {INT64_MAX}", index, value
        )
    if dtype is not wanted:
        array = array.astype(wanted, order="C", copy=False)
    source.memory = contiguous_memory_of(array)
    source.array = array
    source.data = <const uint8_t*> source.memory.view.buf
    source.size = array.size
    return source


cdef Py_ssize_t find_non_finite(Source source) noexcept nogil:
    if source.kind == KIND_DOUBLE:
        return mxf_first_non_finite_f64(<const double*> source.data, source.size)
    if source.kind == KIND_FLOAT:
        return mxf_first_non_finite_f32(<const float*> source.data, source.size)
    return -1


cdef object non_finite_error(Source source, Py_ssize_t index, name, where=""):
    value = source.array.reshape(-1)[index]
    return EncodeError(
        f"{name}[{index}] is {value}{where}: a value must be finite; replace it or leave it out",
        index,
        value,
    )


cdef class Handles:
    """Item handles as contiguous int32."""

    cdef Memory memory
    cdef const int32_t* data
    cdef Py_ssize_t size


cdef Handles handles_of(item_handles):
    cdef Handles handles = Handles.__new__(Handles)
    array = plain_array(item_handles, "item_handles")
    if array.ndim != 1:
        raise ValueError(f"item_handles must be one-dimensional, not of shape {array.shape}")
    if array.dtype is not DTYPE_INT32:
        if array.size == 0:
            array = np.empty(0, np.int32)
        elif array.dtype.kind not in "iu":
            raise TypeError(f"item_handles must be integers, not dtype {array.dtype}")
        else:
            narrow = array.astype(np.int32, order="C")
            if array.dtype.itemsize > 4 or array.dtype == np.uint32:
                # Value for value: int64 and uint64 have no common type to compare in but float.
                wrong = (array < -0x80000000) | (array > 0x7fffffff)
                if wrong.any():
                    index = int(wrong.argmax())
                    value = int(array[index])
                    raise EncodeError(
                        f"item_handles[{index}] is {value}: an item handle has 32 bits", index, value
                    )
            array = narrow
    handles.memory = contiguous_memory_of(array)
    handles.data = <const int32_t*> handles.memory.view.buf
    handles.size = array.size
    return handles


cdef class Times:
    """Points in time as int64 counts since 1970, so many a second."""

    cdef Memory memory
    cdef const int64_t* data
    cdef Py_ssize_t size
    cdef int64_t per_second


cdef Times times_of(timestamps, name):
    cdef Times times = Times.__new__(Times)
    array = plain_array(timestamps, name)
    if array.dtype.kind != "M":
        raise TypeError(f"{name} must be datetime64, not dtype {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, not of shape {array.shape}")
    unit, count = np.datetime_data(array.dtype)
    if unit == "generic":
        raise TypeError(f"{name} is datetime64 without a unit: say which, such as datetime64[ns]")
    bad = np.isnat(array)
    if bad.any():
        index = int(bad.argmax())
        raise EncodeError(f"{name}[{index}] is NaT: a timestamp must be a time", index, array[index])
    if unit in ("Y", "M", "W", "D", "h", "m", "s", "ms", "us"):
        # Bounds in the array's own unit: a conversion of something outside would wrap around.
        first = np.datetime64(FIRST_SECOND, "s").astype(array.dtype)
        last = np.datetime64(LAST_SECOND, "s").astype(array.dtype)
        bad = (array < first) | (array > last)
        if bad.any():
            index = int(bad.argmax())
            value = array[index]
            raise EncodeError(
                f"{name}[{index}] is {short(value)}: a timestamp lies in the years 1 to 9999",
                index,
                value,
            )
    if unit in SECOND_UNITS:
        times.per_second = SECOND_UNITS[unit]
        array = array.astype(f"datetime64[{unit}]", order="C", copy=False)
    elif unit in ("ps", "fs", "as"):
        # Finer than the wire: whole nanoseconds stay, the rest is cut off.
        times.per_second = 1_000_000_000
        array = array.astype("datetime64[ns]", order="C")
    else:
        times.per_second = 1
        array = array.astype("datetime64[s]", order="C", copy=False)
    times.memory = memory_of(np.ascontiguousarray(array).view(np.int64))
    times.data = <const int64_t*> times.memory.view.buf
    times.size = array.size
    return times


cdef inline void split_time(int64_t time, int64_t per_second, int64_t* seconds, int32_t* nanos) noexcept nogil:
    # Rounds down, also before 1970: a Timestamp's nanoseconds count forward.
    cdef int64_t whole = time // per_second
    cdef int64_t rest = time - whole * per_second
    if rest < 0:
        whole -= 1
        rest += per_second
    seconds[0] = whole
    nanos[0] = <int32_t> (rest * (1_000_000_000 // per_second))
