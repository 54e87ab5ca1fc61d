# Events read by their layouts; see _layout.pxi.
#
# Varints of different sizes make different layouts (nanoseconds take four or five bytes), so
# several are kept, found by the message's length.

cdef extern from *:
    """
    #define MXF_LAYOUT_ROOM 256     /* longer events are parsed */
    #define MXF_LAYOUT_LEAST 32     /* and shorter ones */
    #define MXF_LAYOUTS 32          /* two for each of sixteen lengths */
    #define MXF_PATIENCE 64         /* events that may be learned for nothing */
    #define MXF_AHEAD 12            /* how many messages ahead is fetched */

    typedef struct {
        size_t size;                /* SIZE_MAX: none learned */
        uint8_t bytes[MXF_LAYOUT_ROOM], mask[MXF_LAYOUT_ROOM];
        mxf_field_place item, sequence, source_seconds, source_nanos, gateway_nanos, number;
        int64_t gateway_seconds;    /* the same for all: a batch is of one or two */
        uint32_t float_at;
        int32_t family, server_handle, quality;
        uint8_t kind, number_type, ok, has_source, has_gateway;
    } mxf_event_layout;
    typedef struct {
        mxf_event_layout all[MXF_LAYOUTS];
        const mxf_event_layout *last;
        int patience;
        uint32_t turn;
    } mxf_event_layouts;
    typedef struct {
        int32_t *family, *server_handle, *item_handle, *quality;
        uint64_t *sequence;
        int64_t *source, *gateway, *payload, *index;
        uint8_t *ok, *kind;
        double *value;
    } mxf_event_columns;

    /* A message of a list that nobody else has, which may then be asked without the GIL. */
    static inline int mxf_bytes_at(
        PyObject *list, ptrdiff_t m, const uint8_t **data, size_t *size)
    {
        PyObject *message = PyList_GET_ITEM(list, m);
        if (!PyBytes_CheckExact(message)) return 0;
        *data = (const uint8_t *)PyBytes_AS_STRING(message);
        *size = PyBytes_GET_SIZE(message);
        return 1;
    }

    typedef uint64_t mxf_quad __attribute__((vector_size(32), aligned(1), may_alias));
    /* Whether the message has the layout: the last 32 bytes are compared on their own,
       overlapping those before, as nothing may be read behind the message. */
    #define MXF_HAS_LAYOUT(LAYOUT, DATA, SIZE) __extension__ ({                                \
        const mxf_event_layout *l_ = (LAYOUT);                                                 \
        int same_ = 0;                                                                         \
        if (l_->size == (SIZE)) {                                                              \
            size_t i_ = (SIZE) - 32;                                                           \
            mxf_quad d_ = {0};                                                                 \
            for (size_t k_ = 0;; k_ += 32) {                                                   \
                if (k_ > i_) k_ = i_;                                                          \
                d_ |= (*(const mxf_quad *)((DATA) + k_) ^ *(const mxf_quad *)(l_->bytes + k_)) \
                      & *(const mxf_quad *)(l_->mask + k_);                                    \
                if (k_ == i_) break;                                                           \
            }                                                                                  \
            same_ = (d_[0] | d_[1] | d_[2] | d_[3]) == 0;                                      \
        }                                                                                      \
        same_; })

    /* The event's number as read_value gives it, where it is no double. */
    static void mxf_other_number(
        const mxf_event_layout *layout, const uint8_t *p, int64_t *payload, double *value)
    {
        float single;
        switch (layout->number_type) {
        case 'f':
            memcpy(&single, p + layout->float_at, 4);
            *value = single;
            *payload = mxf_bits_of(single);
            return;
        case 'i': *payload = (int32_t) mxf_field_at(p, &layout->number); break;
        case 'l': *payload = (int64_t) mxf_field_at(p, &layout->number); break;
        case '?': *payload = mxf_field_at(p, &layout->number) != 0; break;
        default: *payload = 0; *value = MXF_NAN; return;
        }
        *value = (double) *payload;
    }

    /* Reads messages from the list's item m on into the rows from n on, as long as their
       layouts are known, and tells how many. The list is nobody else's and bytes do not change,
       so that this is done without the GIL; messages lie all over memory and are fetched while
       others are read. */
    #define MXF_READ_EVENTS(NAME, TARGET, FIELD)                                               \
    TARGET static ptrdiff_t NAME(                                                              \
        PyObject *list, ptrdiff_t m, ptrdiff_t count, ptrdiff_t n,                             \
        mxf_event_layouts *layouts, const mxf_event_columns *columns)                          \
    {                                                                                          \
        const mxf_event_columns to = *columns;                                                 \
        const ptrdiff_t first = m;                                                             \
        for (; m < count; m++, n++) {                                                          \
            if (m + MXF_AHEAD < count) {                                                       \
                const char *next = (const char *)PyList_GET_ITEM(list, m + MXF_AHEAD);         \
                __builtin_prefetch(next);                                                      \
                __builtin_prefetch(next + 64);                                                 \
                __builtin_prefetch(next + 128);                                                \
            }                                                                                  \
            const uint8_t *p;                                                                  \
            size_t size;                                                                       \
            if (!mxf_bytes_at(list, m, &p, &size)) break;                                      \
            const mxf_event_layout *layout = layouts->last;                                    \
            if (!MXF_HAS_LAYOUT(layout, p, size)) {                                            \
                if (layouts->patience == 0) break;                                             \
                layout = &layouts->all[(size & 15) * 2];                                       \
                if (!MXF_HAS_LAYOUT(layout, p, size)) {                                        \
                    layout++;                                                                  \
                    if (!MXF_HAS_LAYOUT(layout, p, size)) break;                               \
                }                                                                              \
                layouts->last = layout;                                                        \
                layouts->patience = MXF_PATIENCE;                                              \
            }                                                                                  \
            to.item_handle[n] = (int32_t)FIELD(p, &layout->item);                              \
            to.sequence[n] = FIELD(p, &layout->sequence);                                      \
            to.source[n] = !layout->has_source ? INT64_MIN : mxf_nanoseconds(                  \
                FIELD(p, &layout->source_seconds), (int32_t)FIELD(p, &layout->source_nanos));  \
            to.gateway[n] = !layout->has_gateway ? INT64_MIN : mxf_nanoseconds(                \
                layout->gateway_seconds, (int32_t)FIELD(p, &layout->gateway_nanos));           \
            if (layout->number_type == 'd') {                                                  \
                memcpy(to.payload + n, p + layout->float_at, 8);                               \
                memcpy(to.value + n, p + layout->float_at, 8);                                 \
            } else {                                                                           \
                mxf_other_number(layout, p, to.payload + n, to.value + n);                     \
            }                                                                                  \
            to.kind[n] = layout->kind;                                                         \
            to.family[n] = layout->family;                                                     \
            to.server_handle[n] = layout->server_handle;                                       \
            to.quality[n] = layout->quality;                                                   \
            to.ok[n] = layout->ok;                                                             \
            to.index[n] = m;                                                                   \
        }                                                                                      \
        return m - first;                                                                      \
    }
    MXF_READ_EVENTS(mxf_read_events_anywhere, , mxf_field_at)
    #ifdef MXF_DISPATCHED
    /* BMI2 joins the sevens of bits in one instruction, which AMD's first two Zens take
       hundreds of cycles for. */
    #define MXF_BMI2 __attribute__((target("avx2,bmi2")))
    MXF_BMI2 static inline uint64_t mxf_field_bmi2(const uint8_t *data, const mxf_field_place *field)
    {
        uint64_t v;
        memcpy(&v, data + field->at, 8);
        return __builtin_ia32_pext_di(v, field->mask);
    }
    MXF_READ_EVENTS(mxf_read_events_bmi2, MXF_BMI2, mxf_field_bmi2)
    #endif
    static ptrdiff_t mxf_read_events(
        PyObject *list, ptrdiff_t m, ptrdiff_t count, ptrdiff_t n,
        mxf_event_layouts *layouts, const mxf_event_columns *columns)
    {
    #ifdef MXF_DISPATCHED
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2")
            && !__builtin_cpu_is("znver1") && !__builtin_cpu_is("znver2"))
            return mxf_read_events_bmi2(list, m, count, n, layouts, columns);
    #endif
        return mxf_read_events_anywhere(list, m, count, n, layouts, columns);
    }
    """
    const int MXF_LAYOUT_ROOM
    const int MXF_LAYOUT_LEAST
    const int MXF_LAYOUTS
    const int MXF_PATIENCE
    ctypedef struct EventLayout "mxf_event_layout":
        size_t size
        uint8_t* bytes
        uint8_t* mask
        Field item
        Field sequence
        Field source_seconds
        Field source_nanos
        Field gateway_nanos
        Field number
        int64_t gateway_seconds
        uint32_t float_at
        int32_t family
        int32_t server_handle
        int32_t quality
        uint8_t kind
        uint8_t number_type
        uint8_t ok
        uint8_t has_source
        uint8_t has_gateway
    ctypedef struct EventLayouts "mxf_event_layouts":
        EventLayout* all
        const EventLayout* last
        int patience
        uint32_t turn
    ctypedef struct EventRows "mxf_event_columns":
        int32_t* family
        int32_t* server_handle
        int32_t* item_handle
        int32_t* quality
        uint64_t* sequence
        int64_t* source
        int64_t* gateway
        int64_t* payload
        int64_t* index
        uint8_t* ok
        uint8_t* kind
        double* value
    bint mxf_bytes_at(
        PyObject* list, Py_ssize_t m, const uint8_t** data, size_t* size) noexcept nogil
    Py_ssize_t mxf_read_events(
        PyObject* list, Py_ssize_t m, Py_ssize_t count, Py_ssize_t n,
        EventLayouts* layouts, const EventRows* rows) noexcept nogil


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


