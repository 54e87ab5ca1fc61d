# Rows of a repeated message, written from templates.
#
# A row of a bulk write is constant but for the item handle and the payload, so its constant
# pieces are laid out once a call and stamped. Every copy has a constant size that the
# compiler turns into one or two vector moves; it may write past its piece, and what follows
# then overwrites the rest. Only the last rows, which have nothing behind them to write into,
# go through a scratch buffer.

cdef extern from *:
    """
    /* Size of an item handle's varint by its number of bits; 0 is not written at all,
       and a negative one takes ten bytes. */
    static const uint8_t MXF_HANDLE_SIZE[33] = {
        0, 1,1,1,1,1,1,1, 2,2,2,2,2,2,2, 3,3,3,3,3,3,3, 4,4,4,4,4,4,4, 5,5,5, 10};
    /* The handles of each size: the lowest, and how far the highest lies above it. */
    static const int32_t MXF_LOWEST[11] = {
        0, 1, 1 << 7, 1 << 14, 1 << 21, 1 << 28, 0, 0, 0, 0, INT32_MIN};
    static const uint32_t MXF_SPAN[11] = {
        0, (1 << 7) - 2, (1 << 14) - (1 << 7) - 1, (1 << 21) - (1 << 14) - 1,
        (1 << 28) - (1 << 21) - 1, INT32_MAX - (1 << 28), 0, 0, 0, 0, INT32_MAX};
    static inline int mxf_handle_size(uint32_t h) {
        return MXF_HANDLE_SIZE[h ? 32 - __builtin_clz(h) : 0];
    }
    /* The varint of a handle below 2^31 as one little-endian word, without a loop:
       seven bits a byte, then the continuation bits of all bytes but the last. */
    static const uint64_t MXF_CONTINUE[11] = {
        0, 0, 0x80, 0x8080, 0x808080, 0x80808080, 0x8080808080, 0x808080808080, 0x80808080808080,
        0x8080808080808080, 0x8080808080808080};
    static inline uint64_t mxf_handle_word(uint32_t h, int size) {
        uint64_t v = h;
        return (v & 0x7f) | (v & 0x3f80) << 1 | (v & 0x1fc000) << 2
             | (v & 0xfe00000) << 3 | (v & 0xf0000000) << 4 | MXF_CONTINUE[size];
    }
    /* Any varint, without a loop or a branch; ten bytes are written, whatever its size. In three
       steps 56 bits are spread over eight bytes: halves of 28, quarters of 14, then sevens. The
       eight bits above are the ninth byte as they stand, for the topmost of them is set just
       where a tenth byte follows, and that is a 1. */
    static inline uint8_t *mxf_put_wide(uint8_t *out, uint64_t v, int size) {
        const uint16_t above = (uint16_t)(v >> 56 | 0x100);
        v = (v & 0xfffffff) | (v & 0xfffffff0000000) << 4;
        v = (v & 0x3fff00003fff) | (v & 0xfffc0000fffc000) << 2;
        v = (v & 0x7f007f007f007f) | (v & 0x3f803f803f803f80) << 1 | MXF_CONTINUE[size];
        memcpy(out, &v, 8);
        memcpy(out + 8, &above, 2);
        return out + size;
    }
    static size_t mxf_integers_size(const uint8_t *values, ptrdiff_t n, int wide) {
        size_t size = 0;
        if (wide) {
            const uint64_t *v = (const uint64_t *)values;
            for (ptrdiff_t i = 0; i < n; i++) size += mxf_varint_size(v[i]);
            return size;
        }
        const int32_t *v = (const int32_t *)values;
        for (ptrdiff_t i = 0; i < n; i += 4096) {
            /* In blocks whose 32-bit sums cannot overflow: comparisons, which become vectors. */
            const ptrdiff_t stop = n - i < 4096 ? n : i + 4096;
            int32_t more = 0;
            for (ptrdiff_t j = i; j < stop; j++)
                more += (v[j] >= 1 << 7) + (v[j] >= 1 << 14) + (v[j] >= 1 << 21)
                      + (v[j] >= 1 << 28) + 9 * (v[j] < 0);
            size += more;
        }
        return size + n;
    }
    /* Writes n integers as varints, NULL where they do not fit. */
    static uint8_t *mxf_put_integers(
        uint8_t *out, const uint8_t *limit, const uint8_t *values, ptrdiff_t n, int wide)
    {
        uint8_t scratch[10];
        for (ptrdiff_t i = 0; i < n; i++) {
            /* Small ones eight at a time; read once, as another thread may be changing them. */
            while (n - i >= 8 && limit - out >= 8) {
                uint64_t eight[8], any = 0;
                for (int j = 0; j < 8; j++) {
                    eight[j] = wide ? ((const uint64_t *)values)[i + j]
                                    : ((const uint32_t *)values)[i + j];
                    any |= eight[j];
                }
                if (any >= 0x80) break;
                for (int j = 0; j < 8; j++) out[j] = (uint8_t)eight[j];
                out += 8;
                i += 8;
            }
            if (i == n) break;
            const uint64_t v = wide ? ((const uint64_t *)values)[i]
                                    : (uint64_t)(int64_t)((const int32_t *)values)[i];
            const int size = mxf_varint_size(v);
            if (limit - out >= 10) {
                out = mxf_put_wide(out, v, size);
            } else {
                if (size > limit - out) return NULL;
                mxf_put_wide(scratch, v, size);
                memcpy(out, scratch, size);
                out += size;
            }
        }
        return out;
    }
    static int mxf_all_between(const int32_t *handles, ptrdiff_t n, int32_t low, uint32_t span) {
        /* In blocks without a branch, which become vector code. */
        for (ptrdiff_t i = 0; i < n; i += 256) {
            const ptrdiff_t stop = n - i < 256 ? n : i + 256;
            uint32_t others = 0;
            for (ptrdiff_t j = i; j < stop; j++)
                others |= (uint32_t) handles[j] - (uint32_t) low > span;
            if (others) return 0;
        }
        return 1;
    }
    /* Stamps rows while their handles' varints take k bytes and there is room before `last`,
       and tells how many. A row is three stores: head and handle as one word, the middle of 16
       bytes, the payload; each may write past its piece, which the next overwrites. It is
       compiled once for each payload width and k, so that all offsets but two are constants
       (gcc does so only where it must: hence the attribute). All is held in locals because
       bytes written through `out` could, for all the compiler knows, change the template. */
    __attribute__((always_inline)) static inline ptrdiff_t mxf_stamp_run(
        uint8_t **at, const uint8_t *last, const uint8_t *row_head, size_t head_size,
        const uint8_t *row_mid, size_t mid_size, const int32_t *handles, const uint8_t *values,
        ptrdiff_t n, const size_t width, const int k)
    {
        const size_t payload_at = head_size + k + mid_size, row_size = payload_at + width;
        const int head_bits = 8 * (int) head_size;
        const uint32_t low = MXF_LOWEST[k], span = MXF_SPAN[k];
        uint8_t *out = *at;
        uint64_t head, mid[2];
        ptrdiff_t i = 0;
        memcpy(&head, row_head, 8);
        head &= ((uint64_t) 1 << head_bits) - 1;
        memcpy(mid, row_mid, 16);
        for (; i < n && out <= last; i++, out += row_size) {
            const uint32_t handle = handles[i];
            if (handle - low > span) break;     /* one comparison for low <= handle <= highest */
            const uint64_t word = head | mxf_handle_word(handle, k) << head_bits;
            memcpy(out, &word, 8);
            memcpy(out + head_size + k, mid, 16);
            if (width == 1) out[payload_at] = values[i] != 0;
            else if (width) memcpy(out + payload_at, values + (size_t) i * width, width);
        }
        *at = out;
        return i;
    }
    #define MXF_STAMP(K, WIDTH) case 16 * K + WIDTH: return mxf_stamp_run(                    \
        at, last, head, head_size, mid, mid_size, handles, values, n, WIDTH, K);
    #define MXF_STAMPS(K) MXF_STAMP(K, 0) MXF_STAMP(K, 1) MXF_STAMP(K, 4) MXF_STAMP(K, 8)
    static ptrdiff_t mxf_stamp(
        uint8_t **at, const uint8_t *last, const uint8_t *head, size_t head_size,
        const uint8_t *mid, size_t mid_size, const int32_t *handles, const uint8_t *values,
        ptrdiff_t n, size_t width, int k)
    {
        switch (16 * k + width) {
        MXF_STAMPS(1) MXF_STAMPS(2) MXF_STAMPS(3) MXF_STAMPS(4) MXF_STAMPS(5)
        }
        return 0;
    }
    /* Rows whose payload is an integer or a text. All that differs from the template is added to
       it while it is a word: the payload's size to the entry's length and to the value's, which
       have one byte each and never carry, and the handle's size to the entry's. So a row has no
       branch, neither for sizes nor for signs. A run ends at a row that does not fit in this:
       handles below 1, texts longer than `longest`. */
    typedef struct {
        uint64_t head;          /* entry tag, its length without handle and payload, handle tag */
        uint64_t mid[3];        /* up to the payload; the value's length is without it */
        size_t head_size, mid_size;
        /* A one in the byte of head that is the entry's length, in that of mid[0] that is the
           value's, and behind head: a multiplication is quicker than a shift by a variable. */
        uint64_t entry_one, value_one, handle_one;
        size_t longest;
    } mxf_varying;
    static inline uint8_t *mxf_stamp_start(
        uint8_t *out, const mxf_varying *row, uint32_t handle, uint64_t payload)
    {
        const int k = mxf_varint_size(handle);
        const uint64_t word = row->head + (k + payload) * row->entry_one
                            + mxf_handle_word(handle, k) * row->handle_one;
        const uint64_t mid[3] = {
            row->mid[0] + payload * row->value_one, row->mid[1], row->mid[2]};
        memcpy(out, &word, 8);
        out += row->head_size + k;
        memcpy(out, mid, 24);
        return out + row->mid_size;
    }
    __attribute__((always_inline)) static inline ptrdiff_t mxf_stamp_integers(
        uint8_t **at, const uint8_t *last, const mxf_varying *varying, const int32_t *handles,
        const uint8_t *values, ptrdiff_t n, const int wide)
    {
        const mxf_varying row = *varying;
        uint8_t *out = *at;
        ptrdiff_t i = 0;
        for (; i < n && out <= last; i++) {
            const int32_t handle = handles[i];
            const uint64_t v = wide ? ((const uint64_t *)values)[i]
                                    : (uint64_t)(int64_t)((const int32_t *)values)[i];
            const int size = mxf_varint_size(v);
            if (handle < 1) break;
            out = mxf_put_wide(mxf_stamp_start(out, &row, handle, size), v, size);
        }
        *at = out;
        return i;
    }
    /* memcpy for what is usually short: no call, and copies of constant sizes that overlap. */
    static inline void mxf_copy_short(uint8_t *out, const uint8_t *text, size_t size) {
        if (size >= 16) {
            for (size_t j = 0; j + 16 < size; j += 16) memcpy(out + j, text + j, 16);
            memcpy(out + size - 16, text + size - 16, 16);
        } else if (size >= 8) {
            memcpy(out, text, 8);
            memcpy(out + size - 8, text + size - 8, 8);
        } else if (size >= 4) {
            memcpy(out, text, 4);
            memcpy(out + size - 4, text + size - 4, 4);
        } else if (size) {
            out[0] = text[0];
            out[size / 2] = text[size / 2];
            out[size - 1] = text[size - 1];
        }
    }
    static ptrdiff_t mxf_stamp_texts(
        uint8_t **at, const uint8_t *last, const mxf_varying *varying, const int32_t *handles,
        const mxf_span *texts, ptrdiff_t n)
    {
        const mxf_varying row = *varying;
        uint8_t *out = *at;
        ptrdiff_t i = 0;
        for (; i < n && out <= last; i++) {
            const int32_t handle = handles[i];
            const size_t size = texts[i].size;
            if (handle < 1 || size > row.longest) break;
            out = mxf_stamp_start(out, &row, handle, size + 1);
            *out++ = (uint8_t)size;
            mxf_copy_short(out, texts[i].data, size);
            out += size;
        }
        *at = out;
        return i;
    }
    static ptrdiff_t mxf_stamp_varying(
        uint8_t **at, const uint8_t *last, const mxf_varying *row, const int32_t *handles,
        const uint8_t *values, ptrdiff_t n, size_t element, int text)
    {
        if (text) return mxf_stamp_texts(at, last, row, handles, (const mxf_span *)values, n);
        if (element == 8) return mxf_stamp_integers(at, last, row, handles, values, n, 1);
        return mxf_stamp_integers(at, last, row, handles, values, n, 0);
    }
    """
    ctypedef struct Varying "mxf_varying":
        uint64_t head
        uint64_t mid[3]
        size_t head_size
        size_t mid_size
        uint64_t entry_one
        uint64_t value_one
        uint64_t handle_one
        size_t longest
    Py_ssize_t mxf_stamp_varying(
        uint8_t** at, const uint8_t* last, const Varying* row, const int32_t* handles,
        const uint8_t* values, Py_ssize_t n, size_t element, bint text) noexcept nogil
    size_t mxf_integers_size(const uint8_t* values, Py_ssize_t n, bint wide) noexcept nogil
    void mxf_copy_short(uint8_t* out, const uint8_t* text, size_t size) noexcept nogil
    uint8_t* mxf_put_integers(
        uint8_t* out, const uint8_t* limit, const uint8_t* values, Py_ssize_t n,
        bint wide) noexcept nogil
    Py_ssize_t mxf_stamp(
        uint8_t** at, const uint8_t* last, const uint8_t* head, size_t head_size,
        const uint8_t* mid, size_t mid_size, const int32_t* handles, const uint8_t* values,
        Py_ssize_t n, size_t width, int k) noexcept nogil
    const int32_t MXF_LOWEST[11]
    const uint32_t MXF_SPAN[11]
    int mxf_handle_size(uint32_t h) noexcept nogil
    bint mxf_all_between(
        const int32_t* handles, Py_ssize_t n, int32_t low, uint32_t span) noexcept nogil

