# Buffered data changes: one event holds several samples of an item, which become rows.

ctypedef struct Samples:
    int kind               # of the array's elements; KIND_NONE where there is no array
    Py_ssize_t count
    Py_ssize_t run         # another arm of a oneof begins a new one: what came before is gone
    Py_ssize_t wanted      # the run that is kept
    uint8_t* out           # NULL to count only


cdef void read_samples(
    const uint8_t* p, const uint8_t* end, const uint8_t* start, Samples* samples
) noexcept nogil:
    """Read an XxxArray's body behind the samples there are.

    Numbers as they are, times as nanoseconds, text and raw values as a row's payload has them.
    """
    cdef uint8_t* out = samples.out if samples.run == samples.wanted else NULL
    cdef uint32_t arm, packed, single
    cdef Fault fault
    cdef Varint v
    cdef Span span
    cdef Stamp stamp
    cdef int64_t sample
    memset(&fault, 0, sizeof(fault))
    array_tags(samples.kind, &arm, &packed, &single)
    if packed:
        read_elements(p, end, samples.kind, packed, single, out, &samples.count, &fault)
        return
    while p != NULL and p != end:
        v = get_tag(p, end, &fault)
        p = v.p
        if p == NULL:
            return
        if v.value != single:
            p = skip(p, end, v.value, 0, &fault)
            continue
        if samples.kind == KIND_TIMESTAMP:
            clear_stamp(&stamp)
            p = read_timestamp(p, end, &stamp, 0, &fault)
            sample = nanoseconds(stamp.seconds, stamp.nanos)
        else:
            p = get_span(p, end, &span, &fault)
            if p == NULL:
                return
            sample = (span.data - start) << 32 | <int64_t> span.size
        if out != NULL:
            (<int64_t*> out)[samples.count] = sample
        samples.count += 1


cdef inline void begin_run(Samples* samples, int kind) noexcept nogil:
    samples.kind = kind
    samples.count = 0
    samples.run += 1


cdef void find_samples(
    const uint8_t* p, const uint8_t* end, const uint8_t* start, int message_type, Samples* samples
) noexcept nogil:
    """Find the elements of the array that is an event's value.

    The part of the event at p, of that type, was checked before. It is walked where it lies, as
    places of text are counted in the event: what several occurrences merge to is put together
    nowhere, but their elements come one after the other all the same.
    """
    cdef Fault fault
    cdef Varint v
    cdef Span span
    cdef int kind
    cdef int inner
    memset(&fault, 0, sizeof(fault))
    while p != NULL and p != end:
        v = get_tag(p, end, &fault)
        p = v.p
        if p == NULL:
            return
        kind = array_kind(v.value) if message_type == MxArray_MESSAGE else KIND_NONE
        if kind != KIND_NONE:
            inner = -1
            if kind != samples.kind:
                begin_run(samples, kind)
        elif message_type == MxEvent_MESSAGE and v.value == MxEvent_value_TAG:
            inner = MxValue_MESSAGE
        elif message_type == MxValue_MESSAGE and v.value == MxValue_array_value_TAG:
            inner = MxArray_MESSAGE
        else:
            if message_type == MxValue_MESSAGE and oneof_of(MxValue_MESSAGE, v.value):
                begin_run(samples, KIND_NONE)
            p = skip(p, end, v.value, 0, &fault)
            continue
        p = get_span(p, end, &span, &fault)
        if p == NULL:
            return
        if inner < 0:
            read_samples(span.data, p, start, samples)
        else:
            find_samples(span.data, p, start, inner, samples)


cdef void count_samples(bytes message, Samples* samples) noexcept:
    """Say how many samples an event has, and of which kind."""
    cdef Span span = whole(message)
    memset(samples, 0, sizeof(Samples))
    with nogil:
        find_samples(span.data, span.data + span.size, span.data, MxEvent_MESSAGE, samples)


cdef object samples_of(bytes message, Samples* samples):
    """The samples that were counted, as an array."""
    cdef Span span = whole(message)
    array = empty(samples.count, ELEMENT_DTYPES.get(samples.kind, DTYPE_INT64))
    cdef Memory memory = memory_of(array, PyBUF_WRITABLE)
    samples.wanted = samples.run
    samples.out = <uint8_t*> memory.view.buf
    samples.run = samples.count = samples.kind = 0
    with nogil:
        find_samples(span.data, span.data + span.size, span.data, MxEvent_MESSAGE, samples)
    return array


cdef object body_array(bytes message, uint32_t tag):
    """The elements of one of a buffered change's own arrays."""
    body = merged_field(message, MxEvent_on_buffered_data_change_TAG, MxEvent_MESSAGE)
    return array_field(body, tag, OnBufferedDataChangeEvent_MESSAGE).reshape(-1)


cdef EventColumns expanded(EventColumns events, list buffered):
    """The columns with a row for each sample of the buffered rows."""
    cdef Samples samples
    counts = np.ones(len(events), np.int64)
    # Counted first, read one event at a time: samples have a place in the columns only.
    for n in buffered:
        count_samples(events.message_of(n), &samples)
        counts[n] = max(samples.count, 1)
    starts = np.cumsum(counts) - counts
    messages = [events.message_of(n) for n in buffered]
    gaps = events.gaps
    # Repeating copies, so that the columns can be written to until they are sealed.
    events = events.taken(functools.partial(np.repeat, repeats=counts))
    events.gaps = [
        (int(starts[row]) if row < len(starts) else len(events), after, oldest)
        for row, after, oldest in gaps
    ]
    for n, message in zip(buffered, messages):
        count_samples(message, &samples)
        if not samples.count:
            continue                  # an empty array
        values = samples_of(message, &samples)
        start = starts[n]
        rows = slice(start, start + samples.count)
        events.kind[rows] = samples.kind
        if samples.kind in ELEMENT_DTYPES:
            events.value[rows] = values
            events.payload[rows] = (
                events.value[rows].view(np.int64) if values.dtype.kind == "f" else values
            )
        else:
            events.value[rows] = np.nan
            events.payload[rows] = values
        # A sample without a quality or time of its own has the event's.
        qualities = body_array(message, OnBufferedDataChangeEvent_quality_values_TAG)
        if qualities.dtype.kind == "i":
            given = min(samples.count, qualities.size)
            events.quality[start : start + given] = qualities[:given]
        times = body_array(message, OnBufferedDataChangeEvent_timestamp_values_TAG)
        if times.dtype.kind == "M":
            given = min(samples.count, times.size)
            events.source_timestamp[start : start + given] = times[:given]
    for column in (
        events.family, events.server_handle, events.item_handle, events.worker_sequence,
        events.quality, events.source_timestamp, events.gateway_timestamp, events.ok,
        events.kind, events.payload, events.value, events.message_index,
    ):
        sealed(column)
    return events
