# What the gateway sends: events and the replies to bulk writes, into columns. Replies to other
# bulk commands are in _results.pxi, the samples of buffered events in _buffered.pxi.

cdef inline const uint8_t* read_status(
    const uint8_t* p, const uint8_t* end, uint8_t* ok, int depth, Fault* fault
) noexcept nogil:
    """Read an MxStatusProxy with its length; a failure clears `ok`.

    The status rule (contract notes, Status): `success` is COM's int16 and 0 is also
    proto3's default, so a status fails only with success 0 and a failing category. One
    newer than this package is taken for failing.
    """
    cdef Span span
    cdef uint32_t tag
    cdef int32_t success = 0, category = 0
    cdef Varint v = get_length(p, end, fault)
    if v.p == NULL:
        return NULL
    p = v.p
    end = p + v.value
    while p != end:
        v = get_tag(p, end, fault)
        if v.p == NULL:
            return broken(fault, b"MxStatusProxy", 0)
        p = v.p
        tag = v.value
        if tag == MxStatusProxy_success_TAG:
            v = get_varint(p, end, fault)
            p = v.p
            success = <int32_t> v.value
        elif tag == MxStatusProxy_category_TAG:
            v = get_varint(p, end, fault)
            p = v.p
            category = <int32_t> v.value
        elif tag == MxStatusProxy_diagnostic_text_TAG:
            p = get_string(p, end, &span, fault)
        else:
            p = pass_field(p, end, tag, MxStatusProxy_MESSAGE, depth, fault)
        if p == NULL:
            return broken(fault, b"MxStatusProxy", tag)
    if success == 0 and not (
        category == MX_STATUS_CATEGORY_UNSPECIFIED
        or category == MX_STATUS_CATEGORY_UNKNOWN
        or category == MX_STATUS_CATEGORY_OK
        or category == MX_STATUS_CATEGORY_PENDING
    ):
        ok[0] = False
    return p


# ---------------------------------------------------------------- events

cdef const uint8_t* read_gap(
    const uint8_t* p, const uint8_t* end, EventRow* row, Fault* fault
) noexcept nogil:
    cdef uint32_t tag
    cdef Varint v = get_length(p, end, fault)
    if v.p == NULL:
        return NULL
    p = v.p
    end = p + v.value
    row.is_gap = True
    while p != end:
        v = get_tag(p, end, fault)
        if v.p == NULL:
            return broken(fault, b"ReplayGap", 0)
        p = v.p
        tag = v.value
        if tag == ReplayGap_requested_after_sequence_TAG:
            v = get_varint(p, end, fault)
            p = v.p
            row.requested = v.value
        elif tag == ReplayGap_oldest_available_sequence_TAG:
            v = get_varint(p, end, fault)
            p = v.p
            row.oldest = v.value
        else:
            p = pass_field(p, end, tag, ReplayGap_MESSAGE, 1, fault)
        if p == NULL:
            return broken(fault, b"ReplayGap", tag)
    return p


