# Rows of values as columns. Columns own their memory; what is no number stays in the
# messages, which are kept, and is decoded when asked for.


cdef object empty = np.empty


cdef object sealed(array):
    array.setflags(False)       # by position: a keyword costs more than the call itself
    return array


cdef class ValueColumns:
    """Rows of MxValue: ``kind`` says which arm, ``payload`` holds its 64 bits.

    Attributes
    ----------
    kind : ndarray of uint8
        A :class:`ValueKind` a row.
    payload : ndarray of int64
        The integer, a float's float64 bits, or a timestamp's nanoseconds since 1970.
    value : ndarray of float64
        The number; NaN where the arm holds none.
    """

    cdef readonly object kind
    cdef readonly object payload
    cdef readonly object value

    def __len__(self):
        return len(self.kind)

    cdef bytes message_of(self, Py_ssize_t row):
        """The message that the row's payload offset counts in."""
        raise NotImplementedError

    def value_bytes(self, row):
        """Return the row's MxValue message, as it came."""
        raise NotImplementedError

    def values(self, kind):
        """Return the rows of one arm in their own dtype, in order.

        Parameters
        ----------
        kind : ValueKind

        Returns
        -------
        ndarray
            bool, int32, int64, float32, float64 or datetime64[ns]; an object array of str,
            bytes or ndarrays for strings, raw values and arrays.
        """
        rows = np.flatnonzero(self.kind == kind)
        if kind == KIND_DOUBLE:
            return self.value[rows]
        if kind == KIND_FLOAT:
            return self.value[rows].astype(np.float32)
        payload = self.payload[rows]
        if kind == KIND_BOOL:
            return payload.astype(np.bool_)
        if kind == KIND_INT32:
            return payload.astype(np.int32)
        if kind == KIND_INT64:
            return payload
        if kind == KIND_TIMESTAMP:
            return payload.view("datetime64[ns]")
        objects = np.empty(len(rows), object)
        cdef Py_ssize_t at, row
        for at, row in enumerate(rows.tolist()):
            if kind == KIND_STRING or kind == KIND_RAW:
                objects[at] = cell_object(self.message_of(row), kind, payload[at], 0)
            elif kind == KIND_ARRAY:
                objects[at] = decode_value(self.value_bytes(row))
            elif kind == KIND_SPARSE_ARRAY:
                objects[at] = self.value_bytes(row)
        return objects


cdef Py_ssize_t row_index(row, Py_ssize_t n) except -1:
    cdef Py_ssize_t index = operator.index(row)
    if index < 0:
        index += n
    if not 0 <= index < n:
        raise IndexError(f"row {row} of {n}")
    return index
