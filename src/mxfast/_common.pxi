# Errors, the kinds of value, and the small conversions every entry point needs.


class EncodeError(ValueError):
    """An element cannot be encoded: ``index`` says which, ``value`` what it is."""

    def __init__(self, message, index, value):
        super().__init__(message)
        self.index = index
        self.value = value

    def __reduce__(self):
        return type(self), (*self.args, self.index, self.value)


class DecodeError(ValueError):
    """Bytes are no valid message: ``offset`` is where, ``field`` which field was read."""

    def __init__(self, message, offset, field):
        super().__init__(message)
        self.offset = offset
        self.field = field

    def __reduce__(self):
        return type(self), (*self.args, self.offset, self.field)


cdef enum:
    KIND_NONE = 0
    KIND_BOOL = 1
    KIND_INT32 = 2
    KIND_INT64 = 3
    KIND_FLOAT = 4
    KIND_DOUBLE = 5
    KIND_STRING = 6
    KIND_TIMESTAMP = 7
    KIND_ARRAY = 8
    KIND_RAW = 9
    KIND_SPARSE_ARRAY = 10


class ValueKind(enum.IntEnum):
    """Which arm of MxValue a row holds; ``NONE`` for a null and where there is no arm."""

    NONE = KIND_NONE
    BOOL = KIND_BOOL
    INT32 = KIND_INT32
    INT64 = KIND_INT64
    FLOAT = KIND_FLOAT
    DOUBLE = KIND_DOUBLE
    STRING = KIND_STRING
    TIMESTAMP = KIND_TIMESTAMP
    ARRAY = KIND_ARRAY
    RAW = KIND_RAW
    SPARSE_ARRAY = KIND_SPARSE_ARRAY


cdef object decode_error(const Fault* fault, const uint8_t* start, where=""):
    message = (<bytes> fault.message).decode()
    name = FIELD_NAMES.get((message, fault.tag >> 3))
    if name is not None:
        field = f"{message}.{name}"
    elif fault.tag:
        field = f"{message} field {fault.tag >> 3}"
    else:
        field = message
    offset = fault.at - start
    problem = (<bytes> fault.problem).decode()
    return DecodeError(f"{where}{field} {problem} (at byte {offset})", offset, field)


cdef bytes as_message(data, name):
    """A message's bytes; places in one are kept in 32 bits."""
    cdef bytes message
    if type(data) is bytes:
        message = <bytes> data
    elif isinstance(data, (bytes, bytearray, memoryview)):
        message = bytes(data)
    else:
        raise TypeError(f"{name} must be bytes, not {type(data).__name__}")
    if PyBytes_GET_SIZE(message) > MAX_LENGTH:
        raise too_large(message, name)
    return message


cdef object too_large(bytes message, name):
    size = PyBytes_GET_SIZE(message)
    return DecodeError(f"{name} has {size} bytes: 2 GiB is protobuf's limit", 0, "")


cdef object changed_error():
    # Arrays are read without the GIL: once for the sizes of rows, once to write them.
    return RuntimeError(
        "an array changed while it was encoded: give a copy of one that is still written to"
    )


cdef bytes as_utf8(text, name):
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a str, not {type(text).__name__}")
    return (<str> text).encode()


cdef int32_t as_int32(value, name) except? -1:
    if type(value) is int and -0x80000000 <= value <= 0x7fffffff:
        return value
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}") from None
    if not -0x80000000 <= number <= 0x7fffffff:
        raise ValueError(f"{name} {short(number)} does not fit in 32 bits")
    return number


cdef str short(value):
    # How a value stands in an error: never more than 40 characters.
    try:
        text = str(value)
    except ValueError:  # Python writes no int of more than 4,300 digits
        text = f"an {type(value).__name__} too long to be written"
    return text if len(text) <= 40 else text[:37] + "..."


cdef object read_text(const Span* span):
    # NULL is the empty string: what proto3 gives for a field that is not there.
    if span.data == NULL:
        return ""
    return PyUnicode_DecodeUTF8(<const char*> span.data, span.size, NULL)


cdef class Memory:
    """The memory of one object for as long as this lives: a contiguous buffer."""

    cdef Py_buffer view
    cdef bint held

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.view)


cdef Memory memory_of(array, int flags=PyBUF_SIMPLE):
    cdef Memory memory = Memory.__new__(Memory)
    PyObject_GetBuffer(array, &memory.view, flags)
    memory.held = True
    return memory


cdef Memory contiguous_memory_of(array):
    """The elements in C order: the array's own memory where they lie so, else a copy's."""
    try:
        return memory_of(array)
    except (BufferError, ValueError):    # numpy says ValueError where BufferError is meant
        return memory_of(np.ascontiguousarray(array))