cdef enum:
    HANDLE_SIZES = 11      # a varint takes 0 (left out) to 5 bytes, or 10
    HEAD_ROOM = 16         # entry tag 5, entry length 2, handle tag 5
    TAIL_ROOM = 16         # one tag 5, one varint 10
    MID_ROOM = 80          # two ids 30, value tag and length 6, MxValue's constants 29
    ROW_ROOM = 256         # the longest row and what its copies may write past it


ctypedef struct Piece:
    uint8_t data[MID_ROOM]
    size_t size


ctypedef struct RowTemplate:
    uint8_t head[HANDLE_SIZES][HEAD_ROOM]   # entry tag, entry length, handle tag
    size_t head_size[HANDLE_SIZES]
    size_t row_size[HANDLE_SIZES]           # of the whole row
    Piece mid                               # between the handle and the payload
    Piece tail                              # behind the payload
    size_t width                            # of the payload


cdef inline uint8_t* put_short(uint8_t* out, const uint8_t* data, size_t size) noexcept nogil:
    mxf_copy_short(out, data, size)
    return out + size


cdef void add_varint(Piece* piece, uint32_t tag, uint64_t value) noexcept nogil:
    cdef uint8_t* out = piece.data + piece.size
    out = put_varint(put_varint(out, tag), value)
    piece.size = out - piece.data


