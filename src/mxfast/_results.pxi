# Replies to the bulk commands about items and tags: bulk subscribes and their like, and bulk
# reads. Tags and messages stay in the reply's bytes and are decoded when asked for.

ctypedef struct ResultRows:
    int32_t* item_handle
    uint8_t* was_successful
    int64_t* span          # offset << 32 | size of the result
    # Of bulk reads only:
    uint8_t* was_cached
    int32_t* quality
    int64_t* source
    uint8_t* ok
    uint8_t* kind
    int64_t* payload
    double* value


cdef const uint8_t* read_subscribe_result(
    const uint8_t* p, const uint8_t* end, const uint8_t* start, ResultRows* rows, Py_ssize_t n,
    Fault* fault,
) noexcept nogil:
    cdef uint32_t tag
    cdef Span span
    cdef int32_t handle = 0
    cdef uint8_t successful = 0
    cdef Varint v = get_length(p, end, fault)
    if v.p == NULL:
        return NULL
    p = v.p
    end = p + v.value
    rows.span[n] = (p - start) << 32 | <int64_t> v.value
    while p != end:
        v = get_tag(p, end, fault)
        if v.p == NULL:
            return broken(fault, b"SubscribeResult", 0)
        p = v.p
        tag = v.value
        if tag == SubscribeResult_item_handle_TAG:
            v = get_varint(p, end, fault)
            p = v.p
            handle = <int32_t> v.value
        elif tag == SubscribeResult_was_successful_TAG:
            v = get_varint(p, end, fault)
            p = v.p
            successful = v.value != 0
        elif tag == SubscribeResult_tag_address_TAG or tag == SubscribeResult_error_message_TAG:
            p = get_string(p, end, &span, fault)
        else:
            p = pass_field(p, end, tag, SubscribeResult_MESSAGE, 2, fault)
        if p == NULL:
            return broken(fault, b"SubscribeResult", tag)
    rows.item_handle[n] = handle
    rows.was_successful[n] = successful
    return p


cdef const uint8_t* read_read_result(
    const uint8_t* p, const uint8_t* end, const uint8_t* start, ResultRows* rows, Py_ssize_t n,
    Fault* fault,
) noexcept nogil:
    cdef uint32_t tag
    cdef Span span
    cdef Cell cell
    cdef Stamp source
    cdef bint has_source = False
    cdef int32_t handle = 0, quality = 0
    cdef uint8_t successful = 0, cached = 0, ok = True
    cdef Varint v = get_length(p, end, fault)
    if v.p == NULL:
        return NULL
    p = v.p
    end = p + v.value
    rows.span[n] = (p - start) << 32 | <int64_t> v.value
    clear_cell(&cell)
    clear_stamp(&source)
    while p != end:
        v = get_tag(p, end, fault)
        if v.p == NULL:
            return broken(fault, b"BulkReadResult", 0)
        p = v.p
        tag = v.value
        if tag == BulkReadResult_item_handle_TAG:
            v = get_varint(p, end, fault)
            p = v.p
            handle = <int32_t> v.value
        elif tag == BulkReadResult_was_successful_TAG:
            v = get_varint(p, end, fault)
            p = v.p
            successful = v.value != 0
        elif tag == BulkReadResult_was_cached_TAG:
            v = get_varint(p, end, fault)
            p = v.p
            cached = v.value != 0
        elif tag == BulkReadResult_value_TAG:
            p = read_value_field(p, end, start, &cell, 3, fault)
        elif tag == BulkReadResult_quality_TAG:
            v = get_varint(p, end, fault)
            p = v.p
            quality = <int32_t> v.value
        elif tag == BulkReadResult_source_timestamp_TAG:
            has_source = True
            p = read_timestamp(p, end, &source, 3, fault)
        elif tag == BulkReadResult_statuses_TAG:
            p = read_status(p, end, &ok, 3, fault)
        elif tag == BulkReadResult_tag_address_TAG or tag == BulkReadResult_error_message_TAG:
            p = get_string(p, end, &span, fault)
        else:
            p = pass_field(p, end, tag, BulkReadResult_MESSAGE, 2, fault)
        if p == NULL:
            return broken(fault, b"BulkReadResult", tag)
    settle(&cell)
    rows.item_handle[n] = handle
    rows.was_successful[n] = successful
    rows.was_cached[n] = cached
    rows.quality[n] = quality
    rows.source[n] = nanoseconds(source.seconds, source.nanos) if has_source else NAT
    rows.ok[n] = ok
    rows.kind[n] = cell.kind
    rows.payload[n] = cell.payload
    rows.value[n] = cell.value
    return p