cdef inline bint read_event(
    const uint8_t* p, size_t size, EventRow* row, Cell* cell, Fault* fault
) noexcept nogil:
    cdef const uint8_t* start = p
    cdef const uint8_t* end = p + size
    cdef const uint8_t* at
    cdef uint32_t tag
    cdef Varint v
    cdef Span span
    # Field by field: gcc makes a memset of this size a `rep stos`, an eighth of the whole.
    row.family = row.server_handle = row.item_handle = row.quality = 0
    row.sequence = 0
    row.item_mark.size = row.sequence_mark.size = 0
    clear_stamp(&row.source)
    clear_stamp(&row.gateway)
    clear_stamp(&row.worker)
    row.has_source = row.has_gateway = row.is_gap = row.is_buffered = False
    row.ok = True
    row.requested = row.oldest = 0
    clear_cell(cell)
    while p != end:
        v = get_tag(p, end, fault)
        if v.p == NULL:
            broken(fault, b"MxEvent", 0)
            return False
        p = v.p
        tag = v.value
        if tag == MxEvent_family_TAG:
            v = get_varint(p, end, fault)
            p = v.p
            row.family = <int32_t> v.value
        elif tag == MxEvent_session_id_TAG:
            p = get_string(p, end, &span, fault)
        elif tag == MxEvent_server_handle_TAG:
            v = get_varint(p, end, fault)
            p = v.p
            row.server_handle = <int32_t> v.value
        elif tag == MxEvent_item_handle_TAG:
            at = p
            v = get_varint(p, end, fault)
            p = v.p
            row.item_handle = <int32_t> v.value
            mark(&row.item_mark, at, p)
        elif tag == MxEvent_value_TAG:
            p = read_value_field(p, end, start, cell, 1, fault)
        elif tag == MxEvent_quality_TAG:
            v = get_varint(p, end, fault)
            p = v.p
            row.quality = <int32_t> v.value
        elif tag == MxEvent_source_timestamp_TAG:
            row.has_source = True
            p = read_timestamp(p, end, &row.source, 1, fault)
        elif tag == MxEvent_statuses_TAG:
            p = read_status(p, end, &row.ok, 1, fault)
        elif tag == MxEvent_worker_sequence_TAG:
            at = p
            v = get_varint(p, end, fault)
            p = v.p
            row.sequence = v.value
            mark(&row.sequence_mark, at, p)
        elif tag == MxEvent_worker_timestamp_TAG:
            p = read_timestamp(p, end, &row.worker, 1, fault)
        elif tag == MxEvent_gateway_receive_timestamp_TAG:
            row.has_gateway = True
            p = read_timestamp(p, end, &row.gateway, 1, fault)
        elif tag == MxEvent_raw_status_TAG:
            p = get_string(p, end, &span, fault)
        elif tag == MxEvent_replay_gap_TAG:
            p = read_gap(p, end, row, fault)
        else:
            if tag == MxEvent_on_buffered_data_change_TAG:
                row.is_buffered = True
            elif is_other_body(tag):
                row.is_buffered = False
            p = pass_field(p, end, tag, MxEvent_MESSAGE, 0, fault)
        if p == NULL:
            broken(fault, b"MxEvent", tag)
            return False
    settle(cell)
    return True


cdef inline bint is_other_body(uint32_t tag) noexcept nogil:
    return (
        tag == MxEvent_on_data_change_TAG
        or tag == MxEvent_on_write_complete_TAG
        or tag == MxEvent_operation_complete_TAG
        or tag == MxEvent_on_alarm_transition_TAG
        or tag == MxEvent_on_alarm_provider_mode_changed_TAG
    )


