# Single commands: their requests, and whether a reply says that all went well. A write and a
# reply are known in the usual case only. For the rest they say so, and the caller takes the
# general way through the protobuf runtime, which has the words for what is wrong.

cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object number, int* overflow) except? -1


cdef bint is_int32(number):
    # No subclass, so no bool: what nearly every call has.
    return type(number) is int and -0x80000000 <= number <= 0x7fffffff


cdef int add_scalar(Piece* piece, value) except -1:
    """Add MxValue's fields for a plain number; False for what is none."""
    cdef double number
    cdef long long integer
    cdef int overflow = 0
    if type(value) is float:
        number = value
        if not math.isfinite(number):
            return False
        add_variant(piece, KIND_DOUBLE)
        memcpy(piece.data + piece.size, &number, 8)
        piece.size += 8
    elif type(value) is bool:
        add_variant(piece, KIND_BOOL)
        piece.data[piece.size] = value is True
        piece.size += 1
    elif type(value) is int:
        integer = PyLong_AsLongLongAndOverflow(value, &overflow)
        if overflow:
            return False
        add_variant(piece, KIND_INT32 if integer == <int32_t> integer else KIND_INT64)
        piece.size = put_varint(piece.data + piece.size, <uint64_t> integer) - piece.data
    else:
        return False
    return True


cdef bytes framed(
    session_id, correlation_id, int32_t kind, uint32_t tag, const void* payload, size_t size
):
    """An MxCommandRequest around the payload of its command, the arm with that tag."""
    cdef bytes session = as_utf8(session_id, "session_id")
    cdef bytes correlation = as_utf8(correlation_id, "correlation_id")
    cdef size_t command = (
        varint_size(MxCommand_kind_TAG) + varint_size(sign_extended(kind))
        + varint_size(tag) + varint_size(size) + size
    )
    cdef size_t total = (
        text_size(MxCommandRequest_session_id_TAG, session)
        + text_size(MxCommandRequest_client_correlation_id_TAG, correlation)
        + varint_size(MxCommandRequest_command_TAG) + varint_size(command) + command
    )
    if total > MAX_LENGTH:
        raise ValueError(f"a message of {total} bytes: 2 GiB is protobuf's limit")
    cdef bytes message = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> total)
    cdef uint8_t* out = <uint8_t*> PyBytes_AS_STRING(message)
    cdef uint8_t* limit = out + total
    out = put_text(out, MxCommandRequest_session_id_TAG, session)
    out = put_text(out, MxCommandRequest_client_correlation_id_TAG, correlation)
    out = put_varint(put_varint(out, MxCommandRequest_command_TAG), command)
    out = put_varint(put_varint(out, MxCommand_kind_TAG), sign_extended(kind))
    out = put_bytes(put_varint(put_varint(out, tag), size), payload, size)
    assert out == limit
    return message


def encode_command(session_id, correlation_id, kind, field, payload):
    """Encode a command whose payload is a message already: a whole MxCommandRequest.

    Parameters
    ----------
    session_id, correlation_id : str
    kind : int
        An MxCommandKind.
    field : int
        Number of the payload's field in MxCommand.
    payload : bytes

    Returns
    -------
    bytes
    """
    cdef bytes body = as_message(payload, "payload")
    return framed(
        session_id,
        correlation_id,
        as_int32(kind, "kind"),
        <uint32_t> as_int32(field, "field") << 3 | WIRE_LENGTH,
        PyBytes_AS_STRING(body),
        PyBytes_GET_SIZE(body),
    )


def encode_fields(numbers, fields):
    """Encode a message of plain fields.

    Parameters
    ----------
    numbers : dict of str to int
        The number of each field.
    fields : dict of str to int, str, bytes or list of str
        What the fields hold, in the order of their numbers; an int is an int32, a uint32 or
        an enum, bytes are a message.

    Returns
    -------
    bytes or None
        None where a field holds something else.
    """
    cdef list parts = []
    for name, value in (<dict> fields).items():
        number = (<dict> numbers)[name]
        if type(value) is int:
            if value != 0:             # proto3 leaves out a zero, and an empty string
                parts.append(as_varint(number << 3 | WIRE_VARINT))
                parts.append(as_varint(value))
        elif type(value) is str:
            if value:
                add_bytes(parts, number, (<str> value).encode())
        elif type(value) is bytes:
            add_bytes(parts, number, value)
        elif type(value) is list:
            for each in <list> value:
                if type(each) is not str:
                    return None
                add_bytes(parts, number, (<str> each).encode())
        else:
            return None
    return b"".join(parts)


