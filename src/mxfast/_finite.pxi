# Are all floats finite?

cdef extern from *:
    r"""
    #if defined(__x86_64__) && !defined(MXF_BASELINE)
    #define MXF_DISPATCHED          /* MXF_BASELINE: for tests of what other machines run */
    #endif
    /* x - x is 0 for a finite x and NaN otherwise, and NaN stays NaN in a sum: one block is
       summed without a branch, in vectors, and a block that fails is searched one by one.
       A half is told by its exponent, all ones in infinities and NaN.

       Written in vectors of 32 bytes, which the compiler splits where the target has smaller
       ones (SSE2, NEON). On x86-64 each function exists twice, for any machine and for those
       with AVX2, and the processor is asked at each call: nothing is built for the machine
       that builds. */
    typedef double mxf_f64x4 __attribute__((vector_size(32), aligned(8), may_alias));
    typedef float mxf_f32x8 __attribute__((vector_size(32), aligned(4), may_alias));
    typedef uint16_t mxf_u16x16 __attribute__((vector_size(32), aligned(2), may_alias));
    typedef int16_t mxf_i16x16 __attribute__((vector_size(32), aligned(2), may_alias));
    typedef uint64_t mxf_u64x4 __attribute__((vector_size(32)));

    #define MXF_BAD_FLOAT(x) ((x) - (x) != 0)
    #define MXF_BAD_HALF(x) (((x) & 0x7c00) == 0x7c00)

    #define MXF_FLOAT_BLOCK(VECTOR, at, bad) {                                       \
        const VECTOR *v = (const VECTOR *)(at);                                      \
        VECTOR a = v[0] - v[0], b = v[1] - v[1], c = v[2] - v[2], d = v[3] - v[3];   \
        for (int k = 4; k < 32; k += 4) {                                            \
            a += v[k] - v[k]; b += v[k + 1] - v[k + 1];                              \
            c += v[k + 2] - v[k + 2]; d += v[k + 3] - v[k + 3];                      \
        }                                                                            \
        mxf_u64x4 sum = (mxf_u64x4)((a + b) + (c + d));                              \
        bad = (sum[0] | sum[1] | sum[2] | sum[3]) != 0;                              \
    }
    #define MXF_HALF_BLOCK(VECTOR, at, bad) {                                        \
        const mxf_u16x16 *v = (const mxf_u16x16 *)(at);                              \
        mxf_i16x16 any = (v[0] & 0x7c00) == 0x7c00;                                  \
        for (int k = 1; k < 32; k++) any |= (v[k] & 0x7c00) == 0x7c00;               \
        mxf_u64x4 sum = (mxf_u64x4)any;                                              \
        bad = (sum[0] | sum[1] | sum[2] | sum[3]) != 0;                              \
    }
    /* The index of the first bad one of n elements side by side, or -1. */
    #define MXF_SEARCH(NAME, TARGET, TYPE, VECTOR, BLOCK, BAD)                       \
    TARGET static ptrdiff_t NAME(const char *data, ptrdiff_t n) {                    \
        const TYPE *x = (const TYPE *)data;                                          \
        const ptrdiff_t block = 32 * 32 / sizeof(TYPE);                              \
        ptrdiff_t i = 0;                                                             \
        for (; i + block <= n; i += block) {                                         \
            int bad;                                                                 \
            BLOCK(VECTOR, x + i, bad)                                                \
            if (bad) break;                                                          \
        }                                                                            \
        for (; i < n; i++) if (BAD(x[i])) return i;                                  \
        return -1;                                                                   \
    }
    #define MXF_SEARCHES(SUFFIX, TARGET)                                             \
    MXF_SEARCH(mxf_search_f64##SUFFIX, TARGET, double, mxf_f64x4, MXF_FLOAT_BLOCK, MXF_BAD_FLOAT) \
    MXF_SEARCH(mxf_search_f32##SUFFIX, TARGET, float, mxf_f32x8, MXF_FLOAT_BLOCK, MXF_BAD_FLOAT)  \
    MXF_SEARCH(mxf_search_f16##SUFFIX, TARGET, uint16_t, mxf_u16x16, MXF_HALF_BLOCK, MXF_BAD_HALF)

    MXF_SEARCHES(, )
    #ifdef MXF_DISPATCHED
    MXF_SEARCHES(_avx2, __attribute__((target("avx2"))))
    #define MXF_DISPATCH(NAME, ...) \
        (__builtin_cpu_supports("avx2") ? NAME##_avx2(__VA_ARGS__) : NAME(__VA_ARGS__))
    #else
    #define MXF_DISPATCH(NAME, ...) NAME(__VA_ARGS__)
    #endif

    static ptrdiff_t mxf_search(const char *data, ptrdiff_t n, int width) {
        if (width == 8) return MXF_DISPATCH(mxf_search_f64, data, n);
        if (width == 4) return MXF_DISPATCH(mxf_search_f32, data, n);
        return MXF_DISPATCH(mxf_search_f16, data, n);
    }
    /* Elements that do not lie side by side. The exponent is in the upper half of a double, so
       one word of four bytes tells of each element; eight of them are gathered into a vector by
       plain loads, which is quicker than a gather instruction where there is one at all. */
    typedef uint32_t mxf_u32x8 __attribute__((vector_size(32)));
    #define MXF_STRIDED(NAME, TARGET, WORD, AT, EXPONENT)                            \
    TARGET static ptrdiff_t NAME(const char *data, ptrdiff_t n, ptrdiff_t stride) {  \
        const char *p = data + AT;                                                   \
        ptrdiff_t i = 0;                                                             \
        WORD w[8];                                                                   \
        for (; i + 64 <= n; i += 64) {                                               \
            const char *q = p;                                                       \
            mxf_u32x8 any = {0};                                                     \
            for (int k = 0; k < 8; k++, q += 8 * stride) {                           \
                for (int j = 0; j < 8; j++) memcpy(&w[j], q + j * stride, sizeof(WORD)); \
                const mxf_u32x8 v = {w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7]}; \
                any |= (mxf_u32x8)((v & EXPONENT) == EXPONENT);                      \
            }                                                                        \
            uint32_t bad = 0;                                                        \
            for (int j = 0; j < 8; j++) bad |= any[j];                               \
            if (bad) break;                                                          \
            p = q;                                                                   \
        }                                                                            \
        for (; i < n; i++, p += stride) {                                            \
            memcpy(&w[0], p, sizeof(WORD));                                          \
            if ((w[0] & EXPONENT) == EXPONENT) return i;                             \
        }                                                                            \
        return -1;                                                                   \
    }
    #define MXF_STRIDEDS(SUFFIX, TARGET)                                             \
    MXF_STRIDED(mxf_strided_f64##SUFFIX, TARGET, uint32_t, 4, 0x7ff00000u)            \
    MXF_STRIDED(mxf_strided_f32##SUFFIX, TARGET, uint32_t, 0, 0x7f800000u)           \
    MXF_STRIDED(mxf_strided_f16##SUFFIX, TARGET, uint16_t, 0, 0x7c00u)

    MXF_STRIDEDS(, )
    #ifdef MXF_DISPATCHED
    MXF_STRIDEDS(_avx2, __attribute__((target("avx2"))))
    #endif
    static ptrdiff_t mxf_search_strided(const char *data, ptrdiff_t n, ptrdiff_t stride, int width) {
        /* Back to front: most are all finite, which the quicker search tells. */
        if (stride == -width && mxf_search(data + (n - 1) * stride, n, width) < 0) return -1;
        if (width == 8) return MXF_DISPATCH(mxf_strided_f64, data, n, stride);
        if (width == 4) return MXF_DISPATCH(mxf_strided_f32, data, n, stride);
        return MXF_DISPATCH(mxf_strided_f16, data, n, stride);
    }
    """
    Py_ssize_t mxf_search(const char* data, Py_ssize_t n, int width) noexcept nogil
    Py_ssize_t mxf_search_strided(const char* data, Py_ssize_t n, Py_ssize_t stride, int width) noexcept nogil


