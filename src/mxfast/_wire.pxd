# Protobuf's wire format: varints, tags, lengths and a cursor over bytes. No Python objects.
#
# Writers take a pointer and return the one behind what they wrote; the caller knows that there
# is room. Readers check every step against `end`, as `n > end - p`, never as
# `p + n > end`, which overflows for a length near 2^63.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "mxfast copies fixed32 and fixed64 fields as they lie in memory: little endian only"
    #endif
    /* ceil(bits / 7) without a division: exact for 1 to 64 bits. */
    static inline int mxf_varint_size(uint64_t v) {
        return ((64 - __builtin_clzll(v | 1)) * 9 + 64) >> 6;
    }
    typedef struct { const uint8_t *data; size_t size; } mxf_span;
    """
    int varint_size "mxf_varint_size"(uint64_t value) noexcept nogil
    ctypedef struct Span "mxf_span":
        const uint8_t* data
        size_t size

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
#
# Readers take the cursor by value and return it moved, NULL where the bytes are broken: it
# stays in a register, where a cursor behind a pointer would be stored and loaded again
# around every write to a column. What is broken is noted on the cold path only.

ctypedef struct Fault:
    const uint8_t* at          # where it was found
    const char* problem        # what is wrong; NULL where nothing is
    const char* message        # the innermost message it was found in
    uint32_t tag               # and the tag last read there; 0 where that is what is broken

ctypedef struct Varint:
    const uint8_t* p           # behind the varint, or NULL
    uint64_t value


cdef inline const uint8_t* fail(Fault* fault, const uint8_t* at, const char* problem) noexcept nogil:
    fault.at = at
    fault.problem = problem
    return NULL


cdef inline const uint8_t* broken(Fault* fault, const char* message, uint32_t tag) noexcept nogil:
    # The innermost message comes first, as the failure goes outwards: it stays.
    if fault.message == NULL:
        fault.message = message
        fault.tag = tag
    return NULL


cdef inline Varint long_varint(const uint8_t* p, const uint8_t* end, Fault* fault) noexcept nogil:
    cdef Varint v
    cdef uint64_t byte
    cdef int shift = 0
    v.value = 0
    while shift < 70:
        if p == end:
            v.p = fail(fault, p, b"is cut off inside a varint")
            return v
        byte = p[0]
        p += 1
        v.value |= (byte & 0x7f) << shift
        if byte < 0x80:
            # What a tenth byte has above the 64th bit is dropped, as the runtime drops it.
            v.p = p
            return v
        shift += 7
    v.p = fail(fault, p, b"has a varint of more than ten bytes")
    return v


cdef inline Varint get_varint(const uint8_t* p, const uint8_t* end, Fault* fault) noexcept nogil:
    cdef Varint v
    if p != end and p[0] < 0x80:
        v.value = p[0]
        v.p = p + 1
        return v
    return long_varint(p, end, fault)


cdef inline Varint get_tag(const uint8_t* p, const uint8_t* end, Fault* fault) noexcept nogil:
    # A tag is a varint of at most five bytes and 32 bits, its field number not 0.
    cdef Varint v = get_varint(p, end, fault)
    if v.p != NULL:
        if v.value > 0xffffffffU or v.p - p > 5:
            v.p = fail(fault, p, b"has a tag of more than 32 bits")
        elif v.value < 8:
            v.p = fail(fault, p, b"has a field number 0")
    return v


cdef inline Varint get_length(const uint8_t* p, const uint8_t* end, Fault* fault) noexcept nogil:
    """Read a length that fits in what is left."""
    cdef Varint v = get_varint(p, end, fault)
    if v.p != NULL and (v.value > MAX_LENGTH or v.value > <uint64_t> (end - v.p)):
        v.p = fail(fault, p, b"has a length that reaches past its end")
    return v


cdef inline const uint8_t* get_fixed(
    const uint8_t* p, const uint8_t* end, void* value, size_t size, Fault* fault
) noexcept nogil:
    if size > <size_t> (end - p):
        return fail(fault, p, b"is cut off inside a fixed-size field")
    memcpy(value, p, size)
    return p + size


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


cdef inline const uint8_t* get_span(
    const uint8_t* p, const uint8_t* end, Span* span, Fault* fault
) noexcept nogil:
    cdef Varint v = get_length(p, end, fault)
    if v.p == NULL:
        return NULL
    span.data = v.p
    span.size = v.value
    return v.p + v.value


cdef inline const uint8_t* get_string(
    const uint8_t* p, const uint8_t* end, Span* span, Fault* fault
) noexcept nogil:
    p = get_span(p, end, span, fault)
    if p != NULL and not utf8_ok(span.data, span.size):
        return fail(fault, span.data, b"is no valid UTF-8")
    return p


cdef inline const uint8_t* skip_group(
    const uint8_t* p, const uint8_t* end, uint32_t number, int depth, Fault* fault
) noexcept nogil:
    """Pass over a group and all that is in it."""
    cdef Varint v
    if depth >= MAX_DEPTH:
        return fail(fault, p, b"is nested too deep")
    while p != NULL:
        if p == end:
            return fail(fault, p, b"is cut off inside a group")
        v = get_tag(p, end, fault)
        if v.p == NULL:
            return NULL
        if v.value & 7 == WIRE_END_GROUP:
            if v.value >> 3 != number:
                return fail(fault, p, b"ends a group that another one began")
            return v.p
        p = skip(v.p, end, v.value, depth + 1, fault)
    return NULL


cdef inline const uint8_t* skip(
    const uint8_t* p, const uint8_t* end, uint32_t tag, int depth, Fault* fault
) noexcept nogil:
    """Pass over the field whose tag was just read, in a message `depth` below the outermost."""
    cdef uint32_t wire = tag & 7
    cdef uint64_t ignored
    cdef Varint v
    if wire == WIRE_VARINT:
        return get_varint(p, end, fault).p
    if wire == WIRE_LENGTH:
        v = get_length(p, end, fault)
        if v.p == NULL:
            return NULL
        return v.p + v.value
    if wire == WIRE_FIXED64:
        return get_fixed(p, end, &ignored, 8, fault)
    if wire == WIRE_FIXED32:
        return get_fixed(p, end, &ignored, 4, fault)
    if wire == WIRE_GROUP:
        return skip_group(p, end, tag >> 3, depth, fault)
    return fail(fault, p, b"has an end of a group that never began, or no known wire type")
