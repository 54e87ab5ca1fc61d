# Bulk writes: a whole MxCommandRequest from handles, values and, if any, timestamps.

ctypedef struct Variant:
    # What MxValue says of its arm beside the arm itself.
    int32_t data_type
    const char* name
    size_t name_size
    uint32_t arm_tag


cdef Variant variant_of(int kind) noexcept nogil:
    cdef Variant v
    v.name_size = 5
    if kind == KIND_BOOL:
        v.data_type, v.name, v.name_size, v.arm_tag = (
            MX_DATA_TYPE_BOOLEAN, b"VT_BOOL", 7, MxValue_bool_value_TAG)
    elif kind == KIND_INT32:
        v.data_type, v.name, v.arm_tag = MX_DATA_TYPE_INTEGER, b"VT_I4", MxValue_int32_value_TAG
    elif kind == KIND_INT64:
        v.data_type, v.name, v.arm_tag = MX_DATA_TYPE_INTEGER, b"VT_I8", MxValue_int64_value_TAG
    elif kind == KIND_FLOAT:
        v.data_type, v.name, v.arm_tag = MX_DATA_TYPE_FLOAT, b"VT_R4", MxValue_float_value_TAG
    elif kind == KIND_DOUBLE:
        v.data_type, v.name, v.arm_tag = MX_DATA_TYPE_DOUBLE, b"VT_R8", MxValue_double_value_TAG
    elif kind == KIND_STRING:
        v.data_type, v.name, v.name_size, v.arm_tag = (
            MX_DATA_TYPE_STRING, b"VT_BSTR", 7, MxValue_string_value_TAG)
    elif kind == KIND_RAW:
        v.data_type, v.name, v.name_size, v.arm_tag = (
            MX_DATA_TYPE_UNKNOWN, b"VT_RECORD", 9, MxValue_raw_value_TAG)
    else:
        v.data_type, v.name, v.name_size, v.arm_tag = (
            MX_DATA_TYPE_TIME, b"VT_DATE", 7, MxValue_timestamp_value_TAG)
    return v


cdef void add_variant(Piece* piece, int kind) noexcept nogil:
    """Add MxValue's fields up to and with the tag of its arm."""
    cdef Variant v = variant_of(kind)
    add_varint(piece, MxValue_data_type_TAG, v.data_type)
    add_text(piece, MxValue_variant_type_TAG, v.name, v.name_size)
    add_tag(piece, v.arm_tag)


ctypedef struct WriteShape:
    # One of the four bulk writes: its numbers, and the constant pieces of its rows.
    int32_t command_kind
    uint32_t payload_tag
    uint32_t server_handle_tag
    uint32_t entry_tag
    uint32_t handle_tag
    uint32_t value_tag
    uint32_t time_tag
    Piece ids            # WriteSecured's users, between handle and value
    Piece value          # MxValue up to its arm's payload
    Piece time           # the timestamp's MxValue, likewise
    Piece user           # Write's user, behind all
    int kind
    size_t width
    int64_t per_second   # of values that are timestamps


