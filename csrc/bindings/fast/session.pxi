# What a batcher, its executors and its batches share; never the Batcher itself, so that a batcher
# that is dropped with work in flight can be collected while the work goes on.

cdef enum:
    AUTO_ROWS = 0
    VIEW_ROWS = 1
    COPY_ROWS = 2

cdef const Waist* _table = NULL
cdef object _sessions = weakref.WeakSet()


cdef const Waist* _waist():
    return _table


def load_waist(capsule):
    """Gives the module the core's table of functions; called once, when tidegate is imported."""
    global _table
    cdef EngineHandle* handle = <EngineHandle*>PyCapsule_GetPointer(capsule, kCapsuleName)
    _table = handle.waist
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork,
                        after_in_child=_forget_after_fork)
    try:
        # Not atexit, which comes too late.
        threading._register_atexit(_before_exit)
    except RuntimeError:
        return  # the interpreter is ending already: nobody is asked
    _table.gate_set_holder_hook(_ask_holder)


cdef class Session:
    """An engine with the schema of its requests."""
    cdef object __weakref__
    cdef const Waist* w
    cdef Engine* engine
    cdef Lane* lane
    cdef object capsule        # shares ownership of the engine
    cdef readonly str name
    cdef readonly Schema schema
    cdef bint objects          # collate="list"
    cdef int row_mode
    cdef readonly list runners
    cdef Runner inline_runner  # executor="inline"
    cdef object output_specs   # of a native model, else None
    cdef list output_leaves    # shape and dtype of each: no Python code may run to look them up
    cdef list shown_names      # of outputs that native doors look at, else None
    cdef list shown_dtypes     # of these; None for one that need not be looked at
    cdef object shown_as       # makes them of any answer to a batch, or None
    cdef object shown_failed   # called with what a batch failed with that native doors wait for
    cdef readonly bint answers_lists  # the model has answered with a list before
    cdef public object tracer  # of tidegate.tracing.instrument(), else None
    cdef Grouping grouping     # of requests that are weighed, else None; `lane` is NULL then
    cdef object shaper         # makes a batch what the model takes, else None: rows are stacked
    cdef bint laid_out         # staging memory lies in one piece
    cdef object new_memory     # makes such pieces, for a device; else None
    cdef readonly bint on_device  # batches run elsewhere, see device.pxi

    def __init__(self, capsule, str name not None, spec, bint objects, str outputs not None,
                 output_specs=None, Grouping grouping=None, shaper=None, new_memory=None):
        cdef EngineHandle* handle = <EngineHandle*>PyCapsule_GetPointer(capsule, kCapsuleName)
        self.w = handle.waist
        self.engine = handle.engine
        self.capsule = capsule
        self.name = name
        self.objects = objects
        self.row_mode = {"auto": AUTO_ROWS, "view": VIEW_ROWS, "copy": COPY_ROWS}[outputs]
        self.runners = []
        self.output_specs = output_specs
        if output_specs is not None:
            self.output_leaves = [(spec.shape, spec.dtype) for spec in leaves(output_specs)]
        self.lane = NULL
        self.grouping = grouping
        self.shaper = shaper
        self.new_memory = new_memory
        self.laid_out = self.on_device = new_memory is not None
        if objects:
            self._set_schema(Schema(None))
        elif spec is not None:
            self._set_schema(Schema(spec))
        _sessions.add(self)

    cdef int _set_schema(self, Schema schema) except -1:
        if self.grouping is None:
            self.lane = schema.make_lane(self.w, self.engine, False)
        self.laid_out = self.laid_out or schema.ragged >= 0
        self.schema = schema
        return 0

    cdef int learn_schema(self, object request) except -1:
        """Takes the schema from the first request. The GIL may change hands while it is read."""
        cdef Schema schema = Schema(infer_spec(request))
        schema.learned = True
        shaper = None if self.shaper is None else self.shaper.for_spec(schema.spec)
        if self.schema is None:
            # Both at once: whoever sees the schema may submit, and an executor run the batch.
            self.shaper = shaper
            self._set_schema(schema)
        return 0

    cdef object refusal(self, Status status, uint32_t rows):
        """The exception for a request that was not taken."""
        if status == Status.QueueFull:
            self.w.count_rejected(self.engine, rows)
            return QueueFullError(
                f"the queue of {self.name!r} is full; try again later, or raise max_queue_size")
        if status == Status.Forked:
            return ForkedProcessError(
                f"batcher {self.name!r} was made before this process was forked, and its threads "
                "stayed in the parent; make the batcher in the child")
        return ClosedError(f"batcher {self.name!r} is closed")

    cdef int check_may_wait(self) except -1:
        """Raises if waiting here could never end."""
        if self.w.forked(self.engine):
            raise self.refusal(Status.Forked, 0)
        if self.runs_here():
            raise TidegateError(
                f"the model of {self.name!r} waits for its own batcher, which waits for the model")
        return 0

    cpdef bint runs_here(self) except -1:
        """True if it is the model that asks, in the thread that runs it."""
        cdef Runner runner
        for runner in self.runners:
            if runner.thread != 0 and runner.thread == PyThread_get_thread_ident():
                return True
        return False

    cdef CoreExecutor* new_executor(self, ExecutorKind kind) except NULL:
        cdef CoreExecutor* made = self.w.add_executor(self.engine, kind)
        if made == NULL:
            raise RuntimeError("can't start new thread")  # as the threading module says it
        return made

    cdef int64_t deadline(self, object timeout) except? -2:
        """The instant that is `timeout` seconds from now; None is never."""
        cdef double seconds
        if timeout is None:
            return kNever
        try:
            seconds = timeout
        except (TypeError, ValueError, OverflowError):
            seconds = -1.0
        if not seconds >= 0:
            raise InputError(f"a timeout is a number of seconds >= 0 or None, got {timeout!r}",
                             expected="seconds >= 0", given=repr(timeout))
        if seconds > 3e9:
            return kNever
        return self.w.now(self.engine) + <int64_t>(seconds * 1e9)

    cdef int64_t patience(self, object timeout) except? -2:
        """deadline() of a wait: as with concurrent.futures, no time left is no error in itself."""
        cdef bint over = False
        try:
            over = timeout is not None and timeout < 0
        except Exception:
            pass  # it is no number, as deadline() says
        return self.deadline(0 if over else timeout)

    cdef int add_buffer(self) except -1:
        """Gives the lane staging memory for one more batch."""
        cdef uint32_t capacity = self.w.max_batch_size(self.engine)
        cdef Staging staging
        if self.laid_out:
            staging = self.laid_out_staging(self.layout())
        else:
            staging = self.schema.new_staging(capacity)
        Py_INCREF(staging)
        cdef void* replaced = self.w.add_buffer(self.engine, self.lane, capacity,
                                                staging.data.data(), staging.data.size(),
                                                <void*>staging, staging.tokens)
        if replaced != NULL:
            Py_DECREF(<object>replaced)
        return 0

    cdef inline int reserve(self, uint32_t least, uint32_t most, int64_t deadline,
                            Reservation* reservation, Status* status) except -1:
        while True:
            status[0] = self.w.reserve(self.engine, self.lane, least, most, deadline, reservation)
            if status[0] != Status.BufferNeeded:
                return 0
            self.add_buffer()

    cdef Staging laid_out_staging(self, object layout):
        if self.new_memory is None:
            from tidegate._layout import aligned_memory
            self.new_memory = aligned_memory
        return self.schema.staging_in(layout, self.new_memory(layout.nbytes))

    cdef inline int reserve_weighed(self, object key, Weight weight, int64_t deadline, Lane** lane,
                                    Reservation* reservation, Status* status) except -1:
        """Reserves a slot in the lane of `key`."""
        while True:
            # Looked up each time: making a buffer may have given another thread a turn.
            lane[0] = self.grouping.lane_of(self, key)
            weight.room = self.grouping.room(
                self.schema, self.w.max_batch_size(self.engine), weight.tokens)
            status[0] = self.w.reserve_weighed(self.engine, lane[0], weight, deadline, reservation)
            if status[0] != Status.BufferNeeded:
                return 0
            self.grouping.add_buffer(self, lane[0], weight.room)

    def layout(self):
        """Where the parts of the next batch's staging memory lie, if it lies in one piece."""
        cdef uint32_t capacity = self.w.max_batch_size(self.engine)
        if self.grouping is None:
            return _layout_type()(self.schema.specs, capacity, 0)
        return self.grouping.layout(self.schema, capacity,
                                    self.grouping.room(self.schema, capacity, 0))

    def count_padding(self, uint64_t rows, uint64_t tokens, uint64_t padding_tokens):
        """Counts what a model was called with: rows that are nobody's, tokens that are and are not.
        """
        self.w.count_padding(self.engine, rows, tokens, padding_tokens)

    cdef BatchState new_state(self, Batch* core):
        """The Python side of a batch that has none."""
        cdef BatchState state = BatchState.__new__(BatchState)
        state.session = self
        state.core = core
        self.w.batch_retain(core)
        return state

    cdef BatchState batch_state(self, Reservation* reservation):
        """The Python side of a reservation's batch, made by whoever comes first.

        Between reserving and committing nothing here may fail or wait. So the garbage collector has
        to: what it runs may ask for a row of this very batch, which ours holds up.
        """
        cdef void* tenant = self.w.batch_tenant(reservation.batch)
        cdef bint collects
        if tenant != NULL:
            return <BatchState>tenant
        collects = PyGC_Disable()
        try:
            return self.first_state(reservation)
        finally:
            if collects:
                PyGC_Enable()

    cdef BatchState first_state(self, Reservation* reservation):
        """The Python side of a batch that had none when we looked."""
        cdef void* tenant
        cdef BatchState state
        cdef vector[void*] outputs
        state = self.new_state(reservation.batch)
        if self.objects:
            state.rows = [None] * (<Staging>reservation.owner).capacity
        if self.tracer is not None:
            state.contexts = [None] * (<Staging>reservation.owner).capacity
        if self.output_specs is not None:
            self.prepare_outputs(state, (<Staging>reservation.owner).capacity, outputs)
        tenant = self.w.batch_tenant(reservation.batch)
        if tenant != NULL:
            return <BatchState>tenant
        Py_INCREF(state)  # the core's reference, until somebody takes the batch
        self.w.batch_set_tenant(state.core, <void*>state, outputs.data(), outputs.size())
        return state

    cdef void prepare_outputs(self, BatchState state, uint32_t capacity, vector[void*]& outputs):
        """Memory for a native model to write to, and for futures to read from."""
        arrays = []
        for shape, dtype in self.output_leaves:
            array = np.empty((capacity, *shape), dtype)
            arrays.append(array)
            outputs.push_back(cnp.PyArray_DATA(<cnp.ndarray>array))
        if isinstance(self.output_specs, tuple):
            state.kind, state.outputs = TUPLE_OUTPUT, tuple(arrays)
            if hasattr(self.output_specs, "_make"):
                state.row_type = type(self.output_specs)
        elif isinstance(self.output_specs, dict):
            state.kind, state.outputs = MAPPING_OUTPUT, dict(zip(self.output_specs, arrays))
        else:
            state.kind, state.outputs = ARRAY_OUTPUT, arrays[0]
        state._choose_copies(arrays)
        self.release_orphans()

    cdef void release_orphans(self):
        """Lets go of batches that native threads have finished; they cannot do it themselves."""
        cdef void* tenants[16]
        cdef size_t i, count = 16
        while count == 16:
            count = self.w.take_orphans(self.engine, tenants, 16)
            for i in range(count):
                Py_DECREF(<object>tenants[i])

    def native_lane(self):
        """What a native door needs to submit rows: the engine's capsule and the lane's address."""
        if self.objects or self.lane == NULL or self.shaper is not None or self.on_device:
            return None
        return self.capsule, <size_t>self.lane

    def show_in_order(self, list names not None, list dtypes not None, convert, failed):
        """Names the outputs in the order in which a native door expects them.

        `dtypes` are theirs, or None where any will do; `convert` makes arrays of these of an answer
        to a batch that is something else, or answers None. `failed` is called with the ModelError
        of each batch for which the model raises and which has rows of the door's: its threads do
        not see what that was.
        """
        self.shown_names, self.shown_dtypes, self.shown_as = names, dtypes, convert
        self.shown_failed = failed

    def add_native_buffer(self):
        """Makes room for one more batch, for rows that come without the GIL."""
        self.add_buffer()

    @property
    def inline(self):
        """True for executor="inline"."""
        return self.inline_runner is not None

    def run_inline(self):
        """Runs what waits, if that is for callers to do."""
        if self.inline_runner is not None:
            self.inline_runner.run_here()

    def wait_room(self):
        """A future that is done when the queue can have room again, or None if it may already."""
        cdef Batch* batch
        cdef BatchState state
        cdef Future future
        if self.lane == NULL and self.grouping is None:
            return None
        batch = self.w.pending_batch(self.engine, self.lane)
        if batch == NULL:
            return None
        state = BatchState.__new__(BatchState)
        state.session = self
        state.core = batch
        future = Future.__new__(Future)
        future.batch = state
        future.slot = NO_SLOT
        return future