cdef void add_optional(Piece* piece, uint32_t tag, int32_t value) noexcept nogil:
    # proto3 leaves out a zero.
    if value != 0:
        add_varint(piece, tag, sign_extended(value))


cdef void add_text(Piece* piece, uint32_t tag, const char* text, size_t size) noexcept nogil:
    add_varint(piece, tag, size)
    memcpy(piece.data + piece.size, text, size)
    piece.size += size


cdef void add_tag(Piece* piece, uint32_t tag) noexcept nogil:
    piece.size = put_varint(piece.data + piece.size, tag) - piece.data


cdef void add_piece(Piece* piece, const Piece* other) noexcept nogil:
    memcpy(piece.data + piece.size, other.data, other.size)
    piece.size += other.size


cdef void lay_out(RowTemplate* row, uint32_t entry_tag, uint32_t handle_tag) noexcept nogil:
    """Fill in the heads and sizes once mid, tail and width are set."""
    cdef int k
    cdef size_t body
    cdef uint8_t* out
    for k in range(HANDLE_SIZES):
        body = row.mid.size + row.width + row.tail.size
        if k:
            body += varint_size(handle_tag) + k
        out = put_varint(put_varint(row.head[k], entry_tag), body)
        if k:
            out = put_varint(out, handle_tag)
        row.head_size[k] = out - row.head[k]
        row.row_size[k] = varint_size(entry_tag) + varint_size(body) + body


