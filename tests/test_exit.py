"""The interpreter ends in the middle of work: soon, with status 0, and without a word."""

from __future__ import annotations

import sys
import textwrap

import pytest

from tests import child

PRELUDE = """
import atexit, asyncio, concurrent.futures, contextlib, ctypes, sys, threading, time, warnings
warnings.simplefilter("ignore", ResourceWarning)  # of loops that nobody closed
at_the_very_end = []
atexit.register(lambda: [call() for call in at_the_very_end])  # after tidegate's own
import numpy as np
from tests.gated import PATIENCE, ROW, Gated, in_thread, until
from tidegate import *

def in_daemon(work):
    def quiet():
        with contextlib.suppress(TidegateError):
            work()
    thread = threading.Thread(target=quiet, daemon=True)
    thread.start()
    return thread

def stuck(rows):
    entered.set()
    threading.Event().wait()

entered = threading.Event()
"""


def run(script: str) -> str:
    """Runs a script that must end soon, whatever is stuck in it."""
    return child.run(PRELUDE + textwrap.dedent(script), seconds=10)


def test_what_waits_is_served_first() -> None:
    printed = run("""
        served = []
        def model(rows):
            entered.set()
            time.sleep(0.02)
            served.extend(rows[:, 0])
            return rows

        batcher = Batcher(model, max_batch_size=4)
        futures = [batcher.submit(ROW + index) for index in range(10)]
        entered.wait()
        at_the_very_end.append(lambda: print(served == list(range(10))))
        at_the_very_end.append(lambda: print(all(future.done() for future in futures)))
    """)
    assert printed == "True\nTrue\n"


def test_callbacks_of_what_was_served_still_run() -> None:
    printed = run("""
        batcher = Batcher(lambda rows: time.sleep(0.05) or rows)
        batcher.submit(ROW + 1).add_done_callback(lambda future: print(future.result()))
    """)
    assert printed == "[1. 1. 1.]\n"


def test_with_a_model_that_never_returns() -> None:
    printed = run("""
        batcher = Batcher(stuck, max_batch_size=2)
        futures = [batcher.submit(ROW) for _ in range(9)]
        entered.wait()
        def report():
            for future in futures:
                try:
                    future.result(0)
                except ClosedError:
                    print("closed")
        at_the_very_end.append(report)
    """)
    assert printed == 9 * "closed\n"


def test_with_every_instance_of_a_pool_stuck() -> None:
    run("""
        pool = ModelPool([stuck, stuck, stuck])
        batcher = Batcher(pool, max_batch_size=1)
        futures = [batcher.submit(ROW) for _ in range(9)]
        until(lambda: sum(e.state == "busy" for e in batcher.statistics().executors) == 3)
    """)


def test_with_an_instance_lent_out() -> None:
    run("""
        pool = ModelPool([lambda rows: rows])
        batcher = Batcher(pool)
        lent = pool.acquire()
        lent.__enter__()
        futures = [batcher.submit(ROW) for _ in range(3)]
    """)


@pytest.mark.parametrize("dropped", [False, True])
def test_with_a_native_model_that_never_returns(dropped: bool) -> None:
    run(f"""
        pause = ctypes.cast(ctypes.CDLL(None).pause, ctypes.c_void_p).value
        spec = TensorSpec((3,), float)
        batcher = Batcher(NativeModel(pause, outputs=spec), inputs=spec)
        future = batcher.submit(ROW)
        until(lambda: batcher.statistics().executors[0].busy_for > 0)
        if {dropped}:
            batcher.close(timeout=0.05)
            try:
                future.result(0)
            except ClosedError:
                del batcher, future
    """)


def test_with_threads_blocked_on_a_model_that_never_returns() -> None:
    run("""
        batcher = Batcher(stuck, max_batch_size=2, max_queue_size=8, overflow="block",
                          caller_runs=False)
        futures = [batcher.submit(ROW) for _ in range(2)]
        entered.wait()
        futures += [batcher.submit(ROW) for _ in range(8)]
        blocked = []
        for future in futures:
            blocked.append(in_thread(future.result))
            blocked.append(in_thread(lambda future=future: concurrent.futures.wait([future])))
        for _ in range(4):
            blocked.append(in_thread(lambda: batcher(ROW)))  # no room
            blocked.append(in_thread(lambda: list(batcher.map([ROW] * 20))))
        until(lambda: all(caller.asleep for caller in blocked))
    """)


@pytest.mark.parametrize("call", ["batcher.close()", "batcher.close(timeout=60)"])
def test_with_threads_that_close_a_stuck_batcher(call: str) -> None:
    run(f"""
        batcher = Batcher(stuck)
        future = batcher.submit(ROW)
        entered.wait()
        for _ in range(3):
            in_daemon(lambda: {call})
        until(lambda: batcher.closed)
    """)


