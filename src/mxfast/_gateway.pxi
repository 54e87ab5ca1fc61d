# The gateway's own directions, for the simulated gateway: bulk write requests in,
# their replies and events out.

ctypedef struct RequestHead:
    Span session_id
    Span correlation_id
    int32_t command_kind
    int32_t arm_kind       # the command kind that the payload's arm belongs to; 0 is none of ours
    uint32_t arm
    uint32_t entry_tag
    uint32_t server_tag
    int32_t server_handle
    Py_ssize_t rows
    Py_ssize_t most


ctypedef struct RequestRows:
    int32_t* item_handle
    int32_t* user_id
    int32_t* verifier
    int64_t* timestamp
    uint8_t* kind
    int64_t* payload
    double* value
    int64_t* span          # offset << 32 | size of the entry


cdef inline bint entry_field(uint32_t tag, int32_t kind, int* meaning) noexcept nogil:
    """Which column a field of an entry belongs to; each of the four entries has its numbers."""
    if kind == MX_COMMAND_KIND_WRITE_BULK:
        if tag == WriteBulkEntry_item_handle_TAG:
            meaning[0] = 1
        elif tag == WriteBulkEntry_value_TAG:
            meaning[0] = 2
        elif tag == WriteBulkEntry_user_id_TAG:
            meaning[0] = 4
        else:
            return False
    elif kind == MX_COMMAND_KIND_WRITE2_BULK:
        if tag == Write2BulkEntry_item_handle_TAG:
            meaning[0] = 1
        elif tag == Write2BulkEntry_value_TAG:
            meaning[0] = 2
        elif tag == Write2BulkEntry_timestamp_value_TAG:
            meaning[0] = 3
        elif tag == Write2BulkEntry_user_id_TAG:
            meaning[0] = 4
        else:
            return False
    elif kind == MX_COMMAND_KIND_WRITE_SECURED_BULK:
        if tag == WriteSecuredBulkEntry_item_handle_TAG:
            meaning[0] = 1
        elif tag == WriteSecuredBulkEntry_value_TAG:
            meaning[0] = 2
        elif tag == WriteSecuredBulkEntry_current_user_id_TAG:
            meaning[0] = 4
        elif tag == WriteSecuredBulkEntry_verifier_user_id_TAG:
            meaning[0] = 5
        else:
            return False
    else:
        if tag == WriteSecured2BulkEntry_item_handle_TAG:
            meaning[0] = 1
        elif tag == WriteSecured2BulkEntry_value_TAG:
            meaning[0] = 2
        elif tag == WriteSecured2BulkEntry_timestamp_value_TAG:
            meaning[0] = 3
        elif tag == WriteSecured2BulkEntry_current_user_id_TAG:
            meaning[0] = 4
        elif tag == WriteSecured2BulkEntry_verifier_user_id_TAG:
            meaning[0] = 5
        else:
            return False
    return True


