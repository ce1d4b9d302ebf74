# The base of Batcher: submitting and calling, without a Python frame in between.


cdef struct Load:
    Lane* lane      # known once a slot is reserved
    Weight weight   # of a request that is weighed


cdef class Gateway:
    """Where requests enter; Batcher adds all that happens less than once per request."""
    cdef object __weakref__
    cdef Session session
    cdef object default_timeout
    cdef bint blocks            # overflow="block"
    cdef bint split_oversize

    def _open(self, Session session not None, default_timeout, bint blocks, bint split_oversize):
        """Called once by Batcher.__init__."""
        self.session = session
        self.default_timeout = default_timeout
        self.blocks = blocks
        self.split_oversize = split_oversize

    def __reduce__(self):
        raise TypeError("a batcher cannot be copied or pickled; make another")

    @property
    def _session(self):
        return self.session

    @property
    def _blocks(self):
        return self.blocks

    cdef inline object prepare(self, object x, object timeout):
        """The request, checked and converted; never part of a batch if it does not fit."""
        cdef Session session = self.session
        if session is None:
            raise TidegateError("Batcher.__init__ was not called")
        if session.schema is None:
            session.deadline(timeout)  # raises: a request that is refused teaches nothing
            session.learn_schema(x)
        if session.objects:
            return x
        return session.schema.prepare(x, 0)

    cdef inline BatchState enter(self, object prepared, int64_t deadline,
                                 Reservation* reservation, uint32_t rejected):
        """Reserves a slot and copies the request into it; the caller commits.

        `rejected` are the rows to be counted so if there is no room.
        """
        cdef Session session = self.session
        cdef BatchState batch
        cdef Status status
        cdef object context = None
        if session.tracer is not None:
            context = session.tracer.context()  # now: after reserving no Python code may run
        session.reserve(1, 1, deadline, reservation, &status)
        if status != Status.Ok:
            raise session.refusal(status, rejected)
        batch = session.batch_state(reservation)
        if session.objects:
            batch.rows[reservation.index] = prepared
        else:
            (<Staging>reservation.owner).copy_in(prepared, 0, reservation.index, 1)
        if context is not None and batch.contexts is not None:  # else it was opened before
            batch.contexts[reservation.index] = context
        return batch

    cdef BatchState enter_weighed(self, object prepared, Load* load, object key, int64_t deadline,
                                  Reservation* reservation, uint32_t rejected):
        """enter() for a request that Grouping.weigh() has weighed; says which lane it is in."""
        cdef Session session = self.session
        cdef BatchState batch
        cdef Status status
        cdef object context = None
        if session.tracer is not None:
            context = session.tracer.context()
        session.reserve_weighed(key, load.weight, deadline, &load.lane, reservation, &status)
        if status != Status.Ok:
            raise session.refusal(status, rejected)
        batch = session.batch_state(reservation)
        if session.objects:
            batch.rows[reservation.index] = prepared
        elif session.schema.ragged >= 0:
            (<Staging>reservation.owner).copy_in_ragged(prepared, reservation, load.weight.tokens)
        else:
            (<Staging>reservation.owner).copy_in(prepared, 0, reservation.index, 1)
        if context is not None and batch.contexts is not None:
            batch.contexts[reservation.index] = context
        return batch

    def submit(self, x, *, timeout=None):
        """Queues one request; never waits.

        Args:
            x: One row: an array, a tuple or mapping of arrays, or any object with
                ``collate="list"``. It is copied: the caller may reuse it at once.
            timeout: Seconds that the request may wait in the queue; None for the batcher's
                ``default_timeout``.

        Returns:
            A Future for the row's answer, for threads and event loops alike.

        Raises:
            InputError: The request does not fit the batcher's inputs.
            QueueFullError: ``max_queue_size`` rows wait already.
            ClosedError: The batcher is closed.
            ForkedProcessError: The batcher belongs to the parent process.
        """
        return self.queue(x, timeout, 1)

    def _offer(self, x, timeout):
        """submit() for who tries again when there is no room: that is not counted as rejected."""
        return self.queue(x, timeout, 0)

    cdef inline Future queue(self, object x, object timeout, uint32_t rejected):
        cdef Reservation reservation
        cdef Future future
        cdef LoopChannel channel
        cdef int64_t deadline = kNever
        prepared = self.prepare(x, timeout)
        cdef Session session = self.session
        if session.grouping is not None:
            return self.queue_weighed(x, prepared, timeout, rejected)
        if timeout is not None or self.default_timeout is not None:
            deadline = session.deadline(self.default_timeout if timeout is None else timeout)
        if session.w.gate_urgent():
            yield_gil()
        # Made first: nothing may fail between reserving and committing.
        future = Future.__new__(Future)
        future.batch = self.enter(prepared, deadline, &reservation, rejected)
        future.slot = reservation.index
        session.w.commit(session.engine, session.lane, &reservation)
        if session.inline_runner is not None:
            channel = current_channel()
            if channel is not None:
                session.inline_runner.schedule(channel)
        return future

    cdef Future queue_weighed(self, object x, object prepared, object timeout, uint32_t rejected):
        cdef Reservation reservation
        cdef Load load
        cdef Future future
        cdef LoopChannel channel
        cdef int64_t deadline = kNever
        cdef Session session = self.session
        key = session.grouping.weigh(session.schema, x, prepared, &load.weight)
        if timeout is not None or self.default_timeout is not None:
            deadline = session.deadline(self.default_timeout if timeout is None else timeout)
        if session.w.gate_urgent():
            yield_gil()
        future = Future.__new__(Future)
        future.batch = self.enter_weighed(prepared, &load, key, deadline, &reservation, rejected)
        future.slot = reservation.index
        session.w.commit(session.engine, load.lane, &reservation)
        if session.inline_runner is not None:
            channel = current_channel()
            if channel is not None:
                session.inline_runner.schedule(channel)
        return future

    def __call__(self, x, *, timeout=None):
        """Runs one request and returns its answer; for any thread, waits.

        With ``overflow="block"`` it also waits for room in the queue. A caller that is alone may
        run the model itself, in its own thread (``caller_runs``).

        Args:
            x: One row, see submit().
            timeout: Seconds that the request may wait in the queue, see submit().

        Returns:
            The row's answer.

        Raises:
            TidegateError: See submit(), and what the request may end with: ModelError, OutputError,
                DeadlineError, ClosedError.
        """
        cdef Reservation reservation
        cdef Taken taken
        cdef CoreExecutor* executor = NULL
        cdef BatchState batch
        cdef Runner runner
        cdef Future future
        cdef Load load
        cdef int64_t deadline = kNever
        prepared = self.prepare(x, timeout)
        cdef Session session = self.session
        key = None
        load.lane = session.lane
        if session.grouping is not None:
            key = session.grouping.weigh(session.schema, x, prepared, &load.weight)
        if timeout is not None or self.default_timeout is not None:
            deadline = session.deadline(self.default_timeout if timeout is None else timeout)
        if session.w.gate_urgent():
            yield_gil()
        while True:
            try:
                if session.grouping is None:
                    batch = self.enter(prepared, deadline, &reservation, 0 if self.blocks else 1)
                else:
                    batch = self.enter_weighed(prepared, &load, key, deadline, &reservation,
                                               0 if self.blocks else 1)
                break
            except QueueFullError:
                if not self.blocks:
                    raise
                self.wait_for_room(deadline)
        if session.w.commit_or_lead(session.engine, load.lane, &reservation, &executor, &taken):
            for runner in session.runners:
                if runner.executor == executor:
                    runner.run_led(&taken, taken.reserved == 1)
                    runner.raise_interrupt()
                    break
            return batch.answer(reservation.index)
        future = Future.__new__(Future)
        future.batch = batch
        future.slot = reservation.index
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    cdef int wait_for_room(self, int64_t deadline) except -1:
        cdef Session session = self.session
        cdef Future future
        if session.inline_runner is not None:
            session.inline_runner.run_here()
        future = session.wait_room()
        if future is None:
            with nogil:
                sched_yield()  # whoever is about to make room may need the GIL
            return 0
        try:
            future.wait_native(session, deadline)
        except TimeoutError:
            raise DeadlineError(
                f"the request's timeout passed while it waited for room in the queue of "
                f"{session.name!r}") from None
        return 0

    def submit_many(self, X, *, timeout=None):
        """Queues k requests at once, as one; never waits.

        Args:
            X: k rows: what one request looks like with a leading axis of length k, or a sequence of
                k objects with ``collate="list"``.
            timeout: Seconds that the rows may wait in the queue, see submit().

        Returns:
            One future whose result has k rows: what the model's answer looks like. It fails with
            the first error of any row.

        Raises:
            InputError: The rows do not fit, there are none, more than ``max_queue_size``, or with
                ``split_oversize=False`` more than ``max_batch_size``.
            QueueFullError: There is no room for all k rows now; none is queued.
            ClosedError: The batcher is closed.
            ForkedProcessError: The batcher belongs to the parent process.
        """
        cdef Session session = self.session
        cdef BulkFuture future
        cdef LoopChannel channel
        cdef int64_t deadline = kNever
        cdef Py_ssize_t k
        if session is None:
            raise TidegateError("Batcher.__init__ was not called")
        if session.objects:
            try:
                rows = iter(X)
            except TypeError as error:
                raise InputError(f"expected an iterable of objects, got {_describe(X)}",
                                 expected="an iterable of objects", given=_describe(X)) from error
            prepared = list(rows)
            k = len(prepared)
        elif session.schema is not None and session.schema.ragged >= 0:
            prepared = _ragged_rows(session.schema, X)
            k = len(prepared)
        else:
            if session.schema is None:
                first = _first_row(X)
                # Both raise: rows that are refused teach nothing.
                session.deadline(timeout)
                Schema(infer_spec(first)).prepare(X, 1)
                session.learn_schema(first)
            prepared = session.schema.prepare(X, 1)
            first = prepared if session.schema.kind == ONE else prepared[0]
            k = first.shape[0]
            if session.schema.kind != ONE and any(len(part) != k for part in prepared):
                lengths = [len(part) for part in prepared]
                raise InputError(f"expected the same number of rows in each array, got {lengths}",
                                 expected="equal numbers of rows", given=str(lengths))
        if k == 0:
            raise InputError("expected at least one row, got none", expected="k >= 1 rows",
                             given="0 rows")
        if not self.split_oversize and k > session.w.max_batch_size(session.engine):
            raise InputError(
                f"expected at most max_batch_size={session.w.max_batch_size(session.engine)} rows, "
                f"got {k}; split_oversize=True splits them over batches",
                expected="at most max_batch_size rows", given=f"{k} rows")
        if timeout is not None or self.default_timeout is not None:
            deadline = session.deadline(self.default_timeout if timeout is None else timeout)
        future = BulkFuture.__new__(BulkFuture)
        future.batches = []
        if session.grouping is not None:
            self.enter_each(future, prepared, <uint32_t>k, deadline)
        else:
            self.enter_many(future, prepared, <uint32_t>k, deadline)
        if session.inline_runner is not None:
            channel = current_channel()
            if channel is not None:
                session.inline_runner.schedule(channel)
        return future

    cdef object refusal_of_many(self, Status status, uint32_t k):
        """The exception for k rows that were not taken."""
        if status == Status.QueueFull and k > self.max_queue_size:  # of Batcher
            return InputError(
                f"expected at most max_queue_size={self.max_queue_size} rows at once, got {k}; "
                "submit them in parts, or raise max_queue_size",
                expected="at most max_queue_size rows", given=f"{k} rows")
        return self.session.refusal(status, k)

    cdef int enter_each(self, BulkFuture future, object prepared, uint32_t k,
                        int64_t deadline) except -1:
        """Queues all rows, each in its group and with its weight, or, with an exception, none."""
        cdef Session session = self.session
        cdef Schema schema = session.schema
        cdef Reservation reservation
        cdef Load load
        cdef BatchState batch
        cdef vector[Weight] weights
        cdef uint32_t row
        # Whether `prepared` is a list of rows.
        cdef bint single = session.objects or schema.ragged >= 0
        cdef list keys = [], rows = []
        for row in range(k):
            one = prepared[row] if single else _row_of(schema, prepared, row)
            # The callbacks see a row as its caller would submit it.
            given = one if session.objects else _structured(schema, one)
            keys.append(session.grouping.weigh(schema, given, one, &load.weight))
            weights.push_back(load.weight)
            rows.append(one)
        if not session.w.has_room(session.engine, session.grouping.lane_of(session, keys[0]), k):
            raise self.refusal_of_many(Status.QueueFull, k)
        for row in range(k):
            load.weight = weights[row]
            try:
                batch = self.enter_weighed(rows[row], &load, keys[row], deadline, &reservation, k)
            except BaseException:
                future.take_back()
                raise
            future.add_part(batch, reservation.index, 1)
            session.w.commit(session.engine, load.lane, &reservation)
        return 0

    cdef int enter_many(self, BulkFuture future, object prepared, uint32_t k,
                        int64_t deadline) except -1:
        """Queues all rows or, with an exception, none."""
        cdef Session session = self.session
        cdef Reservation reservation
        cdef BatchState batch
        cdef Status status = Status.QueueFull
        cdef uint32_t done = 0, row, least
        context = None if session.tracer is None else session.tracer.context()
        if session.w.has_room(session.engine, session.lane, k):
            status = Status.Ok
        while done < k and status == Status.Ok:
            least = 1 if self.split_oversize else k
            session.reserve(least, k - done, deadline, &reservation, &status)
            if status != Status.Ok:
                break
            batch = session.batch_state(&reservation)
            if session.objects:
                for row in range(reservation.count):
                    batch.rows[reservation.index + row] = prepared[done + row]
            else:
                (<Staging>reservation.owner).copy_in(prepared, done, reservation.index,
                                                     reservation.count)
            if context is not None and batch.contexts is not None:
                for row in range(reservation.count):
                    batch.contexts[reservation.index + row] = context
            future.add_part(batch, reservation.index, reservation.count)
            session.w.commit(session.engine, session.lane, &reservation)
            done += reservation.count
        if status != Status.Ok:
            future.take_back()
            raise self.refusal_of_many(status, k)
        return 0