cdef Py_ssize_t search(
    const char* data, int width, int dims, const Py_ssize_t* shape, const Py_ssize_t* strides
) noexcept nogil:
    """The first bad element in C order, of an array that may lie anyhow in memory."""
    cdef Py_ssize_t inner = 1, i, found
    cdef int k
    cdef bint contiguous = True
    for k in range(dims - 1, -1, -1):
        if shape[k] != 1 and strides[k] != inner * width:
            contiguous = False
        inner *= shape[k]
    if contiguous:
        return mxf_search(data, inner, width)
    if dims == 1:
        return mxf_search_strided(data, shape[0], strides[0], width)
    if shape[0] == 0:
        return -1
    inner //= shape[0]
    for i in range(shape[0]):
        found = search(data + i * strides[0], width, dims - 1, shape + 1, strides + 1)
        if found >= 0:
            return i * inner + found
    return -1


def first_non_finite(array):
    """Return the index of the first element that is NaN or infinite, or -1.

    Nothing is copied, whatever the array's strides; only another byte order than the
    machine's costs a copy.

    Parameters
    ----------
    array : array_like of any shape
        float16, float32 or float64; integers and bool are always finite.

    Returns
    -------
    int
        Counted in C order where the array has several dimensions.

    Raises
    ------
    TypeError
        Another dtype; names it.
    """
    arr = array if type(array) is ndarray else np.asarray(array)
    dtype = arr.dtype
    cdef str code = dtype.char
    cdef int width
    if code == "d":
        width = 8
    elif code == "f":
        width = 4
    elif code == "e":
        width = 2
    elif dtype.kind in "biu":
        return -1
    else:
        raise TypeError(f"first_non_finite takes real numbers, not dtype {dtype}")
    if not dtype.isnative:
        arr = arr.astype(dtype.newbyteorder("="))
    cdef Memory memory = memory_of(arr, PyBUF_STRIDED_RO)
    cdef Py_buffer* view = &memory.view
    cdef Py_ssize_t index
    with nogil:
        index = search(<const char*> view.buf, width, view.ndim, view.shape, view.strides)
    return index


def all_finite(array):
    """Tell whether no element is NaN or infinite; takes what `first_non_finite` takes."""
    return first_non_finite(array) < 0