cdef inline const uint8_t* read_entry(
    const uint8_t* p, const uint8_t* end, const uint8_t* start, RequestRows* rows, Py_ssize_t n,
    const int32_t kind, Mark* item, Mark* number, Fault* fault,
) noexcept nogil:
    """Read an entry with its length; say where its handle stands, and its double if it has one."""
    cdef Cell cell, time
    cdef int32_t handle = 0, user = 0, verifier = 0
    cdef int meaning
    cdef uint32_t tag
    cdef Varint v = get_length(p, end, fault)
    if v.p == NULL:
        return NULL
    p = v.p
    end = p + v.value
    rows.span[n] = (p - start) << 32 | <int64_t> v.value
    clear_cell(&cell)
    clear_cell(&time)
    item.size = 0
    while p != end:
        v = get_tag(p, end, fault)
        if v.p == NULL:
            return broken(fault, b"WriteBulkEntry", 0)
        p = v.p
        tag = v.value
        meaning = 0
        entry_field(tag, kind, &meaning)
        if meaning == 1:
            v = get_varint(p, end, fault)
            mark(item, p, v.p)
            p = v.p
            handle = <int32_t> v.value
        elif meaning == 2:
            p = read_value_field(p, end, start, &cell, 4, fault)
        elif meaning == 3:
            p = read_value_field(p, end, start, &time, 4, fault)
        elif meaning == 4:
            v = get_varint(p, end, fault)
            p = v.p
            user = <int32_t> v.value
        elif meaning == 5:
            v = get_varint(p, end, fault)
            p = v.p
            verifier = <int32_t> v.value
        else:
            p = skip(p, end, tag, 3, fault)
        if p == NULL:
            return broken(fault, b"WriteBulkEntry", tag)
    settle(&cell)
    settle(&time)
    rows.item_handle[n] = handle
    rows.user_id[n] = user
    rows.verifier[n] = verifier
    rows.timestamp[n] = time.payload if time.kind == KIND_TIMESTAMP else NAT
    rows.kind[n] = cell.kind
    rows.payload[n] = cell.payload
    rows.value[n] = cell.value
    number[0] = cell.number
    if cell.kind != KIND_DOUBLE:
        number.size = 0
    return p


cdef inline Py_ssize_t entries_alike(
    const uint8_t** at, const uint8_t* end, const uint8_t* start, RowLayout* layout,
    RequestRows* rows, Py_ssize_t n,
) noexcept nogil:
    """Read entries that differ from the one before n in handle and double; returns how many."""
    cdef const uint8_t* p = at[0]
    cdef Py_ssize_t first = n
    cdef Py_ssize_t before = n - 1
    cdef Py_ssize_t i
    # The entry's own bytes come after its tag and its length, one byte each.
    cdef int64_t span = (p + 2 - start) << 32 | <int64_t> (layout.size - 2)
    cdef int64_t step = <int64_t> layout.size << 32
    while row_fits(layout, p, end):
        rows.item_handle[n] = <int32_t> field_at(p, &layout.item)
        memcpy(&rows.payload[n], p + layout.float_at, 8)
        rows.value[n] = mxf_double_of(rows.payload[n])
        rows.span[n] = span
        span += step
        p += layout.size
        n += 1
    if n != first:
        # What all of them have in common.
        for i in range(first, n):
            rows.user_id[i] = rows.user_id[before]
            rows.verifier[i] = rows.verifier[before]
            rows.timestamp[i] = rows.timestamp[before]
        memset(rows.kind + first, rows.kind[before], n - first)
        layout.patience = LAYOUT_PATIENCE
    at[0] = p
    return n - first


cdef const uint8_t* read_entries(
    const uint8_t* p, const uint8_t* end, const uint8_t* start, RequestHead* head,
    RequestRows* rows, Fault* fault,
) noexcept nogil:
    """Read one of the four bulk writes with its length; without `rows` entries are counted only."""
    cdef uint32_t tag
    cdef const uint8_t* row
    cdef RowLayout layout
    cdef Mark item, number
    cdef Py_ssize_t n = head.rows
    cdef Varint v = get_length(p, end, fault)
    if v.p == NULL:
        return NULL
    p = v.p
    end = p + v.value
    layout.size = 0
    layout.patience = LAYOUT_PATIENCE
    while p != end:
        row = p
        v = get_tag(p, end, fault)
        if v.p == NULL:
            return broken(fault, b"WriteBulkCommand", 0)
        p = v.p
        tag = v.value
        if tag == head.entry_tag:
            if rows == NULL:
                p = skip(p, end, tag, 2, fault)
            # A constant kind each, so that the reader of entries is specialised four times.
            elif head.arm_kind == MX_COMMAND_KIND_WRITE_BULK:
                p = read_entry(
                    p, end, start, rows, n, MX_COMMAND_KIND_WRITE_BULK, &item, &number, fault
                )
            elif head.arm_kind == MX_COMMAND_KIND_WRITE2_BULK:
                p = read_entry(
                    p, end, start, rows, n, MX_COMMAND_KIND_WRITE2_BULK, &item, &number, fault
                )
            elif head.arm_kind == MX_COMMAND_KIND_WRITE_SECURED_BULK:
                p = read_entry(
                    p, end, start, rows, n, MX_COMMAND_KIND_WRITE_SECURED_BULK, &item, &number, fault
                )
            else:
                p = read_entry(
                    p, end, start, rows, n, MX_COMMAND_KIND_WRITE_SECURED2_BULK, &item, &number,
                    fault
                )
            n += 1
            if p != NULL and rows == NULL:
                n += skip_alike(&p, end, row)
            elif p != NULL and number.size == 8 and row[0] < 0x80 and row[1] < 0x80:
                row_learn(&layout, row, p - row, &item, &number)
                if layout.size != 0:
                    n += entries_alike(&p, end, start, &layout, rows, n)
        elif tag == head.server_tag:
            v = get_varint(p, end, fault)
            p = v.p
            head.server_handle = <int32_t> v.value
        else:
            p = skip(p, end, tag, 2, fault)
        if p == NULL:
            return broken(fault, b"WriteBulkCommand", tag)
    head.rows = n
    head.most = max(head.most, n)
    return p


