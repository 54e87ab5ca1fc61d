# From whatever the user holds to contiguous memory of a dtype the walks know.

cdef object DTYPE_BOOL = np.dtype(np.bool_)
cdef object DTYPE_UINT8 = np.dtype(np.uint8)
cdef object DTYPE_UINT64 = np.dtype(np.uint64)
cdef object DTYPE_TIME = np.dtype("datetime64[ns]")
cdef object DTYPE_INT32 = np.dtype(np.int32)
cdef object DTYPE_INT64 = np.dtype(np.int64)
cdef object DTYPE_FLOAT32 = np.dtype(np.float32)
cdef object DTYPE_FLOAT64 = np.dtype(np.float64)
cdef object SECOND_UNITS = {"ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
cdef object FINER = {"ps": 1_000, "fs": 1_000_000, "as": 1_000_000_000}    # a nanosecond has
cdef int64_t NAT = INT64_MIN
cdef object ndarray = np.ndarray


def time_bounds():
    """The first and the last count of each unit of datetime64, as far as it has 64 bits, in
    the years 1 to 9999: what a protobuf Timestamp may hold."""
    bounds = {"Y": (1 - 1970, 9999 - 1970), "M": (12 * (1 - 1970), 12 * (10_000 - 1970) - 1)}
    start, end = -62135596800, 253402300800     # in seconds
    for unit, seconds in {"W": 604_800, "D": 86_400, "h": 3_600, "m": 60, "s": 1}.items():
        bounds[unit] = (-(-start // seconds), (end - 1) // seconds)
    for power, unit in enumerate(("ms", "us", "ns", "ps", "fs", "as"), 1):
        bounds[unit] = (
            max(start * 1000**power, -(2**63) + 1),     # the lowest is NaT
            min(end * 1000**power - 1, 2**63 - 1),
        )
    return bounds


cdef object TIME_BOUNDS = time_bounds()


cdef class Source:
    """Elements of one kind, checked, in memory that a walk without the GIL can read."""

    cdef Memory memory
    cdef const uint8_t* data    # numbers, or the spans
    cdef Py_ssize_t size
    cdef int kind
    cdef int width              # bytes of a fixed-size payload, 0 where it varies
    cdef int64_t per_second     # of timestamps
    cdef Span* spans            # of text and raw bytes
    cdef uint8_t* text          # UTF-8 that the spans of a numpy U array point into
    cdef object array           # keeps alive what the spans point into

    def __dealloc__(self):
        free(self.spans)
        free(self.text)


cdef object plain_array(data, name):
    if type(data) is ndarray:
        return data
    if isinstance(data, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array: fill or drop what is masked first")
    if isinstance(data, (str, bytes, int, datetime.datetime)):
        return array_of_list([data], name).reshape(())
    if (
        isinstance(data, Sequence)
        and not hasattr(data, "__array__")
        and not PyObject_CheckBuffer(data)
    ):
        return array_of_list(list(data), name)
    return np.asarray(data)


def exact_array(data, name):
    """Return what is like an array as a numpy array whose elements are equal to its own.

    Parameters
    ----------
    data : array_like
        A list holds elements of one type: bool, int, float (also with integers that are
        floats too), str, bytes, or datetime and datetime64.
    name : str
        What it is, for errors.

    Returns
    -------
    ndarray
        Text and bytes of a list as objects; its integers as int32 where all fit.

    Raises
    ------
    EncodeError
        An element cannot be held; a TypeError too where it is of another type than the rest.
    TypeError
        A masked array.
    ValueError
        A nested list whose rows differ in length.
    """
    return plain_array(data, name)


def in_dtype(array, dtype, name):
    """Return an array in a dtype, where that loses nothing.

    Parameters
    ----------
    array : ndarray, shape (n,)
    dtype : dtype
        bool, an integer or a float.
    name : str
        What it is, for errors.

    Raises
    ------
    TypeError
        numpy does not call the conversion safe, or the array is masked.
    EncodeError
        An integer that is no float of that dtype.
    """
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array: fill or drop what is masked first")
    if not np.can_cast(array.dtype, dtype, "safe"):
        raise TypeError(f"{name} of dtype {array.dtype} do not fit in {dtype}")
    if dtype.kind == "f" and array.dtype.kind in "iu" and array.dtype.itemsize == 8:
        # Safe to numpy, although a float64 has 53 bits for an integer.
        for index in np.flatnonzero((array > 2**53) | (array < -(2**53))).tolist():
            number = int(array[index])
            if int(float(number)) != number:
                raise EncodeError(
                    f"{name}[{index}] is {number}, which no {dtype} is: prepare int64, or round "
                    "it yourself",
                    index,
                    number,
                )
    return array.astype(dtype, copy=False)


cdef Source source_of(array, name):
    cdef Source source = Source.__new__(Source)
    dtype = array.dtype
    cdef str code = dtype.char
    cdef bint wide = False
    source.size = array.size
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
    elif code == "M":
        times = times_of(array.reshape(-1), name)
        source.kind = KIND_TIMESTAMP
        source.memory = (<Times> times).memory
        source.data = <const uint8_t*> (<Times> times).data
        source.per_second = (<Times> times).per_second
        return source
    elif code == "U":
        source.kind = KIND_STRING
        take_ucs4(source, array, name)
        return source
    elif code == "S" or (code == "V" and dtype.names is None and dtype.subdtype is None):
        source.kind = KIND_RAW
        take_fixed_bytes(source, array, strip=code == "S")
        return source
    elif code == "O" or code == "T":
        take_objects(source, array.astype(object, copy=False).reshape(-1), dtype, name)
        return source
    else:
        raise unwritable(dtype, name)
    if wide and array.size and int(array.max()) > INT64_MAX:
        index = int(np.argmax(array.reshape(-1) > np.uint64(INT64_MAX)))
        value = int(array.reshape(-1)[index])
        raise too_wide(index, value, name)
    if dtype is not wanted:
        array = array.astype(wanted, order="C", copy=False)
    source.memory = contiguous_memory_of(array)
    source.array = array
    source.data = <const uint8_t*> source.memory.view.buf
    return source


cdef object unwritable(dtype, name):
    return TypeError(
        f"{name} of dtype {dtype} cannot be written: bool, integers, floats, str, datetime64 "
        "and bytes can"
    )


cdef int allot_spans(Source source) except -1:
    source.spans = <Span*> malloc(max(source.size, 1) * sizeof(Span))
    if source.spans == NULL:
        raise MemoryError
    source.data = <const uint8_t*> source.spans
    return 0


cdef int take_ucs4(Source source, array, name) except -1:
    """Transcode a numpy U array to UTF-8; numpy pads its elements with NULs at the end."""
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("="))
    allot_spans(source)
    cdef Py_ssize_t width = array.dtype.itemsize // 4
    if width == 0:
        memset(source.spans, 0, source.size * sizeof(Span))
        return 0
    # As integers, since the buffer protocol gives U arrays a format of their own.
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint32)
    cdef Memory memory = memory_of(flat)
    cdef const uint32_t* chars = <const uint32_t*> memory.view.buf
    cdef Py_ssize_t n = source.size
    cdef Py_ssize_t bad
    # A code point takes at most its four bytes again.
    source.text = <uint8_t*> malloc(max(n * width * 4, 1))
    if source.text == NULL:
        raise MemoryError
    with nogil:
        bad = ucs4_to_utf8(chars, n, width, source.text, source.spans)
    if bad >= 0:
        beyond = flat.reshape(n, width)[bad].max()
        if beyond > 0x10ffff:       # numpy cannot make a str of it
            raise EncodeError(
                f"{name}[{bad}] holds the code point {beyond:#x}: Unicode ends at 0x10ffff",
                bad,
                int(beyond),
            )
        value = str(array.reshape(-1)[bad])
        raise EncodeError(
            f"{name}[{bad}] is {short(ascii(value))}: a lone surrogate is no text", bad, value
        )
    return 0


cdef extern from *:
    """
    /* Four code points at a time while they are ASCII; tells how many those were. */
    static inline ptrdiff_t mxf_narrow(uint8_t *out, const uint32_t *chars, ptrdiff_t n) {
        ptrdiff_t i = 0;
        for (; i + 4 <= n; i += 4) {
            uint64_t a, b;
            memcpy(&a, chars + i, 8);
            memcpy(&b, chars + i + 2, 8);
            if ((a | b) & 0xffffff80ffffff80) break;
            const uint32_t word = (uint16_t)(a | a >> 24) | (uint32_t)(b | b >> 24) << 16;
            memcpy(out + i, &word, 4);
        }
        return i;
    }
    """
    Py_ssize_t mxf_narrow(uint8_t* out, const uint32_t* chars, Py_ssize_t n) noexcept nogil


cdef Py_ssize_t ucs4_to_utf8(
    const uint32_t* chars, Py_ssize_t n, Py_ssize_t width, uint8_t* out, Span* spans
) noexcept nogil:
    """Transcode n elements; returns the first that is no text, or -1."""
    cdef Py_ssize_t i, k, length, ascii
    cdef uint32_t code
    for i in range(n):
        length = width
        while length and chars[length - 1] == 0:
            length -= 1
        spans[i].data = out
        ascii = mxf_narrow(out, chars, length)
        out += ascii
        for k in range(ascii, length):
            code = chars[k]
            if code < 0x80:
                out[0] = <uint8_t> code
                out += 1
            elif code < 0x800:
                out[0] = <uint8_t> (0xc0 | code >> 6)
                out[1] = <uint8_t> (0x80 | (code & 0x3f))
                out += 2
            elif code < 0x10000:
                if code >= 0xd800 and code <= 0xdfff:
                    return i
                out[0] = <uint8_t> (0xe0 | code >> 12)
                out[1] = <uint8_t> (0x80 | (code >> 6 & 0x3f))
                out[2] = <uint8_t> (0x80 | (code & 0x3f))
                out += 3
            elif code <= 0x10ffff:
                out[0] = <uint8_t> (0xf0 | code >> 18)
                out[1] = <uint8_t> (0x80 | (code >> 12 & 0x3f))
                out[2] = <uint8_t> (0x80 | (code >> 6 & 0x3f))
                out[3] = <uint8_t> (0x80 | (code & 0x3f))
                out += 4
            else:
                return i
        spans[i].size = out - spans[i].data
        chars += width
    return -1


cdef int take_fixed_bytes(Source source, array, bint strip) except -1:
    """Point into a numpy S or V array; S pads its elements with NULs at the end, V does not."""
    allot_spans(source)
    cdef size_t width = array.dtype.itemsize
    if width == 0:
        memset(source.spans, 0, source.size * sizeof(Span))
        return 0
    array = np.ascontiguousarray(array).reshape(-1)
    source.memory = memory_of(array.view(np.uint8))
    source.array = array
    cdef const uint8_t* data = <const uint8_t*> source.memory.view.buf
    cdef Py_ssize_t i
    cdef size_t length
    with nogil:
        for i in range(source.size):
            length = width
            while strip and length and data[length - 1] == 0:
                length -= 1
            source.spans[i].data = data
            source.spans[i].size = length
            data += width
    return 0


cdef int take_objects(Source source, array, dtype, name) except -1:
    """Point into the str or the bytes objects of an array: all of one type."""
    cdef list objects = array.tolist()
    cdef Py_ssize_t i, length
    cdef const char* text
    allot_spans(source)
    source.array = objects
    source.kind = KIND_RAW if objects and isinstance(objects[0], bytes) else KIND_STRING
    for i, element in enumerate(objects):
        if i % PIECE == PIECE - 1:
            let_others_run()
        if source.kind == KIND_RAW and isinstance(element, bytes):
            source.spans[i].data = <const uint8_t*> PyBytes_AS_STRING(element)
            source.spans[i].size = PyBytes_GET_SIZE(element)
        elif source.kind == KIND_STRING and isinstance(element, str):
            try:
                text = PyUnicode_AsUTF8AndSize(element, &length)
            except UnicodeEncodeError:
                raise EncodeError(
                    f"{name}[{i}] is {short(ascii(element))}: a lone surrogate is no text",
                    i,
                    element,
                ) from None
            source.spans[i].data = <const uint8_t*> text
            source.spans[i].size = length
        else:
            raise ElementTypeError(
                f"{name}[{i}] is a {type(element).__name__}: {short(repr(element))}; in an array "
                f"of dtype {dtype} all must be str, or all bytes",
                i,
                element,
            )
    return 0


cdef Py_ssize_t find_non_finite(Source source) noexcept nogil:
    if source.kind == KIND_DOUBLE or source.kind == KIND_FLOAT:
        return mxf_search(<const char*> source.data, source.size, source.width)
    return -1


cdef Py_ssize_t copy_finite(uint8_t* out, Source source) noexcept nogil:
    """Copy elements of a fixed size; returns the first that is not finite, or -1.

    Piece by piece: what was looked at is copied while it is in the nearest cache.
    """
    cdef Py_ssize_t piece = 4096 // source.width
    cdef Py_ssize_t i = 0, n, bad
    cdef const uint8_t* data = source.data
    while i < source.size:
        n = min(piece, source.size - i)
        if source.kind == KIND_DOUBLE or source.kind == KIND_FLOAT:
            bad = mxf_search(<const char*> data, n, source.width)
            if bad >= 0:
                return i + bad
        memcpy(out, data, n * source.width)
        out += n * source.width
        data += n * source.width
        i += n
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
    if array.size == 0:
        array = array.astype("datetime64[ns]")      # an empty list has no dtype of its own
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
        raise not_a_time(index, array[index], name)
    if unit != "ns" or count > 1:       # the usual one, of which none is outside
        first, last = TIME_BOUNDS[unit]
        # In the array's own unit: a conversion of something outside would wrap around.
        first, last = np.array([-(-first // count), last // count]).astype(array.dtype)
        bad = (array < first) | (array > last)
        if bad.any():
            index = int(bad.argmax())
            raise out_of_years(index, array[index], name)
    if unit in SECOND_UNITS:
        times.per_second = SECOND_UNITS[unit]
        array = array.astype(f"datetime64[{unit}]", order="C", copy=False)
    elif unit in FINER:
        # Whole nanoseconds stay, the rest is cut off. Not by numpy: it wraps around at the end.
        times.per_second = 1_000_000_000
        array = array.astype(f"datetime64[{unit}]").astype(np.int64) // FINER[unit]
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