cdef size_t rows_size(const RowTemplate* row, const int32_t* handles, Py_ssize_t n) noexcept nogil:
    # Usually all handles have varints of one size, which is told in less time than counting.
    cdef int k = mxf_handle_size(<uint32_t> handles[0]) if n else 0
    if mxf_all_between(handles, n, MXF_LOWEST[k], MXF_SPAN[k]):
        return <size_t> n * row.row_size[k]
    # Six running counts and no branch: vector code. How many handles have a size of
    # exactly k bytes is then a difference of two counts.
    cdef int64_t one = 0, two = 0, three = 0, four = 0, five = 0, negative = 0
    cdef uint32_t b1, b2, b3, b4, b5, b10
    cdef Py_ssize_t i = 0, stop
    cdef int32_t h
    while i < n:
        stop = min(n, i + (1 << 20))        # so that 32-bit counts, the quick ones, suffice
        b1 = b2 = b3 = b4 = b5 = b10 = 0
        for i in range(i, stop):
            h = handles[i]
            b1 += h >= 1
            b2 += h >= 1 << 7
            b3 += h >= 1 << 14
            b4 += h >= 1 << 21
            b5 += h >= 1 << 28
            b10 += h < 0
        i = stop
        one += b1
        two += b2
        three += b3
        four += b4
        five += b5
        negative += b10
    return (
        <size_t> (n - one - negative) * row.row_size[0]
        + <size_t> (one - two) * row.row_size[1]
        + <size_t> (two - three) * row.row_size[2]
        + <size_t> (three - four) * row.row_size[3]
        + <size_t> (four - five) * row.row_size[4]
        + <size_t> five * row.row_size[5]
        + <size_t> negative * row.row_size[10]
    )