cdef const uint8_t* read_command(
    const uint8_t* p, const uint8_t* end, const uint8_t* start, RequestHead* head,
    RequestRows* rows, Fault* fault,
) noexcept nogil:
    cdef WriteShape shape
    cdef int kind
    cdef uint32_t tag
    cdef Varint v = get_length(p, end, fault)
    if v.p == NULL:
        return NULL
    p = v.p
    end = p + v.value
    while p != end:
        v = get_tag(p, end, fault)
        if v.p == NULL:
            return broken(fault, b"MxCommand", 0)
        p = v.p
        tag = v.value
        if tag != head.arm:
            for kind in range(4):
                choose_shape(&shape, kind & 1, kind & 2)
                if tag == shape.payload_tag:
                    head.arm = tag
                    head.arm_kind = shape.command_kind
                    head.entry_tag = shape.entry_tag
                    head.server_tag = shape.server_handle_tag
                    head.server_handle = 0
                    head.rows = 0
                    break
        if tag == MxCommand_kind_TAG:
            v = get_varint(p, end, fault)
            p = v.p
            head.command_kind = <int32_t> v.value
        elif tag == head.arm:
            p = read_entries(p, end, start, head, rows, fault)
        else:
            if oneof_of(MxCommand_MESSAGE, tag):
                # Another command's payload: not for this reader.
                head.arm = 0
                head.arm_kind = 0
            p = pass_field(p, end, tag, MxCommand_MESSAGE, 1, fault)
        if p == NULL:
            return broken(fault, b"MxCommand", tag)
    return p


cdef bint read_request(
    const uint8_t* start, size_t size, RequestHead* head, RequestRows* rows, Fault* fault
) noexcept nogil:
    cdef const uint8_t* p = start
    cdef const uint8_t* end = start + size
    cdef uint32_t tag
    cdef Varint v
    memset(head, 0, sizeof(RequestHead))
    while p != end:
        v = get_tag(p, end, fault)
        if v.p == NULL:
            broken(fault, b"MxCommandRequest", 0)
            return False
        p = v.p
        tag = v.value
        if tag == MxCommandRequest_session_id_TAG:
            p = get_string(p, end, &head.session_id, fault)
        elif tag == MxCommandRequest_client_correlation_id_TAG:
            p = get_string(p, end, &head.correlation_id, fault)
        elif tag == MxCommandRequest_command_TAG:
            p = read_command(p, end, start, head, rows, fault)
        else:
            p = pass_field(p, end, tag, MxCommandRequest_MESSAGE, 0, fault)
        if p == NULL:
            broken(fault, b"MxCommandRequest", tag)
            return False
    return True


