# What the gateway sends: events and the replies to bulk writes, into columns.

cdef inline bint read_status(Reader* r, bint* ok) noexcept nogil:
    """Read an MxStatusProxy; a failure clears `ok`.

    The status rule (contract notes, Status): `success` is COM's int16 and 0 is also
    proto3's default, so a status fails only with success 0 and a failing category.
    """
    cdef size_t size
    cdef const uint8_t* data
    cdef const uint8_t* end = r.end
    cdef const char* message = r.message
    cdef int32_t success = 0, category = 0, other
    if not read_length(r, &size):
        return False
    r.end = r.p + size
    r.message = b"MxStatusProxy"
    while r.p != r.end:
        if not read_tag(r):
            return False
        if r.tag == MxStatusProxy_success_TAG:
            if not read_int32(r, &success):
                return False
        elif r.tag == MxStatusProxy_category_TAG:
            if not read_int32(r, &category):
                return False
        elif r.tag == MxStatusProxy_diagnostic_text_TAG:
            if not read_string(r, &data, &size):
                return False
        elif not skip_field(r, 0):
            return False
    if success == 0 and (
        category == MX_STATUS_CATEGORY_WARNING
        or category == MX_STATUS_CATEGORY_COMMUNICATION_ERROR
        or category == MX_STATUS_CATEGORY_CONFIGURATION_ERROR
        or category == MX_STATUS_CATEGORY_OPERATIONAL_ERROR
        or category == MX_STATUS_CATEGORY_SECURITY_ERROR
        or category == MX_STATUS_CATEGORY_SOFTWARE_ERROR
        or category == MX_STATUS_CATEGORY_OTHER_ERROR
    ):
        ok[0] = False
    r.end = end
    r.message = message
    return True


# ---------------------------------------------------------------- events

ctypedef struct EventRow:
    int32_t family
    int32_t server_handle
    int32_t item_handle
    int32_t quality
    uint64_t sequence
    int64_t source_seconds
    int64_t source_nanos
    int64_t gateway_seconds
    int64_t gateway_nanos
    bint has_source
    bint has_gateway
    bint ok
    bint is_gap
    uint64_t requested
    uint64_t oldest
    Cell cell


cdef inline bint read_gap(Reader* r, EventRow* row) noexcept nogil:
    cdef size_t size
    cdef const uint8_t* end = r.end
    cdef const char* message = r.message
    if not read_length(r, &size):
        return False
    r.end = r.p + size
    r.message = b"ReplayGap"
    row.is_gap = True
    while r.p != r.end:
        if not read_tag(r):
            return False
        if r.tag == ReplayGap_requested_after_sequence_TAG:
            if not read_varint(r, &row.requested):
                return False
        elif r.tag == ReplayGap_oldest_available_sequence_TAG:
            if not read_varint(r, &row.oldest):
                return False
        elif not skip_field(r, 0):
            return False
    r.end = end
    r.message = message
    return True


cdef bint read_event(Reader* r, EventRow* row) noexcept nogil:
    cdef const uint8_t* data
    cdef size_t size
    memset(row, 0, sizeof(EventRow))
    clear_cell(&row.cell)
    row.ok = True
    while r.p != r.end:
        if not read_tag(r):
            return False
        if r.tag == MxEvent_family_TAG:
            if not read_int32(r, &row.family):
                return False
        elif r.tag == MxEvent_session_id_TAG:
            if not read_string(r, &data, &size):
                return False
        elif r.tag == MxEvent_server_handle_TAG:
            if not read_int32(r, &row.server_handle):
                return False
        elif r.tag == MxEvent_item_handle_TAG:
            if not read_int32(r, &row.item_handle):
                return False
        elif r.tag == MxEvent_value_TAG:
            if not read_value(r, &row.cell):
                return False
        elif r.tag == MxEvent_quality_TAG:
            if not read_int32(r, &row.quality):
                return False
        elif r.tag == MxEvent_source_timestamp_TAG:
            row.has_source = True
            if not read_timestamp(r, &row.source_seconds, &row.source_nanos):
                return False
        elif r.tag == MxEvent_statuses_TAG:
            if not read_status(r, &row.ok):
                return False
        elif r.tag == MxEvent_worker_sequence_TAG:
            if not read_varint(r, &row.sequence):
                return False
        elif r.tag == MxEvent_gateway_receive_timestamp_TAG:
            row.has_gateway = True
            if not read_timestamp(r, &row.gateway_seconds, &row.gateway_nanos):
                return False
        elif r.tag == MxEvent_raw_status_TAG:
            if not read_string(r, &data, &size):
                return False
        elif r.tag == MxEvent_replay_gap_TAG:
            if not read_gap(r, row):
                return False
        elif not skip_field(r, 0):
            return False
    return True


