# The handle of a request of many rows: one future over slots of one or several batches.


cdef struct Part:
    uint32_t slot
    uint32_t count


cdef class BulkFuture(Future):
    """The result of ``submit_many``: done when all its rows are; see Future."""
    cdef list batches          # of each part
    cdef vector[Part] parts
    cdef size_t ended          # parts known to have ended

    cdef void add_part(self, BatchState batch, uint32_t slot, uint32_t count):
        cdef Part part
        part.slot, part.count = slot, count
        self.batches.append(batch)
        self.parts.push_back(part)

    cdef bint check(self) except -1:
        cdef BatchState batch
        cdef uint32_t slot
        if self.state != PENDING:
            return True
        if self.batches is None:
            raise TypeError("this future was not made by a Batcher")
        while self.ended < self.parts.size():
            batch = self.batches[self.ended]
            if not batch.session.w.batch_done(batch.core):
                # Its rows may all have been settled while they waited.
                for slot in range(self.parts[self.ended].count):
                    if not self.slot_settled(batch, self.parts[self.ended].slot + slot):
                        self.batch, self.slot = batch, self.parts[self.ended].slot + slot
                        return self.check_forked(batch.session)
            self.ended += 1
        self.state, self.value = ANSWERED, _NOT_READ
        return True

    cdef bint slot_settled(self, BatchState batch, uint32_t slot) noexcept:
        cdef SlotState state = batch.session.w.batch_slot(batch.core, slot)
        return state != SlotState.Queued and state != SlotState.Claimed

    cdef int read(self) except -1:
        if self.value is not _NOT_READ or self.batches is None:
            return 0
        try:
            value = self.collect(self.batches)
        except BaseException as error:
            self.settle(FAILED, error)
        else:
            if self.value is _NOT_READ:
                self.settle(ANSWERED, value)
        return 0

    cdef void settle(self, int state, object value) noexcept:
        self.state, self.value = state, value
        self.batch = None
        self.batches = None

    cdef object collect(self, list batches):
        """The rows of all parts, structured as the model's answers are."""
        cdef BatchState batch
        cdef uint32_t row
        cdef SlotState state
        cdef size_t i
        for i in range(self.parts.size()):
            batch = batches[i]
            for row in range(self.parts[i].count):
                state = batch.session.w.batch_slot(batch.core, self.parts[i].slot + row)
                if state != SlotState.Claimed:
                    raise batch.settled_error(state)
            if batch.session.w.batch_outcome(batch.core) != Outcome.Completed:
                raise batch.failure(batch.session.w.batch_outcome(batch.core))
            if batch.errors is not None:
                for row in range(self.parts[i].count):
                    batch.raise_error_of(
                        batch.session.w.batch_row(batch.core, self.parts[i].slot + row))
        batch = batches[0]
        # A list also when the model answers one batch so and another otherwise, or rows of which
        # each has an own length.
        if batch.kind == LIST_OUTPUT or any([(<BatchState>part).by_token
                                             or not batch.alike(part) for part in batches]):
            answers = []
            for i in range(self.parts.size()):
                batch = batches[i]
                for row in range(self.parts[i].count):
                    answers.append(batch.answer(self.parts[i].slot + row))
            return answers
        if batch.kind == ARRAY_OUTPUT:
            return self.join([(<BatchState>part).outputs for part in batches], batches)
        if batch.kind == TUPLE_OUTPUT:
            joined = [self.join([(<BatchState>part).outputs[i] for part in batches], batches)
                      for i in range(len(batch.outputs))]
            return tuple(joined) if batch.row_type is None else batch.row_type._make(joined)
        return {key: self.join([(<BatchState>part).outputs[key] for part in batches], batches)
                for key in batch.outputs}

    cdef object join(self, list arrays, list batches):
        """One leaf's rows of all parts, in order, as one array of its own."""
        cdef BatchState batch
        cdef size_t i
        cdef uint32_t row
        pieces = []
        for i in range(self.parts.size()):
            batch = batches[i]
            rows = [batch.session.w.batch_row(batch.core, self.parts[i].slot + row)
                    for row in range(self.parts[i].count)]
            first, end = rows[0], rows[0] + len(rows)
            if rows == list(range(first, end)):
                pieces.append(arrays[i][first:end])
            else:
                pieces.append(arrays[i][rows])
        return np.concatenate(pieces)

    cdef bint withdraw(self) except -1:
        """All rows that still wait are taken out; those with the model are dropped afterwards.

        As with one row, a thread's request of which the model has begun a part is too late.
        """
        cdef BatchState batch
        cdef size_t i
        cdef uint32_t row
        if self.channel is None:
            for i in range(self.parts.size()):
                batch = self.batches[i]
                for row in range(self.parts[i].count):
                    if batch.session.w.batch_slot(
                            batch.core, self.parts[i].slot + row) != SlotState.Queued:
                        return False
        self.take_back()
        return True

    cdef int take_back(self) except -1:
        """Takes out all rows that still wait."""
        cdef BatchState batch
        cdef Session session
        cdef size_t i
        cdef uint32_t row
        cdef list batches = self.batches  # letting go of an object may run code that cancels, too
        if batches is None:
            return 0
        for i in range(self.parts.size()):
            batch = batches[i]
            session = batch.session
            for row in range(self.parts[i].count):
                if session.w.batch_settle(session.engine, batch.core, self.parts[i].slot + row,
                                          SlotState.Cancelled) and batch.rows is not None:
                    batch.rows[self.parts[i].slot + row] = None
        return 0

    cdef int wait_native(self, Session session, int64_t deadline) except -1:
        cdef WaitResult result
        cdef BatchState batch
        while not self.check():
            batch = self.batch  # check() has moved it to the first that has not ended
            batch.wait(self.slot, deadline, &result)
            if result == WaitResult.TimedOut and not self.check():
                raise TimeoutError(
                    "the request has not ended within result()'s timeout; it goes on")
        return 0

    cdef int await_on(self, Channel channel) except -1:
        self.check()  # moves on to the first part that has not ended
        return Future.await_on(self, channel)

    cdef int fire(self, LoopChannel channel) except -1:
        if not self.check():
            # One part has ended; wait for the next.
            return self.await_on(callback_channel() if channel is None else channel)
        return Future.fire(self, channel)