cdef void choose_shape(WriteShape* shape, bint timed, bint secured) noexcept nogil:
    if not secured and not timed:
        shape.command_kind = MX_COMMAND_KIND_WRITE_BULK
        shape.payload_tag = MxCommand_write_bulk_TAG
        shape.server_handle_tag = WriteBulkCommand_server_handle_TAG
        shape.entry_tag = WriteBulkCommand_entries_TAG
        shape.handle_tag = WriteBulkEntry_item_handle_TAG
        shape.value_tag = WriteBulkEntry_value_TAG
        shape.time_tag = 0
    elif not secured:
        shape.command_kind = MX_COMMAND_KIND_WRITE2_BULK
        shape.payload_tag = MxCommand_write2_bulk_TAG
        shape.server_handle_tag = Write2BulkCommand_server_handle_TAG
        shape.entry_tag = Write2BulkCommand_entries_TAG
        shape.handle_tag = Write2BulkEntry_item_handle_TAG
        shape.value_tag = Write2BulkEntry_value_TAG
        shape.time_tag = Write2BulkEntry_timestamp_value_TAG
    elif not timed:
        shape.command_kind = MX_COMMAND_KIND_WRITE_SECURED_BULK
        shape.payload_tag = MxCommand_write_secured_bulk_TAG
        shape.server_handle_tag = WriteSecuredBulkCommand_server_handle_TAG
        shape.entry_tag = WriteSecuredBulkCommand_entries_TAG
        shape.handle_tag = WriteSecuredBulkEntry_item_handle_TAG
        shape.value_tag = WriteSecuredBulkEntry_value_TAG
        shape.time_tag = 0
    else:
        shape.command_kind = MX_COMMAND_KIND_WRITE_SECURED2_BULK
        shape.payload_tag = MxCommand_write_secured2_bulk_TAG
        shape.server_handle_tag = WriteSecured2BulkCommand_server_handle_TAG
        shape.entry_tag = WriteSecured2BulkCommand_entries_TAG
        shape.handle_tag = WriteSecured2BulkEntry_item_handle_TAG
        shape.value_tag = WriteSecured2BulkEntry_value_TAG
        shape.time_tag = WriteSecured2BulkEntry_timestamp_value_TAG


cdef inline size_t timestamp_size(int64_t seconds, int32_t nanos) noexcept nogil:
    # The body of a google.protobuf.Timestamp, whose two fields are 1 and 2 for ever.
    cdef size_t size = 0
    if seconds:
        size += varint_size(Timestamp_seconds_TAG) + varint_size(<uint64_t> seconds)
    if nanos:
        size += varint_size(Timestamp_nanos_TAG) + varint_size(<uint64_t> nanos)
    return size


cdef inline uint8_t* put_timestamp(uint8_t* out, int64_t seconds, int32_t nanos) noexcept nogil:
    if seconds:
        out = put_varint(put_varint(out, Timestamp_seconds_TAG), <uint64_t> seconds)
    if nanos:
        out = put_varint(put_varint(out, Timestamp_nanos_TAG), <uint64_t> nanos)
    return out


cdef inline size_t payload_size(const WriteShape* shape, const uint8_t* values, Py_ssize_t i) noexcept nogil:
    """What follows the arm's tag for element i."""
    cdef int64_t seconds
    cdef int32_t nanos
    cdef size_t size
    if shape.kind == KIND_INT32:
        return varint_size(sign_extended((<const int32_t*> values)[i]))
    if shape.kind == KIND_INT64:
        return varint_size((<const uint64_t*> values)[i])
    if shape.kind == KIND_STRING or shape.kind == KIND_RAW:
        size = (<const Span*> values)[i].size
        return varint_size(size) + size
    if shape.kind == KIND_TIMESTAMP:
        split_time((<const int64_t*> values)[i], shape.per_second, &seconds, &nanos)
        size = timestamp_size(seconds, nanos)
        return varint_size(size) + size
    return shape.width


cdef enum:
    PAYLOAD_ROOM = 24      # a length 1, a Timestamp 17


ctypedef struct Payload:
    # What follows an arm's tag. It is read from the array once and then measured: another thread
    # may be changing the array, and a row must be as long as its lengths say.
    uint8_t data[PAYLOAD_ROOM]    # a number, a time with its length, or the length of the text
    size_t data_size
    const uint8_t* text           # text or raw bytes, behind that
    size_t text_size


cdef inline size_t size_of(const Payload* payload) noexcept nogil:
    return payload.data_size + payload.text_size


cdef inline void read_time(Payload* payload, int64_t time, int64_t per_second) noexcept nogil:
    cdef int64_t seconds
    cdef int32_t nanos
    cdef uint8_t* end
    split_time(time, per_second, &seconds, &nanos)
    end = put_timestamp(put_varint(payload.data, timestamp_size(seconds, nanos)), seconds, nanos)
    payload.data_size = end - payload.data
    payload.text_size = 0


