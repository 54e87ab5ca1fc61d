# One MxValue at a time: the cell a row of columns holds, and whole arrays packed.

ctypedef struct Mark:
    # Where in the message a varint or a fixed-size number stands; size 0 where there is none.
    const uint8_t* at
    uint32_t size


ctypedef struct Stamp:
    # A google.protobuf.Timestamp as read.
    int64_t seconds
    int64_t nanos
    Mark seconds_mark
    Mark nanos_mark


ctypedef struct Cell:
    int kind
    uint8_t is_null      # said beside the arm, and more than what the arm holds
    int64_t payload      # integer, float64 bits, nanoseconds since 1970, or offset << 32 | size
    double value         # NaN where the arm has no number
    Stamp stamp          # of a timestamp, kept apart: a second occurrence merges into the first
    Mark number          # where the number stands, for the layout of an event


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
    cell.number.size = 0
    cell.is_null = False


cdef inline void settle(Cell* cell) noexcept nogil:
    """Let a value that is null have no arm: to be called once all of its fields are read.

    Not before, as a later occurrence of the value may say that it is no null after all.
    """
    if cell.is_null:
        clear_cell(cell)


cdef inline void mark(Mark* mark, const uint8_t* at, const uint8_t* end) noexcept nogil:
    mark.at = at
    mark.size = end - at


cdef inline void clear_stamp(Stamp* stamp) noexcept nogil:
    stamp.seconds = stamp.nanos = 0
    stamp.seconds_mark.size = stamp.nanos_mark.size = 0


cdef inline const uint8_t* read_timestamp(
    const uint8_t* p, const uint8_t* end, Stamp* stamp, int depth, Fault* fault
) noexcept nogil:
    """Read a google.protobuf.Timestamp with its length."""
    cdef const uint8_t* at
    cdef uint32_t tag
    cdef Varint v = get_length(p, end, fault)
    if v.p == NULL:
        return NULL
    p = v.p
    end = p + v.value
    while p != end:
        v = get_tag(p, end, fault)
        if v.p == NULL:
            return broken(fault, b"Timestamp", 0)
        p = v.p
        tag = v.value
        if tag == Timestamp_seconds_TAG:
            at = p
            v = get_varint(p, end, fault)
            p = v.p
            stamp.seconds = <int64_t> v.value
            mark(&stamp.seconds_mark, at, p)
        elif tag == Timestamp_nanos_TAG:
            at = p
            v = get_varint(p, end, fault)
            p = v.p
            stamp.nanos = <int32_t> v.value
            mark(&stamp.nanos_mark, at, p)
        else:
            p = skip(p, end, tag, depth, fault)
        if p == NULL:
            return broken(fault, b"Timestamp", tag)
    return p