cdef class EventColumns(ValueColumns):
    """Events as columns, one row an event; ``gaps`` holds the replay-gap sentinels.

    A buffered data change is one row a sample, with the sample's own quality and time;
    ``message_index`` and ``value_bytes`` are the whole event's. One whose array is empty
    stays one row of kind ARRAY.

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
        return merged_field(self.message_of(index), MxEvent_value_TAG, MxEvent_MESSAGE)

    def slice(self, rows):
        """The same columns for some of the rows: views, no copies."""
        start, stop, step = rows.indices(len(self))
        cdef EventColumns part = self.taken(operator.itemgetter(rows))
        part.gaps = (
            [
                (row - start, after, oldest)
                for row, after, oldest in self.gaps
                # One behind the last row has no row of its own to stand before.
                if start <= row < stop or row == stop == len(self)
            ]
            if step == 1
            else []
        )
        return part

    cdef EventColumns taken(self, take):
        """The same events with other columns: what `take` makes of each."""
        cdef EventColumns part = EventColumns.__new__(EventColumns)
        part.messages = self.messages
        part.kind = take(self.kind)
        part.payload = take(self.payload)
        part.value = take(self.value)
        part.message_index = take(self.message_index)
        part.family = take(self.family)
        part.server_handle = take(self.server_handle)
        part.item_handle = take(self.item_handle)
        part.worker_sequence = take(self.worker_sequence)
        part.quality = take(self.quality)
        part.source_timestamp = take(self.source_timestamp)
        part.gateway_timestamp = take(self.gateway_timestamp)
        part.ok = take(self.ok)
        part.gaps = self.gaps
        return part


def decode_events(messages):
    """Decode MxEvent messages into columns, one row an event or a sample of a buffered one.

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
    # A list of its own: another thread may change the caller's while this one holds no GIL.
    cdef list kept = list(messages)
    cdef Py_ssize_t count = len(kept)
    columns = (
        empty(count, DTYPE_INT32),     # family
        empty(count, DTYPE_INT32),     # server_handle
        empty(count, DTYPE_INT32),     # item_handle
        empty(count, DTYPE_UINT64),    # worker_sequence
        empty(count, DTYPE_INT32),     # quality
        empty(count, DTYPE_INT64),     # source_timestamp
        empty(count, DTYPE_INT64),     # gateway_timestamp
        empty(count, DTYPE_BOOL),      # ok
        empty(count, DTYPE_UINT8),     # kind
        empty(count, DTYPE_INT64),     # payload
        empty(count, DTYPE_FLOAT64),   # value
        empty(count, DTYPE_INT64),     # message_index
    )
    cdef list memories = [memory_of(column, PyBUF_WRITABLE) for column in columns]
    cdef EventRows to
    to.family = <int32_t*> (<Memory> memories[0]).view.buf
    to.server_handle = <int32_t*> (<Memory> memories[1]).view.buf
    to.item_handle = <int32_t*> (<Memory> memories[2]).view.buf
    to.sequence = <uint64_t*> (<Memory> memories[3]).view.buf
    to.quality = <int32_t*> (<Memory> memories[4]).view.buf
    to.source = <int64_t*> (<Memory> memories[5]).view.buf
    to.gateway = <int64_t*> (<Memory> memories[6]).view.buf
    to.ok = <uint8_t*> (<Memory> memories[7]).view.buf
    to.kind = <uint8_t*> (<Memory> memories[8]).view.buf
    to.payload = <int64_t*> (<Memory> memories[9]).view.buf
    to.value = <double*> (<Memory> memories[10]).view.buf
    to.index = <int64_t*> (<Memory> memories[11]).view.buf

    cdef EventRow row
    cdef Cell cell
    cdef Fault fault
    cdef list gaps = []
    cdef list buffered = []
    cdef EventLayouts layouts
    cdef const uint8_t* start = NULL
    cdef size_t size = 0
    cdef Py_ssize_t m = 0, n = 0, alike
    cdef bint fine = True
    memset(&fault, 0, sizeof(fault))
    layouts_begin(&layouts)
    with nogil:
        while True:
            alike = mxf_read_events(<PyObject*> kept, m, count, n, &layouts, &to)
            m += alike
            n += alike
            if m == count:
                break
            # One that has no layout yet is parsed.
            fine = mxf_bytes_at(<PyObject*> kept, m, &start, &size) and size <= MAX_LENGTH
            if not fine:
                break
            fine = read_event(start, size, &row, &cell, &fault)
            if not fine:
                break
            m += 1
            if row.is_gap:
                with gil:
                    gaps.append((n, row.requested, row.oldest))
                continue
            if row.is_buffered and cell.kind == KIND_ARRAY:
                with gil:
                    buffered.append(n)
            layouts_learn(&layouts, start, size, &row, &cell)
            to.family[n] = row.family
            to.server_handle[n] = row.server_handle
            to.item_handle[n] = row.item_handle
            to.sequence[n] = row.sequence
            to.quality[n] = row.quality
            to.source[n] = nanoseconds(row.source.seconds, row.source.nanos) if row.has_source else NAT
            to.gateway[n] = (
                nanoseconds(row.gateway.seconds, row.gateway.nanos) if row.has_gateway else NAT
            )
            to.ok[n] = row.ok
            to.kind[n] = cell.kind
            to.payload[n] = cell.payload
            to.value[n] = cell.value
            to.index[n] = m - 1
            n += 1
    if not fine:
        message = kept[m]
        if type(message) is not bytes:
            raise TypeError(f"messages[{m}] must be bytes, not {type(message).__name__}")
        if len(message) > MAX_LENGTH:
            raise too_large(message, f"messages[{m}]")
        raise decode_error(&fault, start, f"messages[{m}]: ")

    cdef EventColumns events = EventColumns.__new__(EventColumns)
    if n != count:
        columns = tuple([column[:n] for column in columns])
    events.messages = kept
    events.family = sealed(columns[0])
    events.server_handle = sealed(columns[1])
    events.item_handle = sealed(columns[2])
    events.worker_sequence = sealed(columns[3])
    events.quality = sealed(columns[4])
    events.source_timestamp = sealed(columns[5].view(DTYPE_TIME))
    events.gateway_timestamp = sealed(columns[6].view(DTYPE_TIME))
    events.ok = sealed(columns[7])
    events.kind = sealed(columns[8])
    events.payload = sealed(columns[9])
    events.value = sealed(columns[10])
    events.message_index = sealed(columns[11])
    events.gaps = gaps
    return expanded(events, buffered) if buffered else events