cdef inline void read_payload(
    Payload* payload, const WriteShape* shape, const uint8_t* values, Py_ssize_t i
) noexcept nogil:
    """Read what follows the arm's tag for element i."""
    cdef uint8_t* end = payload.data
    payload.text_size = 0
    if shape.kind == KIND_INT32:
        end = put_varint(end, sign_extended((<const int32_t*> values)[i]))
    elif shape.kind == KIND_INT64:
        end = put_varint(end, (<const uint64_t*> values)[i])
    elif shape.kind == KIND_BOOL:
        end[0] = values[i] != 0
        end += 1
    elif shape.kind == KIND_STRING or shape.kind == KIND_RAW:
        payload.text = (<const Span*> values)[i].data
        payload.text_size = (<const Span*> values)[i].size
        end = put_varint(end, payload.text_size)
    elif shape.kind == KIND_TIMESTAMP:
        read_time(payload, (<const int64_t*> values)[i], shape.per_second)
        return
    else:
        end = put_bytes(end, values + <size_t> i * shape.width, shape.width)
    payload.data_size = end - payload.data


cdef inline uint8_t* put_payload(uint8_t* out, const Payload* payload) noexcept nogil:
    out = put_short(out, payload.data, payload.data_size)
    if payload.text_size > 128:
        return put_bytes(out, payload.text, payload.text_size)
    return put_short(out, payload.text, payload.text_size)


cdef inline size_t body_size(
    const WriteShape* shape, int32_t handle, size_t payload, size_t time
) noexcept nogil:
    """The body of a row from the sizes of its payload and its time's, 0 for none."""
    cdef size_t size = shape.ids.size + shape.user.size
    cdef size_t value = shape.value.size + payload
    if handle:
        size += varint_size(shape.handle_tag) + varint_size(sign_extended(handle))
    size += varint_size(shape.value_tag) + varint_size(value) + value
    if time:
        time += shape.time.size
        size += varint_size(shape.time_tag) + varint_size(time) + time
    return size


cdef inline size_t entry_size(
    const WriteShape* shape, int32_t handle, const uint8_t* values, const int64_t* times,
    int64_t per_second, Py_ssize_t i,
) noexcept nogil:
    """The whole of row i, for shapes whose rows differ in length."""
    cdef int64_t seconds
    cdef int32_t nanos
    cdef size_t time = 0
    if times != NULL:
        split_time(times[i], per_second, &seconds, &nanos)
        time = timestamp_size(seconds, nanos)
        time += varint_size(time)
    cdef size_t body = body_size(shape, handle, payload_size(shape, values, i), time)
    return varint_size(shape.entry_tag) + varint_size(body) + body


cdef uint8_t* put_entry(
    uint8_t* out, const uint8_t* limit, const WriteShape* shape, int32_t handle,
    const uint8_t* values, const int64_t* times, int64_t per_second, Py_ssize_t i,
) noexcept nogil:
    """Write row i; NULL where it does not fit, as it is no longer the one that was sized."""
    cdef Payload payload, time
    cdef size_t body
    read_payload(&payload, shape, values, i)
    time.data_size = time.text_size = 0
    if times != NULL:
        read_time(&time, times[i], per_second)
    body = body_size(shape, handle, size_of(&payload), size_of(&time))
    if varint_size(shape.entry_tag) + varint_size(body) + body > <size_t> (limit - out):
        return NULL
    out = put_varint(put_varint(out, shape.entry_tag), body)
    if handle:
        out = put_varint(put_varint(out, shape.handle_tag), sign_extended(handle))
    out = put_short(out, shape.ids.data, shape.ids.size)
    out = put_varint(put_varint(out, shape.value_tag), shape.value.size + size_of(&payload))
    out = put_short(out, shape.value.data, shape.value.size)
    out = put_payload(out, &payload)
    if times != NULL:
        out = put_varint(put_varint(out, shape.time_tag), shape.time.size + size_of(&time))
        out = put_short(out, shape.time.data, shape.time.size)
        out = put_payload(out, &time)
    return put_short(out, shape.user.data, shape.user.size)


