# Python lists as arrays. Not as numpy takes them: it makes text of [1.5, "a"] and floats of
# [1, 2**63], and cuts off the NULs at the end of text and bytes.


class ElementTypeError(EncodeError, TypeError):
    """An element has a type that cannot be written, or another than the rest."""


cdef object FAMILIES = {
    # In this order: a bool is an int, too.
    "bool": (bool, np.bool_),
    "int": (int, np.integer),
    "float": (float, np.float16, np.float32),
    "str": (str,),
    "bytes": (bytes, bytearray),
    "datetime": (datetime.datetime, np.datetime64),
}


cdef dict FAMILY_OF = {kinds[0]: name for name, kinds in FAMILIES.items()}     # the usual ones


cdef object family_of(kind):
    if issubclass(kind, np.timedelta64):    # an integer to numpy
        return None
    return next((name for name, kinds in FAMILIES.items() if issubclass(kind, kinds)), None)


cdef enum:
    PIECE = 10_000      # elements that are worked on before other threads may run


cdef inline int let_others_run() except -1:
    # Whoever waits for the GIL gets it here: the event loop, while a thread takes a long list.
    with nogil:
        pass
    return 0


cdef object array_of_list(list elements, name):
    """Return an array of elements that are equal to those of a list, which may be nested."""
    cdef tuple shape
    elements, shape = flattened(elements, name)
    if not elements:
        return np.empty(shape)
    cdef set kinds = set()
    cdef Py_ssize_t index
    kind = None
    for index, element in enumerate(elements):
        if type(element) is not kind:
            kind = type(element)
            kinds.add(kind)
        if index % PIECE == PIECE - 1:
            let_others_run()
    cdef set families = {FAMILY_OF.get(kind) or family_of(kind) for kind in kinds}
    if kinds == {ndarray} and len({element.dtype for element in elements}) == 1:
        return np.array(elements)
    if None in families or (len(families) > 1 and families != {"int", "float"}):
        raise odd_element(elements, families, name)
    if families == {"datetime"}:
        array = times_of_list(elements, name)
    elif families == {"str"}:
        array = filled(elements, object)
    elif families == {"bytes"}:
        if bytearray in kinds:
            elements = [bytes(element) for element in elements]
        array = filled(elements, object)
    elif len(kinds) == 1 and issubclass(kind, np.generic):
        array = filled(elements, kind)      # numpy's own numbers keep their width
    elif families == {"bool"}:
        array = filled(elements, np.bool_)
    elif families == {"int"}:
        array = integers_of_list(elements, kinds, name)
    else:
        if "int" in families:
            check_exact(elements, name)
        array = filled(elements, np.float64)
    return array.reshape(shape)


cdef object filled(list elements, dtype):
    array = np.empty(len(elements), dtype)
    cdef Py_ssize_t start
    for start in range(0, len(elements), PIECE):
        array[start : start + PIECE] = elements[start : start + PIECE]
        let_others_run()
    return array


cdef tuple flattened(list elements, name):
    """The elements of nested lists and tuples in C order, and their shape."""
    cdef list shape = [len(elements)]
    cdef Py_ssize_t length, index
    cdef list flat
    while elements and isinstance(elements[0], (list, tuple)):
        length = len(elements[0])
        flat = []
        for index, row in enumerate(elements):
            if not isinstance(row, (list, tuple)) or len(row) != length:
                raise ValueError(
                    f"{name} has rows of different lengths: row 0 has {length} elements, "
                    f"row {index} is {short(repr(row))}"
                )
            flat.extend(row)
            if index % PIECE == PIECE - 1:
                let_others_run()
        elements = flat
        shape.append(length)
    return elements, tuple(shape)


cdef object odd_element(list elements, set families, name):
    """The error that names what no array holds, else the first unlike the first element."""
    first = family_of(type(elements[0]))
    for index, element in enumerate(elements):
        family = family_of(type(element))
        if family is None if None in families else family != first:
            return ElementTypeError(
                f"{name}[{index}] is a {type(element).__name__}: {short(repr(element))}; all must "
                "be of one type: bool, int, float, str, bytes or datetime",
                index,
                element,
            )


cdef object integers_of_list(list elements, set kinds, name):
    """An array of int32 where all fit, else of int64."""
    if kinds != {int}:
        elements = [int(element) for element in elements]
    try:
        array = filled(elements, np.int64)
    except OverflowError:
        for index, number in enumerate(elements):
            if not INT64_MIN <= number <= INT64_MAX:
                raise too_wide(index, number, name) from None
    if array.min() >= -0x80000000 and array.max() <= 0x7fffffff:
        return array.astype(np.int32)
    return array


cdef object too_wide(index, number, name):
    return EncodeError(
        f"{name}[{index}] is {short(number)}: MXAccess integers hold 64 bits, at most {INT64_MAX}",
        index,
        number,
    )


cdef int check_exact(list elements, name) except -1:
    """Raise where an integer among floats is none of them."""
    cdef Py_ssize_t index
    for index, element in enumerate(elements):
        if index % PIECE == PIECE - 1:
            let_others_run()
        if isinstance(element, (int, np.integer)):
            number = int(element)
            try:
                exact = float(number) == number
            except OverflowError:
                exact = False
            if not exact:
                raise EncodeError(
                    f"{name}[{index}] is {short(number)}, which no float is, and others are "
                    "floats: give only integers, or round it yourself",
                    index,
                    element,
                )
    return 0


cdef object times_of_list(list elements, name):
    cdef list times = []
    cdef Py_ssize_t index
    for index, element in enumerate(elements):
        if index % PIECE == PIECE - 1:
            let_others_run()
        times.append(time_of_element(index, element, name))
    cdef set dtypes = {time.dtype for time in times}
    array = filled(times, np.result_type(*dtypes))
    if len(dtypes) > 1:
        # One unit for all is the finest, in which a distant time wraps around.
        for index, time in enumerate(times):
            if index % PIECE == PIECE - 1:
                let_others_run()
            if array[index].astype(time.dtype) != time:
                raise EncodeError(
                    f"{name}[{index}] is {short(time)}: {array.dtype}, which others need, cannot "
                    "hold it; give an array of one unit",
                    index,
                    elements[index],
                )
    return array


cdef object time_of_element(index, element, name):
    """A datetime64 from that or from a datetime, of which a naive one means UTC."""
    if isinstance(element, np.datetime64):
        if np.isnat(element):
            raise not_a_time(index, element, name)
        return element
    if element != element:      # pandas' NaT is a datetime, and unequal to itself
        raise not_a_time(index, element, name)
    time = element
    if element.utcoffset() is not None:
        try:
            time = element.astimezone(datetime.UTC).replace(tzinfo=None)
        except OverflowError:
            raise out_of_years(index, element, name) from None
    # pandas' Timestamp is a datetime with nanoseconds of its own.
    nanosecond = getattr(element, "nanosecond", 0)
    if nanosecond:
        return np.datetime64(time, "ns") + np.timedelta64(nanosecond, "ns")
    return np.datetime64(time, "us")


cdef object not_a_time(index, element, name):
    return EncodeError(f"{name}[{index}] is NaT: a timestamp must be a time", index, element)


cdef object out_of_years(index, element, name):
    return EncodeError(
        f"{name}[{index}] is {short(element)}: a timestamp lies in the years 1 to 9999, "
        "and within 64 bits of its unit",
        index,
        element,
    )