cdef const uint8_t* read_value(
    const uint8_t* p, const uint8_t* end, const uint8_t* start, Cell* cell, int depth, Fault* fault
) noexcept nogil:
    """Read an MxValue's body into the cell; merges into what the cell holds.

    Whoever has read the last of it calls `settle`. Offsets count from `start`; `depth` is how deep the MxValue lies below the outermost message.
    """
    cdef uint32_t tag
    cdef Varint v
    cdef Span span
    cdef float single
    cdef double number
    cdef const uint8_t* at
    while p != end:
        v = get_tag(p, end, fault)
        if v.p == NULL:
            return broken(fault, b"MxValue", 0)
        p = v.p
        at = p
        tag = v.value
        if tag == MxValue_double_value_TAG:
            p = get_fixed(p, end, &number, 8, fault)
            if p != NULL:
                set_number(cell, KIND_DOUBLE, mxf_bits_of(number), number)
                mark(&cell.number, at, p)
        elif tag == MxValue_data_type_TAG:
            p = get_varint(p, end, fault).p
        elif tag == MxValue_variant_type_TAG:
            p = get_string(p, end, &span, fault)
        elif tag == MxValue_int32_value_TAG:
            v = get_varint(p, end, fault)
            p = v.p
            set_number(cell, KIND_INT32, <int32_t> v.value, <int32_t> v.value)
            mark(&cell.number, at, p)
        elif tag == MxValue_bool_value_TAG:
            v = get_varint(p, end, fault)
            p = v.p
            set_number(cell, KIND_BOOL, v.value != 0, v.value != 0)
            mark(&cell.number, at, p)
        elif tag == MxValue_float_value_TAG:
            p = get_fixed(p, end, &single, 4, fault)
            if p != NULL:
                set_number(cell, KIND_FLOAT, mxf_bits_of(single), single)
                mark(&cell.number, at, p)
        elif tag == MxValue_int64_value_TAG:
            v = get_varint(p, end, fault)
            p = v.p
            set_number(cell, KIND_INT64, <int64_t> v.value, <double> <int64_t> v.value)
            mark(&cell.number, at, p)
        elif tag == MxValue_string_value_TAG:
            p = get_string(p, end, &span, fault)
            if p != NULL:
                set_number(cell, KIND_STRING, (span.data - start) << 32 | span.size, MXF_NAN)
        elif tag == MxValue_raw_value_TAG:
            p = get_span(p, end, &span, fault)
            if p != NULL:
                set_number(cell, KIND_RAW, (span.data - start) << 32 | span.size, MXF_NAN)
        elif tag == MxValue_timestamp_value_TAG:
            if cell.kind != KIND_TIMESTAMP:
                clear_stamp(&cell.stamp)
            p = read_timestamp(p, end, &cell.stamp, depth + 1, fault)
            set_number(
                cell, KIND_TIMESTAMP, nanoseconds(cell.stamp.seconds, cell.stamp.nanos), MXF_NAN
            )
        elif tag == MxValue_is_null_TAG:
            v = get_varint(p, end, fault)
            p = v.p
            cell.is_null = v.value != 0
        elif tag == MxValue_array_value_TAG:
            # Checked now, read on demand from the row's bytes, as is a sparse array.
            p = pass_field(p, end, tag, MxValue_MESSAGE, depth, fault)
            set_number(cell, KIND_ARRAY, 0, MXF_NAN)
        elif tag == MxValue_sparse_array_value_TAG:
            p = pass_field(p, end, tag, MxValue_MESSAGE, depth, fault)
            set_number(cell, KIND_SPARSE_ARRAY, 0, MXF_NAN)
        else:
            p = pass_field(p, end, tag, MxValue_MESSAGE, depth, fault)
        if p == NULL:
            return broken(fault, b"MxValue", tag)
    return p


cdef inline void set_number(Cell* cell, int kind, int64_t payload, double value) noexcept nogil:
    cell.kind = kind
    cell.payload = payload
    cell.value = value


cdef inline const uint8_t* read_value_field(
    const uint8_t* p, const uint8_t* end, const uint8_t* start, Cell* cell, int depth, Fault* fault
) noexcept nogil:
    """Read an MxValue with its length."""
    cdef Varint v = get_length(p, end, fault)
    if v.p == NULL:
        return NULL
    return read_value(v.p, v.p + v.value, start, cell, depth, fault)


# ---------------------------------------------------------------- whole arrays

cdef enum:
    MAX_DIMENSIONS = 64    # numpy's most

cdef object ELEMENT_DTYPES = {
    KIND_BOOL: np.dtype(np.bool_),
    KIND_INT32: np.dtype(np.int32),
    KIND_INT64: np.dtype(np.int64),
    KIND_FLOAT: np.dtype(np.float32),
    KIND_DOUBLE: np.dtype(np.float64),
}


cdef void array_tags(int kind, uint32_t* arm, uint32_t* packed, uint32_t* single) noexcept nogil:
    """The tag of MxArray's arm and those of its elements; what is not a number has no packed form."""
    packed[0] = 0
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
    elif kind == KIND_DOUBLE:
        arm[0], packed[0], single[0] = (
            MxArray_double_values_TAG, DoubleArray_values_PACKED, DoubleArray_values_TAG)
    elif kind == KIND_STRING:
        arm[0], single[0] = MxArray_string_values_TAG, StringArray_values_TAG
    elif kind == KIND_RAW:
        arm[0], single[0] = MxArray_raw_values_TAG, RawArray_values_TAG
    else:
        arm[0], single[0] = MxArray_timestamp_values_TAG, TimestampArray_values_TAG


