# Are all floats finite? Told by the exponent alone: all its bits are 1 in inf and NaN.

cdef extern from *:
    """
    /* Blocks of 64: inside one the loop has no exit, so that the compiler turns it into
       vector code on any target; a block that fails is then searched one by one.
       x - x is 0 for a finite x and NaN otherwise, and NaN stays NaN in a sum. */
    #define MXF_FIRST_NON_FINITE(NAME, TYPE)                                        \\
    static ptrdiff_t NAME(const TYPE *x, ptrdiff_t n) {                             \\
        ptrdiff_t i = 0;                                                            \\
        for (; i + 64 <= n; i += 64) {                                              \\
            TYPE sum[16] = {0};                                                     \\
            for (int k = 0; k < 64; k += 16)                                        \\
                for (int j = 0; j < 16; j++)                                        \\
                    sum[j] += x[i + k + j] - x[i + k + j];                          \\
            TYPE all = 0;                                                           \\
            for (int j = 0; j < 16; j++) all += sum[j];                             \\
            if (all != 0) break;                                                    \\
        }                                                                           \\
        for (; i < n; i++)                                                          \\
            if (x[i] - x[i] != 0) return i;                                         \\
        return -1;                                                                  \\
    }
    MXF_FIRST_NON_FINITE(mxf_first_non_finite_f64, double)
    MXF_FIRST_NON_FINITE(mxf_first_non_finite_f32, float)
    """
    Py_ssize_t mxf_first_non_finite_f64(const double* x, Py_ssize_t n) noexcept nogil
    Py_ssize_t mxf_first_non_finite_f32(const float* x, Py_ssize_t n) noexcept nogil


def first_non_finite(array):
    """Return the index of the first element that is NaN or infinite, or -1.

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
    arr = np.asarray(array)
    if arr.dtype.kind in "biu":
        return -1
    if arr.dtype.kind != "f" or arr.dtype.itemsize > 8:
        raise TypeError(f"first_non_finite takes real numbers, not dtype {arr.dtype}")
    wanted = np.float64 if arr.dtype.itemsize == 8 else np.float32
    cdef Memory memory = memory_of(np.ascontiguousarray(arr, wanted))
    cdef Py_ssize_t size = arr.size
    cdef Py_ssize_t index
    cdef bint double = arr.dtype.itemsize == 8
    with nogil:
        if double:
            index = mxf_first_non_finite_f64(<const double*> memory.view.buf, size)
        else:
            index = mxf_first_non_finite_f32(<const float*> memory.view.buf, size)
    return index


def all_finite(array):
    """Tell whether no element is NaN or infinite; takes what `first_non_finite` takes."""
    return first_non_finite(array) < 0
