# Which requests may share a batch, and what each takes up of it. Only batchers that have a reason
# to ask go through here; the others have one lane and rows of one size.

cdef enum:
    # Lanes that are kept for keys of which nothing waits; then they serve other keys.
    KEPT_GROUPS = 64
cdef enum:
    # Staging memory that nothing uses, kept for whichever lane needs some next.
    KEPT_STAGING = 4
cdef enum:
    # Staging memory of one batch of ragged rows is not made larger than this for rows that may
    # come, only for one that has.
    ROOMY_BYTES = 67108864
cdef enum:
    MOST_TOKENS = 0x40000000
cdef enum:
    KEPT_LAYOUTS = 16
cdef enum:
    # A new group can be gone before it is used if keys run Python code; not so often in a row.
    MOST_TRIES = 100


cdef class Group:
    """The lane of one key, and of nobody else: it is among the groups or the loose ones of a
    Grouping, or in the hands of the thread that took it from there.
    """
    cdef Lane* lane
    cdef object key


cdef class Grouping:
    """How the requests of a batcher are told apart and weighed.

    Args:
        group_key: Called with each request; those with equal keys may share a batch. None for one
            group.
        cost_fn: Called with each request, says what it costs. None for its tokens.
        max_batch_cost: What the requests of a batch may cost together; None for no limit.
        buckets: Lengths, ascending: ragged requests of up to the same of them may share a batch.
            None for one bucket.
        max_tokens: Of one ragged request; None for no limit.
    """
    cdef object group_key
    cdef object cost_fn
    cdef public double max_batch_cost
    cdef bint limited           # max_batch_cost is not None
    cdef vector[int64_t] buckets
    cdef int64_t max_tokens
    cdef dict groups            # Group by key, the oldest first
    cdef list loose             # Groups that no key leads to any more
    cdef list spare             # Staging that no lane has, the oldest first
    cdef uint32_t longest       # tokens of the longest request so far, rounded up
    cdef dict layouts           # Layout by (capacity, tokens)

    def __init__(self, group_key, cost_fn, max_batch_cost, buckets, max_tokens):
        self.group_key = group_key
        self.cost_fn = cost_fn
        self.limited = max_batch_cost is not None
        self.max_batch_cost = INFINITY if max_batch_cost is None else max_batch_cost
        for bucket in buckets or ():
            self.buckets.push_back(bucket)
        # Where it is known how long rows can be, memory is made for that at once.
        self.longest = 16 if max_tokens is None else max_tokens
        self.max_tokens = MOST_TOKENS if max_tokens is None else max_tokens
        self.groups = {}
        self.loose = []
        self.spare = []
        self.layouts = {}

    cdef object weigh(self, Schema schema, object x, object prepared, Weight* weight):
        """What a request takes up, and the key of its group; InputError if that cannot be."""
        cdef int64_t tokens = 0
        cdef size_t bucket = 0
        key = None
        if schema.ragged >= 0:
            tokens = schema.tokens_of(prepared)
            if tokens > self.max_tokens:
                raise InputError(
                    f"expected at most {self.max_tokens} tokens, got {tokens}",
                    expected=f"at most {self.max_tokens} tokens", given=f"{tokens} tokens")
            while bucket < self.buckets.size() and self.buckets[bucket] < tokens:
                bucket += 1
        weight.tokens = <uint32_t>tokens
        weight.cost = tokens if self.cost_fn is None else self.cost_of(x)
        if weight.cost > self.max_batch_cost:
            raise InputError(
                f"the request costs {weight.cost:g}, which is above max_batch_cost="
                f"{self.max_batch_cost:g}; split it, or raise max_batch_cost",
                expected=f"a cost of at most {self.max_batch_cost:g}", given=f"{weight.cost:g}")
        if self.group_key is not None:
            try:
                key = self.group_key(x)
                hash(key)
            except Exception as error:
                raise InputError(
                    f"group_key failed for the request: {said(error)}",
                    expected="a request that group_key finds a hashable key for",
                    given=_describe(x)) from error
        while self.longest < tokens:
            self.longest *= 2
        return key if self.buckets.empty() else (key, bucket)

    cdef double cost_of(self, object x) except? -1:
        cdef double cost = -1
        try:
            cost = self.cost_fn(x)
        except Exception as error:
            raise InputError(
                f"cost_fn failed for the request: {said(error)}",
                expected="a request that cost_fn finds a cost for", given=_describe(x)) from error
        if not 0 <= cost < INFINITY:
            raise InputError(f"cost_fn must return a number >= 0, got {cost:g}",
                             expected="a cost >= 0", given=f"{cost:g}")
        return cost

    cdef Lane* lane_of(self, Session session, object key) except NULL:
        """The lane of a group. Nobody else can get it before the caller's next Python call."""
        cdef Group group
        cdef int _tries
        for _tries in range(MOST_TRIES):
            group = self.groups.get(key)
            if group is not None:
                return group.lane
            self.make_group(session, key)
        raise InputError(
            f"group_key returned a key that is not found again: the hash of {_describe(key)} "
            "must stay the same", expected="a key whose hash stays the same", given=_describe(key))

    cdef int make_group(self, Session session, object key) except -1:
        """Makes a group of `key`, unless others are in the way: then the caller looks again."""
        cdef Group made = Group.__new__(Group), kept = None
        made.lane = self.unused_lane(session)
        if made.lane == NULL:
            return 0
        made.key = key
        try:
            # Keys may run Python code, and that other threads: the first group of a key stays.
            kept = self.groups.setdefault(key, made)
        finally:
            if kept is not made:
                self.loose.append(made)
        return 0

    cdef Lane* unused_lane(self, Session session) except? NULL:
        """A lane of which nothing waits, now the caller's; NULL if others were quicker."""
        cdef Group group = None, found
        cdef Py_ssize_t i
        for i in range(len(self.loose)):
            group = self.loose[i]
            if session.w.is_empty(session.engine, group.lane):
                del self.loose[i]
                return group.lane
        group = None
        if len(self.groups) >= KEPT_GROUPS:
            for other in self.groups.values():
                if session.w.is_empty(session.engine, (<Group>other).lane):
                    group = other
                    break
        if group is None:
            return session.schema.make_lane(session.w, session.engine, True)
        found = self.groups.pop(group.key, None)
        if found is group and session.w.is_empty(session.engine, group.lane):
            return group.lane
        if found is not None:
            self.loose.append(found)  # somebody came back to it while its key was looked up
        if found is not group and group in self.groups.values():
            self.forget_keys()
        return NULL

    cdef int forget_keys(self) except -1:
        """Gives up all groups, when some key has got another hash and cannot be looked up."""
        while self.groups:
            try:
                self.loose.append(self.groups.popitem()[1])
            except KeyError:  # another thread does the same
                return 0
        return 0

    cdef int add_buffer(self, Session session, Lane* lane, uint32_t room) except -1:
        """Gives a lane staging memory for one more batch, with room for so many tokens."""
        cdef uint32_t capacity = session.w.max_batch_size(session.engine)
        cdef Staging staging = None, kept
        cdef void* replaced
        for kept in self.spare:
            if kept.capacity == capacity and kept.tokens.capacity == room:
                staging = kept
                break
        if staging is not None:
            self.spare.remove(staging)
        elif not session.laid_out:
            staging = session.schema.new_staging(capacity)
        else:
            staging = session.laid_out_staging(self.layout(session.schema, capacity, room))
        Py_INCREF(staging)
        replaced = session.w.add_buffer(session.engine, lane, capacity, staging.data.data(),
                                        staging.data.size(), <void*>staging, staging.tokens)
        if replaced != NULL:
            Py_DECREF(<object>replaced)
        return 0

    cdef object layout(self, Schema schema, uint32_t capacity, uint32_t tokens):
        key = (capacity, tokens)
        layout = self.layouts.get(key)
        if layout is None:
            if len(self.layouts) >= KEPT_LAYOUTS:
                self.layouts.clear()
            layout = self.layouts[key] = _layout_type()(schema.specs or (), capacity, tokens)
        return layout

    cdef uint32_t room(self, Schema schema, uint32_t capacity, uint32_t tokens):
        """Tokens that a batch should have room for when a row of so many opens it."""
        cdef size_t token_bytes = 0
        cdef double most
        cdef int i
        if schema.ragged < 0:
            return 0
        for i in range(schema.count):
            if schema.leaf[i].ragged:
                token_bytes += schema.leaf[i].row_bytes
        most = <double>capacity * self.longest
        if self.limited and self.cost_fn is None:
            most = min(most, self.max_batch_cost)
        most = min(most, <double>ROOMY_BYTES / max(token_bytes, 1))
        return max(tokens, <uint32_t>min(most, <double>MOST_TOKENS))

    cdef int keep(self, Staging staging) except -1:
        """Keeps memory that a lane does not want for another."""
        self.spare.append(staging)
        if len(self.spare) > KEPT_STAGING:
            del self.spare[0]  # of another size, or nobody has asked for it for long
        return 0