def test_with_a_leading_caller_stuck_in_the_model() -> None:
    run("""
        batcher = Batcher(stuck)
        in_daemon(lambda: batcher(ROW))
        entered.wait()
        until(lambda: batcher.statistics().led == 1)
        in_daemon(lambda: batcher(ROW))
    """)


def test_a_thread_that_is_no_daemon_gets_its_answer() -> None:
    printed = run("""
        model = Gated()
        batcher = Batcher(model)
        futures = [batcher.submit(ROW + index) for index in range(3)]
        model.await_entry()
        threading.Thread(target=lambda: print(sum(f.result()[0] for f in futures))).start()
        # Opened once the main thread has ended and waits for the other.
        opener = lambda: (threading.main_thread().join(), model.gate.set())
        threading.Thread(target=opener, daemon=True).start()
    """)
    assert printed == "6.0\n"


def test_with_a_done_callback_that_never_returns() -> None:
    run("""
        batcher = Batcher(lambda rows: rows)
        batcher.submit(ROW).add_done_callback(stuck)
        entered.wait()
        batcher.submit(ROW).add_done_callback(print)
    """)


@pytest.mark.parametrize("new_loop", ["asyncio.new_event_loop()", "uvloop.new_event_loop()"])
def test_with_a_loop_that_awaits_requests_in_a_daemon_thread(new_loop: str) -> None:
    run(f"""
        import uvloop
        async def main():
            await asyncio.gather(*[batcher.submit(ROW) for _ in range(6)], return_exceptions=True)
            await asyncio.Event().wait()

        batcher = Batcher(stuck, max_batch_size=2)
        loop = {new_loop}
        in_daemon(lambda: loop.run_until_complete(main()))
        entered.wait()
    """)


def test_with_a_loop_that_was_never_closed() -> None:
    run("""
        async def main():
            return [batcher.submit(ROW) for _ in range(6)]

        model = Gated()
        batcher = Batcher(model, max_batch_size=2)
        loop = asyncio.new_event_loop()
        futures = loop.run_until_complete(main())
        for future in futures:
            future.add_done_callback(print)
        model.await_entry()
    """)


def test_with_tasks_that_asyncio_cancels() -> None:
    run("""
        async def main():
            tasks = [asyncio.ensure_future(batcher.submit(ROW)) for _ in range(6)]
            tasks.append(asyncio.ensure_future(batcher.predict_async(ROW)))
            await asyncio.to_thread(entered.wait)

        batcher = Batcher(stuck, max_batch_size=2)
        asyncio.run(main())
    """)


def test_with_inline_requests_that_nobody_ran() -> None:
    printed = run("""
        batcher = Batcher(lambda rows: print("ran"), executor="inline")
        future = batcher.submit(ROW)
        at_the_very_end.append(lambda: print(type(future.exception(0)).__name__))
    """)
    assert printed == "ClosedError\n"


def test_with_a_batcher_that_was_dropped_at_work() -> None:
    run("""
        future = Batcher(stuck).submit(ROW)
        entered.wait()
    """)


def test_with_a_first_import_while_exiting() -> None:
    assert (
        child.run("""
        import atexit
        def late():
            import tidegate
            print(tidegate.Batcher.__name__)
        atexit.register(late)
    """)
        == "Batcher\n"
    )


@pytest.mark.skipif(
    sys.version_info[:2] == (3, 12), reason="CPython 3.12 starts no threads once it is exiting"
)
def test_with_a_batcher_made_while_exiting() -> None:
    printed = run("""
        at_the_very_end.append(lambda: print(Batcher(lambda rows: rows * 2)(ROW + 1)))
    """)
    assert printed == "[2. 2. 2.]\n"


def test_with_a_batcher_in_a_reference_cycle() -> None:
    run("""
        class Owner:
            def __init__(self):
                self.batcher = Batcher(self.model, max_batch_size=2)
                self.futures = [self.batcher.submit(ROW) for _ in range(5)]
            def model(self, rows):
                return rows
        owner = Owner()
    """)


@pytest.mark.parametrize("attempt", range(6))
def test_with_threads_and_loops_that_hammer(attempt: int) -> None:
    run(f"""
        import uvloop
        def hammer():
            while True:
                batcher(ROW)
                batcher.submit(ROW).result()
        async def hammer_loop():
            while True:
                await asyncio.gather(*[batcher.submit(ROW) for _ in range(8)])

        settings = [dict(), dict(max_queue_delay=0.001), dict(caller_runs=False),
                    dict(default_timeout=5.0), dict(outputs="copy"), dict(executor="inline")]
        batcher = Batcher(lambda rows: rows * 2, max_batch_size=4, **settings[{attempt}])
        for _ in range(4):
            in_daemon(hammer)
        in_daemon(lambda: asyncio.run(hammer_loop()))
        in_daemon(lambda: uvloop.run(hammer_loop()))
        until(lambda: batcher.statistics().completed > 2000)
    """)
