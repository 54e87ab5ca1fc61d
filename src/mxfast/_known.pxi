# Fields that the contract knows but no reader looks at: passed over, and checked meanwhile, as
# the protobuf runtime refuses a message for what is broken anywhere in it. So what is decoded
# later, on demand, has been found sound.


cdef const KnownField* known_field(int message_type, uint32_t tag) noexcept nogil:
    """What the contract says of a field; NULL where it does not know it, or nothing worth a check."""
    cdef const KnownField* field = mxf_fields + mxf_first_field[message_type]
    cdef const KnownField* end = mxf_fields + mxf_first_field[message_type + 1]
    while field != end:
        if field.tag == tag:
            return field
        field += 1
    return NULL


cdef int oneof_of(int message_type, uint32_t tag) noexcept nogil:
    """Which oneof of the message a field is an arm of; 0 for none."""
    cdef const KnownField* field = known_field(message_type, tag)
    return field.oneof if field != NULL else 0


cdef inline const uint8_t* pass_field(
    const uint8_t* p, const uint8_t* end, uint32_t tag, int message_type, int depth, Fault* fault
) noexcept nogil:
    """Pass over the field whose tag was just read, but not over what the runtime refuses.

    `depth` is how deep the message lies below the outermost.
    """
    if tag & 7 == WIRE_LENGTH:
        if p != end and p[0] == 0 and depth < MAX_DEPTH:
            return p + 1               # an empty body, as most events have
        return check_field(p, end, tag, message_type, depth, fault)
    return skip(p, end, tag, depth, fault)


cdef const uint8_t* check_field(
    const uint8_t* p, const uint8_t* end, uint32_t tag, int message_type, int depth, Fault* fault
) noexcept nogil:
    cdef const KnownField* field = known_field(message_type, tag)
    cdef Span span
    cdef Varint v
    if field != NULL and field.holds == HOLDS_TEXT:
        return get_string(p, end, &span, fault)
    p = get_span(p, end, &span, fault)
    if p == NULL or field == NULL:
        return p
    if field.holds >= 0:
        if depth >= MAX_DEPTH:
            return fail(fault, span.data, b"is nested too deep")
        return check_message(span.data, p, field.holds, depth + 1, fault)
    if field.holds == HOLDS_VARINTS:
        v.p = span.data
        while v.p != p and v.p != NULL:
            v = get_varint(v.p, p, fault)
        return v.p
    if (field.holds == HOLDS_FIXED32 and span.size & 3) or (
        field.holds == HOLDS_FIXED64 and span.size & 7
    ):
        return fail(fault, p, b"is cut off inside a fixed-size field")
    return p


cdef const uint8_t* check_message(
    const uint8_t* p, const uint8_t* end, int message_type, int depth, Fault* fault
) noexcept nogil:
    """Check a message's body."""
    cdef Varint v
    while p != end:
        v = get_tag(p, end, fault)
        if v.p == NULL:
            return broken(fault, mxf_message_names[message_type], 0)
        p = pass_field(v.p, end, v.value, message_type, depth, fault)
        if p == NULL:
            return broken(fault, mxf_message_names[message_type], v.value)
    return p


cdef Span whole(bytes message) noexcept:
    cdef Span span
    span.data = <const uint8_t*> PyBytes_AS_STRING(message)
    span.size = PyBytes_GET_SIZE(message)
    return span


cdef bytes narrowed(bytes message, Span* span, uint32_t wanted, int message_type):
    """Narrow a span of `message` from a message of that type to one submessage field's body.

    Returns the bytes that the span lies in then: `message` still, or where there are several
    occurrences what they merge to, which is their concatenation. Occurrences that another arm
    of the same oneof follows are gone. What the span holds was checked before.
    """
    cdef const uint8_t* start = span.data
    cdef const uint8_t* end = start + span.size
    cdef const uint8_t* p = start
    cdef const uint8_t* first = start       # behind the last arm that replaced the field
    cdef int oneof = oneof_of(message_type, wanted)
    cdef size_t size = 0
    cdef Py_ssize_t count = 0
    cdef Fault fault
    cdef Varint v
    cdef Span part
    part.data = start
    part.size = 0
    memset(&fault, 0, sizeof(fault))
    span.size = 0
    while p != end:
        v = get_tag(p, end, &fault)
        if v.p == NULL:
            broken(&fault, mxf_message_names[message_type], 0)
            raise decode_error(&fault, start)
        if v.value == wanted:
            p = get_span(v.p, end, &part, &fault)
            span[0] = part
            size += part.size
            count += 1
        else:
            p = skip(v.p, end, v.value, 0, &fault)
            if oneof and oneof_of(message_type, v.value) == oneof:
                span.size = size = count = 0
                first = p
        if p == NULL:
            broken(&fault, mxf_message_names[message_type], v.value)
            raise decode_error(&fault, start)
    if count <= 1:
        return message
    cdef bytes merged = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> size)
    cdef uint8_t* out = <uint8_t*> PyBytes_AS_STRING(merged)
    p = first
    while p != end:
        v = get_tag(p, end, &fault)
        if v.value == wanted:
            p = get_span(v.p, end, &part, &fault)
            out = put_bytes(out, part.data, part.size)
        else:
            p = skip(v.p, end, v.value, 0, &fault)
    span[0] = whole(merged)
    return merged


cdef bytes merged_field(bytes message, uint32_t wanted, int message_type):
    """The body of one submessage field of a message that was checked before."""
    cdef Span span = whole(message)
    cdef bytes holder = narrowed(message, &span, wanted, message_type)
    if holder is not message:
        return holder
    return PyBytes_FromStringAndSize(<const char*> span.data, <Py_ssize_t> span.size)


cdef list fields_of(bytes message, uint32_t wanted, int message_type):
    """The bytes of each occurrence of one submessage field."""
    cdef const uint8_t* start = <const uint8_t*> PyBytes_AS_STRING(message)
    cdef const uint8_t* end = start + PyBytes_GET_SIZE(message)
    cdef const uint8_t* p = start
    cdef Fault fault
    cdef Varint v
    cdef Span span
    cdef list fields = []
    memset(&fault, 0, sizeof(fault))
    while p != end:
        v = get_tag(p, end, &fault)
        if v.p != NULL and v.value == wanted:
            p = get_span(v.p, end, &span, &fault)
            if p != NULL:
                fields.append(PyBytes_FromStringAndSize(<const char*> span.data, span.size))
        elif v.p != NULL:
            p = skip(v.p, end, v.value, 0, &fault)
        else:
            p = NULL
        if p == NULL:
            broken(&fault, mxf_message_names[message_type], v.value)
            raise decode_error(&fault, start)
    return fields