def encode_value(array):
    """Encode one MxValue that holds a whole array, its elements packed.

    Parameters
    ----------
    array : array_like, any shape
        Elements travel in C order, the shape as the MxArray's ``dimensions``. A 0-d array
        is the scalar itself, and None the null, which no element can be. Which dtype becomes which arm is as in `encode_write_bulk`.

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
    RuntimeError
        Another thread changed the array meanwhile, as in `encode_write_bulk`.
    """
    if array is None:
        return null_value()
    arr = plain_array(array, "array")
    cdef Source source = source_of(arr, "array")
    cdef WriteShape shape
    cdef Py_ssize_t n = source.size
    cdef Py_ssize_t i
    cdef Py_ssize_t bad = -1
    cdef tuple extents = arr.shape
    shape_of(&shape, source)

    # A 0-d array is the scalar itself.
    if not extents:
        bad = find_non_finite(source)
        if bad >= 0:
            raise non_finite_error(source, bad, "array")
        return scalar_value(&shape, source.data, 0)

    cdef Payload payload
    cdef Variant variant = variant_of(source.kind)
    cdef uint32_t arm, packed_tag, single_tag
    array_tags(source.kind, &arm, &packed_tag, &single_tag)
    cdef size_t elements = n * shape.width
    cdef bint integers = source.kind == KIND_INT32 or source.kind == KIND_INT64
    if not shape.width:
        with nogil:
            if integers:
                elements = mxf_integers_size(source.data, n, source.kind == KIND_INT64)
            else:
                for i in range(n):
                    elements += payload_size(&shape, source.data, i)
    cdef size_t values = elements       # the body of the XxxArray
    cdef size_t element_tag_size = 0 if packed_tag else varint_size(single_tag)
    if not packed_tag:
        values += n * element_tag_size
    elif n:
        values += varint_size(packed_tag) + varint_size(elements)

    # MxValue and MxArray begin alike: the elements' type and its name.
    cdef uint8_t name[32]
    cdef size_t name_size = 9 + variant.name_size
    memcpy(name, b"VT_ARRAY|", 9)
    memcpy(name + 9, variant.name, variant.name_size)
    cdef size_t type_size = (
        varint_size(<uint64_t> variant.data_type) + varint_size(name_size) + name_size
    )
    cdef uint8_t dimensions[MAX_DIMENSIONS * 5]
    cdef size_t dimensions_size = put_extents(dimensions, extents) - dimensions
    cdef size_t body = (                # of the MxArray
        varint_size(MxArray_element_data_type_TAG) + varint_size(MxArray_variant_type_TAG)
        + type_size
        + varint_size(MxArray_dimensions_PACKED) + varint_size(dimensions_size) + dimensions_size
        + varint_size(arm) + varint_size(values) + values
    )
    cdef size_t total = (
        varint_size(MxValue_data_type_TAG) + varint_size(MxValue_variant_type_TAG) + type_size
        + varint_size(MxValue_array_value_TAG) + varint_size(body) + body
    )
    if total > MAX_LENGTH:
        raise ValueError(f"{n} values make a message of {total} bytes: 2 GiB is protobuf's limit")
    cdef bytes message = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> total)
    cdef uint8_t* out = <uint8_t*> PyBytes_AS_STRING(message)
    cdef uint8_t* limit = out + total
    out = put_varint(put_varint(out, MxValue_data_type_TAG), <uint64_t> variant.data_type)
    out = put_varint(put_varint(out, MxValue_variant_type_TAG), name_size)
    out = put_bytes(out, name, name_size)
    out = put_varint(put_varint(out, MxValue_array_value_TAG), body)
    out = put_varint(put_varint(out, MxArray_element_data_type_TAG), <uint64_t> variant.data_type)
    out = put_varint(put_varint(out, MxArray_variant_type_TAG), name_size)
    out = put_bytes(out, name, name_size)
    out = put_varint(put_varint(out, MxArray_dimensions_PACKED), dimensions_size)
    out = put_bytes(out, dimensions, dimensions_size)
    out = put_varint(put_varint(out, arm), values)
    if packed_tag and n:
        out = put_varint(put_varint(out, packed_tag), elements)
    with nogil:
        if shape.width > 1:
            bad = copy_finite(out, source)
            out += elements
        elif integers:
            out = mxf_put_integers(out, limit, source.data, n, source.kind == KIND_INT64)
        else:
            for i in range(n):
                read_payload(&payload, &shape, source.data, i)
                if element_tag_size + size_of(&payload) > <size_t> (limit - out):
                    out = NULL
                    break
                if not packed_tag:
                    out = put_varint(out, single_tag)
                out = put_payload(out, &payload)
    if bad >= 0:
        raise non_finite_error(source, bad, "array")
    if out != limit:
        raise changed_error()
    return message