cdef uint8_t* stamp_row(
    uint8_t* out, const uint8_t* limit, const RowTemplate* row, int32_t handle,
    const uint8_t* value,
) noexcept nogil:
    """Write any row at `out`; through a scratch buffer where there is little room behind it.

    NULL where the row does not fit: its handle is no longer the one that was sized.
    """
    cdef uint8_t scratch[ROW_ROOM]
    cdef int k = mxf_handle_size(<uint32_t> handle)
    cdef bint roomy = limit - out >= ROW_ROOM
    cdef uint8_t* at = out if roomy else scratch
    memcpy(at, row.head[k], HEAD_ROOM)
    at += row.head_size[k]
    if handle != 0:
        at = put_varint(at, sign_extended(handle))
    memcpy(at, row.mid.data, MID_ROOM)
    at += row.mid.size
    if row.width == 1:
        at[0] = value[0] != 0               # numpy's True may be any byte but 0
    elif row.width:
        memcpy(at, value, row.width)
    memcpy(at + row.width, row.tail.data, TAIL_ROOM)
    if not roomy:
        if row.row_size[k] > <size_t> (limit - out):
            return NULL
        memcpy(out, scratch, row.row_size[k])
    return out + row.row_size[k]


cdef uint8_t* stamp_rows(
    uint8_t* out, const uint8_t* limit, const RowTemplate* row, const int32_t* handles,
    const uint8_t* values, Py_ssize_t n,
) noexcept nogil:
    """Write n rows at `out`; NULL, and nothing at or behind `limit`, where they do not fit."""
    cdef bint plain = row.mid.size <= 16 and row.tail.size == 0
    cdef size_t width = row.width
    cdef Py_ssize_t i = 0, stamped
    cdef int k
    while i < n:
        stamped = 0
        k = mxf_handle_size(<uint32_t> handles[i])
        if plain and row.head_size[k] + k <= 8:
            stamped = mxf_stamp(
                &out, limit - ROW_ROOM, row.head[k], row.head_size[k], row.mid.data, row.mid.size,
                handles + i, values + <size_t> i * width, n - i, width, k)
        if stamped == 0:
            out = stamp_row(out, limit, row, handles[i], values + <size_t> i * width)
            if out == NULL:
                return NULL
            stamped = 1
        i += stamped
    return out
