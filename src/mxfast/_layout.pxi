# Layouts: how an event is read without parsing it.
#
# Events of one session and one kind differ in a few numbers only. Once one of them has been
# parsed, its bytes and the places of those numbers are a layout. Another event of the same
# length whose bytes are the same everywhere else, and whose varints have their continuation
# bits in the same places, would be parsed along the very same path: its numbers stand where
# those of the first stood, and all else it says is what the first one said. So one masked
# comparison of some hundred bytes, which vector instructions do in a few cycles, stands for
# the parsing of a dozen fields.
#
# Varints of different sizes make different layouts (nanoseconds take four or five bytes), so
# several are kept, found by the message's length. Where events never repeat a layout,
# learning is given up for the rest of the call.

cdef extern from *:
    """
    typedef uint64_t mxf_pair __attribute__((vector_size(16), aligned(1), may_alias));
    /* Whether a equals b wherever mask has a bit, over n >= 16 bytes: the last 16 are compared
       on their own, overlapping those before, as nothing may be read behind the message. */
    static inline int mxf_same(const uint8_t *a, const uint8_t *b, const uint8_t *mask, size_t n) {
        size_t i = 0;
        mxf_pair last = (*(const mxf_pair *)(a + n - 16) ^ *(const mxf_pair *)(b + n - 16))
                        & *(const mxf_pair *)(mask + n - 16);
        for (; i + 16 <= n; i += 16)
            last |= (*(const mxf_pair *)(a + i) ^ *(const mxf_pair *)(b + i))
                    & *(const mxf_pair *)(mask + i);
        return (last[0] | last[1]) == 0;
    }
    static inline int mxf_same_16(const uint8_t *a, const uint8_t *b, const uint8_t *mask) {
        mxf_pair d = (*(const mxf_pair *)a ^ *(const mxf_pair *)b) & *(const mxf_pair *)mask;
        return (d[0] | d[1]) == 0;
    }
    /* The messages of a large batch lie all over memory: fetched while others are read. */
    static inline void mxf_prefetch(const uint8_t *p) {
        __builtin_prefetch(p);
        __builtin_prefetch(p + 64);
        __builtin_prefetch(p + 128);
    }
    /* Eight bytes of seven bits each to one number: pairs, then fours, then all eight. */
    static inline uint64_t mxf_join_sevens(uint64_t v) {
        v = (v & 0x007f007f007f007f) | (v & 0x7f007f007f007f00) >> 1;
        v = (v & 0x00003fff00003fff) | (v & 0x3fff00003fff0000) >> 2;
        return (v & 0x000000000fffffff) | (v & 0x0fffffff00000000) >> 4;
    }
    """
    bint mxf_same(const uint8_t* a, const uint8_t* b, const uint8_t* mask, size_t n) noexcept nogil
    bint mxf_same_16(const uint8_t* a, const uint8_t* b, const uint8_t* mask) noexcept nogil
    uint64_t mxf_join_sevens(uint64_t v) noexcept nogil
    void mxf_prefetch(const uint8_t* p) noexcept nogil

cdef enum:
    LAYOUT_ROOM = 256      # longer events are parsed
    LAYOUT_LEAST = 16
    ROW_LAYOUT_ROOM = 64
    LAYOUTS = 32           # two for each of sixteen lengths
    LAYOUT_PATIENCE = 64   # events that may be learned for nothing
    AHEAD = 8              # how many messages ahead is fetched


ctypedef struct EventRow:
    int32_t family
    int32_t server_handle
    int32_t item_handle
    int32_t quality
    uint64_t sequence
    Stamp source
    Stamp gateway
    Stamp worker           # read for its layout only
    Mark item_mark
    Mark sequence_mark
    uint64_t requested
    uint64_t oldest
    uint8_t has_source
    uint8_t has_gateway
    uint8_t ok
    uint8_t is_gap
    uint8_t is_buffered    # OnBufferedDataChange: several samples of one item


ctypedef struct Field:
    # A varint of up to eight bytes: the eight bytes from `at` on, shifted, masked and joined.
    uint32_t at
    uint32_t shift
    uint64_t mask          # seven bits for each of its bytes; 0 where the field is not there


ctypedef struct EventLayout:
    size_t size            # SIZE_MAX: none learned
    uint8_t bytes[LAYOUT_ROOM]
    uint8_t mask[LAYOUT_ROOM]
    Field item
    Field sequence
    Field source_seconds
    Field source_nanos
    Field gateway_nanos
    Field number           # an integer's
    uint32_t float_at      # a float's
    uint8_t kind
    EventRow row


ctypedef struct EventLayouts:
    EventLayout all[LAYOUTS]
    EventLayout* last
    int patience
    uint32_t turn


