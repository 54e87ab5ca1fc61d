# A bulk write laid out once; each cycle fills in the values only.

from cpython.mem cimport PyMem_Free, PyMem_Malloc

cdef extern from *:
    """
    /* Whether nothing but one list holds the object, so that its bytes may be written again.
       A build without the GIL counts references in several places: there a new one is made. */
    static inline int mxf_unshared(PyObject *bytes) {
    #ifdef Py_GIL_DISABLED
        (void)bytes;
        return 0;
    #else
        return Py_REFCNT(bytes) == 2;      /* the list, and the variable that it was read into */
    #endif
    }
    /* Forgets a hash that somebody asked for while the bytes were others. */
    static inline void mxf_forget_hash(PyObject *bytes) {
    #if defined(__GNUC__)
    #pragma GCC diagnostic push
    #pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    #endif
        ((PyBytesObject *)bytes)->ob_shash = -1;
    #if defined(__GNUC__)
    #pragma GCC diagnostic pop
    #endif
    }
    """
    bint mxf_unshared(object bytes)
    void mxf_forget_hash(object bytes)

ctypedef struct Run:
    # Rows of one size: their payloads stand at even distances.
    Py_ssize_t first
    Py_ssize_t stop
    size_t payload_at       # of the first row's payload in the message
    size_t step


cdef class PreparedWriteBulk:
    """A bulk write of the same items again and again: only the values change.

    Parameters
    ----------
    session_id : str
    server_handle : int
    item_handles : array_like of int, shape (n,)
    dtype : dtype, default float64
        float64, float32 or bool.
    user_id, secured_by, correlation_id
        As for `encode_write_bulk`.

    Raises
    ------
    TypeError
        Another dtype; its rows have no fixed size.
    EncodeError, TypeError, ValueError
        As `encode_write_bulk`.
    """

    cdef int kind
    cdef Handles handles
    cdef bytes template
    cdef list requests          # those made so far, to be filled again once nobody holds them
    cdef Run* runs
    cdef Py_ssize_t run_count
    cdef object dtype
    cdef bytes correlation      # the one to put where `encode` is given none
    cdef size_t correlation_at  # where it stands in the message

    def __cinit__(
        self,
        session_id,
        server_handle,
        item_handles,
        dtype=np.float64,
        *,
        user_id=0,
        secured_by=None,
        correlation_id="",
    ):
        self.dtype = np.dtype(dtype)
        if self.dtype not in (DTYPE_FLOAT64, DTYPE_FLOAT32, DTYPE_BOOL):
            raise TypeError(f"float64, float32 and bool can be prepared, dtype {self.dtype} cannot")
        # A copy: the rows must stay where they were laid out.
        handles = plain_array(item_handles, "item_handles").copy()
        self.handles = handles_of(handles)
        zeros = np.zeros(self.handles.size, self.dtype)
        self.template = encode_write_bulk(
            session_id,
            server_handle,
            handles,
            zeros,
            user_id=user_id,
            secured_by=secured_by,
            correlation_id=correlation_id,
        )
        self.requests = []
        cdef bytes session = as_utf8(session_id, "session_id")
        self.correlation = as_utf8(correlation_id, "correlation_id")
        self.correlation_at = (
            text_size(MxCommandRequest_session_id_TAG, session)
            + text_size(MxCommandRequest_client_correlation_id_TAG, self.correlation)
            - PyBytes_GET_SIZE(self.correlation)
        )
        cdef WriteShape shape
        cdef RowTemplate row
        source = source_of(zeros, "values")
        self.kind = (<Source> source).kind
        set_up(&shape, self.kind, (<Source> source).width, False, secured_by, user_id)
        make_template(&row, &shape)
        self.find_runs(&row)

    def __dealloc__(self):
        PyMem_Free(self.runs)

    def __len__(self):
        return self.handles.size

    cdef int find_runs(self, const RowTemplate* row) except -1:
        """The rows stand at the end of the message, one after another."""
        cdef const int32_t* handles = self.handles.data
        cdef Py_ssize_t n = self.handles.size
        cdef size_t at = PyBytes_GET_SIZE(self.template) - rows_size(row, handles, n)
        cdef Py_ssize_t i
        cdef int k
        cdef Run* run
        cdef size_t behind = row.width + row.tail.size
        for i in range(n):
            if i == 0 or handle_size_of(handles[i]) != handle_size_of(handles[i - 1]):
                self.run_count += 1
        self.runs = <Run*> PyMem_Malloc(max(self.run_count, 1) * sizeof(Run))
        if self.runs == NULL:
            raise MemoryError
        run = self.runs - 1
        for i in range(n):
            k = handle_size_of(handles[i])
            if i == 0 or k != handle_size_of(handles[i - 1]):
                run += 1
                run.first = i
                run.step = row.row_size[k]
                run.payload_at = at + row.row_size[k] - behind
            run.stop = i + 1
            at += row.row_size[k]
        return 0

    def encode(self, values, correlation_id=None):
        """Return the request with these values.

        Parameters
        ----------
        values : array_like of the prepared dtype, shape (n,)
            Other real numbers are converted where that loses nothing.
        correlation_id : str, optional
            This request's own, as long in UTF-8 as the prepared one, which it is without.

        Returns
        -------
        bytes
            A whole MxCommandRequest. Its memory is used again by a later call once nothing
            refers to it any more: keep it, or hand it to gRPC, as long as you like.

        Raises
        ------
        EncodeError
            A value is not finite, or an integer that no float is; nothing of an earlier
            request was changed.
        TypeError, ValueError
            A dtype or shape that does not fit.
        RuntimeError
            Another thread changed the array meanwhile.
        """
        array = plain_array(values, "values")
        if array.ndim != 1 or len(array) != self.handles.size:
            raise ValueError(f"values must have shape ({self.handles.size},), not {array.shape}")
        if array.dtype is not self.dtype:
            array = in_dtype(array, self.dtype, "values")
        cdef bytes correlation = self.correlation
        if correlation_id is not None:
            correlation = as_utf8(correlation_id, "correlation_id")
            if len(correlation) != len(self.correlation):
                raise ValueError(
                    f"correlation_id must have {len(self.correlation)} bytes, as the prepared "
                    f"one, not {len(correlation)}"
                )
        cdef Memory memory = contiguous_memory_of(array)
        cdef bytes request = self.free_request()
        cdef uint8_t* out = <uint8_t*> PyBytes_AS_STRING(request)
        memcpy(
            out + self.correlation_at, PyBytes_AS_STRING(correlation), PyBytes_GET_SIZE(correlation)
        )
        cdef const uint8_t* data = <const uint8_t*> memory.view.buf
        cdef bint fine
        if self.handles.size >= LARGE:
            with nogil:
                fine = fill(out, self.runs, self.run_count, data, self.kind)
        else:
            fine = fill(out, self.runs, self.run_count, data, self.kind)
        if fine:
            return request
        index = first_non_finite(array)
        if index < 0:                       # it was when it was written
            raise changed_error()
        raise EncodeError(
            f"values[{index}] is {array[index]} (item handle {self.handles.data[index]}): "
            "a value must be finite; replace it or leave it out",
            index,
            array[index],
        )

    cdef bytes free_request(self):
        """A request that nobody else holds, made if there is none."""
        cdef bytes request
        cdef Py_ssize_t i
        for i in range(len(self.requests)):
            request = <bytes> self.requests[i]
            if mxf_unshared(request):
                mxf_forget_hash(request)
                return request
        request = PyBytes_FromStringAndSize(
            PyBytes_AS_STRING(self.template), PyBytes_GET_SIZE(self.template)
        )
        if len(self.requests) < 4:
            self.requests.append(request)
        return request