cdef class WriteRequest(ValueColumns):
    """A bulk write request as the gateway sees it: one row an entry."""

    cdef readonly str session_id
    cdef readonly str correlation_id
    cdef readonly int command_kind
    cdef readonly int server_handle
    cdef readonly object item_handle
    cdef readonly object timestamp
    cdef readonly object user_id
    cdef readonly object verifier_user_id
    cdef bytes message
    cdef object spans

    cdef bytes message_of(self, Py_ssize_t row):
        return self.message

    def value_bytes(self, row):
        cdef Py_ssize_t index = row_index(row, len(self))
        cdef int64_t span = self.spans[index]
        entry = self.message[span >> 32 : (span >> 32) + (span & MAX_LENGTH)]
        cdef uint32_t wanted
        cdef int kind
        if self.command_kind == MX_COMMAND_KIND_WRITE_BULK:
            kind, wanted = WriteBulkEntry_MESSAGE, WriteBulkEntry_value_TAG
        elif self.command_kind == MX_COMMAND_KIND_WRITE2_BULK:
            kind, wanted = Write2BulkEntry_MESSAGE, Write2BulkEntry_value_TAG
        elif self.command_kind == MX_COMMAND_KIND_WRITE_SECURED_BULK:
            kind, wanted = WriteSecuredBulkEntry_MESSAGE, WriteSecuredBulkEntry_value_TAG
        else:
            kind, wanted = WriteSecured2BulkEntry_MESSAGE, WriteSecured2BulkEntry_value_TAG
        return merged_field(entry, wanted, kind)


def decode_write_request(data):
    """Decode a bulk write request, as a gateway does.

    Parameters
    ----------
    data : bytes
        An MxCommandRequest message.

    Returns
    -------
    WriteRequest or None
        One row an entry; None where the request is another command.

    Raises
    ------
    DecodeError
        No valid message; has ``offset`` and ``field``.
    """
    cdef bytes message = as_message(data, "data")
    cdef const uint8_t* start = <const uint8_t*> PyBytes_AS_STRING(message)
    cdef size_t size = PyBytes_GET_SIZE(message)
    cdef RequestHead head
    cdef RequestRows rows
    cdef Fault fault
    cdef bint fine
    memset(&fault, 0, sizeof(fault))
    with nogil:
        fine = read_request(start, size, &head, NULL, &fault)
    if not fine:
        raise decode_error(&fault, start)
    if head.arm_kind == 0 or head.arm_kind != head.command_kind:
        # Its entries were counted, not read.
        if check_message(start, start + size, MxCommandRequest_MESSAGE, 0, &fault) == NULL:
            raise decode_error(&fault, start)
        return None
    cdef Py_ssize_t room = head.most
    columns = (
        empty(room, DTYPE_INT32),      # item_handle
        empty(room, DTYPE_INT32),      # user_id
        empty(room, DTYPE_INT32),      # verifier
        empty(room, DTYPE_INT64),      # timestamp
        empty(room, DTYPE_UINT8),      # kind
        empty(room, DTYPE_INT64),      # payload
        empty(room, DTYPE_FLOAT64),    # value
        empty(room, DTYPE_INT64),      # span
    )
    cdef list memories = [memory_of(column, PyBUF_WRITABLE) for column in columns]
    rows.item_handle = <int32_t*> (<Memory> memories[0]).view.buf
    rows.user_id = <int32_t*> (<Memory> memories[1]).view.buf
    rows.verifier = <int32_t*> (<Memory> memories[2]).view.buf
    rows.timestamp = <int64_t*> (<Memory> memories[3]).view.buf
    rows.kind = <uint8_t*> (<Memory> memories[4]).view.buf
    rows.payload = <int64_t*> (<Memory> memories[5]).view.buf
    rows.value = <double*> (<Memory> memories[6]).view.buf
    rows.span = <int64_t*> (<Memory> memories[7]).view.buf
    with nogil:
        fine = read_request(start, size, &head, &rows, &fault)
    if not fine:
        raise decode_error(&fault, start)
    if head.rows != room:
        columns = tuple([column[: head.rows] for column in columns])
    cdef WriteRequest request = WriteRequest.__new__(WriteRequest)
    request.message = message
    request.session_id = read_text(&head.session_id)
    request.correlation_id = read_text(&head.correlation_id)
    request.command_kind = head.command_kind
    request.server_handle = head.server_handle
    request.item_handle = sealed(columns[0])
    request.user_id = sealed(columns[1])
    request.verifier_user_id = sealed(columns[2])
    request.timestamp = sealed(columns[3].view(DTYPE_TIME))
    request.kind = sealed(columns[4])
    request.payload = sealed(columns[5])
    request.value = sealed(columns[6])
    request.spans = columns[7]
    return request


