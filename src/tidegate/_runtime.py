"""The engine of a Batcher and its threads: what outlives a Batcher that is dropped."""

from __future__ import annotations

import _thread
import atexit
import contextlib
import math
import threading
import time
import weakref

from tidegate import _engine, _fast

__all__ = ["Runtime", "runtimes"]

# Interpreter exit serves what waits for this long, then refuses it.
_EXIT_SECONDS = 1.0
_INLINE_SECONDS = 0.002


class Runtime:
    """What outlives a Batcher that is dropped: the engine and its threads."""

    def __init__(self, engine: _engine.Engine, name: str) -> None:
        self.engine = engine
        self.name = name
        self.threads: list[threading.Thread] = []
        self.native = False
        self.inline = False

    def start(self, runner: _fast.Runner, number: int) -> None:
        """Runs an executor in a thread of its own."""
        thread = threading.Thread(
            target=runner.serve, name=f"tidegate-{self.name}-{number}", daemon=True
        )
        self.threads.append(thread)
        thread.start()

    def let_go(self) -> None:
        """The Batcher is gone: serve what waits, then end the threads, without waiting."""
        self.engine.close(drain=True)
        if self.native:
            # Its thread cannot let go of what belongs to Python, nor of the model's code. Not a
            # Thread, whose locks may be held where the garbage collector came in.
            with contextlib.suppress(RuntimeError):  # no more threads: it is never let go
                _thread.start_new_thread(self.engine.join_native, ())

    def close(self, drain: bool, timeout: float | None, session: _fast.Session) -> None:
        """Does what Batcher.close() says."""
        deadline = None
        if timeout is not None and timeout < threading.TIMEOUT_MAX:  # a longer one is none
            deadline = time.monotonic() + timeout
        self.engine.close(drain=drain)
        if session.runs_here():
            return  # the model itself: nobody could wait for it
        if not self._wait_drained(deadline, session):
            self.engine.close(drain=False)
            self.engine.abandon_running()
            return
        if self.native:
            self.engine.join_native()
        for thread in self.threads:
            if thread is not threading.current_thread():
                thread.join(None if deadline is None else max(0.1, deadline - time.monotonic()))

    def _wait_drained(self, deadline: float | None, session: _fast.Session) -> bool:
        while True:
            left = math.inf if deadline is None else max(0.0, deadline - time.monotonic())
            if not self.inline:
                return self.engine.wait_drained(left)
            # Whoever runs an inline model may stop before all is served; then it is for us to do.
            session.run_inline()
            if self.engine.wait_drained(min(left, _INLINE_SECONDS)):
                return True
            if left == 0.0:
                return False


runtimes: weakref.WeakSet[Runtime] = weakref.WeakSet()


def close_all() -> None:
    """At interpreter exit: threads that are inside the core must be gone before it ends."""
    deadline = time.monotonic() + _EXIT_SECONDS
    open_ones = list(runtimes)
    for runtime in open_ones:
        runtime.engine.close(drain=not runtime.inline)  # whose callers are gone
    for runtime in open_ones:
        if not runtime.engine.wait_drained(max(0.0, deadline - time.monotonic())):
            runtime.engine.close(drain=False)
            runtime.engine.abandon_running()
    for thread in [thread for runtime in open_ones for thread in runtime.threads]:
        thread.join(max(0.0, deadline - time.monotonic()))
    _fast.stop_callbacks(max(0.1, deadline - time.monotonic()))


atexit.register(close_all)
