"""Idle batchers let the processor sleep: no thread of theirs wakes up while nothing is asked."""

from __future__ import annotations

import textwrap

from tests import child

PRELUDE = """
import asyncio, ctypes, os, threading, time
from pathlib import Path
import numpy as np
import uvloop
from tests.gated import PATIENCE, ROW, in_thread, until
from tidegate import *

def wake_ups():
    # Voluntary context switches of all threads, those that have ended meanwhile left out.
    total = 0
    for status in Path("/proc/self/task").glob("*/status"):
        for line in status.read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                total += int(line.split()[1])
    return total

def settle():
    # Until whatever was going on has come to an end.
    def quiet():
        before = wake_ups()
        time.sleep(0.25)
        return wake_ups() <= before + 1
    until(quiet)

def wake_ups_while_idle():
    settle()
    before = wake_ups()
    time.sleep(4)  # counts as one
    return wake_ups() - before

def use(batcher):
    for index in range(200):
        assert batcher(ROW + index)[0] == 2 * index
    futures = [batcher.submit(ROW + index, timeout=30.0) for index in range(500)]
    for index, future in enumerate(futures):
        assert future.result(PATIENCE)[0] == 2 * index

def double(rows):
    return rows * 2

@ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_int64,
                  ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_void_p))
def native(_, rows, inputs, outputs):
    for i in range(3 * rows):
        ctypes.cast(outputs[0], ctypes.POINTER(ctypes.c_double))[i] = (
            2 * ctypes.cast(inputs[0], ctypes.POINTER(ctypes.c_double))[i])
    return 0
"""


def run(script: str) -> None:
    child.run(PRELUDE + textwrap.dedent(script))


def test_a_batcher_that_is_not_asked_makes_no_wake_ups() -> None:
    run("""
        batcher = Batcher(double)
        use(batcher)
        counted = wake_ups_while_idle()
        assert counted <= 2, counted
        use(batcher)
        batcher.close()
    """)


def test_neither_do_all_kinds_of_them_with_event_loops_that_have_used_them() -> None:
    run("""
        spec = TensorSpec((3,), float)
        batchers = [
            Batcher(double),
            Batcher(double, max_queue_delay=0.001, default_timeout=30.0),
            Batcher(ModelPool([double] * 3), max_batch_size=4),
            Batcher(double, executor="inline"),
            Batcher(NativeModel(native, outputs=spec), inputs=spec),
        ]
        used, called = threading.Semaphore(0), threading.Semaphore(0)
        stops = []

        async def from_a_loop():
            for batcher in batchers:
                futures = [batcher.submit(ROW + index) for index in range(100)]
                for index, row in enumerate(await asyncio.gather(*futures)):
                    assert row[0] == 2 * index
            stops.append((asyncio.get_running_loop(), asyncio.Event()))
            used.release()
            await stops[-1][1].wait()

        for batcher in batchers:
            use(batcher)
            future = batcher.submit(ROW)
            future.add_done_callback(lambda _: called.release())
            future.result(PATIENCE)
            assert called.acquire(timeout=PATIENCE)
        running = []
        for run in (asyncio.run, uvloop.run):
            running.append(in_thread(lambda run=run: run(from_a_loop())))
            assert used.acquire(timeout=PATIENCE)
        counted = wake_ups_while_idle()
        assert counted <= 2, counted
        for loop, stop in stops:
            loop.call_soon_threadsafe(stop.set)
        for thread in running:
            thread.outcome()
    """)