cdef class EventColumns(ValueColumns):
    """Events as columns, one row an event; ``gaps`` holds the replay-gap sentinels.

    A sentinel is no row: ``gaps`` lists it as ``(row, requested_after_sequence,
    oldest_available_sequence)``, where ``row`` is the row it stood before.
    """

    cdef readonly object messages
    cdef readonly object message_index
    cdef readonly object family
    cdef readonly object server_handle
    cdef readonly object item_handle
    cdef readonly object worker_sequence
    cdef readonly object quality
    cdef readonly object source_timestamp
    cdef readonly object gateway_timestamp
    cdef readonly object ok
    cdef readonly list gaps

    cdef bytes message_of(self, Py_ssize_t row):
        return self.messages[self.message_index[row]]

    def value_bytes(self, row):
        index = row_index(row, len(self))
        return merged_field(self.message_of(index), MxEvent_value_TAG, b"MxEvent")

    def slice(self, rows):
        """The same columns for some of the rows: views, no copies."""
        cdef EventColumns part = EventColumns.__new__(EventColumns)
        start, stop, step = rows.indices(len(self))
        part.messages = self.messages
        part.kind = self.kind[rows]
        part.payload = self.payload[rows]
        part.value = self.value[rows]
        part.message_index = self.message_index[rows]
        part.family = self.family[rows]
        part.server_handle = self.server_handle[rows]
        part.item_handle = self.item_handle[rows]
        part.worker_sequence = self.worker_sequence[rows]
        part.quality = self.quality[rows]
        part.source_timestamp = self.source_timestamp[rows]
        part.gateway_timestamp = self.gateway_timestamp[rows]
        part.ok = self.ok[rows]
        part.gaps = (
            [(row - start, after, oldest) for row, after, oldest in self.gaps if start <= row < stop]
            if step == 1
            else []
        )
        return part


ctypedef struct Span:
    const uint8_t* data
    size_t size


def decode_events(messages):
    """Decode MxEvent messages into columns, one row an event.

    Parameters
    ----------
    messages : sequence of bytes
        Kept by the result, which decodes strings, raw values and arrays from them on demand.

    Returns
    -------
    EventColumns
        Read-only columns that own their memory.

    Raises
    ------
    DecodeError
        A message is not valid; names its index, the field and the offset in it.
    """
    cdef list kept = messages if type(messages) is list else list(messages)
    cdef Py_ssize_t count = len(kept)
    cdef Span* spans = <Span*> malloc(max(count, 1) * sizeof(Span))
    if spans == NULL:
        raise MemoryError
    try:
        return decode_spans(kept, spans, count)
    finally:
        free(spans)


