# Layouts: how rows and events are read without parsing them.
#
# Events of one session and one kind, and rows of one reply, differ in a few numbers only. Once
# one of them has been parsed, its bytes and the places of those numbers are a layout. Another of
# the same length whose bytes are the same everywhere else, and whose varints have their
# continuation bits in the same places, would be parsed along the very same path: its numbers
# stand where those of the first stood, and all else it says is what the first one said. So one
# masked comparison, which vector instructions do in a few cycles, stands for the parsing of a
# dozen fields. Where layouts never repeat, learning is given up for the rest of the call.
#
# Here is what rows of replies need; _event_layout.pxi has the events.

cdef extern from *:
    """
    typedef uint64_t mxf_pair __attribute__((vector_size(16), aligned(1), may_alias));
    /* Whether a equals b wherever mask has a bit, over n bytes, a multiple of 16. */
    static inline int mxf_same(const uint8_t *a, const uint8_t *b, const uint8_t *mask, size_t n) {
        mxf_pair d = {0};
        for (size_t i = 0; i < n; i += 16)
            d |= (*(const mxf_pair *)(a + i) ^ *(const mxf_pair *)(b + i))
                 & *(const mxf_pair *)(mask + i);
        return (d[0] | d[1]) == 0;
    }
    static inline int mxf_same_16(const uint8_t *a, const uint8_t *b, const uint8_t *mask) {
        mxf_pair d = (*(const mxf_pair *)a ^ *(const mxf_pair *)b) & *(const mxf_pair *)mask;
        return (d[0] | d[1]) == 0;
    }
    /* A varint of up to eight bytes: the eight bytes from `at` on, of which the mask takes the
       varint's sevens of bits, `shift` above the lowest; no mask where the field is not there. */
    typedef struct { uint32_t at, shift; uint64_t mask; } mxf_field_place;
    /* Eight bytes of seven bits each to one number: pairs, then fours, then all eight. */
    static inline uint64_t mxf_field_at(const uint8_t *data, const mxf_field_place *field) {
        uint64_t v;
        memcpy(&v, data + field->at, 8);
        v = (v & field->mask) >> field->shift;
        v = (v & 0x007f007f007f007f) | (v & 0x7f007f007f007f00) >> 1;
        v = (v & 0x00003fff00003fff) | (v & 0x3fff00003fff0000) >> 2;
        return (v & 0x000000000fffffff) | (v & 0x0fffffff00000000) >> 4;
    }
    """
    ctypedef struct Field "mxf_field_place":
        uint32_t at
        uint32_t shift
        uint64_t mask
    bint mxf_same(const uint8_t* a, const uint8_t* b, const uint8_t* mask, size_t n) noexcept nogil
    bint mxf_same_16(const uint8_t* a, const uint8_t* b, const uint8_t* mask) noexcept nogil
    uint64_t field_at "mxf_field_at"(const uint8_t* data, const Field* field) noexcept nogil

cdef enum:
    ROW_LAYOUT_ROOM = 64
    LAYOUT_PATIENCE = 64   # rows that may be learned for nothing


ctypedef struct RowLayout:
    # The same for rows of a repeated message: here the row before is the layout.
    size_t size            # of a row with its tag and length; 0: none learned
    size_t width           # rounded up to whole comparisons; the mask is 0 behind the row
    uint8_t bytes[ROW_LAYOUT_ROOM]
    uint8_t mask[ROW_LAYOUT_ROOM]
    Field item
    uint32_t float_at
    int patience


cdef void free_varint(
    uint8_t* mask, size_t size, const Mark* mark, const uint8_t* data, Field* field
) noexcept nogil:
    """Let a varint differ, but for its continuation bits, and say where it stands."""
    cdef uint32_t at, i
    field.at = field.shift = 0
    field.mask = 0
    if mark.size == 0:
        return
    at = mark.at - data
    for i in range(mark.size):
        mask[at + i] = 0x80
        field.mask = field.mask << 8 | 0x7f
    # Eight bytes are loaded, none of them behind what is compared.
    field.at = min(at, <uint32_t> size - 8)
    field.shift = 8 * (at - field.at)
    field.mask <<= field.shift


cdef inline Py_ssize_t skip_alike(
    const uint8_t** at, const uint8_t* end, const uint8_t* row
) noexcept nogil:
    """Pass over rows with the tag and length of `row`, one byte each; returns how many."""
    cdef const uint8_t* p = at[0]
    cdef Py_ssize_t n = 0
    cdef Py_ssize_t size = 2 + row[1]
    if row[0] >= 0x80 or row[1] >= 0x80:
        return 0
    while end - p >= size and p[0] == row[0] and p[1] == row[1]:
        p += size
        n += 1
    at[0] = p
    return n


cdef inline bint row_fits(
    const RowLayout* layout, const uint8_t* p, const uint8_t* end
) noexcept nogil:
    """Whether the bytes at p are a row of the layout, with all that is compared before `end`."""
    return layout.size != 0 and <size_t> (end - p) >= layout.width and mxf_same(
        p, layout.bytes, layout.mask, layout.width
    )


cdef void row_learn(
    RowLayout* layout, const uint8_t* p, size_t size, const Mark* item, const Mark* number
) noexcept nogil:
    """Make a layout of the row at p; `number`, if it is not NULL, is a double's place."""
    layout.size = 0
    if layout.patience == 0 or size > ROW_LAYOUT_ROOM or item.size > 8:
        return
    layout.patience -= 1
    layout.width = (size + 15) & ~<size_t> 15
    memset(layout.mask, 0, ROW_LAYOUT_ROOM)
    memset(layout.mask, 0xff, size)
    memcpy(layout.bytes, p, size)
    free_varint(layout.mask, layout.width, item, p, &layout.item)
    if number != NULL:
        layout.float_at = number.at - p
        memset(layout.mask + layout.float_at, 0, 8)
    layout.size = size