# ---------------------------------------------------------------- replies to bulk writes

cdef enum:
    # Which results of a reply are wanted. A reply's oneof holds one kind at most.
    NO_RESULTS             # all payloads are checked, none is kept
    WRITE_RESULTS
    SUBSCRIBE_RESULTS
    READ_RESULTS


ctypedef struct ReplyHead:
    Span session_id
    Span correlation_id
    Span status_message
    Span diagnostic
    int32_t command_kind
    int32_t status_code
    int32_t hresult
    bint has_hresult
    uint8_t ok             # whether none of the statuses is a failure
    uint32_t arm           # tag of the payload's last arm
    bint is_bulk           # whether that arm holds the results wanted
    Py_ssize_t rows
    Py_ssize_t most        # rows that any arm had, those of arms that a later one replaced too


ctypedef struct ReplyRows:
    int32_t* item_handle
    uint8_t* was_successful
    int32_t* hresult


cdef inline const uint8_t* read_result(
    const uint8_t* p, const uint8_t* end, ReplyRows* rows, Py_ssize_t n, Mark* item, Fault* fault
) noexcept nogil:
    cdef const uint8_t* at
    cdef uint32_t tag
    cdef Span span
    cdef int32_t handle = 0, hresult = 0
    cdef uint8_t successful = 0, ok = True
    cdef Varint v = get_length(p, end, fault)
    if v.p == NULL:
        return NULL
    p = v.p
    end = p + v.value
    item.size = 0
    while p != end:
        v = get_tag(p, end, fault)
        if v.p == NULL:
            return broken(fault, b"BulkWriteResult", 0)
        p = v.p
        tag = v.value
        if tag == BulkWriteResult_item_handle_TAG:
            at = p
            v = get_varint(p, end, fault)
            p = v.p
            handle = <int32_t> v.value
            mark(item, at, p)
        elif tag == BulkWriteResult_was_successful_TAG:
            v = get_varint(p, end, fault)
            p = v.p
            successful = v.value != 0
        elif tag == BulkWriteResult_hresult_TAG:
            v = get_varint(p, end, fault)
            p = v.p
            hresult = <int32_t> v.value
        elif tag == BulkWriteResult_statuses_TAG:
            p = read_status(p, end, &ok, 3, fault)
        elif tag == BulkWriteResult_error_message_TAG:
            p = get_string(p, end, &span, fault)
        else:
            p = pass_field(p, end, tag, BulkWriteResult_MESSAGE, 2, fault)
        if p == NULL:
            return broken(fault, b"BulkWriteResult", tag)
    rows.item_handle[n] = handle
    rows.was_successful[n] = successful
    rows.hresult[n] = hresult
    return p


cdef inline Py_ssize_t read_alike(
    const uint8_t** at, const uint8_t* end, RowLayout* layout, ReplyRows* rows, Py_ssize_t n
) noexcept nogil:
    """Read rows that differ from the one before n in their handle alone; returns how many."""
    cdef const uint8_t* p = at[0]
    cdef Py_ssize_t first = n
    cdef uint8_t successful = rows.was_successful[n - 1]
    cdef int32_t hresult = rows.hresult[n - 1]
    cdef size_t size = layout.size
    cdef Field item
    if size == 0:
        return 0                # the row before is no layout
    item = layout.item
    if layout.width == 16:
        # The usual row: what it is compared with stays in registers.
        while end - p >= 16 and mxf_same_16(p, layout.bytes, layout.mask):
            rows.item_handle[n] = <int32_t> field_at(p, &item)
            rows.was_successful[n] = successful
            rows.hresult[n] = hresult
            p += size
            n += 1
    while row_fits(layout, p, end):
        rows.item_handle[n] = <int32_t> field_at(p, &layout.item)
        rows.was_successful[n] = successful
        rows.hresult[n] = hresult
        p += size
        n += 1
    if n != first:
        layout.patience = LAYOUT_PATIENCE
    at[0] = p
    return n - first