cdef void layouts_begin(EventLayouts* layouts) noexcept nogil:
    cdef int i
    for i in range(MXF_LAYOUTS):
        layouts.all[i].size = SIZE_MAX
    layouts.last = &layouts.all[0]
    layouts.patience = MXF_PATIENCE
    layouts.turn = 0


cdef inline uint8_t number_type(int kind) noexcept nogil:
    """What the reader of layouts does with a number, as numpy's characters for it."""
    if kind == KIND_DOUBLE:
        return c"d"
    if kind == KIND_FLOAT:
        return c"f"
    if kind == KIND_INT32:
        return c"i"
    if kind == KIND_INT64:
        return c"l"
    if kind == KIND_BOOL:
        return c"?"
    return 0


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
        or size < <size_t> MXF_LAYOUT_LEAST
        or size > <size_t> MXF_LAYOUT_ROOM
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
    layout.family = row.family
    layout.server_handle = row.server_handle
    layout.quality = row.quality
    layout.ok = row.ok
    layout.has_source = row.has_source
    layout.has_gateway = row.has_gateway
    layout.gateway_seconds = row.gateway.seconds
    layout.kind = kind
    layout.number_type = number_type(kind)
    free_varint(layout.mask, size, &row.item_mark, data, &layout.item)
    free_varint(layout.mask, size, &row.sequence_mark, data, &layout.sequence)
    free_varint(layout.mask, size, &row.source.seconds_mark, data, &layout.source_seconds)
    free_varint(layout.mask, size, &row.source.nanos_mark, data, &layout.source_nanos)
    free_varint(layout.mask, size, &row.gateway.nanos_mark, data, &layout.gateway_nanos)
    if row.worker.nanos_mark.size <= 8:
        free_varint(layout.mask, size, &row.worker.nanos_mark, data, &unread)
    if kind == KIND_DOUBLE or kind == KIND_FLOAT:
        layout.float_at = cell.number.at - data
        memset(layout.mask + layout.float_at, 0, cell.number.size)
    else:
        free_varint(layout.mask, size, &cell.number, data, &layout.number)
    layouts.last = layout
