# Event loops and the callback thread: each gets one wake-up for all that has finished.
#
# A task that awaits a future is resumed directly from the loop's reader callback: entering the
# task's context and calling its own wake-up, as the loop's Handle would, without making one. That
# happens only there, never from within another task's step; all other callbacks go through
# call_soon.

cdef PyCFunction _task_wakeup = NULL
# Importing asyncio takes longer than all of tidegate, and a process without a loop needs none of
# it: these are set by _load_asyncio().
cdef object _asyncio = None
cdef object _Task = None
cdef object _get_running_loop = None
cdef bint _loop_is_in_thread_state = sys.version_info < (3, 12)

# id(loop) -> weak reference to its channel; the loop's own reader handle keeps the channel alive.
cdef dict _channels = {}
cdef PyObject* _last_state = NULL
cdef uint64_t _last_version = 0
# Borrowed, so that a closed loop's goes with all that waited for it; it takes itself out.
cdef PyObject* _last_channel = NULL
cdef CallbackChannel _callback_channel = None


cdef bint _load_asyncio() except -1:
    """False as long as nobody has imported asyncio: then no loop can be running."""
    global _asyncio, _Task, _get_running_loop
    if _asyncio is None:
        if "asyncio.tasks" not in sys.modules:
            return False
        import asyncio
        _Task, _get_running_loop = asyncio.Task, asyncio._get_running_loop
        _asyncio = asyncio
    return True


cdef bint _is_task_wakeup(object callback):
    """True for the wake-up of a C task, which may be called directly."""
    global _task_wakeup
    if not PyCFunction_CheckExact(callback):
        return False
    if _task_wakeup != NULL:
        return (PyCFunction_GetFunction(callback) == _task_wakeup
                and type(<object>PyCFunction_GetSelf(callback)) is _Task)
    if callback.__name__ == "task_wakeup" and type(callback.__self__) is _Task:
        _task_wakeup = PyCFunction_GetFunction(callback)
        return True
    return False


cdef LoopChannel current_channel():
    """The channel of the loop that runs in this thread, or None."""
    global _last_state, _last_version, _last_channel
    cdef PyObject* state
    if _asyncio is None and not _load_asyncio():
        return None
    if _loop_is_in_thread_state:
        # get_running_loop() asks for the process id each time before 3.12. It reads the loop from
        # the thread's state dictionary, so while that is unchanged the loop is the same.
        state = PyThreadState_GetDict()
        if state == NULL:
            return None
        if state == _last_state and tidegate_dict_version(state) == _last_version:
            return None if _last_channel == NULL else <LoopChannel>_last_channel
        loop = _get_running_loop()
        channel = None if loop is None else channel_of(loop)
        _last_state, _last_version = state, tidegate_dict_version(state)
        _last_channel = NULL
        if channel is not None:
            _last_channel = <PyObject*>channel
        return channel
    loop = _get_running_loop()
    if loop is None:
        return None
    if _last_channel != NULL and (<LoopChannel>_last_channel).loop is loop:
        return <LoopChannel>_last_channel
    channel = channel_of(loop)
    _last_channel = <PyObject*>channel
    return channel


cdef LoopChannel channel_of(object loop):
    reference = _channels.get(id(loop))
    channel = None if reference is None else reference()
    if channel is None or (<LoopChannel>channel).loop is not loop:
        channel = LoopChannel(loop)
        key = id(loop)
        _channels[key] = weakref.ref(channel)
        for stale in [key for key, reference in _channels.items() if reference() is None]:
            del _channels[stale]
    return channel


cdef CallbackChannel callback_channel():
    """The channel of the callback thread, started when it is first needed."""
    global _callback_channel
    if _callback_channel is None:
        _callback_channel = CallbackChannel()
        threading.Thread(target=_callback_channel.run, name="tidegate-callbacks",
                         daemon=True).start()
    return _callback_channel


