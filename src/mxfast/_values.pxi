# One MxValue at a time: the cell a row of columns holds, and whole arrays packed.

ctypedef struct Cell:
    int kind
    int64_t payload      # integer, float64 bits, nanoseconds since 1970, or offset << 32 | size
    double value         # NaN where the arm has no number
    int64_t seconds      # of a timestamp, kept apart: a second occurrence merges into the first
    int64_t nanos


cdef extern from *:
    """
    #define MXF_NAN __builtin_nan("")
    static inline double mxf_double_of(int64_t bits) { double d; memcpy(&d, &bits, 8); return d; }
    /* INT64_MIN, numpy's NaT, for what datetime64[ns] cannot hold: nanoseconds that are
       none, and times outside 1677-09-21 to 2262-04-11. */
    static inline int64_t mxf_nanoseconds(int64_t seconds, int64_t nanos) {
        int64_t ns;
        if (nanos < 0 || nanos > 999999999) return INT64_MIN;
        /* A second before 1970 is counted from its end, so that the first one's product fits. */
        if (seconds < 0) { seconds += 1; nanos -= 1000000000; }
        if (__builtin_mul_overflow(seconds, (int64_t)1000000000, &ns)
            || __builtin_add_overflow(ns, nanos, &ns)) return INT64_MIN;
        return ns;
    }
    static inline int64_t mxf_bits_of(double d) { int64_t bits; memcpy(&bits, &d, 8); return bits; }
    """
    const double MXF_NAN
    double mxf_double_of(int64_t bits) noexcept nogil
    int64_t nanoseconds "mxf_nanoseconds"(int64_t seconds, int64_t nanos) noexcept nogil
    int64_t mxf_bits_of(double d) noexcept nogil


cdef inline void clear_cell(Cell* cell) noexcept nogil:
    cell.kind = KIND_NONE
    cell.payload = 0
    cell.value = MXF_NAN
    cell.seconds = 0
    cell.nanos = 0


cdef inline bint read_timestamp(Reader* r, int64_t* seconds, int64_t* nanos) noexcept nogil:
    """Read a google.protobuf.Timestamp, whose two fields are 1 and 2 for ever."""
    cdef size_t size
    cdef const uint8_t* end = r.end
    cdef const char* message = r.message
    cdef int32_t short_nanos
    if not read_length(r, &size):
        return False
    r.end = r.p + size
    r.message = b"Timestamp"
    while r.p != r.end:
        if not read_tag(r):
            return False
        if r.tag == (1 << 3 | WIRE_VARINT):
            if not read_int64(r, seconds):
                return False
        elif r.tag == (2 << 3 | WIRE_VARINT):
            if not read_int32(r, &short_nanos):
                return False
            nanos[0] = short_nanos
        elif not skip_field(r, 0):
            return False
    r.end = end
    r.message = message
    return True


cdef inline bint read_value(Reader* r, Cell* cell) noexcept nogil:
    """Read an MxValue's length and body into the cell; merges into what the cell holds."""
    cdef size_t size
    cdef const uint8_t* end = r.end
    cdef const char* message = r.message
    if not read_length(r, &size):
        return False
    r.end = r.p + size
    r.message = b"MxValue"
    if not read_value_body(r, cell):
        return False
    r.end = end
    r.message = message
    return True


