# The Python side of a batch: its outputs or its error, and who awaits it where.

cdef enum:
    NO_OUTPUT = 0
    ARRAY_OUTPUT = 1
    TUPLE_OUTPUT = 2
    MAPPING_OUTPUT = 3
    LIST_OUTPUT = 4


@cython.freelist(16)
cdef class BatchState:
    """One batch as its futures see it; kept alive by them and by the core until it has run."""
    cdef Session session
    cdef Batch* core
    cdef int kind
    cdef bint copy_rows
    cdef bint by_token     # some output has entries for each token, or is on a device
    cdef object outputs    # an array, tuple, dict or list, by `kind`
    cdef type row_type     # of a named tuple
    cdef object error      # what the model raised, or an OutputError
    cdef dict errors       # what it raised for single rows, else None
    cdef list shown        # arrays that native readers look at
    cdef list rows         # submitted objects, for collate="list"
    cdef list contexts     # where requests came from, by slot; None if nobody traces
    cdef Channel channel   # the first consumer with futures here, and those futures
    cdef list awaiting
    cdef dict more_channels

    def __dealloc__(self):
        # The garbage collector may have taken the session away already.
        if self.core != NULL:
            _waist().batch_release(self.core)

    # -- what the executor does --

    cdef int set_outputs(self, object answer, uint32_t rows, Staging staging, int references,
                         uint32_t* failed) except -1:
        """Checks and keeps the model's answer.

        `references` are those that our caller holds on `answer`.
        """
        cdef bint alone
        cdef list items
        cdef Py_ssize_t i
        failed[0] = 0
        if type(answer) is Isolated:
            # Nobody else has what is in it: one reference is its own, one our call's.
            self.set_outputs((<Isolated>answer).answer, rows, staging, 2, failed)
            self.errors = (<Isolated>answer).errors
            failed[0] += <uint32_t>len(self.errors)
            return 0
        if isinstance(answer, list):
            if len(answer) != rows:
                raise OutputError(f"expected a list of {rows} objects from the model, "
                                  f"got {len(answer)}", expected=rows, given=len(answer))
            # A list that the model keeps may change before it is read. (Nothing is assigned to
            # `answer`: Cython would hold one more reference to it, and none would be ours alone.)
            if type(answer) is not list or Py_REFCNT(<PyObject*>answer) > references:
                items = list(answer)
            else:
                items = answer
            for i in range(len(items)):
                item = items[i]
                if isinstance(item, BaseException):
                    failed[0] += 1
                elif cnp.PyArray_Check(item) and cnp.PyArray_BASE(<cnp.ndarray>item) != NULL:
                    # A view, of what the model may write to again or others see as well.
                    items[i] = item.copy()
            self.kind, self.outputs = LIST_OUTPUT, items
            self.session.answers_lists = True
            return 0
        if isinstance(answer, tuple):
            parts = [_output_part(part, rows) for part in answer]
            self.kind = TUPLE_OUTPUT
            if hasattr(answer, "_make"):
                self.row_type = type(answer)
        elif not cnp.PyArray_CheckExact(answer) and hasattr(answer, "keys"):
            keys = list(answer.keys())
            parts = [_output_part(answer[key], rows) for key in keys]
            self.kind = MAPPING_OUTPUT
        elif type(answer) is TokenRows:
            self.kind, self.outputs = ARRAY_OUTPUT, self._own_part(answer, staging)
            self._choose_copies((answer,))
            return 0
        else:
            # An array that the model keeps, itself or in what it answered, has more references
            # than ours.
            array = _output_array(answer, rows)
            alone = Py_REFCNT(<PyObject*>array) <= (references + 1 if array is answer else 1)
            array = self._own(array, staging, alone)
            self.kind, self.outputs = ARRAY_OUTPUT, array
            self._choose_copies((array,))
            return 0
        if not parts:
            kind = "tuple" if self.kind == TUPLE_OUTPUT else "mapping"
            raise OutputError(f"expected {rows} rows from the model, got an empty {kind}",
                              expected=rows)
        for i in range(len(parts)):
            parts[i] = self._own_part(parts[i], staging)
        self.outputs = tuple(parts) if self.kind == TUPLE_OUTPUT else dict(zip(keys, parts))
        self._choose_copies(parts)
        return 0

    cdef int set_device_outputs(self, object outputs, object offsets, uint32_t rows, bint padded,
                                bint on_device) except -1:
        """Keeps a lane's answer, which is checked, and nobody else's.

        `offsets` says where the rows of what has entries for each token begin, or is None.
        """
        cdef bint marked = False
        if isinstance(outputs, tuple):
            parts = list(outputs)
            self.kind = TUPLE_OUTPUT
            if hasattr(outputs, "_make"):
                self.row_type = type(outputs)
        elif isinstance(outputs, dict):
            parts = list(outputs.values())
            self.kind = MAPPING_OUTPUT
        else:
            parts = [outputs]
            self.kind = ARRAY_OUTPUT
        for i in range(len(parts)):
            if type(parts[i]) is PerToken:
                parts[i] = TokenRows(parts[i].array, offsets, padded)
                marked = True
        if self.kind == TUPLE_OUTPUT:
            self.outputs = tuple(parts)
        elif self.kind == MAPPING_OUTPUT:
            self.outputs = dict(zip(outputs, parts))
        else:
            self.outputs = parts[0]
        self.by_token = marked or on_device
        if on_device:
            self.copy_rows = False
        else:
            self._choose_copies(parts)
        return 0

    cdef int show(self) except -1:
        """Shows the outputs to those who read them without the GIL: native doors.

        What are no plain arrays of the dtypes that were promised is made so. Shows nothing if that
        cannot be; such an answer has no place in a native door.
        """
        cdef vector[OutputView] views
        cdef OutputView view
        cdef cnp.ndarray array
        cdef void* kept
        if self.by_token or self.errors is not None:
            return 0
        if self.kind == MAPPING_OUTPUT:
            by_name = {str(key): part for key, part in (<dict>self.outputs).items()}
            parts = [by_name.get(name) for name in self.session.shown_names]
            if len(parts) != len(by_name):
                parts = []  # which is not as promised, as is said below
        else:
            parts = [self.outputs] if self.kind == ARRAY_OUTPUT else list(self.outputs)
        if not self.as_promised(parts):
            parts = self.session.shown_as(self.outputs)
            if parts is None:
                return 0
        for i in range(len(parts)):
            if not PyArray_IS_C_CONTIGUOUS(<cnp.ndarray>parts[i]):
                parts[i] = np.ascontiguousarray(parts[i])
            array = <cnp.ndarray>parts[i]
            if array.dtype.hasobject or not array.dtype.isnative:
                return 0
            view.data = <char*>cnp.PyArray_DATA(array)
            view.axes = cnp.PyArray_NDIM(array)
            view.shape = <const int64_t*>cnp.PyArray_DIMS(array)
            view.item_bytes = cnp.PyArray_ITEMSIZE(array)
            view.row_bytes = cnp.PyArray_NBYTES(array) // cnp.PyArray_DIM(array, 0)
            view.kind = ord(array.dtype.kind)
            views.push_back(view)
        self.shown = parts
        Py_INCREF(self)  # until the last reader has left
        kept = self.session.w.batch_show(self.core, views.data(), views.size(), <void*>self)
        if kept != NULL:
            Py_DECREF(self)
        return 0

    cdef void tell_native(self) noexcept:
        """Says what the batch has failed with, which native doors do not see."""
        self.session.shown_failed(self.failure(Outcome.Failed))

    cdef bint as_promised(self, list parts) except -1:
        """True if these are arrays of the dtypes that native doors expect."""
        cdef list dtypes = self.session.shown_dtypes
        if self.kind == LIST_OUTPUT or len(parts) != len(dtypes):
            return False
        for part, dtype in zip(parts, dtypes):
            if not cnp.PyArray_CheckExact(part) or not (dtype is None or part.dtype == dtype):
                return False
        return True

    cdef object _own(self, object array, Staging staging, bint alone):
        """The array itself if nobody else can change it, nor one row another, else a copy.

        An answer in the staging memory itself keeps that from being used again; if it is small,
        copying it is cheaper than new staging memory.
        """
        if (cnp.PyArray_NBYTES(<cnp.ndarray>array) <= SMALL_ANSWER and staging.owns(array)
                and PyArray_IS_C_CONTIGUOUS(<cnp.ndarray>array)):
            return _copy_contiguous(<cnp.ndarray>array,
                                    <char*>cnp.PyArray_DATA(<cnp.ndarray>array),
                                    cnp.PyArray_NDIM(<cnp.ndarray>array),
                                    cnp.PyArray_DIMS(<cnp.ndarray>array))
        cdef bint shared_rows = (cnp.PyArray_DIM(<cnp.ndarray>array, 0) > 1
                                 and cnp.PyArray_STRIDE(<cnp.ndarray>array, 0) == 0)
        # What np.broadcast_arrays() answers warns whoever writes to it, or to a view of it.
        cdef bint warns = cnp.PyArray_FLAGS(<cnp.ndarray>array) & WARNS_ON_WRITE
        if alone and not shared_rows and not warns and _ours_alone(array, staging):
            return array
        return cnp.PyArray_NewCopy(<cnp.ndarray>array, cnp.NPY_CORDER)

    cdef object _own_part(self, object part, Staging staging):
        if type(part) is not TokenRows:
            return self._own(part, staging, False)
        self.by_token = True
        if cnp.PyArray_NDIM((<TokenRows>part).array) > 0 and cnp.PyArray_SIZE(
                (<TokenRows>part).array) > 0:
            (<TokenRows>part).array = self._own((<TokenRows>part).array, staging, False)
        return part

    cdef void _choose_copies(self, object arrays) noexcept:
        cdef cnp.npy_intp size = 0
        if self.session.row_mode != AUTO_ROWS:
            self.copy_rows = self.session.row_mode == COPY_ROWS
            return
        for array in arrays:
            if type(array) is TokenRows:
                array = (<TokenRows>array).array
            size += cnp.PyArray_NBYTES(<cnp.ndarray>array)
        self.copy_rows = size > SMALL_OUTPUTS

    # -- what callers do --

    cdef object answer(self, uint32_t slot):
        """The answer to a claimed request of a batch that is done, or raises its error."""
        cdef Outcome outcome = self.session.w.batch_outcome(self.core)
        cdef uint32_t row
        if outcome == Outcome.Completed:
            row = self.session.w.batch_row(self.core, slot)
            if self.errors is not None:
                self.raise_error_of(row)
            if self.by_token:
                return self.answer_by_token(row)
            if self.kind == ARRAY_OUTPUT:
                return _row(<cnp.ndarray>self.outputs, row, self.copy_rows)
            if self.kind == LIST_OUTPUT:
                item = (<list>self.outputs)[row]
                if isinstance(item, BaseException):
                    raise item
                return item
            if self.kind == TUPLE_OUTPUT:
                parts = [_row(part, row, self.copy_rows) for part in <tuple>self.outputs]
                return tuple(parts) if self.row_type is None else self.row_type._make(parts)
            return {key: _row(part, row, self.copy_rows)
                    for key, part in (<dict>self.outputs).items()}
        raise self.failure(outcome)

    cdef object part_of(self, object part, uint32_t row):
        """One output of a request."""
        if type(part) is TokenRows:
            return (<TokenRows>part).row(row, self.copy_rows)
        if not cnp.PyArray_CheckExact(part):
            return part[row]  # a device's
        return _row(<cnp.ndarray>part, row, self.copy_rows)

    cdef object answer_by_token(self, uint32_t row):
        """The answer of row `row` where some output has entries for each token."""
        if self.kind == ARRAY_OUTPUT:
            return self.part_of(self.outputs, row)
        if self.kind == TUPLE_OUTPUT:
            parts = [self.part_of(part, row) for part in <tuple>self.outputs]
            return tuple(parts) if self.row_type is None else self.row_type._make(parts)
        return {key: self.part_of(part, row) for key, part in (<dict>self.outputs).items()}

    cdef bint alike(self, BatchState other) except -1:
        """True if rows of both batches can be joined to one array for each output."""
        if self is other:
            return True
        if self.kind != other.kind:
            return False
        if self.kind == ARRAY_OUTPUT:
            return self.outputs.shape[1:] == other.outputs.shape[1:]
        if self.kind == TUPLE_OUTPUT:
            return ([part.shape[1:] for part in self.outputs]
                    == [part.shape[1:] for part in other.outputs])
        return ({key: part.shape[1:] for key, part in self.outputs.items()}
                == {key: part.shape[1:] for key, part in other.outputs.items()})

    cdef object failure(self, Outcome outcome):
        """A new exception for one caller: a shared one would collect everybody's tracebacks."""
        if outcome == Outcome.Failed:
            error = self.error
            if isinstance(error, OutputError):
                return OutputError(str(error), expected=error.expected, given=error.given)
            if isinstance(error, DeviceError):
                failure = DeviceError(str(error))
                failure.__cause__ = error.__cause__
                return failure
            if error is None and self.session.on_device:
                status = self.session.w.batch_status(self.core)
                return DeviceError(
                    f"the GPU of {self.session.name!r} failed: CUDA's error {status}. Nothing runs "
                    "on it in this process any more: restart the process")
            if error is None:
                status = self.session.w.batch_status(self.core)
                return ModelError(f"the native model of {self.session.name!r} returned {status}")
            return self.model_error(error)
        return ClosedError(f"batcher {self.session.name!r} was closed before the request was done")

    cdef int raise_error_of(self, uint32_t row) except -1:
        """Raises what the model raised for row `row` alone, if it did."""
        error = self.errors.get(row)
        if error is not None:
            raise self.model_error(error)
        return 0

    cdef object model_error(self, object error):
        """What a caller gets for `error`, which the model has raised."""
        failure = ModelError(f"the model of {self.session.name!r} raised {said(error)}")
        failure.__cause__ = error
        return failure

    cdef object settled_error(self, SlotState state):
        """The exception of a request that never ran."""
        if state == SlotState.Expired:
            return DeadlineError(
                f"the request's timeout passed while it waited in the queue of "
                f"{self.session.name!r}; raise the timeout or lower the load")
        return ClosedError(f"batcher {self.session.name!r} was closed before the request ran")

    cdef int wait(self, uint32_t slot, int64_t deadline, WaitResult* result) except -1:
        """Sleeps until the batch is done, the slot settled or the deadline past; hears Ctrl-C."""
        cdef const Waist* w = self.session.w
        cdef Engine* engine = self.session.engine
        cdef int64_t wanted
        self.session.check_may_wait()
        while True:
            with nogil:
                result[0] = w.batch_wait(engine, self.core, slot, deadline)
                wanted = w.gate_want()
            w.gate_got(wanted)
            if result[0] != WaitResult.Interrupted:
                return 0
            PyErr_CheckSignals()

    # -- who awaits it --

    cdef int add_awaiting(self, Channel channel, object future) except -1:
        """Has `channel` told, once, when the batch is done; `future` fires then."""
        cdef list futures
        if self.channel is channel and self.awaiting is not None:
            self.awaiting.append(future)
            return 0
        # Made before we look: making them may run the garbage collector, and another thread.
        futures, more = [future], {}
        if self.channel is None or self.channel is channel:
            if self.channel is channel and self.awaiting is not None:
                self.awaiting.append(future)
                return 0
            self.channel = channel
            self.awaiting = futures
            return channel.subscribe(self)
        if self.more_channels is None:
            self.more_channels = more
        known = self.more_channels.get(channel)
        if known is not None:
            (<list>known).append(future)
            return 0
        self.more_channels[channel] = futures
        return channel.subscribe(self)

    cdef list awaiting_of(self, Channel channel):
        if self.channel is channel:
            return self.awaiting
        return None if self.more_channels is None else self.more_channels.get(channel)

    cdef list take_awaiting(self, Channel channel):
        cdef list futures
        if self.channel is channel:
            futures, self.awaiting = self.awaiting, None
            return futures
        return None if self.more_channels is None else self.more_channels.pop(channel, None)