cdef EventColumns decode_spans(list messages, Span* spans, Py_ssize_t count):
    cdef Py_ssize_t m, n = 0
    for m in range(count):
        message = messages[m]
        if type(message) is not bytes:
            raise TypeError(f"messages[{m}] must be bytes, not {type(message).__name__}")
        spans[m].data = <const uint8_t*> PyBytes_AS_STRING(message)
        spans[m].size = PyBytes_GET_SIZE(message)

    columns = (
        new_column(count, np.int32),     # family
        new_column(count, np.int32),     # server_handle
        new_column(count, np.int32),     # item_handle
        new_column(count, np.uint64),    # worker_sequence
        new_column(count, np.int32),     # quality
        new_column(count, np.int64),     # source_timestamp
        new_column(count, np.int64),     # gateway_timestamp
        new_column(count, np.bool_),     # ok
        new_column(count, np.uint8),     # kind
        new_column(count, np.int64),     # payload
        new_column(count, np.float64),   # value
        new_column(count, np.int64),     # message_index
    )
    cdef list memories = [memory_of(column, PyBUF_WRITABLE) for column in columns]
    cdef int32_t* family = <int32_t*> (<Memory> memories[0]).view.buf
    cdef int32_t* server_handle = <int32_t*> (<Memory> memories[1]).view.buf
    cdef int32_t* item_handle = <int32_t*> (<Memory> memories[2]).view.buf
    cdef uint64_t* sequence = <uint64_t*> (<Memory> memories[3]).view.buf
    cdef int32_t* quality = <int32_t*> (<Memory> memories[4]).view.buf
    cdef int64_t* source = <int64_t*> (<Memory> memories[5]).view.buf
    cdef int64_t* gateway = <int64_t*> (<Memory> memories[6]).view.buf
    cdef uint8_t* ok = <uint8_t*> (<Memory> memories[7]).view.buf
    cdef uint8_t* kind = <uint8_t*> (<Memory> memories[8]).view.buf
    cdef int64_t* payload = <int64_t*> (<Memory> memories[9]).view.buf
    cdef double* value = <double*> (<Memory> memories[10]).view.buf
    cdef int64_t* index = <int64_t*> (<Memory> memories[11]).view.buf

    cdef Reader r
    cdef EventRow row
    cdef list gaps = []
    cdef bint fine = True
    with nogil:
        for m in range(count):
            open_reader(&r, spans[m].data, spans[m].size, b"MxEvent")
            if not read_event(&r, &row):
                fine = False
                break
            if row.is_gap:
                with gil:
                    gaps.append((n, row.requested, row.oldest))
                continue
            family[n] = row.family
            server_handle[n] = row.server_handle
            item_handle[n] = row.item_handle
            sequence[n] = row.sequence
            quality[n] = row.quality
            source[n] = nanoseconds(row.source_seconds, row.source_nanos) if row.has_source else NAT
            gateway[n] = (
                nanoseconds(row.gateway_seconds, row.gateway_nanos) if row.has_gateway else NAT
            )
            ok[n] = row.ok
            kind[n] = row.cell.kind
            payload[n] = row.cell.payload
            value[n] = row.cell.value
            index[n] = m
            n += 1
    if not fine:
        raise decode_error(&r, f"messages[{m}]: ")

    cdef EventColumns events = EventColumns.__new__(EventColumns)
    if n != count:
        columns = tuple([column[:n] for column in columns])
    events.messages = messages
    events.family = sealed(columns[0])
    events.server_handle = sealed(columns[1])
    events.item_handle = sealed(columns[2])
    events.worker_sequence = sealed(columns[3])
    events.quality = sealed(columns[4])
    events.source_timestamp = sealed(columns[5].view("datetime64[ns]"))
    events.gateway_timestamp = sealed(columns[6].view("datetime64[ns]"))
    events.ok = sealed(columns[7])
    events.kind = sealed(columns[8])
    events.payload = sealed(columns[9])
    events.value = sealed(columns[10])
    events.message_index = sealed(columns[11])
    events.gaps = gaps
    return events


# ---------------------------------------------------------------- replies to bulk writes

ctypedef struct ReplyHead:
    Span session_id
    Span correlation_id
    Span status_message
    Span diagnostic
    int32_t command_kind
    int32_t status_code
    int32_t hresult
    bint has_hresult
    uint32_t arm           # tag of the payload's last arm
    bint is_bulk           # whether that arm is a BulkWriteReply
    Py_ssize_t rows
    Py_ssize_t most        # rows that any arm had, those of arms that a later one replaced too


ctypedef struct ReplyRows:
    int32_t* item_handle
    uint8_t* was_successful
    int32_t* hresult
    int64_t* span          # offset << 32 | size of the BulkWriteResult


cdef bint read_result(Reader* r, ReplyRows* rows, Py_ssize_t n) noexcept nogil:
    cdef size_t size
    cdef const uint8_t* data
    cdef const uint8_t* end = r.end
    cdef int32_t handle = 0, hresult = 0
    cdef uint64_t successful = 0
    cdef bint ok = True
    if not read_length(r, &size):
        return False
    rows.span[n] = (r.p - r.start) << 32 | <int64_t> size
    r.end = r.p + size
    r.message = b"BulkWriteResult"
    while r.p != r.end:
        if not read_tag(r):
            return False
        if r.tag == BulkWriteResult_item_handle_TAG:
            if not read_int32(r, &handle):
                return False
        elif r.tag == BulkWriteResult_was_successful_TAG:
            if not read_varint(r, &successful):
                return False
        elif r.tag == BulkWriteResult_hresult_TAG:
            if not read_int32(r, &hresult):
                return False
        elif r.tag == BulkWriteResult_statuses_TAG:
            if not read_status(r, &ok):
                return False
        elif r.tag == BulkWriteResult_error_message_TAG:
            if not read_string(r, &data, &size):
                return False
        elif not skip_field(r, 0):
            return False
    rows.item_handle[n] = handle
    rows.was_successful[n] = successful != 0
    rows.hresult[n] = hresult
    r.end = end
    r.message = b"BulkWriteReply"
    return True