cdef bint read_value_body(Reader* r, Cell* cell) noexcept nogil:
    cdef const uint8_t* data
    cdef size_t size
    cdef uint64_t raw
    cdef int32_t narrow
    cdef float single
    cdef double number
    while r.p != r.end:
        if not read_tag(r):
            return False
        if r.tag == MxValue_double_value_TAG:
            if not read_fixed(r, &number, 8):
                return False
            cell.kind = KIND_DOUBLE
            cell.value = number
            cell.payload = mxf_bits_of(number)
        elif r.tag == MxValue_data_type_TAG:
            if not read_varint(r, &raw):
                return False
        elif r.tag == MxValue_variant_type_TAG:
            if not read_string(r, &data, &size):
                return False
        elif r.tag == MxValue_int32_value_TAG:
            if not read_int32(r, &narrow):
                return False
            cell.kind = KIND_INT32
            cell.payload = narrow
            cell.value = narrow
        elif r.tag == MxValue_bool_value_TAG:
            if not read_varint(r, &raw):
                return False
            cell.kind = KIND_BOOL
            cell.payload = raw != 0
            cell.value = raw != 0
        elif r.tag == MxValue_float_value_TAG:
            if not read_fixed(r, &single, 4):
                return False
            cell.kind = KIND_FLOAT
            cell.value = single
            cell.payload = mxf_bits_of(single)
        elif r.tag == MxValue_int64_value_TAG:
            if not read_int64(r, &cell.payload):
                return False
            cell.kind = KIND_INT64
            cell.value = <double> cell.payload
        elif r.tag == MxValue_string_value_TAG or r.tag == MxValue_raw_value_TAG:
            cell.kind = KIND_STRING if r.tag == MxValue_string_value_TAG else KIND_RAW
            if not read_span(r, &data, &size):
                return False
            if cell.kind == KIND_STRING and not utf8_ok(data, size):
                return fail(r, b"is no valid UTF-8")
            cell.payload = (data - r.start) << 32 | <int64_t> size
            cell.value = MXF_NAN
        elif r.tag == MxValue_timestamp_value_TAG:
            if cell.kind != KIND_TIMESTAMP:
                cell.seconds = cell.nanos = 0
            if not read_timestamp(r, &cell.seconds, &cell.nanos):
                return False
            cell.kind = KIND_TIMESTAMP
            cell.payload = nanoseconds(cell.seconds, cell.nanos)
            cell.value = MXF_NAN
        elif r.tag == MxValue_array_value_TAG or r.tag == MxValue_sparse_array_value_TAG:
            # Read on demand from the row's bytes.
            cell.kind = KIND_ARRAY if r.tag == MxValue_array_value_TAG else KIND_SPARSE_ARRAY
            cell.payload = 0
            cell.value = MXF_NAN
            if not skip_field(r, 0):
                return False
        elif not skip_field(r, 0):
            return False
    return True


# ---------------------------------------------------------------- whole arrays

cdef object ELEMENT_DTYPES = {
    KIND_BOOL: np.dtype(np.bool_),
    KIND_INT32: np.dtype(np.int32),
    KIND_INT64: np.dtype(np.int64),
    KIND_FLOAT: np.dtype(np.float32),
    KIND_DOUBLE: np.dtype(np.float64),
}


cdef void array_tags(int kind, uint32_t* arm, uint32_t* packed, uint32_t* single) noexcept nogil:
    if kind == KIND_BOOL:
        arm[0], packed[0], single[0] = (
            MxArray_bool_values_TAG, BoolArray_values_PACKED, BoolArray_values_TAG)
    elif kind == KIND_INT32:
        arm[0], packed[0], single[0] = (
            MxArray_int32_values_TAG, Int32Array_values_PACKED, Int32Array_values_TAG)
    elif kind == KIND_INT64:
        arm[0], packed[0], single[0] = (
            MxArray_int64_values_TAG, Int64Array_values_PACKED, Int64Array_values_TAG)
    elif kind == KIND_FLOAT:
        arm[0], packed[0], single[0] = (
            MxArray_float_values_TAG, FloatArray_values_PACKED, FloatArray_values_TAG)
    else:
        arm[0], packed[0], single[0] = (
            MxArray_double_values_TAG, DoubleArray_values_PACKED, DoubleArray_values_TAG)


