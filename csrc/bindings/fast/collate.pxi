# Making ragged rows equally long, and answers of one row per token.


def pad_rows(cnp.ndarray values not None, cnp.ndarray cu_seqlens not None, int64_t first,
             int64_t rows, int64_t size, int64_t length, cnp.ndarray fill not None):
    """Rows that lie end to end, each in a row of its own of `length` tokens.

    Args:
        values: C-contiguous array of shape (tokens, ...).
        cu_seqlens: int32 offsets, as of tidegate.gpu.pad().
        first: The first row that is wanted.
        rows: How many are.
        size: Rows of the result; what is behind the wanted ones repeats the first of them.
        length: Tokens of a row of the result, at least those of the longest wanted row.
        fill: One element of the values' dtype.

    Returns:
        A new array of shape (size, length, ...), `fill` behind each row's tokens.
    """
    cdef cnp.npy_intp shape[33]
    cdef int axis, ndim = cnp.PyArray_NDIM(values)
    cdef size_t item = cnp.PyArray_ITEMSIZE(values), token = item, used, at, total
    cdef const int32_t* offsets = <const int32_t*>cnp.PyArray_DATA(cu_seqlens)
    cdef const char* source = <const char*>cnp.PyArray_DATA(values)
    cdef const char* pattern = <const char*>cnp.PyArray_DATA(fill)
    cdef char* target
    cdef int64_t row, wanted
    shape[0], shape[1] = size, length
    for axis in range(1, ndim):
        shape[axis + 1] = cnp.PyArray_DIM(values, axis)
        token *= <size_t>cnp.PyArray_DIM(values, axis)
    cdef cnp.dtype dtype = <cnp.dtype><PyObject*>cnp.PyArray_DESCR(values)
    Py_INCREF(dtype)  # PyArray_NewFromDescr steals it
    padded = PyArray_NewFromDescr(&PyArray_Type, dtype, ndim + 1, shape, NULL, NULL, 0, NULL)
    target = <char*>cnp.PyArray_DATA(<cnp.ndarray>padded)
    total = <size_t>length * token
    with nogil:
        for row in range(size):
            wanted = first + (row if row < rows else 0)
            used = <size_t>(offsets[wanted + 1] - offsets[wanted]) * token
            memcpy(target, source + <size_t>offsets[wanted] * token, used)
            at = used
            if at < total and item > 0:
                # One element, then what is there already, twice as much each time.
                memcpy(target + at, pattern, item)
                at += item
                while at < total:
                    wanted = min(at - used, total - at)
                    memcpy(target + at, target + used, <size_t>wanted)
                    at += <size_t>wanted
            target += total
    return padded


cdef class TokenRows:
    """An output of one entry per token, and which of them are whose.

    Args:
        array: Of shape (tokens, ...), the rows end to end; or, if they are `padded`, of shape
            (rows, length, ...). NumPy's, or a device's.
        cu_seqlens: int32 array of one offset more than there are rows.
        padded: Whether each row has a place of its own.
    """
    cdef readonly object array
    cdef readonly cnp.ndarray cu_seqlens
    cdef readonly bint padded

    def __init__(self, array, cnp.ndarray cu_seqlens not None, bint padded):
        self.array = array
        self.cu_seqlens = cu_seqlens
        self.padded = padded

    cdef object row(self, uint32_t index, bint copy):
        """The entries of row `index`."""
        cdef const int32_t* offsets = <const int32_t*>cnp.PyArray_DATA(self.cu_seqlens)
        if self.padded:
            entries = self.array[index, :offsets[index + 1] - offsets[index]]
        else:
            entries = self.array[offsets[index]:offsets[index + 1]]
        return entries.copy() if copy else entries