# ---------------------------------------------------------------- replies

def encode_write_reply(
    session_id, correlation_id, command_kind, server_handle, item_handles, *, rows=None
):
    """Encode the reply to a bulk write, as a gateway does: every entry successful.

    Parameters
    ----------
    session_id, correlation_id : str
    command_kind : int
        The number of one of the four bulk writes.
    server_handle : int
    item_handles : ndarray of int32, shape (n,)
    rows : mapping of int to bytes, optional
        Row to the BulkWriteResult message that stands in its place, for entries that failed.

    Returns
    -------
    bytes
        An MxCommandReply message.
    """
    cdef bytes session = as_utf8(session_id, "session_id")
    cdef bytes correlation = as_utf8(correlation_id, "correlation_id")
    cdef int32_t kind = as_int32(command_kind, "command_kind")
    cdef int32_t server = as_int32(server_handle, "server_handle")
    cdef Handles handles = handles_of(item_handles)
    cdef Py_ssize_t n = handles.size
    cdef uint32_t arm
    if kind == MX_COMMAND_KIND_WRITE_BULK:
        arm = MxCommandReply_write_bulk_TAG
    elif kind == MX_COMMAND_KIND_WRITE2_BULK:
        arm = MxCommandReply_write2_bulk_TAG
    elif kind == MX_COMMAND_KIND_WRITE_SECURED_BULK:
        arm = MxCommandReply_write_secured_bulk_TAG
    elif kind == MX_COMMAND_KIND_WRITE_SECURED2_BULK:
        arm = MxCommandReply_write_secured2_bulk_TAG
    else:
        raise ValueError(f"command kind {kind} is no bulk write")

    # A row that went well is a template; rows that did not stand between runs of those.
    cdef RowTemplate row
    memset(&row, 0, sizeof(row))
    cdef Piece server_field
    server_field.size = 0
    add_optional(&server_field, BulkWriteResult_server_handle_TAG, server)
    add_varint(&row.mid, BulkWriteResult_was_successful_TAG, 1)
    add_varint(&row.mid, BulkWriteResult_hresult_TAG, 0)       # S_OK, said rather than left out
    add_piece(&row.mid, &server_field)
    lay_out(&row, BulkWriteReply_results_TAG, BulkWriteResult_item_handle_TAG)
    cdef list special = sorted(rows.items()) if rows else []
    cdef Py_ssize_t last = -1
    cdef Py_ssize_t index
    for index, body in special:
        if not last < index < n:
            raise ValueError(f"rows names row {index} of {n}")
        last = index
    cdef size_t size = rows_size(&row, handles.data, n)
    for index, body in special:
        size -= row.row_size[mxf_handle_size(<uint32_t> handles.data[index])]
        size += field_size(BulkWriteReply_results_TAG, body)

    cdef Piece status
    status.size = 0
    add_varint(&status, ProtocolStatus_code_TAG, PROTOCOL_STATUS_CODE_OK)
    cdef Piece head
    head.size = 0
    add_varint(&head, MxCommandReply_kind_TAG, sign_extended(kind))
    add_varint(&head, MxCommandReply_protocol_status_TAG, status.size)
    add_piece(&head, &status)
    add_varint(&head, MxCommandReply_hresult_TAG, 0)
    cdef size_t total = (
        text_size(MxCommandReply_session_id_TAG, session)
        + text_size(MxCommandReply_correlation_id_TAG, correlation)
        + head.size + varint_size(arm) + varint_size(size) + size
    )
    cdef bytes message = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> total)
    cdef uint8_t* out = <uint8_t*> PyBytes_AS_STRING(message)
    cdef uint8_t* limit = out + total
    out = put_text(out, MxCommandReply_session_id_TAG, session)
    out = put_text(out, MxCommandReply_correlation_id_TAG, correlation)
    out = put_bytes(out, head.data, head.size)
    out = put_varint(put_varint(out, arm), size)
    cdef Py_ssize_t at = 0
    for index, body in special:
        out = stamp_rows(out, limit, &row, handles.data + at, NULL, index - at)
        if out == NULL or field_size(BulkWriteReply_results_TAG, body) > <size_t> (limit - out):
            raise changed_error()
        out = put_field(out, BulkWriteReply_results_TAG, body)
        at = index + 1
    with nogil:
        out = stamp_rows(out, limit, &row, handles.data + at, NULL, n - at)
    if out != limit:
        raise changed_error()
    return message