cdef bytes null_value():
    """The MxValue of None."""
    cdef Piece piece
    piece.size = 0
    add_varint(&piece, MxValue_data_type_TAG, MX_DATA_TYPE_NO_DATA)
    add_text(&piece, MxValue_variant_type_TAG, b"VT_NULL", 7)
    add_varint(&piece, MxValue_is_null_TAG, True)
    return (<char*> piece.data)[: piece.size]


cdef void shape_of(WriteShape* shape, Source source) noexcept:
    """What payload_size and read_payload need to know, for values outside a bulk write."""
    memset(shape, 0, sizeof(WriteShape))
    shape.kind = source.kind
    shape.width = source.width
    shape.per_second = source.per_second
    add_variant(&shape.value, source.kind)


cdef bytes scalar_value(const WriteShape* shape, const uint8_t* values, Py_ssize_t i):
    """The MxValue of element i."""
    cdef Payload payload
    read_payload(&payload, shape, values, i)
    cdef size_t size = shape.value.size + size_of(&payload)
    cdef bytes message = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> size)
    cdef uint8_t* out = <uint8_t*> PyBytes_AS_STRING(message)
    put_payload(put_bytes(out, shape.value.data, shape.value.size), &payload)
    return message


def encode_values(array):
    """Encode one MxValue an element.

    Parameters
    ----------
    array : array_like, shape (n,)
        As the values of `encode_write_bulk`.

    Returns
    -------
    list of bytes
        n MxValue messages.

    Raises
    ------
    EncodeError, TypeError, ValueError
        As `encode_write_bulk`.
    """
    arr = plain_array(array, "array")
    if arr.ndim != 1:
        raise ValueError(f"array must be one-dimensional, not of shape {arr.shape}")
    cdef Source source = source_of(arr, "array")
    cdef Py_ssize_t bad = find_non_finite(source)
    if bad >= 0:
        raise non_finite_error(source, bad, "array")
    cdef WriteShape shape
    cdef Py_ssize_t i
    shape_of(&shape, source)
    return [scalar_value(&shape, source.data, i) for i in range(source.size)]


cdef uint8_t* put_extents(uint8_t* out, tuple shape) except NULL:
    cdef Py_ssize_t extent
    for extent in shape:
        if extent > 0xffffffff:
            raise ValueError(f"a dimension of {extent} does not fit in MxArray's 32 bits")
        out = put_varint(out, extent)
    return out


cdef inline const uint8_t* read_element(
    const uint8_t* p, const uint8_t* end, int kind, uint8_t* out, Py_ssize_t at, Fault* fault
) noexcept nogil:
    """Read one element; without `out` only pass over it."""
    cdef uint64_t raw
    cdef Varint v
    if kind == KIND_DOUBLE or kind == KIND_FLOAT:
        p = get_fixed(p, end, &raw, 8 if kind == KIND_DOUBLE else 4, fault)
    else:
        v = get_varint(p, end, fault)
        p = v.p
        raw = v.value
    if p == NULL or out == NULL:
        return p
    if kind == KIND_BOOL:
        out[at] = raw != 0
    elif kind == KIND_INT32:
        (<uint32_t*> out)[at] = <uint32_t> raw
    elif kind == KIND_FLOAT:
        memcpy(out + 4 * at, &raw, 4)
    else:
        (<uint64_t*> out)[at] = raw
    return p