cdef const uint8_t* read_item_results(
    const uint8_t* p, const uint8_t* end, const uint8_t* start, int wanted, ReplyHead* head,
    ResultRows* rows, Fault* fault,
) noexcept nogil:
    """Read a BulkSubscribeReply or BulkReadReply with its length; without `rows` only count."""
    cdef bint subscribe = wanted == SUBSCRIBE_RESULTS
    cdef const char* name = b"BulkSubscribeReply" if subscribe else b"BulkReadReply"
    cdef int message_type = BulkSubscribeReply_MESSAGE if subscribe else BulkReadReply_MESSAGE
    cdef uint32_t results_tag = (
        BulkSubscribeReply_results_TAG if subscribe else BulkReadReply_results_TAG
    )
    cdef uint32_t tag
    cdef Py_ssize_t n = head.rows
    cdef Varint v = get_length(p, end, fault)
    if v.p == NULL:
        return NULL
    p = v.p
    end = p + v.value
    while p != end:
        v = get_tag(p, end, fault)
        if v.p == NULL:
            return broken(fault, name, 0)
        p = v.p
        tag = v.value
        if tag == results_tag:
            if rows == NULL:
                p = skip(p, end, tag, 1, fault)
            elif subscribe:
                p = read_subscribe_result(p, end, start, rows, n, fault)
            else:
                p = read_read_result(p, end, start, rows, n, fault)
            n += 1
        else:
            p = pass_field(p, end, tag, message_type, 1, fault)
        if p == NULL:
            return broken(fault, name, tag)
    head.rows = n
    head.most = max(head.most, n)
    return p


cdef bytes part_of(bytes message, int64_t span):
    """What a kept span of a message holds."""
    cdef Py_ssize_t offset = span >> 32
    return message[offset : offset + (span & MAX_LENGTH)]


cdef object text_field(bytes message, int64_t span, uint32_t wanted):
    """A string field of the submessage in a span of a message that was checked before."""
    cdef const uint8_t* p = <const uint8_t*> PyBytes_AS_STRING(message) + (span >> 32)
    cdef const uint8_t* end = p + (span & MAX_LENGTH)
    cdef Fault fault
    cdef Varint v
    cdef Span text
    text.data = NULL
    while p != NULL and p != end:
        v = get_tag(p, end, &fault)
        if v.value == wanted:
            p = get_span(v.p, end, &text, &fault)
        else:
            p = skip(v.p, end, v.value, 0, &fault)
    return read_text(&text)


cdef class ItemReply(CommandReply):
    """The reply to a bulk command about items or tags: one row a result."""

    cdef readonly object item_handle
    cdef readonly object was_successful
    cdef bytes message
    cdef object spans           # where each result lies in the message
    cdef uint32_t tag_address_tag
    cdef uint32_t error_message_tag

    def __len__(self):
        return len(self.item_handle)

    def result_bytes(self, row):
        """The result of one row, a message of its own, as it came."""
        return part_of(self.message, self.spans[row_index(row, len(self))])

    def tag_addresses(self):
        """The tag of each row: a list of str."""
        return [
            text_field(self.message, span, self.tag_address_tag) for span in self.spans.tolist()
        ]

    def error_message(self, row):
        """What the gateway says of one row; empty where it says nothing."""
        cdef int64_t span = self.spans[row_index(row, len(self))]
        return text_field(self.message, span, self.error_message_tag)


cdef class SubscribeReply(ItemReply):
    """The reply to a bulk subscribe or its like; ``result_bytes`` gives SubscribeResults."""


def decode_subscribe_reply(data):
    """Decode an MxCommandReply to a bulk command about items.

    These are SubscribeBulk, UnsubscribeBulk, AddItemBulk, AdviseItemBulk, UnAdviseItemBulk
    and RemoveItemBulk.

    Parameters
    ----------
    data : bytes
        An MxCommandReply message.

    Returns
    -------
    SubscribeReply
        One row a result in the order of the reply: ``item_handle`` int32, ``was_successful``
        bool, and the reply's own status. Tags and messages are decoded on demand.
        ``has_results`` is False where the reply holds no such results at all.

    Raises
    ------
    DecodeError
        No valid message; has ``offset`` and ``field``.
    """
    cdef bytes message = as_message(data, "data")
    cdef ReplyHead head
    cdef ResultRows rows
    # Counted first, as columns are allocated exactly; nothing is kept of a broken message.
    walk_reply(message, SUBSCRIBE_RESULTS, &head, NULL)
    cdef Py_ssize_t room = head.most
    columns = (
        empty(room, DTYPE_INT32),      # item_handle
        empty(room, DTYPE_BOOL),       # was_successful
        empty(room, DTYPE_INT64),      # span
    )
    cdef list memories = [memory_of(column, PyBUF_WRITABLE) for column in columns]
    rows.item_handle = <int32_t*> (<Memory> memories[0]).view.buf
    rows.was_successful = <uint8_t*> (<Memory> memories[1]).view.buf
    rows.span = <int64_t*> (<Memory> memories[2]).view.buf
    walk_reply(message, SUBSCRIBE_RESULTS, &head, &rows)
    if head.rows != room:
        columns = tuple([column[: head.rows] for column in columns])
    cdef SubscribeReply reply = SubscribeReply.__new__(SubscribeReply)
    reply.take_head(&head)
    reply.message = message
    reply.tag_address_tag = SubscribeResult_tag_address_TAG
    reply.error_message_tag = SubscribeResult_error_message_TAG
    reply.item_handle = sealed(columns[0])
    reply.was_successful = sealed(columns[1])
    reply.spans = columns[2]
    return reply