def encode_write_bulk(
    session_id,
    server_handle,
    item_handles,
    values,
    *,
    timestamps=None,
    user_id=0,
    secured_by=None,
    correlation_id="",
):
    """Encode a bulk write of one value an item: a whole MxCommandRequest.

    The command is Write in bulk; with timestamps Write2, with `secured_by` WriteSecured,
    with both WriteSecured2.

    Parameters
    ----------
    session_id : str
    server_handle : int
    item_handles : array_like of int, shape (n,)
        Each within 32 bits.
    values : array_like, shape (n,)
        bool travels as VT_BOOL; int8 to int32, uint8 and uint16 as VT_I4; int64, uint32 and
        uint64 as VT_I8; float16 and float32 as VT_R4; float64 as VT_R8; str (U, StringDType,
        objects) as VT_BSTR; datetime64 of any unit as VT_DATE; bytes (S, V, objects) as
        VT_RECORD. Any stride and byte order. In a list also datetime, as VT_DATE (naive means
        UTC); its ints are VT_I4 where all fit.
    timestamps : array_like of datetime64 or datetime, shape (n,), optional
        UTC, any unit, in the years 1 to 9999; what is finer than a nanosecond is cut off.
    user_id : int, default 0
    secured_by : (int, int), optional
        Current user and verifier; the same twice for a single-user write (contract notes,
        Writes).
    correlation_id : str, default ""

    Returns
    -------
    bytes

    Raises
    ------
    EncodeError
        An element cannot be encoded (NaN, infinite, NaT, out of range); has its ``index``
        and ``value``.
    ValueError
        Shapes that do not fit, or a message of more than 2 GiB.
    TypeError
        A dtype that cannot be written; names it.
    RuntimeError
        Another thread changed an array meanwhile. That is found where rows no longer have
        the size they had; where they have it, new values are written.
    """
    cdef bytes session = as_utf8(session_id, "session_id")
    cdef bytes correlation = as_utf8(correlation_id, "correlation_id")
    cdef int32_t server = as_int32(server_handle, "server_handle")
    cdef Handles handles = handles_of(item_handles)
    array = plain_array(values, "values")
    if array.ndim != 1:
        raise ValueError(f"values must be one-dimensional, not of shape {array.shape}")
    cdef Source source = source_of(array, "values")
    cdef Py_ssize_t n = handles.size
    if source.size != n:
        raise ValueError(f"{n} item handles but {source.size} values: give one value an item")
    cdef Times times = None
    if timestamps is not None:
        times = times_of(timestamps, "timestamps")
        if times.size != n:
            raise ValueError(f"{n} item handles but {times.size} timestamps: give one an item")

    cdef Py_ssize_t bad = find_non_finite(source)
    if bad >= 0:
        raise non_finite_error(source, bad, "values", f" (item handle {handles.data[bad]})")

    cdef WriteShape shape
    set_up(&shape, source.kind, source.width, times is not None, secured_by, user_id)
    shape.per_second = source.per_second

    # Rows are stamped where they differ in the handle and the payload only, a number or a short
    # text; others are sized and written field by field.
    cdef RowTemplate row
    cdef Varying varying
    cdef bint stamped = times is None and source.width != 0
    cdef bint varies = times is None and lay_out_varying(&varying, &row, &shape)
    cdef size_t rows = 0
    cdef Py_ssize_t i
    cdef const int64_t* time_data = NULL
    cdef int64_t per_second = 1
    if times is not None:
        time_data = times.data
        per_second = times.per_second
    if stamped:
        make_template(&row, &shape)
        rows = rows_size(&row, handles.data, n)
    elif varies:
        with nogil:
            rows = varying_size(&varying, &row, &shape, handles.data, source.data, n)
    else:
        with nogil:
            for i in range(n):
                rows += entry_size(&shape, handles.data[i], source.data, time_data, per_second, i)

    cdef size_t payload = rows
    if server:
        payload += varint_size(shape.server_handle_tag) + varint_size(sign_extended(server))
    cdef size_t command = (
        varint_size(MxCommand_kind_TAG) + varint_size(<uint64_t> shape.command_kind)
        + varint_size(shape.payload_tag) + varint_size(payload) + payload
    )
    cdef size_t total = (
        text_size(MxCommandRequest_session_id_TAG, session)
        + text_size(MxCommandRequest_client_correlation_id_TAG, correlation)
        + varint_size(MxCommandRequest_command_TAG) + varint_size(command) + command
    )
    if total > MAX_LENGTH:
        raise ValueError(f"{n} values make a message of {total} bytes: 2 GiB is protobuf's limit")

    cdef bytes message = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> total)
    cdef uint8_t* out = <uint8_t*> PyBytes_AS_STRING(message)
    cdef uint8_t* limit = out + total
    out = put_text(out, MxCommandRequest_session_id_TAG, session)
    out = put_text(out, MxCommandRequest_client_correlation_id_TAG, correlation)
    out = put_varint(put_varint(out, MxCommandRequest_command_TAG), command)
    out = put_varint(put_varint(out, MxCommand_kind_TAG), <uint64_t> shape.command_kind)
    out = put_varint(put_varint(out, shape.payload_tag), payload)
    if server:
        out = put_varint(put_varint(out, shape.server_handle_tag), sign_extended(server))
    with nogil:
        if stamped:
            out = stamp_rows(out, limit, &row, handles.data, source.data, n)
        elif varies:
            out = stamp_varying(out, limit, &varying, &shape, handles.data, source.data, n)
        else:
            for i in range(n):
                out = put_entry(
                    out, limit, &shape, handles.data[i], source.data, time_data, per_second, i
                )
                if out == NULL:
                    break
    if out != limit:
        raise changed_error()
    return message