cdef const uint8_t* read_elements(
    const uint8_t* p, const uint8_t* end, int kind, uint32_t packed, uint32_t single,
    uint8_t* out, Py_ssize_t* count, Fault* fault,
) noexcept nogil:
    """Read an XxxArray's body behind the `count` elements there are; without `out` only count."""
    cdef const uint8_t* stop
    cdef uint32_t tag
    cdef Varint v
    cdef size_t width = 8 if kind == KIND_DOUBLE else 4 if kind == KIND_FLOAT else 0
    while p != end:
        v = get_tag(p, end, fault)
        if v.p == NULL:
            return broken(fault, b"MxArray", 0)
        p = v.p
        tag = v.value
        if tag == packed:
            v = get_length(p, end, fault)
            if v.p == NULL:
                return broken(fault, b"MxArray", tag)
            p = v.p
            stop = p + v.value
            if width:
                # All of one width: a single copy.
                if v.value % width:
                    fail(fault, stop, b"is cut off inside a fixed-size field")
                    return broken(fault, b"MxArray", tag)
                if out != NULL:
                    memcpy(out + count[0] * width, p, v.value)
                count[0] += v.value // width
                p = stop
            while p != stop:
                p = read_element(p, stop, kind, out, count[0], fault)
                if p == NULL:
                    return broken(fault, b"MxArray", tag)
                count[0] += 1
        elif tag == single:
            p = read_element(p, end, kind, out, count[0], fault)
            count[0] += 1
        else:
            p = skip(p, end, tag, 0, fault)
        if p == NULL:
            return broken(fault, b"MxArray", tag)
    return p


cdef object decode_array(bytes message, Span body):
    """The elements of an MxArray that lies in the message, in its dimensions where those fit."""
    cdef const uint8_t* start = body.data
    cdef const uint8_t* p = start
    cdef const uint8_t* end = start + body.size
    cdef Fault fault
    cdef Varint v
    cdef Span span
    cdef uint32_t tag
    cdef uint32_t arm = 0
    cdef uint32_t packed, single
    cdef int kind = KIND_NONE
    cdef uint32_t extents[MAX_DIMENSIONS]
    cdef Py_ssize_t dimensions = 0
    cdef Py_ssize_t i, n
    memset(&fault, 0, sizeof(fault))
    while p != end:
        v = get_tag(p, end, &fault)
        p = v.p
        tag = v.value if p != NULL else 0
        if p == NULL:
            pass
        elif tag == MxArray_dimensions_TAG:
            p = read_dimensions(p, p + 1, end, extents, &dimensions, &fault)
        elif tag == MxArray_dimensions_PACKED:
            p = get_span(p, end, &span, &fault)
            if p != NULL:
                p = read_dimensions(span.data, p, p, extents, &dimensions, &fault)
        else:
            if array_kind(tag) != KIND_NONE:
                kind = array_kind(tag)      # a oneof keeps its last arm
                arm = tag
            p = skip(p, end, tag, 0, &fault)
        if p == NULL:
            broken(&fault, b"MxArray", tag)
            raise decode_error(&fault, start)
    if kind == KIND_NONE:
        array = np.empty(0, np.float64)
    else:
        message = narrowed(message, &body, arm, MxArray_MESSAGE)
        if kind == KIND_STRING or kind == KIND_RAW or kind == KIND_TIMESTAMP:
            array = decode_objects(body, kind)
        else:
            array_tags(kind, &arm, &packed, &single)
            n = fill_array(body, kind, packed, single, NULL)
            array = np.empty(n, ELEMENT_DTYPES[kind])
            memory = memory_of(array, PyBUF_WRITABLE)
            fill_array(body, kind, packed, single, <uint8_t*> (<Memory> memory).view.buf)
    # A message may claim any number of dimensions of any size.
    if not 0 < dimensions <= MAX_DIMENSIONS:
        return array
    shape = [extents[i] for i in range(dimensions)]
    if math.prod(shape) != array.size:
        return array
    try:
        return array.reshape(shape)
    except ValueError:
        return array        # one is 0 and the others' product is more than numpy can count


cdef object array_field(bytes message, uint32_t tag, int message_type):
    """The elements of a message's field that is an MxArray."""
    cdef Span body = whole(message)
    cdef bytes holder = narrowed(message, &body, tag, message_type)
    return decode_array(holder, body)


cdef const uint8_t* read_dimensions(
    const uint8_t* p, const uint8_t* stop, const uint8_t* end, uint32_t* extents,
    Py_ssize_t* count, Fault* fault,
) noexcept nogil:
    """Read varints up to `stop`, keep those there is room for, count them all."""
    cdef Varint v
    v.p = p
    while v.p != NULL and v.p < stop:
        v = get_varint(v.p, end, fault)
        if v.p != NULL:
            if count[0] < MAX_DIMENSIONS:
                extents[count[0]] = <uint32_t> v.value
            count[0] += 1
    return v.p


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