cdef bint read_results(Reader* r, ReplyHead* head, ReplyRows* rows) noexcept nogil:
    """Read a BulkWriteReply; without `rows` the results are counted only."""
    cdef size_t size
    cdef const uint8_t* end = r.end
    if not read_length(r, &size):
        return False
    r.end = r.p + size
    r.message = b"BulkWriteReply"
    while r.p != r.end:
        if not read_tag(r):
            return False
        if r.tag == BulkWriteReply_results_TAG:
            if rows == NULL:
                if not skip_field(r, 0):
                    return False
            elif not read_result(r, rows, head.rows):
                return False
            head.rows += 1
            head.most = max(head.most, head.rows)
        elif not skip_field(r, 0):
            return False
    r.end = end
    r.message = b"MxCommandReply"
    return True


cdef bint read_protocol_status(Reader* r, ReplyHead* head) noexcept nogil:
    cdef size_t size
    cdef const uint8_t* end = r.end
    if not read_length(r, &size):
        return False
    r.end = r.p + size
    r.message = b"ProtocolStatus"
    while r.p != r.end:
        if not read_tag(r):
            return False
        if r.tag == ProtocolStatus_code_TAG:
            if not read_int32(r, &head.status_code):
                return False
        elif r.tag == ProtocolStatus_message_TAG:
            if not read_string(r, &head.status_message.data, &head.status_message.size):
                return False
        elif not skip_field(r, 0):
            return False
    r.end = end
    r.message = b"MxCommandReply"
    return True


cdef bint is_reply_arm(uint32_t tag) noexcept nogil:
    return (
        tag == MxCommandReply_register_TAG
        or tag == MxCommandReply_add_item_TAG
        or tag == MxCommandReply_add_item2_TAG
        or tag == MxCommandReply_add_buffered_item_TAG
        or tag == MxCommandReply_suspend_TAG
        or tag == MxCommandReply_activate_TAG
        or tag == MxCommandReply_authenticate_user_TAG
        or tag == MxCommandReply_archestra_user_to_id_TAG
        or tag == MxCommandReply_add_item_bulk_TAG
        or tag == MxCommandReply_advise_item_bulk_TAG
        or tag == MxCommandReply_remove_item_bulk_TAG
        or tag == MxCommandReply_un_advise_item_bulk_TAG
        or tag == MxCommandReply_subscribe_bulk_TAG
        or tag == MxCommandReply_unsubscribe_bulk_TAG
        or tag == MxCommandReply_acknowledge_alarm_TAG
        or tag == MxCommandReply_query_active_alarms_TAG
        or tag == MxCommandReply_read_bulk_TAG
        or tag == MxCommandReply_session_state_TAG
        or tag == MxCommandReply_worker_info_TAG
        or tag == MxCommandReply_drain_events_TAG
    )


cdef bint read_reply(Reader* r, ReplyHead* head, ReplyRows* rows) noexcept nogil:
    memset(head, 0, sizeof(ReplyHead))
    while r.p != r.end:
        if not read_tag(r):
            return False
        if (
            r.tag == MxCommandReply_write_bulk_TAG
            or r.tag == MxCommandReply_write2_bulk_TAG
            or r.tag == MxCommandReply_write_secured_bulk_TAG
            or r.tag == MxCommandReply_write_secured2_bulk_TAG
        ):
            if r.tag != head.arm:
                # Another arm of the oneof: what came before it is gone.
                head.arm = r.tag
                head.is_bulk = True
                head.rows = 0
            if not read_results(r, head, rows):
                return False
        elif r.tag == MxCommandReply_session_id_TAG:
            if not read_string(r, &head.session_id.data, &head.session_id.size):
                return False
        elif r.tag == MxCommandReply_correlation_id_TAG:
            if not read_string(r, &head.correlation_id.data, &head.correlation_id.size):
                return False
        elif r.tag == MxCommandReply_kind_TAG:
            if not read_int32(r, &head.command_kind):
                return False
        elif r.tag == MxCommandReply_protocol_status_TAG:
            if not read_protocol_status(r, head):
                return False
        elif r.tag == MxCommandReply_hresult_TAG:
            head.has_hresult = True
            if not read_int32(r, &head.hresult):
                return False
        elif r.tag == MxCommandReply_diagnostic_message_TAG:
            if not read_string(r, &head.diagnostic.data, &head.diagnostic.size):
                return False
        else:
            if is_reply_arm(r.tag):
                head.arm = r.tag
                head.is_bulk = False
                head.rows = 0
            if not skip_field(r, 0):
                return False
    return True