ctypedef struct RowLayout:
    # The same for rows of a repeated message: here the row before is the layout.
    size_t size            # of a row with its tag and length; 0: none learned
    size_t width           # rounded up to whole comparisons; the mask is 0 behind the row
    uint8_t bytes[ROW_LAYOUT_ROOM]
    uint8_t mask[ROW_LAYOUT_ROOM]
    Field item
    uint32_t float_at
    int patience


cdef void layouts_begin(EventLayouts* layouts) noexcept nogil:
    cdef int i
    for i in range(LAYOUTS):
        layouts.all[i].size = SIZE_MAX
    layouts.last = &layouts.all[0]
    layouts.patience = LAYOUT_PATIENCE
    layouts.turn = 0


cdef inline const EventLayout* layouts_find(
    EventLayouts* layouts, const uint8_t* data, size_t size
) noexcept nogil:
    """The layout that an event has, or NULL."""
    cdef EventLayout* layout = layouts.last
    cdef int i
    if layout.size == size and mxf_same(data, layout.bytes, layout.mask, size):
        return layout
    if layouts.patience == 0:
        return NULL
    for i in range(2):
        layout = &layouts.all[(size & 15) * 2 + i]
        if layout.size == size and mxf_same(data, layout.bytes, layout.mask, size):
            layouts.last = layout
            layouts.patience = LAYOUT_PATIENCE
            return layout
    return NULL


cdef void layouts_learn(
    EventLayouts* layouts, const uint8_t* data, size_t size, const EventRow* row, const Cell* cell
) noexcept nogil:
    """Make a layout of an event that was parsed."""
    cdef EventLayout* layout
    cdef Field unread
    cdef int kind = cell.kind
    if (
        layouts.patience == 0
        or row.is_buffered           # becomes several rows
        or size < LAYOUT_LEAST
        or size > LAYOUT_ROOM
        or kind == KIND_STRING       # to be checked for UTF-8 each time
        or kind == KIND_RAW
        or kind == KIND_TIMESTAMP
        or row.item_mark.size > 8
        or row.sequence_mark.size > 8
        or row.source.seconds_mark.size > 8
        or row.source.nanos_mark.size > 8
        or row.gateway.nanos_mark.size > 8
        or (cell.number.size > 8)
    ):
        return
    layouts.patience -= 1
    layouts.turn += 1
    layout = &layouts.all[(size & 15) * 2 + (layouts.turn & 1)]
    layout.size = size
    memcpy(layout.bytes, data, size)
    memset(layout.mask, 0xff, size)
    layout.row = row[0]
    layout.kind = kind
    free_varint(layout.mask, size, &row.item_mark, data, &layout.item)
    free_varint(layout.mask, size, &row.sequence_mark, data, &layout.sequence)
    free_varint(layout.mask, size, &row.source.seconds_mark, data, &layout.source_seconds)
    free_varint(layout.mask, size, &row.source.nanos_mark, data, &layout.source_nanos)
    # The gateway's seconds stay as they are: a batch is of one or two.
    free_varint(layout.mask, size, &row.gateway.nanos_mark, data, &layout.gateway_nanos)
    if row.worker.nanos_mark.size <= 8:
        free_varint(layout.mask, size, &row.worker.nanos_mark, data, &unread)
    layout.number.mask = 0
    if kind == KIND_DOUBLE or kind == KIND_FLOAT:
        layout.float_at = cell.number.at - data
        memset(layout.mask + layout.float_at, 0, cell.number.size)
    else:
        free_varint(layout.mask, size, &cell.number, data, &layout.number)
    layouts.last = layout


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


cdef inline uint64_t field_at(const uint8_t* data, const Field* field) noexcept nogil:
    cdef uint64_t word
    memcpy(&word, data + field.at, 8)
    return mxf_join_sevens(word >> field.shift & field.mask)


cdef inline void layout_number(
    const EventLayout* layout, const uint8_t* data, int64_t* payload, double* value
) noexcept nogil:
    """The event's number, as read_value gives it."""
    cdef float single
    cdef int kind = layout.kind
    if kind == KIND_DOUBLE:
        memcpy(payload, data + layout.float_at, 8)
        value[0] = mxf_double_of(payload[0])
    elif kind == KIND_FLOAT:
        memcpy(&single, data + layout.float_at, 4)
        value[0] = single
        payload[0] = mxf_bits_of(single)
    elif kind == KIND_INT32:
        payload[0] = <int32_t> field_at(data, &layout.number)
        value[0] = <double> payload[0]
    elif kind == KIND_INT64:
        payload[0] = <int64_t> field_at(data, &layout.number)
        value[0] = <double> payload[0]
    elif kind == KIND_BOOL:
        payload[0] = field_at(data, &layout.number) != 0
        value[0] = <double> payload[0]
    else:
        payload[0] = 0
        value[0] = MXF_NAN