def encode_value(array):
    """Encode one MxValue that holds a whole array, its elements packed.

    Parameters
    ----------
    array : array_like of bool, int or float, any shape
        Elements travel in C order, the shape as the MxArray's ``dimensions``. A 0-d array
        is the scalar itself. Which dtype becomes which arm is as in `encode_write_bulk`.

    Returns
    -------
    bytes
        An MxValue message.

    Raises
    ------
    EncodeError
        An element is not finite or too large; ``index`` counts in C order.
    TypeError
        A dtype that cannot be written; names it.
    """
    arr = plain_array(array, "array")
    cdef Source source = source_of(arr, "array")
    cdef Py_ssize_t bad = find_non_finite(source)
    if bad >= 0:
        raise non_finite_error(source, bad, "array")
    cdef WriteShape shape
    memset(&shape, 0, sizeof(shape))
    shape.kind = source.kind
    shape.width = source.width
    cdef Py_ssize_t n = source.size
    cdef Py_ssize_t i
    cdef size_t packed = n * shape.width
    if not shape.width:
        with nogil:
            for i in range(n):
                packed += payload_size(&shape, source.data, i)

    # A 0-d array is the scalar itself.
    cdef Piece scalar
    cdef bytes message
    cdef uint8_t* out
    if arr.ndim == 0:
        memset(&scalar, 0, sizeof(scalar))
        add_variant(&scalar, source.kind)
        message = PyBytes_FromStringAndSize(NULL, scalar.size + packed)
        out = <uint8_t*> PyBytes_AS_STRING(message)
        put_payload(put_bytes(out, scalar.data, scalar.size), &shape, source.data, 0)
        return message

    cdef Variant variant = variant_of(source.kind)
    cdef uint32_t arm, packed_tag, single_tag
    array_tags(source.kind, &arm, &packed_tag, &single_tag)
    cdef bytes name = b"VT_ARRAY|" + variant.name[:variant.name_size]
    cdef bytes dimensions = b"".join([varint_bytes(extent) for extent in arr.shape])
    cdef size_t values = 0          # the body of the XxxArray
    if n:
        values = varint_size(packed_tag) + varint_size(packed) + packed
    cdef size_t body = (            # the body of the MxArray
        varint_size(MxArray_element_data_type_TAG) + varint_size(<uint64_t> variant.data_type)
        + text_size(MxArray_variant_type_TAG, name)
        + text_size(MxArray_dimensions_PACKED, dimensions)
        + varint_size(arm) + varint_size(values) + values
    )
    cdef size_t total = (
        varint_size(MxValue_data_type_TAG) + varint_size(<uint64_t> variant.data_type)
        + text_size(MxValue_variant_type_TAG, name)
        + varint_size(MxValue_array_value_TAG) + varint_size(body) + body
    )
    if total > MAX_LENGTH:
        raise ValueError(f"{n} values make a message of {total} bytes: 2 GiB is protobuf's limit")
    message = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> total)
    out = <uint8_t*> PyBytes_AS_STRING(message)
    cdef uint8_t* limit = out + total
    out = put_varint(put_varint(out, MxValue_data_type_TAG), <uint64_t> variant.data_type)
    out = put_text(out, MxValue_variant_type_TAG, name)
    out = put_varint(put_varint(out, MxValue_array_value_TAG), body)
    out = put_varint(put_varint(out, MxArray_element_data_type_TAG), <uint64_t> variant.data_type)
    out = put_text(out, MxArray_variant_type_TAG, name)
    out = put_text(out, MxArray_dimensions_PACKED, dimensions)
    out = put_varint(put_varint(out, arm), values)
    if n:
        out = put_varint(put_varint(out, packed_tag), packed)
        with nogil:
            if shape.width > 1:
                out = put_bytes(out, source.data, packed)
            else:
                for i in range(n):
                    out = put_payload(out, &shape, source.data, i)
    assert out == limit
    return message


cdef bytes varint_bytes(number):
    cdef uint8_t buffer[10]
    if number > 0xffffffff:
        raise ValueError(f"a dimension of {number} does not fit in MxArray's 32 bits")
    return (<char*> buffer)[: put_varint(buffer, number) - buffer]


cdef Py_ssize_t read_elements(Reader* r, int kind, uint32_t packed, uint32_t single, uint8_t* out, Py_ssize_t at) noexcept nogil:
    """Read an XxxArray's body; returns how many elements there are now, or -1.

    Without `out` they are counted only, `at` being those there were before.
    """
    cdef const uint8_t* end = r.end
    cdef size_t size
    while r.p != end:
        if not read_tag(r):
            return -1
        if r.tag == packed:
            if not read_length(r, &size):
                return -1
            r.end = r.p + size
            if kind == KIND_DOUBLE or kind == KIND_FLOAT:
                # All of one width: a single copy.
                if size % (8 if kind == KIND_DOUBLE else 4):
                    fail(r, b"is cut off inside a fixed-size field")
                    return -1
                if out != NULL:
                    memcpy(out + at * (8 if kind == KIND_DOUBLE else 4), r.p, size)
                at += size // (8 if kind == KIND_DOUBLE else 4)
                r.p = r.end
            else:
                while r.p != r.end:
                    if not read_element(r, kind, out, at):
                        return -1
                    at += 1
            r.end = end
        elif r.tag == single:
            if not read_element(r, kind, out, at):
                return -1
            at += 1
        elif not skip_field(r, 0):
            return -1
    return at