cdef class WriteReply:
    """The reply to a bulk write: one row a result, and the reply's own status."""

    cdef readonly str session_id
    cdef readonly str correlation_id
    cdef readonly int command_kind
    cdef readonly int status_code
    cdef readonly str status_message
    cdef readonly object hresult_of_call
    cdef readonly str diagnostic_message
    cdef readonly bint has_results
    cdef readonly object item_handle
    cdef readonly object was_successful
    cdef readonly object hresult
    cdef bytes message
    cdef object spans

    def __len__(self):
        return len(self.item_handle)

    def result_bytes(self, row):
        """The BulkWriteResult of one row as it came."""
        cdef int64_t span = self.spans[row_index(row, len(self))]
        return self.message[span >> 32 : (span >> 32) + (span & MAX_LENGTH)]


def decode_write_reply(data):
    """Decode an MxCommandReply to a bulk write.

    Parameters
    ----------
    data : bytes
        An MxCommandReply message.

    Returns
    -------
    WriteReply
        One row a result in the order of the reply: ``item_handle`` int32, ``was_successful``
        bool, ``hresult`` int32 (0 where absent), and the reply's own status.
        ``has_results`` is False where the reply holds no bulk write's results at all.

    Raises
    ------
    DecodeError
        No valid message; has ``offset`` and ``field``.
    """
    cdef bytes message = as_bytes(data, "data")
    cdef const uint8_t* start = <const uint8_t*> PyBytes_AS_STRING(message)
    cdef size_t size = PyBytes_GET_SIZE(message)
    cdef Reader r
    cdef ReplyHead head
    cdef ReplyRows rows
    cdef bint fine
    # Counted first, as columns are allocated exactly; nothing is kept of a broken message.
    with nogil:
        open_reader(&r, start, size, b"MxCommandReply")
        fine = read_reply(&r, &head, NULL)
    if not fine:
        raise decode_error(&r)
    cdef WriteReply reply = WriteReply.__new__(WriteReply)
    cdef Py_ssize_t room = head.most
    item_handle = new_column(room, np.int32)
    was_successful = new_column(room, np.bool_)
    hresult = new_column(room, np.int32)
    spans = new_column(room, np.int64)
    cdef list memories = [
        memory_of(column, PyBUF_WRITABLE)
        for column in (item_handle, was_successful, hresult, spans)
    ]
    rows.item_handle = <int32_t*> (<Memory> memories[0]).view.buf
    rows.was_successful = <uint8_t*> (<Memory> memories[1]).view.buf
    rows.hresult = <int32_t*> (<Memory> memories[2]).view.buf
    rows.span = <int64_t*> (<Memory> memories[3]).view.buf
    with nogil:
        open_reader(&r, start, size, b"MxCommandReply")
        fine = read_reply(&r, &head, &rows)
    if not fine:
        raise decode_error(&r)
    reply.message = message
    reply.session_id = read_text(head.session_id.data, head.session_id.size)
    reply.correlation_id = read_text(head.correlation_id.data, head.correlation_id.size)
    reply.command_kind = head.command_kind
    reply.status_code = head.status_code
    reply.status_message = read_text(head.status_message.data, head.status_message.size)
    reply.hresult_of_call = head.hresult if head.has_hresult else None
    reply.diagnostic_message = read_text(head.diagnostic.data, head.diagnostic.size)
    reply.has_results = head.is_bulk
    reply.item_handle = sealed(item_handle[: head.rows])
    reply.was_successful = sealed(was_successful[: head.rows])
    reply.hresult = sealed(hresult[: head.rows])
    reply.spans = spans
    return reply
