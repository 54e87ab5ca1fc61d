# Protobuf's wire format: varints, tags, lengths and a cursor over bytes. No Python objects.
#
# Writers take a pointer and return the one behind what they wrote; the caller has sized
# the buffer exactly. Readers check every step against `end`, as `n > end - p`, never as
# `p + n > end`, which overflows for a length near 2^63.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "mxfast copies fixed32 and fixed64 fields as they lie in memory: little endian only"
    #endif
    static inline int mxf_bits(uint64_t v) { return 64 - __builtin_clzll(v | 1); }
    """
    int mxf_bits(uint64_t v) noexcept nogil   # how many bits v needs; 1 for 0

cdef enum:
    WIRE_VARINT = 0
    WIRE_FIXED64 = 1
    WIRE_LENGTH = 2
    WIRE_GROUP = 3
    WIRE_END_GROUP = 4
    WIRE_FIXED32 = 5
    MAX_DEPTH = 100        # of groups and messages, as the protobuf runtime has it
    MAX_LENGTH = 0x7fffffff


# ---------------------------------------------------------------- writing

cdef inline int varint_size(uint64_t value) noexcept nogil:
    # ceil(bits / 7) without a division: exact for 1 to 64 bits.
    return (mxf_bits(value) * 9 + 64) >> 6


cdef inline uint8_t* put_varint(uint8_t* out, uint64_t value) noexcept nogil:
    while value >= 0x80:
        out[0] = <uint8_t> (value | 0x80)
        value >>= 7
        out += 1
    out[0] = <uint8_t> value
    return out + 1


cdef inline uint64_t sign_extended(int32_t value) noexcept nogil:
    # int32 and enum fields travel as 64-bit varints: a negative one takes ten bytes.
    return <uint64_t> <int64_t> value


cdef inline uint8_t* put_bytes(uint8_t* out, const void* data, size_t size) noexcept nogil:
    memcpy(out, data, size)
    return out + size


# ---------------------------------------------------------------- reading

ctypedef struct Reader:
    const uint8_t* p           # next byte
    const uint8_t* end         # end of the message being read
    const uint8_t* start       # first byte of the outermost message: offsets count from here
    const char* message        # name of the message being read
    const char* problem        # NULL, or what is wrong
    uint32_t tag               # the tag last read


cdef inline bint fail(Reader* r, const char* problem) noexcept nogil:
    # Keeps the first problem: a caller that gives up cannot overwrite it.
    if r.problem == NULL:
        r.problem = problem
    return False


cdef inline bint read_long_varint(Reader* r, uint64_t* value) noexcept nogil:
    cdef uint64_t result = 0
    cdef uint64_t byte
    cdef int shift = 0
    while shift < 70:
        if r.p == r.end:
            return fail(r, b"is cut off inside a varint")
        byte = r.p[0]
        r.p += 1
        result |= (byte & 0x7f) << shift
        if byte < 0x80:
            if shift == 63 and byte > 1:
                return fail(r, b"has a varint of more than 64 bits")
            value[0] = result
            return True
        shift += 7
    return fail(r, b"has a varint of more than ten bytes")


cdef inline bint read_varint(Reader* r, uint64_t* value) noexcept nogil:
    if r.p != r.end and r.p[0] < 0x80:
        value[0] = r.p[0]
        r.p += 1
        return True
    return read_long_varint(r, value)


cdef inline bint read_tag(Reader* r) noexcept nogil:
    # A tag is a varint of at most five bytes and 32 bits, its field number not 0.
    cdef uint64_t value
    cdef const uint8_t* before = r.p
    if not read_varint(r, &value):
        return False
    if value > 0xffffffffU or r.p - before > 5:
        return fail(r, b"has a tag of more than 32 bits")
    if value < 8:
        return fail(r, b"has a field number 0")
    r.tag = <uint32_t> value
    return True


cdef inline bint read_length(Reader* r, size_t* length) noexcept nogil:
    cdef uint64_t value
    cdef const uint8_t* before = r.p
    if not read_varint(r, &value):
        return False
    if value > MAX_LENGTH or r.p - before > 5 or value > <uint64_t> (r.end - r.p):
        return fail(r, b"has a length that reaches past its end")
    length[0] = <size_t> value
    return True


cdef inline bint read_int32(Reader* r, int32_t* value) noexcept nogil:
    cdef uint64_t raw
    if not read_varint(r, &raw):
        return False
    value[0] = <int32_t> <uint32_t> raw
    return True


cdef inline bint read_int64(Reader* r, int64_t* value) noexcept nogil:
    return read_varint(r, <uint64_t*> value)


cdef inline bint read_fixed(Reader* r, void* value, size_t size) noexcept nogil:
    if size > <size_t> (r.end - r.p):
        return fail(r, b"is cut off inside a fixed-size field")
    memcpy(value, r.p, size)
    r.p += size
    return True


cdef inline bint utf8_ok(const uint8_t* p, size_t size) noexcept nogil:
    # Eight bytes at a time while they are ASCII, as tags and session ids are.
    cdef const uint8_t* end = p + size
    cdef uint64_t word
    cdef uint32_t code
    cdef uint8_t lead
    cdef int more, k
    while p != end:
        while end - p >= 8:
            memcpy(&word, p, 8)
            if word & <uint64_t> 0x8080808080808080:
                break
            p += 8
        if p == end:
            return True
        lead = p[0]
        p += 1
        if lead < 0x80:
            continue
        if lead >= 0xc2 and lead <= 0xdf:
            more = 1
            code = lead & 0x1f
        elif lead >= 0xe0 and lead <= 0xef:
            more = 2
            code = lead & 0x0f
        elif lead >= 0xf0 and lead <= 0xf4:
            more = 3
            code = lead & 0x07
        else:
            return False
        if more > end - p:
            return False
        for k in range(more):
            if p[k] & 0xc0 != 0x80:
                return False
            code = code << 6 | (p[k] & 0x3f)
        p += more
        # No overlong form, no surrogate, nothing past the last plane.
        if (more == 2 and code < 0x800) or (more == 3 and (code < 0x10000 or code > 0x10ffff)):
            return False
        if code >= 0xd800 and code <= 0xdfff:
            return False
    return True


cdef inline bint read_span(Reader* r, const uint8_t** data, size_t* size) noexcept nogil:
    if not read_length(r, size):
        return False
    data[0] = r.p
    r.p += size[0]
    return True


cdef inline bint read_string(Reader* r, const uint8_t** data, size_t* size) noexcept nogil:
    if not read_span(r, data, size):
        return False
    if not utf8_ok(data[0], size[0]):
        return fail(r, b"is no valid UTF-8")
    return True


cdef inline bint skip_field(Reader* r, int depth) noexcept nogil:
    # Pass over the field whose tag was just read; of a group, all that is in it.
    cdef uint32_t wire = r.tag & 7
    cdef uint32_t group = r.tag >> 3
    cdef uint64_t ignored
    cdef size_t size
    if wire == WIRE_VARINT:
        return read_varint(r, &ignored)
    if wire == WIRE_LENGTH:
        if not read_length(r, &size):
            return False
        r.p += size
        return True
    if wire == WIRE_FIXED64:
        return read_fixed(r, &ignored, 8)
    if wire == WIRE_FIXED32:
        return read_fixed(r, &ignored, 4)
    if wire != WIRE_GROUP:
        return fail(r, b"has an end of a group that never began, or a wire type that does not exist")
    if depth >= MAX_DEPTH:
        return fail(r, b"is nested too deep")
    while r.p != r.end:
        if not read_tag(r):
            return False
        if r.tag & 7 == WIRE_END_GROUP:
            if r.tag >> 3 != group:
                return fail(r, b"ends a group that another one began")
            return True
        if not skip_field(r, depth + 1):
            return False
    return fail(r, b"is cut off inside a group")
