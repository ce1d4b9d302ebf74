# Starting batches on a device, several before the first has ended.
#
# The executor's thread takes a batch when a slot of the lane is free, has the lane start it, and
# goes on. The batch ends in another thread, as soon as the device is done: a Python thread that
# waits for the lane's flights, or a native one that waits for their events and takes no GIL
# (completer.hpp).

cdef enum:
    MOST_ENDED = 64
# An executor whose instance is lent looks this often whether there still is work for it.
cdef double LENT_SECONDS = 0.05


cdef class UnderWay:
    """A batch that was started, for the thread that ends it."""
    cdef Taken taken
    cdef uint32_t rows
    cdef object flight
    cdef object span   # of a tracer, with the tracer


cdef class DeviceRunner(Runner):
    """One instance of the model, and the lane of its device.

    Args:
        session: Whose batches.
        lane: A tidegate.gpu.lane.Lane.
        lease: The Instance of a pool that the lane calls, or None.
        sizes: The allowed batch sizes, ascending; None for any.
        padded: Whether the model sees padded rows.
        on_device: Whether answers stay there.
        calls: For the native waiter, addresses of a function that waits for an event, of one that
            is called once before with the third, a context. None for a Python thread.
    """
    cdef object lane
    cdef tuple sizes
    cdef bint padded
    cdef bint answers_stay
    cdef DeviceCalls calls
    cdef Completer* completer
    cdef object flights  # UnderWay, in order: a deque, or a queue for the waiting thread
    cdef object room     # a semaphore: slots of the lane that are free, for the waiting thread

    def __init__(self, Session session not None, lane, lease, sizes, bint padded, bint on_device,
                 calls):
        self.session = session
        self.lane = lane
        self.lease = lease
        self.scheduled_elsewhere = {}
        self.sizes = () if sizes is None else tuple(sizes)
        self.padded = padded
        self.answers_stay = on_device
        if calls is not None:
            self.calls.wait = <int (*)(void*) noexcept><size_t>calls[0]
            self.calls.enter = <int (*)(void*) noexcept><size_t>calls[1]
            self.calls.context = <void*><size_t>calls[2]
        self.executor = session.new_executor(ExecutorKind.Device)
        session.runners.append(self)

    def serve(self):
        """Body of an executor thread: returns when the engine is closed and drained."""
        cdef Session session = self.session
        cdef const Waist* w = session.w
        import queue  # here, since few batchers have a device
        waiting = None
        try:
            if self.calls.wait != NULL:
                self.flights = collections.deque()
                self.completer = w.completer_new(session.engine, &self.calls)
            else:
                self.flights = queue.SimpleQueue()
                self.room = threading.Semaphore(self.lane.depth)
                waiting = threading.Thread(
                    target=self.end_flights, name=f"{threading.current_thread().name}-wait",
                    daemon=True)
                waiting.start()
            try:
                self.lane.enter()
            except Exception:
                pass  # the first batch meets the same, and fails with it
            self.start_batches()
        finally:
            if waiting is not None:
                self.flights.put(None)
                waiting.join()
            elif self.completer != NULL:
                with nogil:
                    w.completer_wait_room(self.completer, 1)  # all have ended
                self.note_ended()
                with nogil:
                    w.completer_delete(self.completer)
                self.completer = NULL
                session.release_orphans()  # of the last, which are left after its end is told
            if self in session.runners:
                session.runners.remove(self)  # a cycle that would keep the engine
            self.lane.close()

    cdef int start_batches(self) except -1:
        """Takes and starts batches until there are no more, or the device can run none."""
        cdef Taken taken
        cdef Status status
        cdef int64_t wanted = 0
        cdef Session session = self.session
        cdef const Waist* w = session.w
        cdef Engine* engine = session.engine
        while True:
            self.await_room()
            if self.lane.broken is not None and len(session.runners) > 1:
                # The others go on; the last one stays and fails what comes, so that nobody waits.
                session.runners.remove(self)
                w.retire(engine, self.executor)
                return 0
            with nogil:
                status = w.await_work(engine, self.executor)
                if status == Status.Ok:
                    wanted = w.want_gil(engine, self.executor)
            if status == Status.Stop:
                return 0
            if status == Status.Nothing:
                continue  # the device is idle: its last batches have ended, and are let go of
            w.got_gil(engine, self.executor, wanted)
            if self.lease is not None and not self.lease.acquire(False):
                self.decline()
                continue
            try:
                if w.seal(engine, self.executor, &taken) == Status.Ok:
                    self.start(&taken)
                elif self.room is not None:
                    self.room.release()
            finally:
                if self.lease is not None:
                    self.lease.release()
            self.interrupt = None

    cdef int decline(self) except -1:
        """Leaves a batch to the others while our instance is lent: only it is on our device."""
        with nogil:
            self.session.w.decline(self.session.engine, self.executor)
        if self.room is not None:
            self.room.release()
        # Not for longer: the others may serve all there is, and the batcher be closed.
        if self.lease.acquire(timeout=LENT_SECONDS):
            self.lease.release()
        return 0

    cdef int await_room(self) except -1:
        """Waits until a slot of the lane is free, so that a batch stays open until then."""
        cdef uint32_t depth = self.lane.depth
        if self.completer == NULL:
            self.room.acquire()
            return 0
        with nogil:
            self.session.w.completer_wait_room(self.completer, depth)
        self.note_ended()
        return 0

    cdef int note_ended(self) except -1:
        """Lets go of what the native thread has ended."""
        cdef Ended endings[MOST_ENDED]
        cdef size_t i, count = MOST_ENDED
        cdef UnderWay ended
        while self.completer != NULL and count == MOST_ENDED:
            count = self.session.w.completer_take_ended(self.completer, endings, MOST_ENDED)
            for i in range(count):
                ended = self.flights.popleft()
                ended.flight.done(endings[i].status)
                self.end_span(ended, ended.flight.error, endings[i].when)
        self.session.release_orphans()
        return 0

    cdef int start(self, Taken* taken) except -1:
        """Starts a batch, or ends it with what is in the way."""
        cdef const Waist* w = self.session.w
        cdef Staging staging = <Staging>taken.owner
        cdef BatchState batch
        cdef UnderWay under_way = UnderWay.__new__(UnderWay)
        cdef unsigned long outer = self.thread
        if not w.all_committed(taken):
            with nogil:
                w.wait_committed(taken)
        under_way.rows = w.claim(self.session.engine, taken)
        batch = self.state_of(taken)
        if under_way.rows == 0:
            return self.end(taken, Outcome.Completed)
        self.enter_model()
        try:
            under_way.flight = self.launch(taken, under_way, batch, staging)
        except BaseException as error:
            batch.error = error
            self.leave_model(outer)
            self.end_span(under_way, error)
            return self.end(taken, Outcome.Failed)
        self.leave_model(outer)
        under_way.taken = taken[0]
        if self.completer == NULL:
            self.flights.put(under_way)
            return 0
        # Its last owner here is the engine: the thread that ends it cannot let go of the tenant.
        self.flights.append(under_way)
        w.completer_add(self.completer, self.executor, taken,
                        <void*><size_t>under_way.flight.event.ptr)
        return 0

    cdef object launch(self, Taken* taken, UnderWay under_way, BatchState batch, Staging staging):
        """Has the lane start a batch; raises what the model does."""
        cdef uint32_t rows = under_way.rows, row, size = rows
        cdef int32_t longest = 0
        cdef int32_t tokens = 0
        cdef int32_t* offsets = staging.tokens.offsets
        seen = None
        if offsets != NULL:
            for row in range(rows):
                longest = max(longest, offsets[row + 1] - offsets[row])
            tokens = offsets[rows]
            seen = staging.layout.offsets_of(staging.memory)[:rows + 1].copy()
        for allowed in self.sizes:
            if <uint32_t>allowed >= rows:
                size = allowed
                break
        staging.header[0], staging.header[1], staging.header[2] = <int32_t>rows, tokens, longest
        tracer = self.session.tracer
        if tracer is not None:
            under_way.span = (tracer, self.begin_span(tracer, taken, batch, rows))
        try:
            flight = self.lane.start(staging.memory, staging.layout, rows, tokens, longest, size)
        finally:
            if tracer is not None:
                under_way.span = (tracer, tracer.leave(under_way.span[1]))
        batch.set_device_outputs(flight.outputs, seen, rows, self.padded, self.answers_stay)
        padding = size * self.lane.padded_length(longest) - tokens if self.padded else 0
        self.session.w.count_padding(self.session.engine, size - rows, tokens, padding)
        return flight

    cdef int end_span(self, UnderWay under_way, object error, int64_t when=kNever) except -1:
        """Ends a batch's span as of `when`, or of now: an idle executor learns of it late."""
        cdef int64_t ago = 0
        if under_way.span is not None and under_way.span[1] is not None:
            if when != kNever:
                ago = self.session.w.now(self.session.engine) - when
            under_way.span[0].end(under_way.span[1], error, 0, ago)
        under_way.span = None
        return 0

    cdef int end(self, Taken* taken, Outcome outcome) except -1:
        """Ends a batch in this thread."""
        cdef const Waist* w = self.session.w
        cdef object batch = <object>taken.tenant
        if not w.keeps_memory(self.session.engine, taken):
            memory = <object>w.detach(taken)
            if self.session.grouping is not None:
                self.session.grouping.keep(memory)
            Py_DECREF(memory)
        Py_DECREF(batch)  # the core's reference
        with nogil:
            w.finish(self.session.engine, self.executor, taken, outcome, 0, 0)
        if self.room is not None:
            self.room.release()
        return 0

    def end_flights(self):
        """Body of the thread that waits for the device, if no native one does."""
        cdef UnderWay under_way
        cdef BatchState batch
        cdef Outcome outcome
        while True:
            under_way = self.flights.get()
            if under_way is None:
                return
            batch = <BatchState>under_way.taken.tenant
            outcome = Outcome.Completed
            error = None
            try:
                under_way.flight.wait()
            except BaseException as failed:
                error = batch.error = failed
                outcome = Outcome.Failed
            self.end_span(under_way, error)
            error = batch = None
            self.end(&under_way.taken, outcome)
            under_way = None