cdef int set_up(
    WriteShape* shape, int kind, size_t width, bint timed, secured_by, user_id
) except -1:
    """Choose the command and lay out the constant pieces of its rows."""
    memset(shape, 0, sizeof(WriteShape))
    choose_shape(shape, timed, secured_by is not None)
    shape.kind = kind
    shape.width = width
    cdef int32_t user = as_int32(user_id, "user_id")
    if secured_by is not None:
        add_secured_by(shape, secured_by, timed)
        if user != 0:
            raise ValueError("user_id goes with a plain write: secured_by names both users")
    else:
        add_optional(
            &shape.user,
            Write2BulkEntry_user_id_TAG if timed else WriteBulkEntry_user_id_TAG,
            user,
        )
    add_variant(&shape.value, kind)
    if timed:
        add_variant(&shape.time, KIND_TIMESTAMP)
    return 0


cdef void make_template(RowTemplate* row, const WriteShape* shape) noexcept nogil:
    """The template of rows without a timestamp whose payload has a fixed size."""
    memset(row, 0, sizeof(RowTemplate))
    row.width = shape.width
    add_piece(&row.mid, &shape.ids)
    add_varint(&row.mid, shape.value_tag, shape.value.size + shape.width)
    add_piece(&row.mid, &shape.value)
    add_piece(&row.tail, &shape.user)
    lay_out(row, shape.entry_tag, shape.handle_tag)


cdef inline bint is_text(const WriteShape* shape) noexcept nogil:
    return shape.kind == KIND_STRING or shape.kind == KIND_RAW