cdef const uint8_t* read_results(
    const uint8_t* p, const uint8_t* end, ReplyHead* head, ReplyRows* rows, Fault* fault
) noexcept nogil:
    """Read a BulkWriteReply with its length; without `rows` the results are counted only."""
    cdef uint32_t tag
    cdef const uint8_t* row
    cdef RowLayout layout
    cdef Mark item
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
            return broken(fault, b"BulkWriteReply", 0)
        p = v.p
        tag = v.value
        if tag == BulkWriteReply_results_TAG:
            if rows == NULL:
                p = skip(p, end, tag, 1, fault)
                n += 1
                if p != NULL:
                    n += skip_alike(&p, end, row)
            else:
                p = read_result(p, end, rows, n, &item, fault)
                n += 1
                if p != NULL:
                    row_learn(&layout, row, p - row, &item, NULL)
                    n += read_alike(&p, end, &layout, rows, n)
        else:
            p = pass_field(p, end, tag, BulkWriteReply_MESSAGE, 1, fault)
        if p == NULL:
            return broken(fault, b"BulkWriteReply", tag)
    head.rows = n
    head.most = max(head.most, n)
    return p


cdef const uint8_t* read_protocol_status(
    const uint8_t* p, const uint8_t* end, ReplyHead* head, Fault* fault
) noexcept nogil:
    cdef uint32_t tag
    cdef Varint v = get_length(p, end, fault)
    if v.p == NULL:
        return NULL
    p = v.p
    end = p + v.value
    while p != end:
        v = get_tag(p, end, fault)
        if v.p == NULL:
            return broken(fault, b"ProtocolStatus", 0)
        p = v.p
        tag = v.value
        if tag == ProtocolStatus_code_TAG:
            v = get_varint(p, end, fault)
            p = v.p
            head.status_code = <int32_t> v.value
        elif tag == ProtocolStatus_message_TAG:
            p = get_string(p, end, &head.status_message, fault)
        else:
            p = pass_field(p, end, tag, ProtocolStatus_MESSAGE, 1, fault)
        if p == NULL:
            return broken(fault, b"ProtocolStatus", tag)
    return p


cdef inline bint holds_results(uint32_t tag, int wanted) noexcept nogil:
    """Whether a field of MxCommandReply holds such results."""
    if wanted == WRITE_RESULTS:
        return (
            tag == MxCommandReply_write_bulk_TAG
            or tag == MxCommandReply_write2_bulk_TAG
            or tag == MxCommandReply_write_secured_bulk_TAG
            or tag == MxCommandReply_write_secured2_bulk_TAG
        )
    if wanted == SUBSCRIBE_RESULTS:
        return (
            tag == MxCommandReply_subscribe_bulk_TAG
            or tag == MxCommandReply_unsubscribe_bulk_TAG
            or tag == MxCommandReply_add_item_bulk_TAG
            or tag == MxCommandReply_advise_item_bulk_TAG
            or tag == MxCommandReply_un_advise_item_bulk_TAG
            or tag == MxCommandReply_remove_item_bulk_TAG
        )
    return wanted == READ_RESULTS and tag == MxCommandReply_read_bulk_TAG


cdef bint read_reply(
    const uint8_t* start, size_t size, int wanted, ReplyHead* head, void* rows, Fault* fault
) noexcept nogil:
    """Read a reply; `rows` are the ReplyRows or ResultRows of what is wanted, or NULL to count."""
    cdef const uint8_t* p = start
    cdef const uint8_t* end = start + size
    cdef uint32_t tag
    cdef Varint v
    memset(head, 0, sizeof(ReplyHead))
    head.ok = True
    while p != end:
        v = get_tag(p, end, fault)
        if v.p == NULL:
            broken(fault, b"MxCommandReply", 0)
            return False
        p = v.p
        tag = v.value
        if holds_results(tag, wanted):
            if tag != head.arm:
                # Another arm of the oneof: what came before it is gone.
                head.arm = tag
                head.is_bulk = True
                head.rows = 0
            if wanted == WRITE_RESULTS:
                p = read_results(p, end, head, <ReplyRows*> rows, fault)
            else:
                p = read_item_results(p, end, start, wanted, head, <ResultRows*> rows, fault)
        elif tag == MxCommandReply_session_id_TAG:
            p = get_string(p, end, &head.session_id, fault)
        elif tag == MxCommandReply_correlation_id_TAG:
            p = get_string(p, end, &head.correlation_id, fault)
        elif tag == MxCommandReply_kind_TAG:
            v = get_varint(p, end, fault)
            p = v.p
            head.command_kind = <int32_t> v.value
        elif tag == MxCommandReply_protocol_status_TAG:
            p = read_protocol_status(p, end, head, fault)
        elif tag == MxCommandReply_hresult_TAG:
            v = get_varint(p, end, fault)
            p = v.p
            head.has_hresult = True
            head.hresult = <int32_t> v.value
        elif tag == MxCommandReply_diagnostic_message_TAG:
            p = get_string(p, end, &head.diagnostic, fault)
        elif tag == MxCommandReply_statuses_TAG:
            p = read_status(p, end, &head.ok, 1, fault)
        else:
            if oneof_of(MxCommandReply_MESSAGE, tag):
                head.arm = tag
                head.is_bulk = False
                head.rows = 0
            p = pass_field(p, end, tag, MxCommandReply_MESSAGE, 0, fault)
        if p == NULL:
            broken(fault, b"MxCommandReply", tag)
            return False
    return True


