# Taking a batch and running the model, in an executor thread, a leading caller or an event loop.

cdef enum:
    # Batches that an executor runs in a row before it gives up the GIL, if they are so short that
    # doing it in between would cost more.
    MAX_HELD = 8
cdef enum:
    HOLD_NANOSECONDS = 50000
# Batches that an event loop runs in a row for others before what else it has to do gets its turn.
cdef enum:
    MAX_IN_LOOP = 16
# A thread that waits for whoever runs an inline model looks this often whether that has stopped.
cdef enum:
    LOOK_AGAIN_NANOSECONDS = 2000000


# By DispatchReason, as in the statistics.
cdef tuple _REASONS = ("full", "idle", "delay", "drain", "cost")


cdef class Runner:
    """One instance of the model, and the right to run it."""
    cdef Session session
    cdef CoreExecutor* executor
    cdef object model          # called with a batch
    cdef object lease          # an Instance of a pool, or None
    cdef unsigned long thread  # the thread that runs it now, else 0
    cdef object interrupt      # a BaseException out of the model, for the thread that led
    # executor="inline": the loop that will call run_scheduled(), mostly one, and the batches whose
    # futures it will resume then; and further loops, with theirs.
    cdef LoopChannel scheduled_on
    cdef list scheduled_batches
    cdef dict scheduled_elsewhere

    def __init__(self, Session session not None, model, lease, bint inline):
        self.session = session
        self.model = model
        self.lease = lease
        self.scheduled_elsewhere = {}
        self.executor = session.new_executor(
            ExecutorKind.Inline if inline else ExecutorKind.Thread)
        session.runners.append(self)
        if inline:
            session.inline_runner = self

    cdef inline object borrow(self):
        """What to call, until give_back(): our own instance or, while it is lent, another one."""
        return self.model if self.lease is None else self.lease.acquire_any()

    cdef inline int give_back(self, object model) except -1:
        if self.lease is not None:
            self.release(model)
        return 0

    cdef int release(self, object model) except -1:
        """Instance.release(). Ctrl-C in the middle of it waits until the batch has ended."""
        model._lock.release()  # in C, which no signal handler interrupts
        while True:
            try:
                model._pool._released()
                return 0
            except Exception:
                raise
            except BaseException as error:
                self.interrupt = error  # and whoever waits for an instance must hear of it

    cdef Outcome run(self, Taken* taken, uint32_t* failed, object model):
        """Claims the batch's rows and calls the model. The batch is then ready for finish()."""
        cdef const Waist* w = self.session.w
        cdef BatchState batch
        cdef Staging staging
        cdef uint32_t rows, slot
        cdef Outcome outcome = Outcome.Completed
        cdef unsigned long outer = self.thread
        cdef void* memory
        failed[0] = 0
        if not w.all_committed(taken):
            with nogil:
                w.wait_committed(taken)
        rows = w.claim(self.session.engine, taken)
        staging = <Staging>taken.owner
        batch = self.state_of(taken)
        if rows > 0:
            self.enter_model()
            try:
                if self.session.objects:
                    argument = [None] * rows
                    for slot in range(taken.reserved):
                        if w.batch_slot(taken.batch, slot) == SlotState.Claimed:
                            argument[w.batch_row(taken.batch, slot)] = batch.rows[slot]
                    batch.rows = None
                elif self.session.shaper is None:
                    argument = staging.batch_argument(rows)
                if self.session.shaper is not None:
                    if not self.session.objects:
                        argument = staging.parts()
                    model = self.session.shaper.around(model, rows)
                if self.session.tracer is not None:
                    self.run_traced(taken, failed, model, argument, rows)
                else:
                    answer = model(argument)
                    argument = None
                    batch.set_outputs(answer, rows, staging, 1, failed)
                if w.batch_has_readers(taken.batch):
                    batch.show()
                    self.session.release_orphans()
            except BaseException as error:
                batch.error = error
                outcome = Outcome.Failed
                if not isinstance(error, Exception):
                    self.interrupt = error
                if w.batch_has_readers(taken.batch):
                    batch.tell_native()
            self.leave_model(outer)
            answer = argument = None
        if staging.shared() or not w.keeps_memory(self.session.engine, taken):
            memory = w.detach(taken)
            if self.session.grouping is not None and not staging.shared():
                self.session.grouping.keep(staging)
            Py_DECREF(<object>memory)
        Py_DECREF(batch)  # the core's reference
        return outcome

    cdef BatchState state_of(self, Taken* taken):
        """The Python side of a batch that was claimed."""
        cdef BatchState batch
        if taken.tenant == NULL:  # all of its rows came through a native door
            batch = self.session.new_state(taken.batch)
            Py_INCREF(batch)  # as if it were the core's
            taken.tenant = <void*>batch
        return <BatchState>taken.tenant

    cdef int run_traced(self, Taken* taken, uint32_t* failed, object model, object argument,
                        uint32_t rows) except -1:
        """Calls the model and keeps its answer, inside a span of the session's tracer."""
        cdef BatchState batch = <BatchState>taken.tenant
        tracer = self.session.tracer  # another thread may take it away meanwhile
        span = None if tracer is None else self.begin_span(tracer, taken, batch, rows)
        try:
            answer = model(argument)
            # What is answered with may be the argument, to which our caller has a reference.
            batch.set_outputs(answer, rows, <Staging>taken.owner, 2 if answer is argument else 1,
                              failed)
        except BaseException as error:
            if span is not None:
                tracer.end(span, error, 0)
            raise
        if span is not None:
            tracer.end(span, None, failed[0])
        return 0

    cdef object begin_span(self, object tracer, Taken* taken, BatchState batch, uint32_t rows):
        """Has the tracer begin a span, linked with where the batch's requests came from."""
        cdef uint32_t slot
        cdef list contexts = []
        if batch.contexts is not None:
            for slot in range(taken.reserved):
                if (batch.contexts[slot] is not None and self.session.w.batch_slot(
                        taken.batch, slot) == SlotState.Claimed):
                    contexts.append(batch.contexts[slot])
            batch.contexts = None
        return tracer.begin(contexts, rows, _REASONS[<int>taken.reason],
                            1e-9 * (taken.model_started - taken.oldest))

    cdef void enter_model(self) noexcept:
        global tidegate_models_here
        self.thread = PyThread_get_thread_ident()
        tidegate_models_here += 1

    cdef void leave_model(self, unsigned long outer) noexcept:
        global tidegate_models_here
        tidegate_models_here -= 1
        self.thread = outer

    def serve(self):
        """Body of an executor thread: returns when the engine is closed and drained."""
        cdef Taken taken, following
        cdef Outcome outcome = Outcome.Completed
        cdef uint32_t failed = 0
        cdef int count = 0  # batches run since we took the GIL; the last of them is not ended yet
        cdef int64_t wanted = 0, started
        cdef Status status
        cdef Session session = self.session
        cdef const Waist* w = session.w
        cdef Engine* engine = session.engine
        while True:
            with nogil:
                if count > 0:
                    w.finish(engine, self.executor, &taken, outcome, 0, failed)
                count = 0
                status = w.await_work(engine, self.executor)
                if status == Status.Ok:
                    wanted = w.want_gil(engine, self.executor)
            if status == Status.Stop:
                session.runners.remove(self)  # a cycle that would keep the engine
                return
            w.got_gil(engine, self.executor, wanted)
            model = self.borrow()
            try:
                # Sealed only now: all that came while we waited for the GIL rides along.
                if w.seal(engine, self.executor, &taken) != Status.Ok:
                    continue
                started = taken.started
                while True:
                    outcome = self.run(&taken, &failed, model)
                    count += 1
                    if (count == MAX_HELD or w.now(engine) - started > HOLD_NANOSECONDS
                            or w.seal_next(engine, self.executor, &following) != Status.Ok):
                        break
                    # Before the next run, which may take long: an answer never waits for that.
                    w.finish(engine, self.executor, &taken, outcome, 0, failed)
                    taken = following
            finally:
                self.give_back(model)
            self.interrupt = None

    cdef Outcome run_borrowed(self, Taken* taken, uint32_t* failed) except *:
        """run() in a thread that may be interrupted while it waits for an instance."""
        cdef Outcome outcome
        try:
            model = self.borrow()
        except BaseException as error:
            return self.run(taken, failed, _raising(error))  # the batch must end all the same
        try:
            outcome = self.run(taken, failed, model)
        finally:
            self.give_back(model)
        return outcome

    cdef int run_led(self, Taken* taken, bint alone) except -1:
        """Runs a batch in the thread of a caller that took it, and gives the executor back."""
        cdef uint32_t failed
        cdef Outcome outcome
        cdef const Waist* w = self.session.w
        cdef Engine* engine = self.session.engine
        outcome = self.run_borrowed(taken, &failed)
        if alone:
            w.finish(engine, self.executor, taken, outcome, 0, failed)
        else:
            with nogil:
                w.finish(engine, self.executor, taken, outcome, 0, failed)
        w.give_back(engine, self.executor)
        return 0

    # -- executor="inline" --

    cdef int schedule(self, LoopChannel channel) except -1:
        """Has the loop run what was submitted, once per iteration."""
        if self.scheduled_on is channel:
            return 0
        cdef list batches = []  # made before we look: another thread may run meanwhile
        if self.scheduled_on is None:
            self.scheduled_on = channel
            self.scheduled_batches = batches
        elif channel in self.scheduled_elsewhere:
            return 0
        else:
            self.scheduled_elsewhere[channel] = batches
        # With a context of its own the loop need not copy ours.
        channel.call_soon(self.run_scheduled, channel, context=channel.context)
        return 0

    cdef bint will_run(self, Channel channel, BatchState batch) except -1:
        """True if the loop will run `batch` and resume who awaits it: no notice is needed."""
        cdef list batches
        if self.scheduled_on is channel:
            batches = self.scheduled_batches
        else:
            batches = self.scheduled_elsewhere.get(channel)
        if batches is None:
            return False
        batches.append(batch)
        return True

    def run_scheduled(self, LoopChannel channel not None):
        """The loop's callback: runs what was submitted and resumes who awaits it."""
        cdef BatchState batch
        cdef list batches, futures, resumable = None
        if self.scheduled_on is channel:
            batches = self.scheduled_batches
            self.scheduled_on = self.scheduled_batches = None
        else:
            batches = self.scheduled_elsewhere.pop(channel)
        if self.run_waiting(len(batches) > 0, MAX_IN_LOOP):
            self.schedule(channel)
        for batch in batches:
            if not self.session.w.batch_done(batch.core):
                channel.subscribe(batch)  # another thread has it
                continue
            futures = batch.take_awaiting(channel)
            if futures is not None:
                resumable = futures if resumable is None else resumable + futures
        if resumable is not None:
            channel.resume(resumable)
        self.raise_interrupt()

    cdef int run_here(self) except -1:
        """Runs all that waits in a thread that is about to wait for it."""
        self.run_waiting(False, 0)
        self.raise_interrupt()
        return 0

    cdef int raise_interrupt(self) except -1:
        """KeyboardInterrupt and SystemExit out of the model are for the thread that ran it."""
        interrupt, self.interrupt = self.interrupt, None
        if interrupt is not None:
            raise interrupt
        return 0

    cdef bint run_waiting(self, bint awaited_here, int most) except -1:
        """Runs what waits, unless another thread is at it already. True if it had enough.

        `awaited_here` says that our caller tells those who wait, so that there is nobody to wake;
        `most` batches are run, or with 0 all.
        """
        cdef int count = 0
        cdef Taken taken
        cdef uint32_t failed
        cdef Outcome outcome
        cdef const Waist* w = self.session.w
        cdef Engine* engine = self.session.engine
        cdef bint more = True
        while more and w.try_take(engine, self.executor, &taken) == Status.Ok:
            outcome = self.run_borrowed(&taken, &failed)
            if awaited_here:
                w.finish(engine, self.executor, &taken, outcome, 0, failed)
            else:
                with nogil:
                    w.finish(engine, self.executor, &taken, outcome, 0, failed)
            more = w.give_back(engine, self.executor)
            count += 1
            if count == most:
                return more
        return False


def _raising(error):
    """A model that could not be had."""
    def model(batch):
        raise error
    return model