cdef bint lay_out_varying(
    Varying* varying, RowTemplate* row, const WriteShape* shape
) noexcept nogil:
    """Lay out rows without their payload; False where they are none that can be stamped."""
    cdef size_t value_at = shape.ids.size + varint_size(shape.value_tag)
    if not (shape.kind == KIND_INT32 or shape.kind == KIND_INT64 or is_text(shape)):
        return False
    make_template(row, shape)
    # The longest handle that is stamped takes five bytes.
    if row.mid.size > 24 or row.tail.size or row.head_size[5] > 3 or value_at >= 8:
        return False
    memset(varying, 0, sizeof(Varying))
    varying.head_size = row.head_size[1]
    varying.mid_size = row.mid.size
    varying.entry_one = <uint64_t> 1 << 8 * varint_size(shape.entry_tag)
    varying.value_one = <uint64_t> 1 << 8 * value_at
    varying.handle_one = <uint64_t> 1 << 8 * varying.head_size
    memcpy(&varying.head, row.head[1], varying.head_size)
    varying.head -= varying.entry_one               # the template's handle has one byte
    memcpy(varying.mid, row.mid.data, row.mid.size)
    # With it a row of any handle has a length of one byte.
    varying.longest = 126 - varint_size(shape.handle_tag) - 10 - row.mid.size
    return True


cdef size_t varying_size(
    const Varying* varying, const RowTemplate* row, const WriteShape* shape,
    const int32_t* handles, const uint8_t* values, Py_ssize_t n,
) noexcept nogil:
    """The size of rows whose payload is not in the template."""
    cdef size_t size = rows_size(row, handles, n)
    cdef size_t text
    cdef int32_t handle
    cdef Py_ssize_t i
    if not is_text(shape):
        return size + mxf_integers_size(values, n, shape.kind == KIND_INT64)
    for i in range(n):
        text = (<const Span*> values)[i].size
        if text <= varying.longest:
            size += 1 + text
        else:
            handle = handles[i]
            size += entry_size(shape, handle, values, NULL, 1, i)
            size -= row.row_size[mxf_handle_size(<uint32_t> handle)]
    return size


cdef uint8_t* stamp_varying(
    uint8_t* out, const uint8_t* limit, const Varying* varying, const WriteShape* shape,
    const int32_t* handles, const uint8_t* values, Py_ssize_t n,
) noexcept nogil:
    """Write n rows, one by one those that are no plain ones; NULL where they do not fit."""
    cdef bint text = is_text(shape)
    cdef size_t element = sizeof(Span) if text else 8 if shape.kind == KIND_INT64 else 4
    cdef Py_ssize_t i = 0
    while i < n:
        i += mxf_stamp_varying(
            &out, limit - ROW_ROOM, varying, handles + i, values + <size_t> i * element, n - i,
            element, text)
        if i < n:
            out = put_entry(out, limit, shape, handles[i], values, NULL, 1, i)
            if out == NULL:
                return NULL
            i += 1
    return out


cdef int add_secured_by(WriteShape* shape, secured_by, bint timed) except -1:
    try:
        current, verifier = secured_by
    except (TypeError, ValueError):
        raise TypeError("secured_by must be (current_user_id, verifier_user_id)") from None
    add_optional(
        &shape.ids,
        WriteSecured2BulkEntry_current_user_id_TAG if timed
        else WriteSecuredBulkEntry_current_user_id_TAG,
        as_int32(current, "secured_by[0]"),
    )
    add_optional(
        &shape.ids,
        WriteSecured2BulkEntry_verifier_user_id_TAG if timed
        else WriteSecuredBulkEntry_verifier_user_id_TAG,
        as_int32(verifier, "secured_by[1]"),
    )
    return 0


cdef size_t text_size(uint32_t tag, bytes text):
    cdef size_t size = PyBytes_GET_SIZE(text)
    return varint_size(tag) + varint_size(size) + size if size else 0


cdef uint8_t* put_text(uint8_t* out, uint32_t tag, bytes text):
    cdef size_t size = PyBytes_GET_SIZE(text)
    if size == 0:
        return out
    return put_bytes(put_varint(put_varint(out, tag), size), PyBytes_AS_STRING(text), size)