cdef bint walk_reply(bytes message, int wanted, ReplyHead* head, void* rows) except False:
    """`read_reply` on a message; raises a DecodeError where it is broken."""
    cdef const uint8_t* start = <const uint8_t*> PyBytes_AS_STRING(message)
    cdef size_t size = PyBytes_GET_SIZE(message)
    cdef Fault fault
    cdef bint fine
    memset(&fault, 0, sizeof(fault))
    with nogil:
        fine = read_reply(start, size, wanted, head, rows, &fault)
    if not fine:
        raise decode_error(&fault, start)
    return True


cdef class CommandReply:
    """What every reply says of its call."""

    cdef readonly str session_id
    cdef readonly str correlation_id
    cdef readonly int command_kind
    cdef readonly int status_code
    cdef readonly str status_message
    cdef readonly object hresult_of_call
    cdef readonly str diagnostic_message
    cdef readonly bint has_results

    cdef void take_head(self, const ReplyHead* head):
        self.session_id = read_text(&head.session_id)
        self.correlation_id = read_text(&head.correlation_id)
        self.command_kind = head.command_kind
        self.status_code = head.status_code
        self.status_message = read_text(&head.status_message)
        self.hresult_of_call = head.hresult if head.has_hresult else None
        self.diagnostic_message = read_text(&head.diagnostic)
        self.has_results = head.is_bulk


cdef class WriteReply(CommandReply):
    """The reply to a bulk write: one row a result, and the reply's own status."""

    cdef readonly object item_handle
    cdef readonly object was_successful
    cdef readonly object hresult
    cdef bytes message
    cdef uint32_t arm
    cdef list results           # the BulkWriteResults' bytes, cut out when first asked for

    def __len__(self):
        return len(self.item_handle)

    def result_bytes(self, row):
        """The BulkWriteResult of one row as it came."""
        index = row_index(row, len(self))
        if self.results is None:
            body = merged_field(self.message, self.arm, MxCommandReply_MESSAGE)
            self.results = fields_of(body, BulkWriteReply_results_TAG, BulkWriteReply_MESSAGE)
        return self.results[index]


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
    cdef bytes message = as_message(data, "data")
    cdef ReplyHead head
    cdef ReplyRows rows
    # Counted first, as columns are allocated exactly; nothing is kept of a broken message.
    walk_reply(message, WRITE_RESULTS, &head, NULL)
    cdef WriteReply reply = WriteReply.__new__(WriteReply)
    cdef Py_ssize_t room = head.most
    item_handle = empty(room, DTYPE_INT32)
    was_successful = empty(room, DTYPE_BOOL)
    hresult = empty(room, DTYPE_INT32)
    cdef list memories = [
        memory_of(column, PyBUF_WRITABLE)
        for column in (item_handle, was_successful, hresult)
    ]
    rows.item_handle = <int32_t*> (<Memory> memories[0]).view.buf
    rows.was_successful = <uint8_t*> (<Memory> memories[1]).view.buf
    rows.hresult = <int32_t*> (<Memory> memories[2]).view.buf
    walk_reply(message, WRITE_RESULTS, &head, &rows)
    reply.take_head(&head)
    reply.message = message
    reply.item_handle = sealed(item_handle[: head.rows])
    reply.was_successful = sealed(was_successful[: head.rows])
    reply.hresult = sealed(hresult[: head.rows])
    reply.arm = head.arm
    return reply