cdef inline int handle_size_of(int32_t handle) noexcept nogil:
    return mxf_handle_size(<uint32_t> handle)


cdef enum:
    LARGE = 10_000      # rows from which on the GIL is released


cdef bint fill(
    uint8_t* message, const Run* runs, Py_ssize_t count, const uint8_t* values, int kind
) noexcept nogil:
    """Write the values into their places; whether all are finite."""
    cdef Py_ssize_t r, i
    cdef double double_sum = 0
    cdef float float_sum = 0
    for r in range(count):
        if kind == KIND_DOUBLE:
            double_sum += mxf_fill_f64(
                message + runs[r].payload_at, runs[r].step,
                <const double*> values + runs[r].first, runs[r].stop - runs[r].first,
            )
        elif kind == KIND_FLOAT:
            float_sum += mxf_fill_f32(
                message + runs[r].payload_at, runs[r].step,
                <const float*> values + runs[r].first, runs[r].stop - runs[r].first,
            )
        else:
            for i in range(runs[r].first, runs[r].stop):
                message[runs[r].payload_at + (i - runs[r].first) * runs[r].step] = values[i] != 0
    return double_sum == 0 and float_sum == 0


cdef extern from *:
    """
    /* Scatters values at even distances and sums x - x, which is 0 for finite x only. */
    #define MXF_FILL(NAME, TYPE)                                                     \
    static inline TYPE NAME(uint8_t *out, size_t step, const TYPE *x, ptrdiff_t n) { \
        TYPE a = 0, b = 0, c = 0, d = 0;                                             \
        ptrdiff_t i = 0;                                                             \
        for (; i + 4 <= n; i += 4, out += 4 * step) {                                \
            TYPE w = x[i], y = x[i + 1], z = x[i + 2], v = x[i + 3];                 \
            memcpy(out, &w, sizeof w);                                               \
            memcpy(out + step, &y, sizeof y);                                        \
            memcpy(out + 2 * step, &z, sizeof z);                                    \
            memcpy(out + 3 * step, &v, sizeof v);                                    \
            a += w - w; b += y - y; c += z - z; d += v - v;                          \
        }                                                                            \
        for (; i < n; i++, out += step) {                                            \
            memcpy(out, x + i, sizeof *x);                                           \
            a += x[i] - x[i];                                                        \
        }                                                                            \
        return a + b + c + d;                                                        \
    }
    MXF_FILL(mxf_fill_f64, double)
    MXF_FILL(mxf_fill_f32, float)
    """
    double mxf_fill_f64(uint8_t* out, size_t step, const double* x, Py_ssize_t n) noexcept nogil
    float mxf_fill_f32(uint8_t* out, size_t step, const float* x, Py_ssize_t n) noexcept nogil