cdef size_t field_size(uint32_t tag, bytes body):
    """A submessage with its tag and length, empty or not."""
    cdef size_t size = PyBytes_GET_SIZE(body)
    return varint_size(tag) + varint_size(size) + size


cdef uint8_t* put_field(uint8_t* out, uint32_t tag, bytes body):
    cdef size_t size = PyBytes_GET_SIZE(body)
    return put_bytes(put_varint(put_varint(out, tag), size), PyBytes_AS_STRING(body), size)


# ---------------------------------------------------------------- events

def encode_events(
    session_id,
    family,
    server_handle,
    item_handles,
    *,
    first_sequence,
    gateway_timestamp,
    status=b"",
    kind=None,
    payload=None,
    quality=None,
    source_timestamp=None,
    values=None,
):
    """Encode data-change or write-complete events, as a gateway does.

    Parameters
    ----------
    session_id : str
    family : int
        MX_EVENT_FAMILY_ON_DATA_CHANGE or MX_EVENT_FAMILY_ON_WRITE_COMPLETE.
    server_handle : int
    item_handles : ndarray of int32, shape (n,)
    first_sequence : int
        Worker sequence of the first event; the others count on from it.
    gateway_timestamp : int
        Nanoseconds since 1970: worker and gateway time of all.
    status : bytes, optional
        An MxStatusProxy message that every event carries.
    kind, payload : ndarrays of uint8 and int64, shape (n,), optional
        Values as in `ValueColumns`; without them the events carry none.
    quality : ndarray of int32, shape (n,), optional
    source_timestamp : ndarray of int64, shape (n,), optional
        Nanoseconds since 1970; the lowest int64 for none.
    values : mapping of int to bytes, optional
        Row to its MxValue message, where ``kind`` is a string, an array or raw.

    Returns
    -------
    list of bytes
        n MxEvent messages.
    """
    cdef Handles handles = handles_of(item_handles)
    cdef Py_ssize_t n = handles.size
    cdef int32_t family_number = as_int32(family, "family")
    cdef int32_t server = as_int32(server_handle, "server_handle")
    cdef uint64_t sequence = first_sequence
    cdef int64_t seconds
    cdef int32_t nanos
    split_time(gateway_timestamp, 1_000_000_000, &seconds, &nanos)
    cdef bytes stamp = timestamp_bytes(seconds, nanos)

    # What stands at the start and at the end of every event alike.
    cdef bytes head = (
        tagged_varint(MxEvent_family_TAG, sign_extended(family_number))
        + tagged_text(MxEvent_session_id_TAG, as_utf8(session_id, "session_id"))
        + tagged_varint(MxEvent_server_handle_TAG, sign_extended(server))
    )
    cdef bytes tail = (
        tagged_field(MxEvent_worker_timestamp_TAG, stamp)
        + tagged_field(MxEvent_gateway_receive_timestamp_TAG, stamp)
    )
    if family_number == MX_EVENT_FAMILY_ON_DATA_CHANGE:
        tail += tagged_field(MxEvent_on_data_change_TAG, b"")
    elif family_number == MX_EVENT_FAMILY_ON_WRITE_COMPLETE:
        tail += tagged_field(MxEvent_on_write_complete_TAG, b"")
    else:
        raise ValueError(f"event family {family} has a body of its own: use the protobuf message")
    cdef bytes statuses = tagged_field(MxEvent_statuses_TAG, status) if status else b""

    cdef Memory kind_memory = event_column(kind, np.uint8, n, "kind")
    cdef Memory payload_memory = event_column(payload, np.int64, n, "payload")
    cdef Memory quality_memory = event_column(quality, np.int32, n, "quality")
    cdef Memory source_memory = event_column(source_timestamp, np.int64, n, "source_timestamp")
    cdef const uint8_t* kinds = NULL
    cdef const int64_t* payloads = NULL
    cdef const int32_t* qualities = NULL
    cdef const int64_t* sources = NULL
    if kind_memory is not None:
        kinds = <const uint8_t*> kind_memory.view.buf
        if payload_memory is None:
            raise ValueError("kind goes with payload")
        payloads = <const int64_t*> payload_memory.view.buf
    if quality_memory is not None:
        qualities = <const int32_t*> quality_memory.view.buf
    if source_memory is not None:
        sources = <const int64_t*> source_memory.view.buf

    # Pieces of MxValue up to the payload, one an arm that has its value in the columns.
    cdef Piece prefixes[KIND_SPARSE_ARRAY + 1]
    cdef int k
    for k in (KIND_BOOL, KIND_INT32, KIND_INT64, KIND_FLOAT, KIND_DOUBLE, KIND_TIMESTAMP):
        prefixes[k].size = 0
        add_variant(&prefixes[k], k)
    cdef Piece null_value
    null_value.size = 0
    add_varint(&null_value, MxValue_data_type_TAG, MX_DATA_TYPE_NO_DATA)
    add_text(&null_value, MxValue_variant_type_TAG, b"VT_NULL", 7)
    add_varint(&null_value, MxValue_is_null_TAG, 1)

    cdef list events = []
    cdef uint8_t value[128]
    cdef uint8_t source[32]
    cdef uint8_t* end
    cdef const uint8_t* value_data
    cdef size_t value_size, source_size, size, arm_size
    cdef Py_ssize_t i
    cdef int32_t handle, quality_code
    cdef int64_t source_time
    cdef bytes event, given
    cdef uint8_t* out
    for i in range(n):
        # Each is read once: numpy lets other threads change an array without the GIL.
        handle = handles.data[i]
        quality_code = qualities[i] if qualities != NULL else 0
        source_time = sources[i] if sources != NULL else NAT
        value_data = value
        value_size = 0
        if kinds != NULL:
            k = kinds[i]
            if k == KIND_NONE:
                value_data = null_value.data
                value_size = null_value.size
            elif k == KIND_STRING or k == KIND_ARRAY or k == KIND_RAW or k == KIND_SPARSE_ARRAY:
                given = values[i]
                value_data = <const uint8_t*> PyBytes_AS_STRING(given)
                value_size = PyBytes_GET_SIZE(given)
            elif k > KIND_SPARSE_ARRAY:
                raise ValueError(f"kind[{i}] is {k}: no such ValueKind")
            else:
                end = put_bytes(value, prefixes[k].data, prefixes[k].size)
                value_size = put_arm(end, k, payloads[i]) - value
        size = PyBytes_GET_SIZE(head) + PyBytes_GET_SIZE(statuses) + PyBytes_GET_SIZE(tail)
        if handle:
            size += varint_size(MxEvent_item_handle_TAG) + varint_size(sign_extended(handle))
        if kinds != NULL:
            size += varint_size(MxEvent_value_TAG) + varint_size(value_size) + value_size
        if quality_code:
            size += varint_size(MxEvent_quality_TAG) + varint_size(sign_extended(quality_code))
        source_size = 0
        if source_time != NAT:
            split_time(source_time, 1_000_000_000, &seconds, &nanos)
            source_size = put_timestamp(source, seconds, nanos) - source
            size += varint_size(MxEvent_source_timestamp_TAG) + varint_size(source_size) + source_size
        size += varint_size(MxEvent_worker_sequence_TAG) + varint_size(sequence)

        event = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> size)
        out = <uint8_t*> PyBytes_AS_STRING(event)
        out = put_bytes(out, PyBytes_AS_STRING(head), PyBytes_GET_SIZE(head))
        if handle:
            out = put_varint(put_varint(out, MxEvent_item_handle_TAG), sign_extended(handle))
        if kinds != NULL:
            out = put_varint(put_varint(out, MxEvent_value_TAG), value_size)
            out = put_bytes(out, value_data, value_size)
        if quality_code:
            out = put_varint(put_varint(out, MxEvent_quality_TAG), sign_extended(quality_code))
        if source_time != NAT:
            out = put_varint(put_varint(out, MxEvent_source_timestamp_TAG), source_size)
            out = put_bytes(out, source, source_size)
        out = put_bytes(out, PyBytes_AS_STRING(statuses), PyBytes_GET_SIZE(statuses))
        out = put_varint(put_varint(out, MxEvent_worker_sequence_TAG), sequence)
        out = put_bytes(out, PyBytes_AS_STRING(tail), PyBytes_GET_SIZE(tail))
        assert out - <uint8_t*> PyBytes_AS_STRING(event) == <Py_ssize_t> size
        events.append(event)
        sequence += 1
    return events


