# What a model answers with: the arrays behind it, and single rows of them.

cdef object _copy_contiguous(cnp.ndarray array, char* data, int ndim, cnp.npy_intp* shape):
    """A new array of what lies contiguously at `data` in `array`; no Python objects.

    A tenth of what PyArray_NewCopy takes.
    """
    cdef cnp.dtype dtype = <cnp.dtype><PyObject*>cnp.PyArray_DESCR(array)
    Py_INCREF(dtype)  # PyArray_NewFromDescr steals it
    copy = PyArray_NewFromDescr(&PyArray_Type, dtype, ndim, shape, NULL, NULL, 0, NULL)
    memcpy(cnp.PyArray_DATA(<cnp.ndarray>copy), data,
           <size_t>cnp.PyArray_NBYTES(<cnp.ndarray>copy))
    return copy


cdef object _row(cnp.ndarray array, uint32_t index, bint copy):
    """Row `index` of an output array; a scalar if the array has one axis."""
    cdef char* data = <char*>cnp.PyArray_DATA(array) + index * cnp.PyArray_STRIDE(array, 0)
    cdef int ndim = cnp.PyArray_NDIM(array)
    cdef cnp.npy_intp* shape = cnp.PyArray_DIMS(array) + 1
    if ndim == 1:
        return PyArray_ToScalar(data, array)
    if PyArray_IS_C_CONTIGUOUS(array):
        if not copy:
            # Without strides NumPy need not look whether they are contiguous.
            return _view(array, data, ndim - 1, shape, NULL)
        if not PyDataType_REFCHK(<cnp.dtype><PyObject*>cnp.PyArray_DESCR(array)):
            return _copy_contiguous(array, data, ndim - 1, shape)
    row = _view(array, data, ndim - 1, shape, cnp.PyArray_STRIDES(array) + 1)
    return cnp.PyArray_NewCopy(row, cnp.NPY_CORDER) if copy else row


cdef cnp.ndarray _output_array(object value, uint32_t rows):
    """An output leaf as an array with one row per request, or OutputError."""
    if not cnp.PyArray_CheckExact(value):
        if not (hasattr(value, "__array__") or hasattr(value, "__array_interface__")):
            raise OutputError(
                f"the model must return arrays whose first axis is {rows}, a tuple or mapping of "
                f"them, or a list of {rows} objects; got {_describe(value)}")
        value = np.asarray(value)
    cdef cnp.ndarray array = <cnp.ndarray>value
    if cnp.PyArray_NDIM(array) == 0:
        raise OutputError(f"expected {rows} rows from the model, got a scalar", expected=rows)
    if cnp.PyArray_DIM(array, 0) != rows:
        raise OutputError(
            f"expected {rows} rows from the model, got {cnp.PyArray_DIM(array, 0)} "
            f"(an output of shape {value.shape})", expected=rows, given=value.shape[0])
    return array


cdef object _output_part(object value, uint32_t rows):
    """An output leaf as an array with one row per request, or as what it has for each token."""
    return value if type(value) is TokenRows else _output_array(value, rows)


cdef bint _ours_alone(object array, Staging staging):
    """True if nobody but the batch can write to the memory behind `array`."""
    cdef PyObject* base = cnp.PyArray_BASE(<cnp.ndarray>array)
    if base == NULL or staging.owns(array):
        return True
    # A reshaped temporary: its base is held by the array alone.
    return (cnp.PyArray_CheckExact(<object>base)
            and cnp.PyArray_BASE(<cnp.ndarray>base) == NULL and Py_REFCNT(base) == 1)


cdef class Isolated:
    """The answer to a batch without the rows that are to blame for an exception.

    Args:
        answer: As a model's; what it has for those rows is never looked at.
        errors: What the model raised for each of them, by row.
    """
    cdef readonly object answer
    cdef readonly dict errors

    def __init__(self, answer, dict errors not None):
        self.answer = answer
        self.errors = errors