cdef inline bint read_element(Reader* r, int kind, uint8_t* out, Py_ssize_t at) noexcept nogil:
    cdef uint64_t raw
    if kind == KIND_DOUBLE or kind == KIND_FLOAT:
        if not read_fixed(r, &raw, 8 if kind == KIND_DOUBLE else 4):
            return False
    elif not read_varint(r, &raw):
        return False
    if out == NULL:
        return True
    if kind == KIND_BOOL:
        out[at] = raw != 0
    elif kind == KIND_INT32:
        (<uint32_t*> out)[at] = <uint32_t> raw
    elif kind == KIND_FLOAT:
        memcpy(out + 4 * at, &raw, 4)
    else:
        (<uint64_t*> out)[at] = raw
    return True


cdef list spans_of(const uint8_t* start, size_t size, uint32_t wanted, const char* message):
    """Every occurrence of one length-delimited field: [(offset, size), ...]."""
    cdef Reader r
    cdef const uint8_t* data
    cdef size_t length
    cdef list spans = []
    open_reader(&r, start, size, message)
    while r.p != r.end:
        if not read_tag(&r):
            raise decode_error(&r)
        if r.tag == wanted:
            if not read_span(&r, &data, &length):
                raise decode_error(&r)
            spans.append((data - start, length))
        elif not skip_field(&r, 0):
            raise decode_error(&r)
    return spans


cdef bytes merged_field(bytes message, uint32_t wanted, const char* name):
    """One submessage field's bytes; several occurrences merge, which is concatenation."""
    return b"".join([
        message[offset : offset + size]
        for offset, size in spans_of(
            <const uint8_t*> PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message), wanted, name
        )
    ])


cdef object decode_array(bytes message):
    """The elements of an MxArray's bytes, in its dimensions where those fit."""
    cdef Reader r
    cdef const uint8_t* data
    cdef const uint8_t* end
    cdef size_t size
    cdef uint64_t extent
    cdef int kind = KIND_NONE
    cdef Py_ssize_t n = 0
    cdef uint32_t arm = 0
    cdef uint32_t packed, single
    cdef int found
    cdef list dimensions = []
    cdef list parts = []            # the current arm's bodies
    open_reader(&r, <const uint8_t*> PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message), b"MxArray")
    while r.p != r.end:
        if not read_tag(&r):
            raise decode_error(&r)
        if r.tag == MxArray_dimensions_TAG:
            if not read_varint(&r, &extent):
                raise decode_error(&r)
            dimensions.append(<uint32_t> extent)
        elif r.tag == MxArray_dimensions_PACKED:
            if not read_length(&r, &size):
                raise decode_error(&r)
            end = r.end
            r.end = r.p + size
            while r.p != r.end:
                if not read_varint(&r, &extent):
                    raise decode_error(&r)
                dimensions.append(<uint32_t> extent)
            r.end = end
        else:
            found = array_kind(r.tag)
            if found == KIND_NONE:
                if not skip_field(&r, 0):
                    raise decode_error(&r)
                continue
            if r.tag != arm:
                parts.clear()       # a oneof keeps its last arm
                kind = found
                arm = r.tag
            if not read_span(&r, &data, &size):
                raise decode_error(&r)
            parts.append((data - r.start, size))
    if kind == KIND_STRING or kind == KIND_RAW or kind == KIND_TIMESTAMP:
        array = decode_objects(message, kind, parts)
    elif kind == KIND_NONE:
        array = np.empty(0, np.float64)
    else:
        array_tags(kind, &arm, &packed, &single)
        n = fill_array(message, parts, kind, packed, single, NULL)
        array = np.empty(n, ELEMENT_DTYPES[kind])
        if n:
            memory = memory_of(array, PyBUF_WRITABLE)
            fill_array(message, parts, kind, packed, single, <uint8_t*> (<Memory> memory).view.buf)
    count = 1
    for extent_ in dimensions:
        count *= extent_
    if dimensions and count == array.size:
        array = array.reshape(dimensions)
    return array


cdef int array_kind(uint32_t tag) noexcept nogil:
    if tag == MxArray_double_values_TAG:
        return KIND_DOUBLE
    if tag == MxArray_float_values_TAG:
        return KIND_FLOAT
    if tag == MxArray_bool_values_TAG:
        return KIND_BOOL
    if tag == MxArray_int32_values_TAG:
        return KIND_INT32
    if tag == MxArray_int64_values_TAG:
        return KIND_INT64
    if tag == MxArray_string_values_TAG:
        return KIND_STRING
    if tag == MxArray_timestamp_values_TAG:
        return KIND_TIMESTAMP
    if tag == MxArray_raw_values_TAG:
        return KIND_RAW
    return KIND_NONE


