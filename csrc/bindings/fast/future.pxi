# The handle of a request: (batch, slot), with the faces of concurrent.futures and asyncio.

cdef enum:
    NO_SLOT = 0xFFFFFFFF  # waits for the batch alone and has no answer

cdef enum:
    PENDING = 0
    ANSWERED = 1
    FAILED = 2
    CANCELLED = 3

cdef object _NOT_READ = object()


@cython.freelist(256)
cdef class Future:
    """The result of a request, now or later.

    In a thread: ``result(timeout)`` and ``exception(timeout)`` wait. In an event loop: ``await``
    it, or give it to ``asyncio.wait``, ``gather``, ``wait_for``. It keeps the promises of
    ``concurrent.futures.Future`` and, once a loop is concerned, of ``asyncio.Future``: callbacks of
    a future that is used in a loop run in that loop, others in a thread of tidegate's.
    """
    cdef object __weakref__
    cdef BatchState batch      # let go of once the answer was read
    cdef uint32_t slot
    cdef int state
    cdef object value          # the answer or the exception, once read
    cdef LoopChannel channel   # the loop that this future belongs to, once one is concerned
    cdef object callback       # the first callback and its context
    cdef object context
    cdef list more_callbacks   # further (callback, context)
    cdef bint subscribed
    cdef bint blocking
    cdef list waiters          # of concurrent.futures.wait(), under `condition`
    cdef object condition
    cdef bint notified

    def __init__(self):
        raise TypeError("futures come from Batcher.submit()")

    def __reduce__(self):
        raise TypeError("a future cannot be copied or pickled; its answer can")

    # -- where it stands --

    cdef bint check(self) except -1:
        """True if the request has ended; notes how."""
        cdef SlotState slot
        if self.state != PENDING:
            return True
        cdef BatchState batch = self.batch
        if batch is None:
            raise TypeError("this future was not made by a Batcher")
        cdef const Waist* w = batch.session.w
        if self.slot == NO_SLOT:
            if w.batch_done(batch.core):
                self.settle(ANSWERED, None)
                return True
            return self.check_forked(batch.session)
        if w.batch_done(batch.core):
            slot = w.batch_slot(batch.core, self.slot)
            if slot == SlotState.Claimed:
                # The row is made when it is read, in the reader's own time.
                self.state, self.value = ANSWERED, _NOT_READ
                return True
        else:
            slot = w.batch_slot(batch.core, self.slot)
            if slot == SlotState.Queued or slot == SlotState.Claimed:
                return self.check_forked(batch.session)
        if slot == SlotState.Cancelled:
            self.settle(CANCELLED, None)  # by another thread, which is about to say so
        else:
            self.settle(FAILED, batch.settled_error(slot))
        return True

    cdef inline bint check_forked(self, Session session) except -1:
        """True if the request can only end in the parent of a fork."""
        if session.w.forked(session.engine):
            self.settle(FAILED, session.refusal(Status.Forked, 0))
            return True
        return False

    cdef void settle(self, int state, object value) noexcept:
        self.state, self.value = state, value
        self.batch = None

    cdef int read(self) except -1:
        """Makes the row of an answered request."""
        cdef BatchState batch = self.batch
        if self.value is not _NOT_READ or batch is None:
            return 0
        try:
            value = batch.answer(self.slot)
        except BaseException as error:
            # Whatever it is, it is this request's end.
            self.settle(FAILED, error)
        else:
            if self.value is _NOT_READ:  # another thread may have read it meanwhile
                self.settle(ANSWERED, value)
        return 0

    cdef object outcome(self, bint awaited):
        """The answer, or raises what the request ended with. Only when check() says so."""
        self.read()
        if self.state == ANSWERED:
            return self.value
        if self.state == FAILED:
            if (awaited or self.channel is not None) and isinstance(self.value, StopIteration):
                # Out of an await it would end the coroutine as if it had returned.
                raise RuntimeError("the request ended with a StopIteration") from self.value
            raise self.value
        if awaited or self.channel is not None:
            raise self._make_cancelled_error()
        import concurrent.futures
        raise concurrent.futures.CancelledError()

    def done(self):
        """True if the request has ended, one way or another."""
        return self.check()

    def cancelled(self):
        """True if the request was cancelled."""
        return self.state == CANCELLED

    def running(self):
        """True while the model works on the request."""
        if self.check() or self.slot == NO_SLOT:
            return False
        return self.batch.session.w.batch_slot(self.batch.core, self.slot) == SlotState.Claimed

    # -- the thread's face --

    cdef int wait(self, object timeout) except -1:
        """Waits until the request has ended; TimeoutError leaves it alone."""
        cdef int64_t deadline
        cdef Session session = self.batch.session  # now: another thread may end it meanwhile
        if self.channel is not None and current_channel() is self.channel:
            raise _asyncio.InvalidStateError("the result is not ready; await it in an event loop")
        deadline = session.patience(timeout)
        if session.inline_runner is None:
            self.wait_native(session, deadline)
        else:
            self.wait_inline(session, deadline)
        return 0

    cdef int wait_inline(self, Session session, int64_t deadline) except -1:
        """Runs the model, or waits for the thread that does and may stop before our turn comes."""
        cdef int64_t soon
        while True:
            session.inline_runner.run_here()
            if self.check():
                return 0
            soon = min(deadline, session.w.now(session.engine) + LOOK_AGAIN_NANOSECONDS)
            try:
                return self.wait_native(session, soon)
            except TimeoutError:
                if soon == deadline:
                    raise

    cdef int wait_native(self, Session session, int64_t deadline) except -1:
        cdef WaitResult result
        cdef BatchState batch = self.batch
        while not self.check():
            batch.wait(self.slot, deadline, &result)
            if result == WaitResult.TimedOut and not self.check():
                raise TimeoutError(
                    "the request has not ended within result()'s timeout; it goes on")
        return 0

    def result(self, timeout=None):
        """The request's answer; waits for it.

        Args:
            timeout: Seconds to wait at most; None for as long as it takes.

        Raises:
            TimeoutError: It is not there yet; the request goes on.
            InputError: It is not there yet, and `timeout` is no number of seconds.
            CancelledError: It was cancelled.
            TidegateError: What the request ended with, see tidegate.errors.
        """
        if not self.check():
            self.wait(timeout)
        return self.outcome(False)

    def exception(self, timeout=None):
        """What the request failed with, or None; waits like result()."""
        if not self.check():
            self.wait(timeout)
        self.read()
        if self.state == CANCELLED:
            self.outcome(False)
        return self.value if self.state == FAILED else None

    def cancel(self, msg=None):
        """Takes the request back.

        A waiting request never reaches the model. One that the model works on can only be abandoned
        by an event loop: there the answer is dropped; for a thread it is too late, as with any
        ``concurrent.futures.Future``.

        Returns:
            True if the request ends as cancelled (or did before).
        """
        if self.state == CANCELLED:
            return True
        if self.check() or not self.withdraw():
            return self.state == CANCELLED  # by somebody who was faster
        self.settle(CANCELLED, msg)
        self.fire_later()
        return True

    cdef bint withdraw(self) except -1:
        """Takes the slot out of the batch, or abandons it if this is a loop's future."""
        cdef BatchState batch = self.batch
        if self.slot == NO_SLOT:
            return True
        if batch.session.w.batch_settle(batch.session.engine, batch.core, self.slot,
                                        SlotState.Cancelled):
            if batch.rows is not None:
                batch.rows[self.slot] = None
            return True
        return self.channel is not None and not self.check()

    # -- callbacks --

    def add_done_callback(self, fn, *, context=None):
        """Calls ``fn(self)`` when the request has ended.

        In an event loop it is called by the loop, as asyncio does; elsewhere by a thread of
        tidegate's, or here and now if the request has ended already.
        """
        cdef Channel channel
        if self.check():
            self.fire_one(fn, context, current_channel() if self.channel is None else self.channel)
            return
        # Made before we look: making them may run the garbage collector, and another thread.
        if context is None:  # an empty one is false
            context = contextvars.copy_context()
        cdef list entry = None if self.callback is None else [(fn, context)]
        if entry is not None and self.callback is not None:
            if self.more_callbacks is None:
                self.more_callbacks = entry
            else:
                self.more_callbacks.extend(entry)
            return
        self.callback, self.context = fn, context
        if self.subscribed:
            if self.check():
                self.fire_later()  # what would have told us has been and gone
            return
        if self.channel is None:
            self.channel = current_channel()
        channel = self.channel if self.channel is not None else callback_channel()
        self.subscribed = True
        self.await_on(channel)

    cdef int await_on(self, Channel channel) except -1:
        cdef BatchState batch = self.batch
        if batch is None:  # another thread has ended or read it meanwhile
            return self.fire_later()
        return batch.add_awaiting(channel, self)

    def remove_done_callback(self, fn):
        """Forgets a callback; returns how many times it was there."""
        callbacks = self.take_callbacks()
        kept = [pair for pair in callbacks if pair[0] != fn]
        if kept:
            self.callback, self.context = kept[0]
            self.more_callbacks = kept[1:] or None
        return len(callbacks) - len(kept)

    cdef list take_callbacks(self):
        # Taken before the list is made: that may run the garbage collector, and another thread.
        callback, context, more = self.callback, self.context, self.more_callbacks
        self.callback = self.context = self.more_callbacks = None
        callbacks = [] if callback is None else [(callback, context)]
        if more is not None:
            callbacks += more
        return callbacks

    cdef int fire_one(self, object callback, object context, LoopChannel channel,
                      bint exits_too=False) except -1:
        """Calls one callback in the way of its face; logs what it raises."""
        if channel is not None:
            if channel is current_channel():
                channel.loop.call_soon(callback, self, context=context)
                return 0
            try:
                channel.loop.call_soon_threadsafe(callback, self, context=context)
            except RuntimeError:
                pass  # the loop is closed, and with it whoever cared
            return 0
        try:
            if context is None:
                callback(self)
            else:
                context.run(callback, self)
        except BaseException as error:
            if not (exits_too or isinstance(error, Exception)):
                raise
            _log_failed_callback(self)
        return 0

    cdef int fire(self, LoopChannel channel) except -1:
        """Calls the callbacks, from the reader of `channel` or, without one, the callback thread.

        A task's wake-up is called directly; see channels.pxi.
        """
        self.tell_waiters()
        callback = self.callback
        if callback is None:
            return 0
        if channel is None or not channel.direct or not _is_task_wakeup(callback):
            for callback, context in self.take_callbacks():
                # SystemExit and the like end nobody in the callback thread.
                self.fire_one(callback, context, self.channel, channel is None)
            return 0
        context, more = self.context, self.more_callbacks
        self.callback = self.context = self.more_callbacks = None
        if more is not None:
            for other, other_context in more:
                self.fire_one(other, other_context, channel)
        PyContext_Enter(context)
        try:
            PyObject_CallOneArg(callback, channel.finished)
        finally:
            PyContext_Exit(context)
        return 0

    cdef int fire_later(self) except -1:
        """Calls the callbacks of a request that its caller has ended."""
        self.tell_waiters()
        for callback, context in self.take_callbacks():
            self.fire_one(callback, context, self.channel)
        return 0

    # -- the event loop's face --

    cdef LoopChannel bind(self):
        """The channel of the loop that this future belongs to: the first that asks."""
        if self.channel is None:
            self.channel = current_channel()
        if self.channel is None:
            raise RuntimeError("no running event loop; use result() in a thread")
        if self.channel is not current_channel():
            self.blocking = False  # a task of another loop is about to be told that it may not wait
        return self.channel

    def get_loop(self):
        """The event loop that the future belongs to: the first it was awaited or asked in."""
        return self.bind().loop

    @property
    def _loop(self):
        return self.bind().loop

    def _make_cancelled_error(self):
        import asyncio
        return (asyncio.CancelledError() if self.value is None
                else asyncio.CancelledError(self.value))

    @property
    def _cancel_message(self):
        return self.value if self.state == CANCELLED else None

    @property
    def _asyncio_future_blocking(self):
        return self.blocking

    @_asyncio_future_blocking.setter
    def _asyncio_future_blocking(self, bint value):
        self.blocking = value

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        if self.check():
            raise StopIteration(self.outcome(True))
        if self.blocking:
            raise RuntimeError("await was not used with this future")
        self.blocking = True
        return self

    # -- what concurrent.futures.wait() and as_completed() look at --

    @property
    def _condition(self):
        if self.condition is None:
            condition, ended = threading.Condition(), self.check()
            if self.condition is None:  # else another thread has been faster
                self.condition, self.waiters, self.notified = condition, [], ended
                if not ended:
                    # Not a done callback: those of a loop's future would wait for the loop, which
                    # may be what waits here.
                    self.await_on(callback_channel())
        return self.condition

    @property
    def _waiters(self):
        self._condition
        return self.waiters

    @property
    def _state(self):
        # With a condition, the end shows only once its waiters were told, under it: then whoever
        # holds it sees either an ended request or one that will tell.
        if not self.check() or (self.condition is not None and not self.notified):
            return "PENDING"
        return "CANCELLED_AND_NOTIFIED" if self.state == CANCELLED else "FINISHED"

    cdef int tell_waiters(self) except -1:
        """Tells concurrent.futures' waiters of the end, once."""
        if self.condition is None or self.notified:
            return 0
        with self.condition:
            if self.notified:
                return 0
            self.notified = True
            self.check()
            self.read()
            for waiter in self.waiters:
                if self.state == CANCELLED:
                    waiter.add_cancelled(self)
                elif self.state == FAILED:
                    waiter.add_exception(self)
                else:
                    waiter.add_result(self)
        return 0

    def __repr__(self):
        states = {PENDING: "pending", ANSWERED: "done", FAILED: "failed", CANCELLED: "cancelled"}
        self.check()
        return f"<tidegate.Future {states[self.state]}>"


cdef PySendResult _future_send(PyObject* self, PyObject* argument,
                               PyObject** result) except PYGEN_ERROR:
    """`await` without an iterator and without a StopIteration: the type's am_send slot."""
    cdef Future future = <Future>self
    if future.check():
        value = future.outcome(True)
        Py_INCREF(value)
        result[0] = <PyObject*>value
        return PYGEN_RETURN
    if future.blocking:
        raise RuntimeError("await was not used with this future")
    future.blocking = True
    Py_INCREF(future)
    result[0] = <PyObject*>future
    return PYGEN_NEXT
