# What a request looks like, and copying it into staging memory.

cdef enum:
    ONE = 0  # a single array
    TUPLE = 1
    MAPPING = 2
    OBJECTS = 3  # arbitrary Python objects, collated into a list


# Before 1.24 NumPy made infinities of numbers that are too large for a dtype without a word.
cdef bint _casts_tell = np.lib.NumpyVersion(np.__version__) >= "1.24.0"


cdef struct Leaf:
    PyObject* dtype  # borrowed from Schema.dtypes
    int ndim
    cnp.npy_intp shape[32]
    size_t row_bytes  # of one token, if it is ragged
    bint ragged       # shape[0] is each request's own


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


cdef object _layout_type():
    """Layout, whose module few batchers need."""
    from tidegate._layout import Layout
    return Layout


cdef class Schema:
    """The structure, shapes and dtypes of a batcher's requests, fixed once known."""
    cdef readonly object spec
    cdef int kind
    cdef int count
    cdef Leaf* leaf
    cdef tuple keys
    cdef tuple dtypes
    cdef type row_type  # of a named tuple
    cdef list specs     # of each leaf
    cdef int ragged     # the first ragged leaf, or -1
    cdef bint learned   # from the first request

    def __cinit__(self):
        self.leaf = NULL
        self.keys = ()
        self.dtypes = ()
        self.ragged = -1

    def __init__(self, spec):
        self.spec = spec
        if spec is None:
            self.kind = OBJECTS
            self.count = 0
            return
        parts = self.specs = leaves(spec)
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
            self.leaf[i].ragged = part.ragged
            if part.ragged and self.ragged < 0:
                self.ragged = i
            for axis in range(part.ragged, self.leaf[i].ndim):
                self.leaf[i].shape[axis] = part.shape[axis]
                self.leaf[i].row_bytes *= <size_t>part.shape[axis]

    def __dealloc__(self):
        PyMem_Free(self.leaf)

    cdef Lane* make_lane(self, const Waist* w, Engine* engine, bint weighed) except NULL:
        cdef vector[size_t] row_bytes
        cdef vector[char] ragged
        cdef int i
        for i in range(self.count):
            row_bytes.push_back(self.leaf[i].row_bytes)
            ragged.push_back(self.leaf[i].ragged)
        if weighed:
            return w.add_weighed_lane(engine, row_bytes.data(), ragged.data(), self.count)
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
        for axis in range(leaf.ragged, leaf.ndim):
            if cnp.PyArray_DIM(array, axis + lead) != leaf.shape[axis]:
                return False
        return True

    cdef cnp.ndarray convert(self, int i, object value, int lead):
        """`value` as an array that fits, or InputError."""
        dtype = self.dtypes[i]
        part = self.specs[i]
        skip = lead + part.ragged
        where = "" if self.kind == ONE else f"[{self.keys[i] if self.kind == MAPPING else i!r}]"
        expected = f"{dtype} array of shape {('rows', *part.shape) if lead else part.shape}"
        try:
            array = np.asarray(value)
        except Exception as error:
            raise InputError(
                f"expected a {expected}{where}, got {_describe(value)}, which is no array: "
                f"{said(error)}",
                expected=expected, given=_describe(value)) from error
        if array.ndim != len(part.shape) + lead or array.shape[skip:] != part.fixed_shape:
            text = array.ndim == 0 and array.dtype.kind in "SU"
            given = _describe(value if text or array.dtype.kind == "O" else array)
            raise InputError(f"expected a {expected}{where}, got {given}",
                             expected=expected, given=given)
        if array.dtype != dtype and (array.size > 0 or not part.ragged):
            # For text and records NumPy calls it the same kind when it cuts off what does not fit.
            casting = "safe" if dtype.kind in "SUV" else "same_kind"
            # Python's integers have no dtype of their own: whatever holds the numbers will do.
            whole = (array.dtype.kind == "i" and dtype.kind == "u" and not hasattr(value, "dtype"))
            if array.dtype.names != dtype.names or not (
                    whole or np.can_cast(array.dtype, dtype, casting)):
                hint = " (taken from the first request; pass inputs=TensorSpec(...) to choose)"
                raise InputError(
                    f"expected a {expected}{where}, got dtype {array.dtype}, which does not "
                    f"convert safely{hint if self.learned and casting != 'safe' else ''}",
                    expected=expected, given=_describe(array))
            if dtype.kind in "iufc" and not np.can_cast(array.dtype, dtype):
                return self.narrowed(array, dtype, f"{expected}{where}")
        try:
            return array.astype(dtype, order="C", copy=not array.flags.aligned)
        except ValueError as error:  # bytes that are no text
            raise InputError(f"expected a {expected}{where}, got {_describe(array)}: {error}",
                             expected=expected, given=_describe(array)) from error

    cdef cnp.ndarray narrowed(self, object array, object dtype, str expected):
        """Numbers in a dtype that may be too narrow for them: NumPy would wrap integers around."""
        if dtype.kind in "iu" and array.size > 0:
            limits = np.iinfo(dtype)
            for number in (int(array.min()), int(array.max())):
                if not limits.min <= number <= limits.max:
                    raise InputError(f"expected a {expected}, got {number}, which it cannot hold",
                                     expected=expected, given=str(number))
        cause = None
        try:
            with np.errstate(over="raise"):
                made = array.astype(dtype, order="C")
        except FloatingPointError as error:
            cause = error
        else:
            if _casts_tell or dtype.kind not in "fc" or np.array_equal(np.isinf(made),
                                                                       np.isinf(array)):
                return made
        raise InputError(f"expected a {expected}, got a number that it cannot hold",
                         expected=expected, given=_describe(array)) from cause

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

    cdef int64_t tokens_of(self, object prepared) except -1:
        """Tokens of a request that prepare() returned; all its ragged arrays have as many."""
        cdef int i
        cdef int64_t tokens = 0, others
        for i in range(self.count):
            if not self.leaf[i].ragged:
                continue
            array = prepared if self.kind == ONE else (<tuple>prepared)[i]
            others = cnp.PyArray_DIM(<cnp.ndarray>array, 0)
            if i == self.ragged:
                tokens = others
            elif others != tokens:
                lengths = [len(part) for part, spec in zip(prepared, self.specs) if spec.ragged]
                raise InputError(
                    f"expected ragged arrays of the same length in one request, got {lengths}",
                    expected="ragged arrays of the same length", given=str(lengths))
        return tokens

    cdef Staging staging_in(self, object layout, cnp.ndarray memory):
        """Staging memory whose parts lie in `memory` as `layout` says."""
        cdef Staging staging = Staging.__new__(Staging)
        staging.schema = self
        staging.capacity = layout.capacity
        staging.layout = layout
        staging.memory = memory
        staging.header = <int32_t*>cnp.PyArray_DATA(memory)
        staging.tokens.capacity = layout.tokens
        if self.ragged >= 0:
            staging.tokens.offsets = <int32_t*>(<char*>cnp.PyArray_DATA(memory)
                                                + <size_t>layout.offsets)
        staging.arrays = layout.arrays_of(memory)
        for array in staging.arrays:
            staging.data.push_back(<char*>cnp.PyArray_DATA(<cnp.ndarray>array))
        # A view of a view refers to whoever owns the memory.
        owner = memory
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        staging.owner = owner
        array = memory = owner = None
        staging.references = Py_REFCNT(<PyObject*>staging.owner)
        return staging

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
    # If it lies in one piece, as a Layout says:
    cdef object layout
    cdef object memory          # the piece
    cdef object owner           # whom views of it refer to
    cdef Py_ssize_t references  # to the owner, while nobody else uses the memory
    cdef int32_t* header
    cdef TokenMemory tokens

    cdef void copy_in(self, object prepared, uint32_t first, uint32_t index,
                      uint32_t rows) noexcept:
        """Copies rows, from `first` on, that Schema.prepare() returned to row `index` and on."""
        cdef int i
        cdef size_t row_bytes, size
        cdef const char* source
        cdef char* target
        for i in range(self.schema.count):
            row_bytes = self.schema.leaf[i].row_bytes
            size = row_bytes * rows
            array = prepared if self.schema.kind == ONE else (<tuple>prepared)[i]
            source = <const char*>cnp.PyArray_DATA(<cnp.ndarray>array) + first * row_bytes
            target = self.data[i] + index * row_bytes
            if size <= LARGE_ROW:
                memcpy(target, source, size)
            else:
                with nogil:
                    memcpy(target, source, size)

    cdef void copy_in_ragged(self, object prepared, Reservation* reservation,
                             size_t tokens) noexcept:
        """Copies one row of an own length to where it was reserved."""
        cdef int i
        cdef size_t size
        cdef const char* source
        cdef char* target
        cdef Leaf* leaf
        for i in range(self.schema.count):
            leaf = &self.schema.leaf[i]
            array = prepared if self.schema.kind == ONE else (<tuple>prepared)[i]
            source = <const char*>cnp.PyArray_DATA(<cnp.ndarray>array)
            target = self.data[i] + leaf.row_bytes * <size_t>(
                reservation.first_token if leaf.ragged else reservation.index)
            size = leaf.row_bytes * (tokens if leaf.ragged else 1)
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

    cdef object parts(self):
        """All of the memory: its arrays, and where each ragged row begins."""
        if self.tokens.offsets == NULL:
            return self.arrays, None
        return self.arrays, self.layout.offsets_of(self.memory)

    cdef bint owns(self, object array):
        """True if `array` is a view of the memory."""
        cdef PyObject* base = cnp.PyArray_BASE(<cnp.ndarray>array)
        if self.owner is not None:
            return base == <PyObject*>self.owner
        for staged in self.arrays:
            if base == <PyObject*>staged:
                return True
        return False

    cdef bint shared(self):
        """True if anybody else still refers to the memory, so that it cannot be used again."""
        if self.owner is not None:
            return Py_REFCNT(<PyObject*>self.owner) > self.references
        for array in self.arrays:
            # The list and the loop variable.
            if Py_REFCNT(<PyObject*>array) > 2:
                return True
        return False