cdef Py_ssize_t fill_array(bytes message, list parts, int kind, uint32_t packed, uint32_t single, uint8_t* out) except -1:
    cdef Reader r
    cdef Py_ssize_t n = 0
    cdef const uint8_t* start = <const uint8_t*> PyBytes_AS_STRING(message)
    for offset, size in parts:
        open_reader(&r, start, <size_t> offset + <size_t> size, b"MxArray")
        r.p = start + <size_t> offset
        n = read_elements(&r, kind, packed, single, out, n)
        if n < 0:
            raise decode_error(&r)
    return n


cdef object decode_objects(bytes message, int kind, list parts):
    """Strings, raw values and timestamps: one length-delimited field an element."""
    cdef const uint8_t* start = <const uint8_t*> PyBytes_AS_STRING(message)
    cdef uint32_t wanted
    cdef Reader r
    cdef int64_t seconds, nanos
    if kind == KIND_STRING:
        wanted = StringArray_values_TAG
    elif kind == KIND_RAW:
        wanted = RawArray_values_TAG
    else:
        wanted = TimestampArray_values_TAG
    cdef list elements = []
    for offset, size in parts:
        open_reader(&r, start, <size_t> offset + <size_t> size, b"MxArray")
        r.p = start + <size_t> offset
        while r.p != r.end:
            if not read_tag(&r):
                raise decode_error(&r)
            if r.tag != wanted:
                if not skip_field(&r, 0):
                    raise decode_error(&r)
            elif kind == KIND_TIMESTAMP:
                seconds = nanos = 0
                if not read_timestamp(&r, &seconds, &nanos):
                    raise decode_error(&r)
                elements.append(nanoseconds(seconds, nanos))
            else:
                elements.append(read_object(&r, kind))
    if kind == KIND_TIMESTAMP:
        return np.array(elements, np.int64).view("datetime64[ns]")
    array = np.empty(len(elements), object)
    array[:] = elements
    return array


cdef object read_object(Reader* r, int kind):
    cdef const uint8_t* data
    cdef size_t size
    if not read_span(r, &data, &size):
        raise decode_error(r)
    if kind == KIND_RAW:
        return PyBytes_FromStringAndSize(<const char*> data, size)
    if not utf8_ok(data, size):
        fail(r, b"is no valid UTF-8")
        raise decode_error(r)
    return read_text(data, size)


def decode_value(data):
    """Decode one MxValue.

    Parameters
    ----------
    data : bytes
        An MxValue message.

    Returns
    -------
    numpy scalar, str, bytes, None or ndarray
        A scalar of the arm's own dtype (bool, int32, int64, float32, float64,
        datetime64[ns]), None where there is no arm. An array comes in the shape that its
        ``dimensions`` say, or flat where they do not fit; strings and raw values as an
        object array. A timestamp that datetime64[ns] cannot hold (before 1677-09-21 or
        after 2262-04-11) is NaT.

    Raises
    ------
    DecodeError
        No valid message; has ``offset`` and ``field``.
    """
    cdef bytes message = as_bytes(data, "data")
    cdef Cell cell
    cdef Reader r
    clear_cell(&cell)
    open_reader(&r, <const uint8_t*> PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message), b"MxValue")
    if not read_value_body(&r, &cell):
        raise decode_error(&r)
    if cell.kind == KIND_ARRAY:
        return decode_array(merged_field(message, MxValue_array_value_TAG, b"MxValue"))
    if cell.kind == KIND_SPARSE_ARRAY:
        raise DecodeError(
            "MxValue.sparse_array_value is write only: the gateway never sends one",
            0,
            "MxValue.sparse_array_value",
        )
    return cell_object(message, cell.kind, cell.payload, cell.value)


cdef object cell_object(bytes message, int kind, int64_t payload, double value):
    if kind == KIND_DOUBLE:
        return np.float64(value)
    if kind == KIND_FLOAT:
        return np.float32(value)
    if kind == KIND_BOOL:
        return np.bool_(payload)
    if kind == KIND_INT32:
        return np.int32(payload)
    if kind == KIND_INT64:
        return np.int64(payload)
    if kind == KIND_TIMESTAMP:
        return np.datetime64(payload, "ns")
    if kind == KIND_NONE:
        return None
    cdef Py_ssize_t offset = payload >> 32
    cdef Py_ssize_t size = payload & MAX_LENGTH
    part = message[offset : offset + size]
    return part.decode() if kind == KIND_STRING else part