cdef Py_ssize_t fill_array(
    Span body, int kind, uint32_t packed, uint32_t single, uint8_t* out
) except -1:
    """Read an XxxArray into `out`, if there is one, and return how many elements it has."""
    cdef const uint8_t* end = body.data + body.size
    cdef Py_ssize_t n = 0
    cdef Fault fault
    memset(&fault, 0, sizeof(fault))
    with nogil:
        end = read_elements(body.data, end, kind, packed, single, out, &n, &fault)
    if end == NULL:
        raise decode_error(&fault, body.data)
    return n


cdef object decode_objects(Span body, int kind):
    """Strings, raw values and timestamps: one length-delimited field an element."""
    cdef const uint8_t* start = body.data
    cdef const uint8_t* p = start
    cdef const uint8_t* end = start + body.size
    cdef Fault fault
    cdef Varint v
    cdef Span span
    cdef uint32_t tag
    cdef uint32_t wanted
    cdef Stamp stamp
    if kind == KIND_STRING:
        wanted = StringArray_values_TAG
    elif kind == KIND_RAW:
        wanted = RawArray_values_TAG
    else:
        wanted = TimestampArray_values_TAG
    cdef list elements = []
    memset(&fault, 0, sizeof(fault))
    while p != end:
        v = get_tag(p, end, &fault)
        p = v.p
        tag = v.value if p != NULL else 0
        if p == NULL:
            pass
        elif tag != wanted:
            p = skip(p, end, tag, 0, &fault)
        elif kind == KIND_TIMESTAMP:
            clear_stamp(&stamp)
            p = read_timestamp(p, end, &stamp, 0, &fault)
            elements.append(nanoseconds(stamp.seconds, stamp.nanos))
        elif kind == KIND_RAW:
            p = get_span(p, end, &span, &fault)
            if p != NULL:
                elements.append(PyBytes_FromStringAndSize(<const char*> span.data, span.size))
        else:
            p = get_string(p, end, &span, &fault)
            if p != NULL:
                elements.append(read_text(&span))
        if p == NULL:
            broken(&fault, b"MxArray", tag)
            raise decode_error(&fault, start)
    if kind == KIND_TIMESTAMP:
        return np.array(elements, np.int64).view(DTYPE_TIME)
    array = np.empty(len(elements), object)
    array[:] = elements
    return array


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
        datetime64[ns]), None for a null and where there is no arm. An array comes in the shape that its
        ``dimensions`` say, or flat where they do not fit; strings and raw values as an
        object array. A timestamp that datetime64[ns] cannot hold (before 1677-09-21 or
        after 2262-04-11) is NaT.

    Raises
    ------
    DecodeError
        No valid message; has ``offset`` and ``field``.
    """
    cdef bytes message = as_message(data, "data")
    cdef const uint8_t* start = <const uint8_t*> PyBytes_AS_STRING(message)
    cdef Cell cell
    cdef Fault fault
    memset(&fault, 0, sizeof(fault))
    clear_cell(&cell)
    if read_value(start, start + PyBytes_GET_SIZE(message), start, &cell, 0, &fault) == NULL:
        raise decode_error(&fault, start)
    settle(&cell)
    if cell.kind == KIND_ARRAY:
        return array_field(message, MxValue_array_value_TAG, MxValue_MESSAGE)
    if cell.kind == KIND_SPARSE_ARRAY:
        raise DecodeError(
            "MxValue.sparse_array_value is write only: the gateway never sends one",
            0,
            "MxValue.sparse_array_value",
        )
    return cell_object(message, cell.kind, cell.payload, cell.value)


def decode_values(messages):
    """Decode MxValue messages into one array.

    Parameters
    ----------
    messages : sequence of bytes, length n

    Returns
    -------
    ndarray, shape (n,)
        Of the dtype that `decode_value` gives where all hold the same kind of number or
        time, else an object array of what it gives for each.

    Raises
    ------
    DecodeError
        A message is not valid; ``offset`` counts in it.
    """
    cdef list values = [decode_value(message) for message in messages]
    kinds = {type(value) for value in values}
    if len(kinds) == 1 and issubclass(next(iter(kinds)), np.generic):
        return np.array(values)
    objects = np.empty(len(values), object)
    for i, value in enumerate(values):
        objects[i] = value
    return objects


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
