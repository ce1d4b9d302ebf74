# What a request looks like, and copying it into staging memory.

cdef enum:
    ONE = 0  # a single array
    TUPLE = 1
    MAPPING = 2
    OBJECTS = 3  # arbitrary Python objects, collated into a list


cdef struct Leaf:
    PyObject* dtype  # borrowed from Schema.dtypes
    int ndim
    cnp.npy_intp shape[32]
    size_t row_bytes


cdef str _describe(object value):
    """A value in the words of an error message."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array of shape {value.shape}"
    return type(value).__name__


cdef cnp.ndarray _view(cnp.ndarray base, char* data, int ndim, cnp.npy_intp* shape,
                       cnp.npy_intp* strides):
    """A writeable view of `ndim` axes into `base`; contiguous if `strides` is NULL."""
    cdef cnp.dtype dtype = <cnp.dtype><PyObject*>cnp.PyArray_DESCR(base)
    Py_INCREF(dtype)  # PyArray_NewFromDescr steals it
    cdef cnp.ndarray view = PyArray_NewFromDescr(
        &PyArray_Type, dtype, ndim, shape, strides, data,
        NPY_ARRAY_WRITEABLE | (NPY_ARRAY_ALIGNED if PyArray_ISALIGNED(base) else 0), NULL)
    Py_INCREF(base)
    PyArray_SetBaseObject(view, <PyObject*>base)
    return view


cdef class Schema:
    """The structure, shapes and dtypes of a batcher's requests, fixed once known."""
    cdef readonly object spec
    cdef int kind
    cdef int count
    cdef Leaf* leaf
    cdef tuple keys
    cdef tuple dtypes
    cdef type row_type  # of a named tuple

    def __cinit__(self):
        self.leaf = NULL
        self.keys = ()
        self.dtypes = ()

    def __init__(self, spec):
        self.spec = spec
        if spec is None:
            self.kind = OBJECTS
            self.count = 0
            return
        parts = leaves(spec)
        self.kind = TUPLE if isinstance(spec, tuple) else MAPPING if isinstance(spec, dict) else ONE
        if self.kind == MAPPING:
            self.keys = tuple(spec)
        if hasattr(spec, "_make"):
            self.row_type = type(spec)
        self.count = len(parts)
        self.dtypes = tuple(part.dtype for part in parts)
        self.leaf = <Leaf*>PyMem_Malloc(self.count * sizeof(Leaf))
        if self.leaf == NULL:
            raise MemoryError
        cdef int i, axis
        for i in range(self.count):
            part = parts[i]
            self.leaf[i].dtype = <PyObject*>self.dtypes[i]
            self.leaf[i].ndim = len(part.shape)
            self.leaf[i].row_bytes = part.dtype.itemsize
            for axis in range(self.leaf[i].ndim):
                self.leaf[i].shape[axis] = part.shape[axis]
                self.leaf[i].row_bytes *= <size_t>part.shape[axis]

    def __dealloc__(self):
        PyMem_Free(self.leaf)

    cdef Lane* make_lane(self, const Waist* w, Engine* engine) except NULL:
        cdef vector[size_t] row_bytes
        cdef int i
        for i in range(self.count):
            row_bytes.push_back(self.leaf[i].row_bytes)
        return w.add_lane(engine, row_bytes.data(), self.count)

    cdef inline bint fits(self, int i, object value, int lead) noexcept:
        """True if `value` can be copied as it is; `lead` is 1 if it has a leading axis of rows."""
        cdef cnp.ndarray array
        cdef Leaf* leaf = &self.leaf[i]
        cdef int axis
        if not cnp.PyArray_CheckExact(value):
            return False
        array = <cnp.ndarray>value
        if (<PyObject*>cnp.PyArray_DESCR(array) != leaf.dtype
                or cnp.PyArray_NDIM(array) != leaf.ndim + lead
                or not PyArray_IS_C_CONTIGUOUS(array) or not PyArray_ISALIGNED(array)):
            return False
        for axis in range(leaf.ndim):
            if cnp.PyArray_DIM(array, axis + lead) != leaf.shape[axis]:
                return False
        return True

    cdef cnp.ndarray convert(self, int i, object value, int lead):
        """`value` as an array that fits, or InputError."""
        dtype = self.dtypes[i]
        part = leaves(self.spec)[i]
        where = "" if self.kind == ONE else f"[{self.keys[i] if self.kind == MAPPING else i!r}]"
        expected = f"{dtype} array of shape {('rows', *part.shape) if lead else part.shape}"
        try:
            array = np.asarray(value)
        except Exception as error:
            raise InputError(
                f"expected a {expected}{where}, got {_describe(value)}, which is no array: {error}",
                expected=expected, given=_describe(value)) from error
        if array.ndim != len(part.shape) + lead or array.shape[lead:] != part.shape:
            text = array.ndim == 0 and array.dtype.kind in "SU"
            given = _describe(value if text or array.dtype.kind == "O" else array)
            raise InputError(f"expected a {expected}{where}, got {given}",
                             expected=expected, given=given)
        if array.dtype != dtype:
            # For text and records NumPy calls it the same kind when it cuts off what does not fit.
            casting = "safe" if dtype.kind in "SUV" else "same_kind"
            if array.dtype.names != dtype.names or not np.can_cast(array.dtype, dtype, casting):
                hint = ("" if casting == "safe" else
                        " (taken from the first request; pass inputs=TensorSpec(...) to choose)")
                raise InputError(
                    f"expected a {expected}{where}, got dtype {array.dtype}, which does not "
                    f"convert safely{hint}", expected=expected, given=_describe(array))
        try:
            return array.astype(dtype, order="C", copy=not array.flags.aligned)
        except ValueError as error:  # bytes that are no text
            raise InputError(f"expected a {expected}{where}, got {_describe(array)}: {error}",
                             expected=expected, given=_describe(array)) from error

    cdef object structure_error(self, object value):
        if self.kind == TUPLE:
            expected = f"a tuple of {self.count} arrays"
            given = (f"a tuple of {len(value)}" if isinstance(value, tuple)
                     else _describe(value))
        else:
            expected = f"a mapping with the keys {list(self.keys)}"
            try:
                given = f"a mapping with the keys {list(value.keys())}"
            except AttributeError:
                given = _describe(value)
        return InputError(f"expected {expected}, got {given}", expected=expected, given=given)

    cdef object prepare(self, object request, int lead):
        """`request` as one array or a tuple of arrays that can be copied as they are."""
        cdef int i
        if self.kind == ONE:
            return request if self.fits(0, request, lead) else self.convert(0, request, lead)
        if self.kind == TUPLE:
            if not isinstance(request, (tuple, list)) or len(request) != self.count:
                raise self.structure_error(request)
            values = request
        else:
            try:
                values = [request[key] for key in self.keys]
                matches = len(request) == self.count
            except (KeyError, TypeError, IndexError):
                matches = False
            if not matches:
                raise self.structure_error(request)
        return tuple([values[i] if self.fits(i, values[i], lead)
                      else self.convert(i, values[i], lead) for i in range(self.count)])

    cdef Staging new_staging(self, uint32_t capacity):
        cdef Staging staging = Staging.__new__(Staging)
        cdef int i, axis
        cdef cnp.npy_intp shape[33]
        staging.schema = self
        staging.capacity = capacity
        staging.arrays = []
        for i in range(self.count):
            shape[0] = capacity
            for axis in range(self.leaf[i].ndim):
                shape[axis + 1] = self.leaf[i].shape[axis]
            dtype = <cnp.dtype>self.dtypes[i]
            Py_INCREF(dtype)
            array = PyArray_NewFromDescr(&PyArray_Type, dtype, self.leaf[i].ndim + 1, shape, NULL,
                                         NULL, 0, NULL)
            staging.arrays.append(array)
            staging.data.push_back(<char*>cnp.PyArray_DATA(<cnp.ndarray>array))
        return staging