cdef class ReadCells(ValueColumns):
    """The values of a bulk read, one row a result."""

    cdef bytes message
    cdef object spans

    cdef bytes message_of(self, Py_ssize_t row):
        return self.message

    def value_bytes(self, row):
        result = part_of(self.message, self.spans[row_index(row, len(self))])
        return merged_field(result, BulkReadResult_value_TAG, BulkReadResult_MESSAGE)


cdef class ReadReply(ItemReply):
    """The reply to a bulk read; ``result_bytes`` gives BulkReadResults."""

    cdef readonly object was_cached
    cdef readonly object quality
    cdef readonly object source_timestamp
    cdef readonly object ok
    cdef readonly ReadCells cells


def decode_read_reply(data):
    """Decode an MxCommandReply to a bulk read.

    Parameters
    ----------
    data : bytes
        An MxCommandReply message.

    Returns
    -------
    ReadReply
        One row a result in the order of the reply: ``item_handle`` int32, ``was_successful``,
        ``was_cached`` and ``ok`` bool (no status is a failure), ``quality`` int32,
        ``source_timestamp`` datetime64[ns] (NaT where absent), and the reply's own status.
        ``cells`` holds the values as events do: ``kind``, ``value``, ``values(kind)``. Tags and
        messages, strings, raw values and arrays are decoded on demand. ``has_results`` is
        False where the reply holds no bulk read's results at all.

    Raises
    ------
    DecodeError
        No valid message; has ``offset`` and ``field``.
    """
    cdef bytes message = as_message(data, "data")
    cdef ReplyHead head
    cdef ResultRows rows
    walk_reply(message, READ_RESULTS, &head, NULL)
    cdef Py_ssize_t room = head.most
    columns = (
        empty(room, DTYPE_INT32),      # item_handle
        empty(room, DTYPE_BOOL),       # was_successful
        empty(room, DTYPE_INT64),      # span
        empty(room, DTYPE_BOOL),       # was_cached
        empty(room, DTYPE_INT32),      # quality
        empty(room, DTYPE_INT64),      # source_timestamp
        empty(room, DTYPE_BOOL),       # ok
        empty(room, DTYPE_UINT8),      # kind
        empty(room, DTYPE_INT64),      # payload
        empty(room, DTYPE_FLOAT64),    # value
    )
    cdef list memories = [memory_of(column, PyBUF_WRITABLE) for column in columns]
    rows.item_handle = <int32_t*> (<Memory> memories[0]).view.buf
    rows.was_successful = <uint8_t*> (<Memory> memories[1]).view.buf
    rows.span = <int64_t*> (<Memory> memories[2]).view.buf
    rows.was_cached = <uint8_t*> (<Memory> memories[3]).view.buf
    rows.quality = <int32_t*> (<Memory> memories[4]).view.buf
    rows.source = <int64_t*> (<Memory> memories[5]).view.buf
    rows.ok = <uint8_t*> (<Memory> memories[6]).view.buf
    rows.kind = <uint8_t*> (<Memory> memories[7]).view.buf
    rows.payload = <int64_t*> (<Memory> memories[8]).view.buf
    rows.value = <double*> (<Memory> memories[9]).view.buf
    walk_reply(message, READ_RESULTS, &head, &rows)
    if head.rows != room:
        columns = tuple([column[: head.rows] for column in columns])
    cdef ReadReply reply = ReadReply.__new__(ReadReply)
    cdef ReadCells cells = ReadCells.__new__(ReadCells)
    reply.take_head(&head)
    reply.message = cells.message = message
    reply.tag_address_tag = BulkReadResult_tag_address_TAG
    reply.error_message_tag = BulkReadResult_error_message_TAG
    reply.item_handle = sealed(columns[0])
    reply.was_successful = sealed(columns[1])
    reply.spans = cells.spans = columns[2]
    reply.was_cached = sealed(columns[3])
    reply.quality = sealed(columns[4])
    reply.source_timestamp = sealed(columns[5].view(DTYPE_TIME))
    reply.ok = sealed(columns[6])
    cells.kind = sealed(columns[7])
    cells.payload = sealed(columns[8])
    cells.value = sealed(columns[9])
    reply.cells = cells
    return reply