cdef uint8_t* put_arm(uint8_t* out, int kind, int64_t payload) noexcept nogil:
    """The payload behind an arm's tag, from a column's 64 bits."""
    cdef float single
    cdef int64_t seconds
    cdef int32_t nanos
    if kind == KIND_DOUBLE:
        return put_bytes(out, &payload, 8)
    if kind == KIND_FLOAT:
        single = <float> mxf_double_of(payload)
        return put_bytes(out, &single, 4)
    if kind == KIND_TIMESTAMP:
        split_time(payload, 1_000_000_000, &seconds, &nanos)
        return put_timestamp(put_varint(out, timestamp_size(seconds, nanos)), seconds, nanos)
    return put_varint(out, <uint64_t> payload)


cdef Memory event_column(column, dtype, Py_ssize_t n, name):
    if column is None:
        return None
    array = np.ascontiguousarray(column, dtype)
    if array.shape != (n,):
        raise ValueError(f"{name} has shape {array.shape}, not ({n},)")
    return memory_of(array)


cdef bytes timestamp_bytes(int64_t seconds, int32_t nanos):
    cdef uint8_t buffer[32]
    return (<char*> buffer)[: put_timestamp(buffer, seconds, nanos) - buffer]


cdef bytes tagged_varint(uint32_t tag, uint64_t value):
    cdef uint8_t buffer[16]
    return (<char*> buffer)[: put_varint(put_varint(buffer, tag), value) - buffer] if value else b""


cdef bytes tagged_field(uint32_t tag, bytes body):
    cdef bytes field = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> field_size(tag, body))
    put_field(<uint8_t*> PyBytes_AS_STRING(field), tag, body)
    return field


cdef bytes tagged_text(uint32_t tag, bytes text):
    return tagged_field(tag, text) if text else b""