cdef class Channel:
    """A consumer of finished batches: owns a port, fires the futures that await a batch."""
    cdef object __weakref__
    cdef Port* port
    cdef const Waist* w
    cdef set subscribed  # batches that will post here

    def __cinit__(self):
        self.port = NULL
        self.subscribed = set()
        self.w = _waist()

    cdef int open(self, bint blocking) except -1:
        self.port = self.w.port_new(blocking)
        if self.port == NULL:
            raise OSError("tidegate could not open an eventfd: too many open files")
        return 0

    def __dealloc__(self):
        if self.port == NULL:
            return
        self.w.gate_remove_port(self.port)
        self.w.port_release(self.port)

    cdef int subscribe(self, BatchState batch) except -1:
        """Has the core post one notice here when the batch is done."""
        cdef Runner runner = batch.session.inline_runner
        if runner is not None and runner.will_run(self, batch):
            return 0
        # The notice's token is borrowed from this set, so that the batches of a loop that closes
        # before they end go with its channel.
        self.subscribed.add(batch)
        if not self.w.batch_subscribe(batch.core, self.port, <void*>batch):
            self.post(batch)  # done already
        return 0

    cdef void post(self, BatchState batch):
        """Posts the notice ourselves."""
        cdef Notice notice
        notice.token = <void*>batch
        notice.kind = NoticeKind.Finished
        self.w.port_post(self.port, notice)

    cdef vector[Notice] take(self):
        cdef const Notice* notices
        cdef vector[Notice] copy
        cdef size_t i, count = self.w.port_take(self.port, &notices)
        # A callback may run a loop of its own and take again: nothing may point into the port.
        for i in range(count):
            copy.push_back(notices[i])
        return copy

    cdef list futures_of(self, Notice notice):
        """The futures that may fire."""
        cdef BatchState batch = <BatchState>notice.token
        cdef list futures, fired
        if notice.kind == NoticeKind.Finished:
            futures = batch.take_awaiting(self)
            self.subscribed.discard(batch)
            return futures
        futures = batch.awaiting_of(self)
        if futures is None:
            return None
        fired = [future for future in futures if (<Future>future).check()]
        for future in fired:
            futures.remove(future)
        return fired


cdef class LoopChannel(Channel):
    """The channel of one asyncio event loop, woken through its reader."""
    cdef object loop
    cdef object finished  # a finished asyncio future: the C task's fast way to be woken
    cdef object call_soon  # of the loop
    cdef object context
    cdef bint direct

    def __init__(self, loop):
        self.loop = loop
        self.call_soon = loop.call_soon
        self.context = contextvars.Context()
        self.open(False)
        self.finished = _asyncio.Future(loop=loop)
        self.finished.set_result(None)
        self.direct = not loop.get_debug()
        # In an empty context: the loop's handle would keep that of the first request alive.
        contextvars.Context().run(
            loop.add_reader, self.w.port_descriptor(self.port), self.drain)
        self.w.gate_add_port(self.port)

    def __dealloc__(self):
        global _last_state, _last_channel
        if _last_channel == <PyObject*>self:
            _last_state = NULL
            _last_channel = NULL

    def drain(self):
        """The loop's reader callback."""
        cdef vector[Notice] notices
        cdef size_t i
        yield_gil()
        notices = self.take()
        for i in range(notices.size()):
            futures = self.futures_of(notices[i])
            if futures is None:
                continue
            try:
                self.resume(futures)
            except BaseException:
                # KeyboardInterrupt or SystemExit out of a task: the loop ends, but the others'
                # results must still be there if it runs again.
                for j in range(i + 1, notices.size()):
                    # A Settled one must not come after its Finished one, whose token it shares.
                    if notices[j].kind == NoticeKind.Finished:
                        self.w.port_post(self.port, notices[j])
                raise

    def resume(self, list futures not None):
        """Fires futures from a callback of the loop."""
        cdef Py_ssize_t i
        for i in range(len(futures)):
            try:
                (<Future>futures[i]).fire(self)
            except BaseException:
                if i + 1 < len(futures):
                    self.loop.call_soon(self.resume, futures[i + 1:])
                raise