cdef class Staging:
    """The staging memory of one batch: an array of `capacity` rows for each leaf."""
    cdef Schema schema
    cdef list arrays
    cdef vector[char*] data
    cdef uint32_t capacity

    cdef void copy_in(self, object prepared, uint32_t index, uint32_t rows) noexcept:
        """Copies rows that Schema.prepare() returned to row `index` and on."""
        cdef int i
        cdef size_t row_bytes, size
        cdef const char* source
        cdef char* target
        for i in range(self.schema.count):
            row_bytes = self.schema.leaf[i].row_bytes
            size = row_bytes * rows
            array = prepared if self.schema.kind == ONE else (<tuple>prepared)[i]
            source = <const char*>cnp.PyArray_DATA(<cnp.ndarray>array)
            target = self.data[i] + index * row_bytes
            if size <= LARGE_ROW:
                memcpy(target, source, size)
            else:
                with nogil:
                    memcpy(target, source, size)

    cdef object batch_argument(self, uint32_t rows):
        """What the model is called with: views of the first `rows` rows, structured as requests."""
        cdef int i
        cdef cnp.npy_intp shape[33]
        cdef cnp.ndarray array
        views = []
        for i in range(self.schema.count):
            array = <cnp.ndarray>self.arrays[i]
            memcpy(shape, cnp.PyArray_DIMS(array),
                   sizeof(cnp.npy_intp) * <size_t>cnp.PyArray_NDIM(array))
            shape[0] = rows
            view = _view(array, <char*>cnp.PyArray_DATA(array), cnp.PyArray_NDIM(array), shape,
                         NULL)
            if self.schema.kind == ONE:
                return view
            views.append(view)
        if self.schema.row_type is not None:
            return self.schema.row_type._make(views)
        if self.schema.kind == TUPLE:
            return tuple(views)
        return dict(zip(self.schema.keys, views))

    cdef bint owns(self, object array):
        """True if `array` is a view of the memory."""
        cdef PyObject* base = cnp.PyArray_BASE(<cnp.ndarray>array)
        for staged in self.arrays:
            if base == <PyObject*>staged:
                return True
        return False

    cdef bint shared(self):
        """True if anybody else still refers to the memory, so that it cannot be used again."""
        for array in self.arrays:
            # The list and the loop variable.
            if Py_REFCNT(<PyObject*>array) > 2:
                return True
        return False