cdef int add_bytes(list parts, number, bytes data) except -1:
    parts.append(as_varint(number << 3 | WIRE_LENGTH))
    parts.append(as_varint(len(data)))
    parts.append(data)
    return 0


cdef bytes as_varint(int64_t number):
    cdef uint8_t[10] buffer
    return (<char*> buffer)[: put_varint(buffer, <uint64_t> number) - buffer]


def encode_write(session_id, correlation_id, server_handle, item_handle, value, user_id):
    """Encode the write of a plain number: a whole MxCommandRequest.

    Parameters
    ----------
    session_id, correlation_id : str
    server_handle, item_handle, user_id : int
    value : float, int or bool

    Returns
    -------
    bytes or None
        None for a value of another type or one that cannot be written, and for what are no
        32-bit handles: `mxfast.Session.write` takes the general way then.
    """
    cdef Piece scalar, handles, user
    cdef uint8_t[3 * MID_ROOM] payload
    if not (is_int32(server_handle) and is_int32(item_handle) and is_int32(user_id)):
        return None
    scalar.size = handles.size = user.size = 0
    if not add_scalar(&scalar, value):
        return None
    add_optional(&handles, WriteCommand_server_handle_TAG, server_handle)
    add_optional(&handles, WriteCommand_item_handle_TAG, item_handle)
    add_varint(&handles, WriteCommand_value_TAG, scalar.size)
    add_optional(&user, WriteCommand_user_id_TAG, user_id)
    cdef uint8_t* end = put_bytes(payload, handles.data, handles.size)
    end = put_bytes(end, scalar.data, scalar.size)
    end = put_bytes(end, user.data, user.size)
    return framed(
        session_id, correlation_id, MX_COMMAND_KIND_WRITE, MxCommand_write_TAG,
        payload, end - payload,
    )


def is_fine_reply(data):
    """Tell whether a reply to a command is sound and reports no failure of any kind.

    Parameters
    ----------
    data : bytes
        An MxCommandReply message.

    Returns
    -------
    bool
        True where the protobuf runtime would read it, its protocol status is OK, its HRESULT
        is not negative and none of its statuses is a failure.
    """
    cdef bytes message = as_message(data, "data")
    cdef ReplyHead head
    cdef Fault fault
    memset(&fault, 0, sizeof(fault))
    return bool(
        read_reply(
            <const uint8_t*> PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message),
            NO_RESULTS, &head, NULL, &fault,
        )
        and head.status_code == PROTOCOL_STATUS_CODE_OK
        and head.hresult >= 0
        and head.ok
    )


def decode_handle(data, payload, field):
    """Return the handle in a reply that `is_fine_reply`.

    Parameters
    ----------
    data : bytes
        An MxCommandReply message.
    payload, field : int
        Numbers of the payload's field in the reply and of the handle's in the payload.

    Returns
    -------
    int
        0 where the reply has no such payload, or no handle in it.
    """
    cdef bytes message = as_message(data, "data")
    cdef Span span = whole(message)
    # Held by its name: what several payloads merge to is a message of its own.
    cdef bytes holder = narrowed(
        message, &span, <uint32_t> payload << 3 | WIRE_LENGTH, MxCommandReply_MESSAGE
    )
    cdef const uint8_t* p = span.data
    cdef const uint8_t* end = p + span.size
    cdef Fault fault
    cdef Varint v
    cdef int32_t handle = 0
    memset(&fault, 0, sizeof(fault))
    while p != end and p != NULL:
        v = get_tag(p, end, &fault)
        if v.p == NULL:
            return 0
        if v.value == (<uint32_t> field << 3 | WIRE_VARINT):
            v = get_varint(v.p, end, &fault)
            handle = <int32_t> v.value
            p = v.p
        else:
            p = skip(v.p, end, v.value, 1, &fault)
    return 0 if p == NULL else handle