cdef class CallbackChannel(Channel):
    """The channel of the thread that runs the callbacks of futures outside any event loop."""
    cdef object stopped

    def __init__(self):
        self.open(True)
        self.stopped = threading.Event()

    def run(self):
        """Body of the thread."""
        cdef vector[Notice] notices
        cdef const Notice* posted
        cdef size_t i, count
        while True:
            with nogil:
                count = self.w.port_take(self.port, &posted)
                notices.clear()
                for i in range(count):
                    notices.push_back(posted[i])
            for i in range(notices.size()):
                if notices[i].kind == NoticeKind.Stop:
                    self.stopped.set()
                    return
                futures = self.futures_of(notices[i])
                if futures is not None:
                    for future in futures:
                        self.fire(future)
                futures = future = None  # else kept until the next come

    cdef void fire(self, Future future) noexcept:
        try:
            future.fire(None)
        except BaseException:
            # SystemExit and the like end nobody here: the others' callbacks need this thread.
            _log_failed_callback(future)

    def stop(self, timeout):
        cdef Notice notice
        notice.token = NULL
        notice.kind = NoticeKind.Stop
        self.w.port_post(self.port, notice)
        self.stopped.wait(timeout)


cdef void yield_gil():
    """Gives the GIL to an executor that has waited for it in vain, if there is one."""
    cdef const Waist* w = _waist()
    if w.gate_asked():
        with nogil:
            w.gate_stay_away()


cdef extern from *:
    """
    #include <dlfcn.h>
    // Models that run in this thread now: an executor's, a leading caller's or an inline loop's.
    static thread_local int tidegate_models_here = 0;

    // Has the thread that holds the GIL call `yield` within some bytecodes, if it is the main
    // thread. From 3.12 on each interpreter has pending calls for whichever thread comes first,
    // which is the one that holds the GIL; that function is not public, so it is looked up, for the
    // versions that have been tried.
    static void tidegate_ask_holder(int (*yield)(void*)) {
    #if PY_VERSION_HEX >= 0x030C0000 && PY_VERSION_HEX < 0x030E0000
        using Add = int (*)(PyInterpreterState*, int (*)(void*), void*, int);
        static const Add add = reinterpret_cast<Add>(dlsym(RTLD_DEFAULT, "_PyEval_AddPendingCall"));
        if (add != nullptr) {
            add(PyInterpreterState_Main(), yield, nullptr, 0);
            return;
        }
    #endif
        Py_AddPendingCall(yield, nullptr);
    }
    """
    int tidegate_models_here
    void tidegate_ask_holder(int (*)(void*) noexcept) noexcept nogil


# Threads that are in a pending call of ours, and forks under way. Both are guarded by the GIL.
cdef int _yielding = 0
cdef int _forking = 0


cdef int _yield_to_executor(void* unused) noexcept:
    global _yielding
    # A thread that runs the model itself would only ask itself to wait.
    if tidegate_models_here == 0 and _forking == 0:
        _yielding += 1
        yield_gil()
        _yielding -= 1
    return 0


cdef void _ask_holder() noexcept nogil:
    """Called by the core without the GIL. A full queue of pending calls is as good."""
    tidegate_ask_holder(_yield_to_executor)


cdef int _await_yielding() except -1:
    """Waits until no thread is in a pending call of ours; the interpreter can run but one."""
    while _yielding > 0:
        with nogil:
            usleep(YIELDING_MICROSECONDS)
    return 0


def _before_fork():
    """The child would wait for ever for the end of a call that is made in another thread."""
    global _forking
    _forking += 1
    _await_yielding()


def _after_fork():
    """In the parent."""
    global _forking
    _forking -= 1


def _forget_after_fork():
    """The child shares the parent's descriptors and has none of its threads."""
    global _last_state, _last_channel, _callback_channel, _forking
    _forking = 0
    _last_state = NULL
    _last_channel = NULL
    _callback_channel = None
    _channels.clear()
    _waist().gate_reset_after_fork()
    for session in list(_sessions):
        (<Session>session).w.mark_forked((<Session>session).engine)


def _before_exit():
    """The interpreter, which runs what pends before it ends, would wait for such a call, too."""
    _waist().gate_set_holder_hook(NULL)
    _await_yielding()


def stop_callbacks(timeout):
    """At interpreter exit: lets the callback thread finish what was posted."""
    global _callback_channel
    channel, _callback_channel = _callback_channel, None
    if channel is not None:
        (<CallbackChannel>channel).stop(timeout)
